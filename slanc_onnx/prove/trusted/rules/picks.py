"""Rules of ops that pick elements by their places: Split, Slice, Gather, Scatter, Pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.graph import MOST_AXES
from slanc_onnx.ops import places_cut
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.moved import rows_of_table
from slanc_onnx.prove.sets import Box, one_of
from slanc_onnx.prove.trusted.axes import in_positions
from slanc_onnx.prove.trusted.kinds import FLOATS, INT64
from slanc_onnx.prove.trusted.rules.moves import moved
from slanc_onnx.prove.trusted.rules.shapes import target_dims
from slanc_onnx.prove.trusted.sizes import Dim, size_of
from slanc_onnx.prove.trusted.table import ANY, WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import Constant, Facts, Value, as_value, interval
from slanc_onnx.reasons import Unread, reason
from slanc_onnx.weights import Stored


@rule(
    "Split",
    attributes=("axis", "split", "num_outputs"),
    types=(ANY, (INT64,)),
    extended=True,
    exact=True,
)
def split(call: Call) -> Result:
    """Pieces along an axis."""
    value = call.value()
    axis = call.attributes.get("axis", 0) % value.rank
    dim, count = value.dims[axis], len(call.outputs)
    sizes = call.numbers(1) or list(call.attributes.get("split", ()))
    if not sizes and isinstance(dim, int):
        each = -(-dim // count)
        sizes = [min(each, dim - each * i) for i in range(count)]
    if not sizes:
        value = in_positions(value, [a for a in value.axes if a != axis])
        return [_sized(replace(value, shares=None), axis, call.fresh()) for _ in range(count)]
    if min(sizes) < 0 or (isinstance(dim, int) and sum(sizes) != dim):
        raise NoBound(reason(Unread.NOT_THERE, f"pieces of {sum(sizes)} of an axis of {dim}"))
    starts = np.cumsum([0, *sizes])
    return [_cut(call, value, axis, range(starts[i], starts[i + 1])) for i in range(count)]


def _sized(value: Value, axis: int, dim: Dim) -> Value:
    return replace(value, dims=(*value.dims[:axis], dim, *value.dims[axis + 1 :]))


def _cut(call: Call, value: Value, axis: int, kept: Sequence[int]) -> Value:
    """Some places of an axis whose size is a number."""
    shorter = _sized(value, axis, len(kept))
    if axis not in value.axes:
        return shorter
    place = value.axes.index(axis)
    return replace(shorter, reach=moved(call, value, lambda x: np.take(x, kept, axis=place)))


@rule(
    "Slice",
    attributes=("starts", "ends", "axes"),
    types=(ANY, WHOLE, WHOLE, WHOLE, WHOLE),
    extended=True,
    exact=True,
)
def cut(call: Call) -> Result:
    """Some places along some axes."""
    value = call.value()
    if "starts" in call.attributes:
        starts, ends = (list(call.attributes[name]) for name in ("starts", "ends"))
        axes = list(call.attributes.get("axes", range(len(starts))))
        steps: list[int | None] = [1] * len(starts)
    else:
        count = target_count(call, 1)
        axes = call.numbers(3) or list(range(count))
        limits = [_known(call, place, count) for place in (1, 2, 4)]
        starts, ends, steps = limits[0], limits[1], limits[2]
        if not call.has(4):
            steps = [1] * count
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= value.rank
        dim = value.dims[axis]
        numbers = [number for number in (start, end, step) if number is not None]
        if len(numbers) == 3 and isinstance(dim, int):
            value = _cut(call, value, axis, places_cut(dim, *numbers))
            continue
        value = in_positions(value, [a for a in value.axes if a != axis])
        value = _sized(value, axis, call.fresh())
    return value


def target_count(call: Call, place: int) -> int:
    """How many numbers an input of one axis holds."""
    return size_of(call.operand(place).dims[0])


def _known(call: Call, place: int, count: int) -> list[int | None]:
    """The numbers of an input, None for those that are open."""
    if not call.has(place):
        return [None] * count
    return [entry if isinstance(entry, int) else None for entry in target_dims(call, place)]


@rule("Gather", attributes=("axis",), types=(ANY, WHOLE), extended=True, exact=True)
def gather(call: Call) -> Result:
    """Places of an axis by their numbers: rows of a table, or picked channels."""
    data, index = call.operand(0), call.operand(1)
    axis = call.attributes.get("axis", 0) % len(data.dims)
    table = isinstance(data, Constant) and not isinstance(index, Constant)
    by_row = axis == 0 and data.kind in FLOATS
    if isinstance(data, Constant) and table and by_row and data.stored is not None:
        return rows_of(data.kind, index.dims, data.stored.turned(), data.facts)
    channels = [a for a in range(len(data.dims)) if a != axis] if table else ()
    value = as_value(data, channels)
    fixed = isinstance(index, Constant) and axis in value.axes and len(index.dims) <= 1
    if fixed and isinstance(index, Constant):
        kept = np.asarray(index.values).reshape(-1) % size_of(value.dims[axis])
        value = _cut(call, value, axis, [int(place) for place in kept])
    else:
        value = in_positions(value, [a for a in value.axes if a != axis])
    dims = (*value.dims[:axis], *index.dims, *value.dims[axis + 1 :])
    if len(dims) > MOST_AXES:
        raise NoBound(reason(Unread.TOO_LARGE, len(dims)))
    if fixed and not index.dims:
        value = replace(value, axes=tuple(a for a in value.axes if a != axis))
    shift = len(index.dims) - 1
    axes = tuple(a + shift if a > axis else a for a in value.axes)
    shares = value.shares
    if shares is not None:
        shares = None if shares == axis else shares + shift if shares > axis else shares
    chosen = index.facts.origin
    if table and data.kind in FLOATS:
        chosen = frozenset({""}) if chosen else chosen
    facts = replace(value.facts, origin=value.facts.origin | chosen)
    return replace(value, dims=dims, axes=axes, shares=shares, facts=facts)


def rows_of(kind: int, dims: Sequence[Dim], columns: Stored, facts: Facts) -> Value:
    """Rows of a large table, whose longest row and largest elements are read.

    Args:
        kind: Its element type.
        dims: Of the indices.
        columns: Its transpose.
        facts: What it rests on.
    """
    width, reach = columns.shape[0], rows_of_table(columns)
    if not np.isfinite(reach.each).all():
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    return Value(kind, (*dims, width), (len(dims),), reach, facts=facts)


@rule("GatherND", attributes=("batch_dims",), types=(ANY, (INT64,)), extended=True, exact=True)
def gather_nd(call: Call) -> Result:
    """Pieces by the places that the last axis of the indices tells."""
    value, index = in_positions(call.value(), ()), call.operand(1)
    told = size_of(index.dims[-1]) + call.attributes.get("batch_dims", 0)
    dims = (*index.dims[:-1], *value.dims[told:])
    facts = replace(value.facts, origin=value.facts.origin | index.facts.origin)
    return replace(value, dims=dims, shares=None, facts=facts)


@rule("GatherElements", attributes=("axis",), types=(ANY, WHOLE), extended=True, exact=True)
def gather_elements(call: Call) -> Result:
    """Elements by their places along an axis."""
    value = in_positions(call.value(), ())
    return replace(value, dims=tuple(call.operand(1).dims), shares=None, facts=call.facts)


@rule(
    "ScatterND",
    "ScatterElements",
    attributes=("axis", "reduction"),
    types=(ANY, WHOLE, ANY),
    exact=True,
)
def scatter(call: Call) -> Result:
    """Elements of a tensor, or others in their place."""
    if call.attributes.get("reduction", b"none") != b"none":
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "reduction"))
    data, updates = (in_positions(as_value(call.operand(place)), ()) for place in (0, 2))
    ends = min(data.low, updates.low), max(data.high, updates.high)
    return interval(data.kind, data.dims, *ends, call.facts)


@rule("Pad", attributes=("mode",), types=(ANY, (INT64,), ANY, WHOLE), since=11, exact=True)
def pad(call: Call) -> Result:
    """More places at both ends of axes, which hold one number or numbers of the tensor."""
    value = call.value()
    amounts = target_dims(call, 1)
    axes = [axis % value.rank for axis in call.numbers(3)] or list(range(value.rank))
    more = [(amounts[i], amounts[i + len(axes)]) for i in range(len(axes))]
    grown = [axis for axis, pair in zip(axes, more, strict=True) if pair != (0, 0)]
    value = in_positions(value, [a for a in value.axes if a not in grown])
    dims = list(value.dims)
    for axis, pair in zip(axes, more, strict=True):
        numbers = [size for size in (dims[axis], *pair) if isinstance(size, int)]
        dims[axis] = (
            sum(numbers) if len(numbers) == 3 else call.fresh() if axis in grown else dims[axis]
        )
    low, high, reach = value.low, value.high, value.reach
    if call.attributes.get("mode", b"constant") == b"constant":
        filling = in_positions(as_value(call.operand(2)), ()) if call.has(2) else None
        ends = (0.0, 0.0) if filling is None else (filling.low, filling.high)
        low, high = min(low, ends[0]), max(high, ends[1])
        if ends != (0.0, 0.0):
            reach = one_of([reach, Box(np.full(reach.channels, max(map(abs, ends))))])
    return replace(
        value, dims=tuple(dims), reach=reach, low=low, high=high, shares=None, facts=call.facts
    )


@rule("Trilu", attributes=("upper",), types=(ANY, (INT64,)), exact=True)
def triangle(call: Call) -> Result:
    """Elements on one side of a diagonal, and zero on the other."""
    value = in_positions(call.value(), ())
    return replace(value, low=min(value.low, 0.0), high=max(value.high, 0.0), shares=None)


@rule(
    "Resize",
    attributes=(
        "antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
        "extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode",
    ),
    types=(ANY, FLOATS, FLOATS, (INT64,)),
    since=11,
    exact=True,
)  # fmt: skip
def nearest(call: Call) -> Result:
    """Elements of the tensor, each as often as its place is the nearest one."""
    value = in_positions(call.value(), ())
    outside = call.attributes.get("coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
    if call.attributes.get("mode", b"nearest") != b"nearest" or outside:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "mode"))
    plain = call.attributes.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"
    dims = target_dims(call, 3) if call.has(3) and plain else call.symbols(value.rank)
    return replace(value, dims=dims, shares=None)
