"""Rules for ops that reduce several rows or elements to one: reductions, pooling, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow, axis_of, broadcast, whole_numbers
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Apply, Mix, Weight
from slanc_onnx.trace.values import Const, Value, View
from slanc_onnx.trace.visit import Rule, Visit, scaled

_ON_CONSTANTS: dict[str, Callable[..., Array]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceL1": lambda x, **k: np.sum(np.abs(x), **k),
    "ReduceL2": lambda x, **k: np.sqrt(np.sum(np.square(x), **k)),
    "ReduceSumSquare": lambda x, **k: np.sum(np.square(x), **k),
    "ReduceLogSumExp": lambda x, **k: np.log(np.sum(np.exp(x), **k)),
}


def _axes(visit: Visit) -> tuple[int, ...] | None:
    given = visit.array(1) if len(visit.inputs) > 1 else visit.attributes.get("axes")
    return None if given is None else tuple(whole_numbers(given))


def _reduce(visit: Visit) -> list[Value]:
    """A reduction over positions mixes rows, or adds them in quadrature."""
    value, axes = visit.known(0), _axes(visit)
    keep = bool(visit.attributes.get("keepdims", 1))
    if not isinstance(value, View):
        if axes is not None:
            axes = tuple({axis_of(axis, len(value.shape)) for axis in axes})
        return [_of_constant(visit.node.op, value, axes, keep)]
    if axes is None or not value.ids.size:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "axes")
    wanted = {axis_of(axis, value.ids.ndim) for axis in axes}
    ids, count = value.ids, 1
    for axis in wanted:
        first = np.take(ids, [0], axis=axis)
        if not (ids == first).all():
            return [_total(visit, value, tuple(wanted), keep)]
        count *= ids.shape[axis]
        ids = first
    if not keep:
        ids = np.squeeze(ids, tuple(wanted))
    if visit.node.op == "ReduceSum":
        return [scaled(View(value.expr, ids), math.sqrt(count))]
    if visit.node.op == "ReduceMean":
        return [View(Mix(value.expr.channels, value.expr), ids)]
    return [View(value.expr, ids)]  # the largest, say: a row of the same kind


def _total(visit: Visit, value: View, axes: tuple[int, ...], keep: bool) -> View:
    """The sum over the channels of a row, by which routing weights are divided."""
    last = value.ids.ndim - 1
    if visit.node.op != "ReduceSum" or axes != (last,) or value.expr.channels != value.shape[-1]:
        raise CannotFollow(Unread.REDUCES_CHANNELS)
    shape = (*value.shape[:-1], 1) if keep else value.shape[:-1]
    return View(Apply(1, "ReduceSum", value.expr), np.zeros(shape, np.int32))


def is_total_of(total: View, part: View) -> bool:
    """Whether `total` is the sum over the channels of `part`, so that their quotient sums to 1."""
    return (
        isinstance(total.expr, Apply)
        and total.expr.function == "ReduceSum"
        and total.expr.x is part.expr
    )


def _of_constant(op: str, value: Const | Weight, axes: tuple[int, ...] | None, keep: bool) -> Value:
    function = _ON_CONSTANTS.get(op)
    if function is None:
        raise CannotFollow(Unread.NO_RULE_FOR_CONSTANTS)
    if isinstance(value, Const):
        return Const(np.asarray(function(value.array, axis=axes, keepdims=keep)), value.varies)
    weight = value
    shape = np.sum(broadcast(np.zeros((), np.int8), weight.shape), axis=axes, keepdims=keep).shape
    return Weight(
        weight.name, shape, lambda: np.asarray(function(weight.read(), axis=axes, keepdims=keep))
    )


def _pool(visit: Visit) -> list[Value]:
    """Pooling and resizing keep the channels in axis 1 and change the positions."""
    view = visit.view(0)
    if view.ids.ndim < 2:
        raise CannotFollow(Unread.MISFIT, view.shape)
    shape = visit.shape()
    if shape is None or shape[:2] != view.shape[:2] or len(shape) != view.ids.ndim:
        whole = visit.node.op.startswith("Global")
        shape = (*view.shape[:2], *(1 if whole else n for n in view.shape[2:]))
    first = view.ids[(slice(None), slice(None), *([slice(0, 1)] * (view.ids.ndim - 2)))]
    if not (view.ids == first).all():
        raise CannotFollow(Unread.CHANNELS_DIFFER)
    expr = view.expr
    if "Average" in visit.node.op or visit.node.op == "Resize":
        expr = Mix(expr.channels, expr)
    return [View(expr, broadcast(first, shape))]


REDUCTIONS: dict[str, Rule] = {
    **{op: _reduce for op in _ON_CONSTANTS},
    **{
        op: _pool
        for op in (
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "LpPool",
            "Resize",
            "Upsample",
        )
    },
}
