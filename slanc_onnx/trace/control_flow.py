"""What goes into the bodies of If, Loop and Scan, and what comes out."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx_graphsurgeon as gs

from slanc_onnx.trace.movement import CannotFollow
from slanc_onnx.trace.values import Const, Unknown, Value, View, either

ITERATIONS, MOST_ITERATIONS = 4, 16


def taken(condition: Value | None) -> str | None:
    """The branch of an If that the file decides for, None where the data does."""
    if isinstance(condition, Const) and not condition.varies and condition.array.size == 1:
        return "then_branch" if condition.array.reshape(-1)[0] else "else_branch"
    return None


def either_branch(a: Value, b: Value) -> Value:
    """What comes out of an If whose branches give `a` and `b`."""
    if isinstance(a, View) and isinstance(b, View) and a.shape == b.shape and a.shape:
        with suppress(CannotFollow, ValueError):
            return either(a, b)
    return b if isinstance(a, Unknown) else a


def trips(count: Value | None) -> int:
    """How often a Loop runs, as far as that matters."""
    if isinstance(count, Const) and not count.varies and count.array.size == 1:
        return max(1, min(int(count.array.reshape(-1)[0]), MOST_ITERATIONS))
    return ITERATIONS


def slice_of(value: Value | None, node: gs.Node, index: int) -> Value | None:
    """What a Scan's body sees of an input that is scanned: one element of its first axis."""
    axes = node.attrs.get("scan_input_axes") or []
    axis = int(axes[index]) if index < len(axes) else 0
    if isinstance(value, View):
        return View(value.expr, np.take(value.ids, 0, axis=axis))
    if isinstance(value, Const):
        return Const(np.take(value.array, 0, axis=axis), True)
    return Unknown(node.op, node.inputs[index].name)


def stacked(value: Value | None) -> Value | None:
    """The outputs of all iterations, of which each is like the last."""
    if isinstance(value, View):
        return View(value.expr, value.ids[None])
    return Const(value.array[None], True) if isinstance(value, Const) else value
