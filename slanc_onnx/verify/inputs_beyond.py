"""Inputs beyond: what a model is fed with that the format does not hold, where norms are rounded.

An input is rounded then where a norm, or a division by its scale, reads it as it is. Behind any
other op it is FP32, which holds on a device that computes that op in FP32 alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from slanc_onnx.accelerator import Format
from slanc_onnx.graph import FLOATS, known_op
from slanc_onnx.norms import ReadModel
from slanc_onnx.ops import MOVES
from slanc_onnx.run import Feeds


def inputs_beyond(read: ReadModel, feeds: Sequence[Feeds], form: Format) -> dict[str, float]:
    """The graph inputs with finite elements that a format does not hold.

    Args:
        read: The model.
        feeds: Inputs by name, one dict per run.
        form: The format.

    Returns:
        By name, in the model's order, the largest |x|; of integers where they are cast to floats.
    """
    names = [s.name for s in read.specs if s.is_float or _becomes_floats(read.model.graph, s.name)]
    sizes = {name: max(_largest(feed, name) for feed in feeds) for name in names if feeds}
    return {name: size for name, size in sizes.items() if not form.holds(size)}


def _becomes_floats(graph: onnx.GraphProto, name: str) -> bool:
    """Whether the values of an integer input, moved at most, are cast to floats."""
    waiting, seen = [name], {name}
    while waiting:
        tensor = waiting.pop()
        for node in graph.node:
            if known_op(node) not in MOVES or node.input[0] != tensor:
                continue
            if any(a.name == "to" and a.i in FLOATS for a in node.attribute):
                return True
            waiting += [output for output in node.output if output not in seen]
            seen.update(node.output)
    return False


def _largest(feed: Feeds, name: str) -> float:
    """The largest finite |x| of an input; 0 where there is none."""
    values = np.asarray(feed.get(name, 0)).astype(np.float64)
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
