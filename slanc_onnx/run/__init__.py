"""Running: a model on ONNX Runtime, with the user's inputs or made ones.

Takes a model, its norms and inputs, and gives outputs and the sums of squares of the norms' rows.
Models in FP16 and BF16 run as their FP32 copies, and models larger than memory in segments. What
ONNX Runtime refuses is `CannotRun`.
"""

from slanc_onnx.run.check import broken_rule, check_norms, with_checked_inputs
from slanc_onnx.run.emit import END, PREFIX, Emitter
from slanc_onnx.run.feeds import (
    LONG_SEQUENCE,
    TRIED,
    Fed,
    InputSet,
    given_feeds,
    longer_inputs,
    observed_feeds,
    tried,
    validation_inputs,
)
from slanc_onnx.run.float32 import (
    HALF,
    as_float32,
    holds_16_bits,
    norms_in_float32,
    read_in_float32,
    too_large_at_once,
)
from slanc_onnx.run.floats import floats_outside_norms, is_float, nodes_of
from slanc_onnx.run.inputs import dtype_of, first_run, make_feeds, random_ids, ways_to_say
from slanc_onnx.run.instrumented import Instrumented, instrument
from slanc_onnx.run.isolation import CannotRun, begun, isolated, run_apart, running_apart
from slanc_onnx.run.observe import observe_rows
from slanc_onnx.run.segments import SegmentedSession, session_of
from slanc_onnx.run.session import Feeds, Session, lacking_kernel
from slanc_onnx.run.showing import run_showing
from slanc_onnx.run.sizes import Said, Sizes, shapes_of

__all__ = [
    "END",
    "HALF",
    "LONG_SEQUENCE",
    "PREFIX",
    "TRIED",
    "CannotRun",
    "Emitter",
    "Fed",
    "Feeds",
    "InputSet",
    "Instrumented",
    "Said",
    "SegmentedSession",
    "Session",
    "Sizes",
    "as_float32",
    "begun",
    "broken_rule",
    "check_norms",
    "dtype_of",
    "first_run",
    "floats_outside_norms",
    "given_feeds",
    "holds_16_bits",
    "instrument",
    "is_float",
    "isolated",
    "lacking_kernel",
    "longer_inputs",
    "make_feeds",
    "nodes_of",
    "norms_in_float32",
    "observe_rows",
    "observed_feeds",
    "random_ids",
    "read_in_float32",
    "run_apart",
    "run_showing",
    "running_apart",
    "session_of",
    "shapes_of",
    "too_large_at_once",
    "tried",
    "validation_inputs",
    "ways_to_say",
    "with_checked_inputs",
]
