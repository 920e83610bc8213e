"""Rules of reductions over axes."""

from __future__ import annotations

import math
from dataclasses import replace

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import DEVICE_UNIT, SLACK, Box
from slanc_onnx.prove.trusted.axes import in_positions
from slanc_onnx.prove.trusted.kinds import FLOATS, INT64, natural
from slanc_onnx.prove.trusted.rules.products import (
    MOST_ON_THE_WAY,
    MOST_POSITIONS,
    POSITIONS,
    mixed_over,
    sizes_after,
)
from slanc_onnx.prove.trusted.sizes import Dim, may_be_none, size_of
from slanc_onnx.prove.trusted.table import WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import Facts, Value, interval
from slanc_onnx.reasons import Unread, reason

_TYPES = ((*FLOATS, *WHOLE), (INT64,))


def _axes(call: Call, value: Value) -> list[int]:
    """The axes that are reduced; all where none is told."""
    told = call.numbers(1) or list(call.attributes.get("axes", ()))
    if not told and call.attributes.get("noop_with_empty_axes", 0):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "noop_with_empty_axes"))
    return sorted({axis % value.rank for axis in told}) or list(range(value.rank))


def _left(call: Call, value: Value, axes: list[int]) -> tuple[Dim, ...]:
    if call.attributes.get("keepdims", 1):
        return tuple(1 if a in axes else dim for a, dim in enumerate(value.dims))
    return tuple(dim for a, dim in enumerate(value.dims) if a not in axes)


@rule(
    "ReduceMean", attributes=("axes", "keepdims", "noop_with_empty_axes"), types=(FLOATS, (INT64,))
)
def mean(call: Call) -> Result:
    """The mean over positions lies between their rows; over channels between the numbers."""
    value = call.value()
    axes = _axes(call, value)
    if any(may_be_none(value.dims[axis]) for axis in axes):
        raise NoBound(reason(Unread.EMPTY))
    kept = in_positions(value, [axis for axis in value.axes if axis not in axes])
    dims = _left(call, value, axes)
    order = [a for a in range(value.rank) if a not in axes]
    after = {a: a if len(dims) == value.rank else order.index(a) for a in order}
    made = Value(value.kind, dims, tuple(after[a] for a in kept.axes), kept.reach, facts=call.facts)
    sizes = [value.dims[axis] for axis in axes]
    known = all(isinstance(size, int) for size in sizes)
    count = math.prod(map(size_of, sizes)) if known else MOST_POSITIONS
    if not count * value.largest <= MOST_ON_THE_WAY:  # the sum comes before the division
        raise NoBound(reason(Unread.TOO_LARGE, count))
    return mixed_over(made, sizes)


@rule(
    "ReduceSum", "ReduceL2", attributes=("axes", "keepdims", "noop_with_empty_axes"), types=_TYPES
)
def total_of(call: Call) -> Result:
    """The sum, or the length, of so many numbers."""
    value = call.value()
    axes = _axes(call, value)
    dims = _left(call, value, axes)
    if value.kind not in FLOATS:
        return interval(value.kind, dims, *natural(value.kind), call.facts)
    count = math.prod(size_of(value.dims[axis]) for axis in axes)
    out = (1 + 2 * (count + 8) * DEVICE_UNIT) * SLACK
    if call.op == "ReduceL2":
        if not value.largest**2 * count * out < 2.0**127:
            raise NoBound(reason(Unread.TOO_LARGE, count))
        return interval(value.kind, dims, 0.0, math.sqrt(count) * value.largest * out, call.facts)
    low, high = count * value.low, count * value.high
    low = low * out if low < 0 else low / out
    high = high * out if high > 0 else high / out
    return interval(value.kind, dims, low, high, call.facts)


@rule("CumSum", attributes=("exclusive", "reverse"), types=((*FLOATS, *WHOLE), WHOLE))
def running_sum(call: Call) -> Result:
    """Sums of some of the numbers along an axis; of whole ones, that wrap around."""
    value = call.value()
    (axis,) = call.numbers(1)
    if value.kind not in FLOATS:
        return interval(value.kind, value.dims, *natural(value.kind), call.facts)
    dim = value.dims[axis]
    count = dim if isinstance(dim, int) else MOST_POSITIONS
    facts = call.facts if isinstance(dim, int) else call.facts | Facts(frozenset({POSITIONS}))
    most = count * (1 + 2 * (count + 8) * DEVICE_UNIT) * SLACK
    low, high = min(0.0, value.low * most), max(0.0, value.high * most)
    return interval(value.kind, value.dims, low, high, facts)


@rule(
    "ReduceMax", "ReduceMin", attributes=("axes", "keepdims", "noop_with_empty_axes"),
    types=_TYPES, exact=True,
)  # fmt: skip
def extreme_of(call: Call) -> Result:
    """One of the numbers."""
    value = call.value()
    axes = _axes(call, value)
    if any(may_be_none(value.dims[axis]) for axis in axes):
        raise NoBound(reason(Unread.EMPTY))
    facts = call.facts
    if not all(isinstance(value.dims[axis], int) for axis in axes):  # of none it is infinite
        facts |= Facts(frozenset({POSITIONS}))
    return interval(value.kind, _left(call, value, axes), value.low, value.high, facts)


@rule(
    "MaxPool",
    attributes=(
        "auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides",
    ),
    exact=True,
)  # fmt: skip
def largest_nearby(call: Call) -> Result:
    """The largest number of each window, channel by channel; a window is never all padding."""
    kernel, pads = (list(call.attributes.get(name, ())) for name in ("kernel_shape", "pads"))
    value = in_positions(call.value(), (1,))
    if call.attributes.get("ceil_mode", 0) or set(call.attributes.get("dilations", ())) - {1}:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "ceil_mode, dilations"))
    if call.attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or len(call.outputs) > 1:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "auto_pad"))
    if any(pad >= kernel[place % len(kernel)] for place, pad in enumerate(pads)):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "pads"))
    if 0 in value.dims[2:]:
        raise NoBound(reason(Unread.EMPTY))
    dims = (*value.dims[:2], *sizes_after(call, value, [0, 0, *kernel]))
    reach = Box(value.reach.each)  # the channels of a row come from any positions
    return replace(value, dims=dims, reach=reach, shares=None)
