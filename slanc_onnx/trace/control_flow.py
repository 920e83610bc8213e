"""The values that go into the bodies of If, Loop and Scan, and those that come out."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx_graphsurgeon as gs

from slanc_onnx.ops import CannotFollow, axis_of
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.values import Const, Unknown, Value, View, either

ITERATIONS, MOST_ITERATIONS = 4, 16


def taken(condition: Value | None) -> str | None:
    """The branch that an If takes by a constant condition; None where the data decides."""
    if isinstance(condition, Const) and not condition.varies and condition.array.size == 1:
        return "then_branch" if condition.array.reshape(-1)[0] else "else_branch"
    return None


def either_branch(a: Value, b: Value) -> Value:
    """The output of an If whose branches give `a` and `b`."""
    if isinstance(a, View) and isinstance(b, View) and a.shape == b.shape and a.shape:
        with suppress(CannotFollow):
            return either(a, b)
    return b if isinstance(a, Unknown) else a


def trips(count: Value | None) -> int:
    """How many iterations of a Loop the tracer walks."""
    whole = isinstance(count, Const) and count.array.dtype.kind in "iu"
    if isinstance(count, Const) and whole and not count.varies and count.array.size == 1:
        return max(1, min(int(count.array.reshape(-1)[0]), MOST_ITERATIONS))
    return ITERATIONS


def slice_of(value: Value | None, node: gs.Node, index: int) -> Value | None:
    """What a Scan's body reads of a scanned input: one element along its scan axis."""
    axes = node.attrs.get("scan_input_axes") or []
    axis = int(axes[index]) if index < len(axes) else 0
    if isinstance(value, (View, Const)) and not value.shape[axis_of(axis, len(value.shape))]:
        raise CannotFollow(Unread.EMPTY)
    if isinstance(value, View):
        return View(value.expr, np.take(value.ids, 0, axis=axis))
    if isinstance(value, Const):
        return Const(np.take(value.array, 0, axis=axis), True)
    return Unknown(node.op, node.inputs[index].name)


def stacked(value: Value | None) -> Value | None:
    """The outputs of all iterations stacked, each read as the last one."""
    if isinstance(value, View):
        return View(value.expr, value.ids[None])
    return Const(value.array[None], True) if isinstance(value, Const) else value
