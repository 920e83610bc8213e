"""Beyond: constants that the target's format does not hold, such as the -3e38 of a mask.

A converter makes them the largest number, so that a row that is masked whole stays a row. Where
they, or what is computed of them, are stored in the format as they are, they become infinite, and
the softmax of such a row is nan: -inf less its largest element, -inf. A verdict has to hold for
both, since the file does not tell which it will be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from slanc_onnx.graph import every_graph, read_tensor
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run import (
    CannotRun,
    Feeds,
    read_in_float32,
    session_of,
)
from slanc_onnx.verify.compare import Difference, Runs, compare
from slanc_onnx.verify.emulate import Emulated, Everything, Watched, emulate
from slanc_onnx.verify.not_finite import results_of_ops, show_counts


@dataclass(frozen=True)
class Beyond:
    """Constants beyond the format, and what comes of them where they become infinite.

    Attributes:
        names: Of the constants, in the order of the file.
        value: The element of the first that is furthest from 0.
        difference: How far the outputs are off FP32 then; None where that did not run.
        op: The op that gives nan first then; "" for none, or where none can be shown.
        tensor: Its output.
    """

    names: tuple[str, ...]
    value: float
    difference: Difference | None
    op: str = ""
    tensor: str = ""


def as_infinite(
    read: ReadModel, options: Options, feeds: Sequence[Feeds], plain: Runs, without: Sequence[str]
) -> Beyond | None:
    """What comes of constants beyond the format where they are not made its largest number.

    Args:
        read: The rewritten model.
        options: The accelerator.
        feeds: Inputs by name, one dict per run; as many are run as `plain` kept.
        plain: What the original gave in FP32.
        without: Outputs to leave out.

    Returns:
        None where all constants are within the format.
    """
    device = options.accelerator
    model, norms = read_in_float32(read, device)
    found = dict(beyond(model, read.folder, device.largest))
    if not found:
        return None
    names, value = tuple(found), next(iter(found.values()))
    try:
        infinite = Everything(beyond="infinite", watch=True, kept=read.kept)
        rounded = emulate(model, norms, device, loops=False, everything=infinite)
        session = session_of(rounded.model, read.folder)
        given = plain.outputs[0]
        runs = [session.run(feed) for feed in feeds[: len(plain.outputs)]]
        kept = [{n: v for n, v in run.items() if n in given} for run in runs]
        off = compare(plain, Runs(kept, {}, []), without, floats_only=True)
        if np.isfinite(off.rms):
            return Beyond(names, value, off)
        first = _first(rounded, read.folder, feeds[: len(plain.outputs)])
    except CannotRun:
        return Beyond(names, value, None)
    return Beyond(names, value, off, *(("", "") if first is None else (first.op, first.tensor)))


def _first(rounded: Emulated, folder: Path | None, feeds: Sequence[Feeds]) -> Watched | None:
    """The first result that holds nan, in the first run in which one does; no norm's."""
    of_ops = results_of_ops(rounded)
    counts = show_counts(rounded.model, of_ops, infinite=False)
    session = session_of(rounded.model, folder)
    for feed in feeds:
        values = session.run(feed)
        for one, output in zip(of_ops, counts, strict=True):
            if values[output].any():
                return one
    return None


def beyond(
    model: onnx.ModelProto, folder: Path | None, largest: float
) -> Iterator[tuple[str, float]]:
    """The constants with finite elements beyond a number, and the furthest of these.

    Args:
        model: In FP32.
        folder: Where its external data lies.
        largest: The number.
    """
    for name, tensor in _constants(model):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = read_tensor(tensor, folder).reshape(-1)
        if not values.size or not max(values.max(), -values.min()) > largest:
            continue  # as most are: one pass, and no copy
        values = values[np.isfinite(values)]
        furthest = values[np.abs(values).argmax()] if values.size else 0.0
        if abs(furthest) > largest:
            yield name, float(furthest)


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers and the tensors in nodes, with their names."""
    for graph in every_graph(model.graph):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t") and node.output:
                    yield node.output[0], attribute.t
