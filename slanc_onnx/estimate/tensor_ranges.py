"""Tensor ranges: how large each tensor of a model is where it runs on the inputs of the probe.

Only four numbers of a tensor leave the run, so that it takes what a session takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from slanc_onnx.estimate.probing import LENGTH, SEED, SEQUENCES, runs, takes_single_ids
from slanc_onnx.graph import Array, Tensor, read_flow, read_graph
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import (
    CannotRun,
    Emitter,
    Said,
    SegmentedSession,
    Session,
    as_float32,
    floats_outside_norms,
    norms_in_float32,
    session_of,
)

SINGLES = 32  # tokens alone, whose rows are the largest of many models


class TensorRange(NamedTuple):
    """How large the elements of a tensor were.

    Attributes:
        largest: The largest |x|; 0 for a tensor of zeros.
        typical: The mean of |x| in the run where it was least, but for zeros; 0 where all are.
    """

    largest: float
    typical: float


def probe_tensors(
    read: ReadModel, options: Options, progress: Progress = no_progress
) -> dict[Tensor, TensorRange]:
    """The ranges of the FP32 and FP64 tensors outside norms and loops that depend on the inputs.

    Those of branches that no run takes are missing.

    Args:
        read: The model.
        options: What the user says of the inputs.
        progress: Called with the share of the work that is done.

    Raises:
        CannotRun: ONNX Runtime cannot run this model, or not on inputs of our making.
    """
    try:
        return _probed(read, options, progress, guarded=False)
    except CannotRun:  # nothing has no largest element
        return _probed(read, options, progress, guarded=True)


def _probed(
    read: ReadModel, options: Options, progress: Progress, *, guarded: bool
) -> dict[Tensor, TensorRange]:
    """As `probe_tensors`; `guarded` for a model in which tensors may be empty."""
    model = as_float32(read.model, read.folder)
    emitter = Emitter(model)
    shown: dict[Tensor, str] = {}
    norms = norms_in_float32(read.norms)
    for path, index, name, wide in floats_outside_norms(read_flow(read_graph(model)), norms):
        if emitter.can_show(path, loops=False):
            emitter.place(path, index)
            single = emitter.from_double(name) if wide else name
            shown[Tensor(path, name)] = emitter.shown(path, _sizes(emitter, single, guarded))
    emitter.finish(list(shown.values()))
    session = session_of(emitter.model, read.folder, in_order=True, at_odd_bytes=True)
    largest: dict[Tensor, float] = {}
    typical: dict[Tensor, float] = {}
    for values in _values(session, read, Said.of(options), progress):
        for tensor, output in shown.items():
            for least, most, total, count in values[output].reshape(-1, 4).tolist():
                largest[tensor] = max(largest.get(tensor, 0.0), most, -least)
                if total and math.isfinite(total):  # no mask
                    typical[tensor] = min(typical.get(tensor, math.inf), total / count)
    return {t: TensorRange(most, typical.get(t, 0.0)) for t, most in largest.items()}


def _sizes(emitter: Emitter, x: str, guarded: bool) -> str:
    """Least and largest x, the sum of |x| and how many there are, [4], of an FP32 tensor.

    None of it takes a copy of the tensor, but for one that may be empty.
    """
    one = emitter.integers(1)
    if guarded:
        flat = emitter.node("Reshape", x, emitter.integers(-1))
        x = emitter.node("Concat", flat, emitter.constant(np.zeros(1, np.float32)), axis=0)
    reduced = [emitter.node(op, x, keepdims=0) for op in ("ReduceMin", "ReduceMax", "ReduceL1")]
    count = emitter.to_float(emitter.node("Size", x))
    parts = [emitter.node("Reshape", number, one) for number in (*reduced, count)]
    return emitter.node("Concat", *parts, axis=0)


def _values(
    session: Session | SegmentedSession, read: ReadModel, said: Said, progress: Progress
) -> Iterator[Mapping[str, Array]]:
    """What the model shows on sequences and on single tokens."""
    rng, inputs = np.random.default_rng(SEED), (read.specs, said)
    for number, values in enumerate(runs(session, inputs, rng, (SEQUENCES, LENGTH)), 1):
        progress("measuring tensors", number / (number + 1))
        yield values
    if takes_single_ids(read.specs, said):
        with suppress(CannotRun):  # exports that were unrolled to one length
            alone = read.specs, replace(said, given={})
            yield from runs(session, alone, rng, (SINGLES, 1))
    progress("measuring tensors", 1.0)
