"""Showing: a run that shows the rows of norms, in the first way that ONNX Runtime takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import onnx

from slanc_onnx.norms import Norm
from slanc_onnx.run.float32 import as_float32, norms_in_float32
from slanc_onnx.run.instrumented import Instrumented, instrument
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.segments import SegmentedSession, session_of
from slanc_onnx.run.session import Session

T = TypeVar("T")


def run_showing(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    folder: Path | None,
    work: Callable[[Session | SegmentedSession, Instrumented], T],
    magnitudes: bool = False,
) -> T | None:
    """What work gives on a session that shows norms; None where no norm can be shown.

    Some attention kernels need their cache outputs to be asked for, and the iterations of a loop
    may differ in their sizes.

    Args:
        model: The original model.
        norms: Its norms.
        folder: Where its external data lies.
        work: What runs the session; it is called again where that raises `CannotRun`.
        magnitudes: Whether sums of magnitudes are shown as well.

    Raises:
        CannotRun: ONNX Runtime takes none of the ways.
    """
    copy, own = as_float32(model, folder), norms_in_float32(norms)
    failure: CannotRun | None = None
    for loops in (True, False) if any(norm.path for norm in norms) else (True,):
        for keep_outputs in (False, True):
            shown = instrument(copy, own, keep_outputs, loops, magnitudes)
            if not shown.sums:
                continue
            try:
                cuts = list(shown.sums.values())
                # Estimates do not depend on the last bits.
                session = session_of(shown.model, folder, cuts, at_odd_bytes=True)
                return work(session, shown)
            except CannotRun as error:
                failure = failure or error
    if failure is not None:
        raise failure
    return None
