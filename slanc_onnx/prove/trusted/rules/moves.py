"""Rules of ops that only move elements: to other axes, to fewer or more positions, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.moved import rows_of_table
from slanc_onnx.prove.sets import Box, Ellipsoids, Reach, joined, one_of
from slanc_onnx.prove.trusted.rules.joins import common_dims, filled
from slanc_onnx.prove.trusted.rules.shapes import target_dims
from slanc_onnx.prove.trusted.table import ANY, WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import (
    FLOATS,
    INT64,
    MOST_CHANNELS,
    Constant,
    Dim,
    Facts,
    Value,
    as_value,
    in_channels,
    in_positions,
    interval,
    natural,
    size_of,
    with_axes,
)
from slanc_onnx.reasons import Unread, reason


def picked(reach: Reach, index: np.ndarray) -> Reach:
    """The rows with the channels at `index`, where some may come again.

    A channel that comes again is counted each time: a set of its own for each round of channels.
    """
    if len(index) > MOST_CHANNELS:
        raise NoBound(reason(Unread.TOO_LARGE, len(index)))
    seen = np.zeros(reach.channels, dtype=int)
    rounds = np.empty(len(index), dtype=int)
    for place, channel in enumerate(index):
        rounds[place] = seen[channel]
        seen[channel] += 1
    if not len(index) or rounds.max() == 0:
        return reach.pick(index)
    if rounds.max() >= 64:
        return Box(reach.each[index])
    places = [np.flatnonzero(rounds == number) for number in range(rounds.max() + 1)]
    return joined([(where, reach.pick(index[where])) for where in places], len(index))


def moved(call: Call, value: Value, move: Callable[[np.ndarray], np.ndarray]) -> Reach:
    """The rows after their channels, an array of `value.widths`, were moved by a function."""
    places = np.arange(value.reach.channels).reshape(value.widths)
    return picked(value.reach, move(places).reshape(-1))


@rule("Transpose", attributes=("perm",), types=(ANY,), extended=True, exact=True)
def transpose(call: Call) -> Result:
    """Axes in another order."""
    value = call.value()
    order = list(call.attributes.get("perm", range(value.rank)[::-1]))
    places = [value.axes.index(axis) for axis in order if axis in value.axes]
    reach = value.reach if places == sorted(places) else moved(call, value, lambda x: x.transpose(places))
    return replace(
        value,
        dims=tuple(value.dims[axis] for axis in order),
        axes=tuple(i for i, axis in enumerate(order) if axis in value.axes),
        reach=reach,
        shares=None if value.shares is None else order.index(value.shares),
        tests="",
    )


def reaxed(value: Value, dims: Sequence[Dim], pairs: dict[int, int]) -> Value:
    """A value whose axes of size 1 come and go; `pairs` gives the new place of every other axis."""
    value = in_positions(value, [axis for axis in value.axes if axis in pairs])
    shares = pairs.get(value.shares) if value.shares is not None else None
    axes = tuple(sorted(pairs[axis] for axis in value.axes))
    return replace(value, dims=tuple(dims), axes=axes, shares=shares)


@rule("Unsqueeze", attributes=("axes",), types=(ANY, (INT64,)), extended=True, exact=True)
def unsqueeze(call: Call) -> Result:
    """New axes of size 1."""
    value = call.value()
    own = call.numbers(1) or list(call.attributes.get("axes", ()))
    rank = value.rank + len(own)
    new = {axis % rank for axis in own}
    old = iter(range(value.rank))
    pairs = {next(old): axis for axis in range(rank) if axis not in new}
    back = {there: here for here, there in pairs.items()}
    dims = [value.dims[back[axis]] if axis in back else 1 for axis in range(rank)]
    return replace(reaxed(value, dims, pairs), tests=value.tests)


@rule("Squeeze", attributes=("axes",), types=(ANY, (INT64,)), extended=True, exact=True)
def squeeze(call: Call) -> Result:
    """Fewer axes of size 1."""
    value = call.value()
    own = call.numbers(1) or list(call.attributes.get("axes", ()))
    if not own:
        if not all(isinstance(dim, int) for dim in value.dims):
            raise NoBound(reason(Unread.NOT_CONSTANT, "axes"))
        own = [axis for axis, dim in enumerate(value.dims) if dim == 1]
    gone = {axis % value.rank for axis in own}
    left = [axis for axis in range(value.rank) if axis not in gone]
    pairs = {axis: place for place, axis in enumerate(left)}
    return reaxed(value, [value.dims[axis] for axis in left], pairs)


@rule("Flatten", attributes=("axis",), types=(ANY,), exact=True)
def flatten(call: Call) -> Result:
    """Two axes: all before an axis, and all from it on."""
    value = call.value()
    axis = call.attributes.get("axis", 1)
    axis = axis + value.rank if axis < 0 else axis
    halves = [value.dims[:axis], value.dims[axis:]]
    dims = [
        math.prod(half) if all(isinstance(d, int) for d in half) else call.fresh()  # type: ignore[arg-type]
        for half in halves
    ]
    return regrouped(value, dims)


@rule("Reshape", attributes=("allowzero",), types=(ANY, (INT64,)), extended=True, exact=True)
def reshape(call: Call) -> Result:
    """The same elements in the same order with other sizes."""
    value = call.value()
    if call.attributes.get("allowzero", 0):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "allowzero"))
    asked = target_dims(call, 1)
    dims: list[Dim] = [
        value.dims[i] if dim == 0 and i < value.rank else dim for i, dim in enumerate(asked)
    ]
    if -1 in dims:
        dims[dims.index(-1)] = _left(call, value.dims, [dim for dim in dims if dim != -1])
    return regrouped(value, dims)


def _left(call: Call, whole: Sequence[Dim], others: Sequence[Dim]) -> Dim:
    """The size that is left where all others are told; a new symbol where an open one remains."""
    rest, known = list(whole), 1
    for dim in others:
        if isinstance(dim, int):
            known *= dim
        elif dim in rest:
            rest.remove(dim)
        else:
            return call.fresh()
    if all(isinstance(dim, int) for dim in rest) and known:
        return math.prod(int(dim) for dim in rest) // known
    if len(rest) == 1 and known == 1:
        return rest[0]
    opened = [dim for dim in rest if not isinstance(dim, int)]
    number = math.prod(dim for dim in rest if isinstance(dim, int))
    return opened[0] if len(opened) == 1 and number == known else call.fresh()


def regrouped(value: Value, dims: Sequence[Dim]) -> Value:
    """The same elements in the same order with other sizes.

    From the last axis on, groups of axes whose sizes have the same product hold the same elements.
    Where no group can be closed any more, all axes that are left are positions.
    """
    groups = _groups(value.dims, dims)
    kept: list[int] = []
    axes: list[int] = []
    shares = None
    for old, new in groups:
        wide = [axis for axis in old if value.dims[axis] != 1]
        if len(wide) == 1 and len(new) == 1 and wide[0] == value.shares:
            shares = new[0]
        if wide and wide[-1] in value.axes:
            for axis in wide:
                value = in_channels(value, axis)
            kept += wide
            axes += [axis for axis in new if dims[axis] != 1]
    value = in_positions(value, kept)
    return replace(value, dims=tuple(dims), axes=tuple(sorted(axes)), shares=shares, tests="")


def _groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Groups of axes before and after, from the last on, that hold the same elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i, j = len(old) - 1, len(new) - 1
    while i >= 0 and j >= 0:
        if old[i] == 1 or new[j] == 1:
            i, j = (i - 1, j) if old[i] == 1 else (i, j - 1)
            continue
        mine, theirs = [i], [j]
        a, b = old[i], new[j]
        i, j = i - 1, j - 1
        while a != b:
            if not (isinstance(a, int) and isinstance(b, int)) or 0 in (a, b):
                return groups
            if a < b and i >= 0 and isinstance(old[i], int):
                a, i = a * old[i], i - 1  # type: ignore[operator]
                mine.insert(0, i + 1)
            elif b < a and j >= 0 and isinstance(new[j], int):
                b, j = b * new[j], j - 1  # type: ignore[operator]
                theirs.insert(0, j + 1)
            else:
                return groups
        groups.append((mine, theirs))
    return groups


@rule("Expand", types=(ANY, (INT64,)), extended=True, exact=True)
def expand(call: Call) -> Result:
    """The same numbers again at more positions, or for more channels."""
    value = call.value()
    asked = interval(value.kind, target_dims(call, 1), 0, 0, Facts())
    return _repeated(value, common_dims([value, asked]))


def _repeated(value: Value, dims: tuple[Dim, ...]) -> Value:
    shift = len(dims) - value.rank
    axes = tuple(axis + shift for axis in value.axes)
    shares = None
    if value.shares is not None and value.dims[value.shares] == dims[value.shares + shift]:
        shares = value.shares + shift
    if any(value.dims[a] == 1 for a in value.axes):
        wide = replace(value, dims=(1,) * shift + value.dims, axes=axes)
        value = replace(value, reach=filled(wide, dims, axes))
    return replace(value, dims=dims, axes=axes, shares=shares)


@rule("Tile", types=(ANY, (INT64,)), exact=True)
def tile(call: Call) -> Result:
    """The whole tensor again, along each axis."""
    value = call.value()
    known = call.inputs[1]
    times = call.numbers(1) if isinstance(known, Constant) else None
    counts: list[Dim] = list(times) if times is not None else list(target_dims(call, 1))
    value = in_positions(value, [axis for axis in value.axes if counts[axis] == 1])
    dims = [d if n == 1 else call.fresh() for d, n in zip(value.dims, counts, strict=True)]
    for axis, (dim, count) in enumerate(zip(value.dims, counts, strict=True)):
        if isinstance(dim, int) and isinstance(count, int):
            dims[axis] = dim * count
    return replace(value, dims=tuple(dims), shares=None)


@rule("Concat", attributes=("axis",), types=(ANY,), extended=True, exact=True)
def concat(call: Call) -> Result:
    """Tensors one after another along an axis."""
    operands = [o for o in call.inputs if o is not None]
    rank = len(operands[0].dims)
    axis = call.attributes["axis"] % rank
    channels = sorted({a for o in operands if isinstance(o, Value) for a in o.axes})
    along = axis in channels and all(isinstance(o.dims[axis], int) for o in operands)
    others = [a for a in channels if a != axis]
    wanted = sorted([*others, axis]) if along else others
    values = [_with_all(as_value(o, wanted, rank), wanted) for o in operands]
    dims = list(values[0].dims)
    for other, dim in enumerate(dims):
        if not isinstance(dim, int):
            dims[other] = next((v.dims[other] for v in values if isinstance(v.dims[other], int)), dim)
    sizes = [value.dims[axis] for value in values]
    dims[axis] = sum(size_of(s) for s in sizes) if all(isinstance(s, int) for s in sizes) else call.fresh()
    reach = _side_by_side(values, wanted.index(axis)) if along else one_of([v.reach for v in values])
    ends = min(v.low for v in values), max(v.high for v in values)
    nan = [v.nan for v in values if v.nan is not None]
    return Value(
        values[0].kind,
        tuple(dims),
        tuple(wanted),
        reach,
        *ends,
        infinite=any(v.infinite for v in values),
        nan=frozenset().union(*nan) if nan else None,
        facts=call.facts,
    )


def _with_all(value: Value, axes: Sequence[int]) -> Value:
    """The value with all of these channel axes, those of size 1 included."""
    value = with_axes(value, [axis for axis in axes if value.dims[axis] != 1 or axis in value.axes])
    return replace(value, axes=tuple(axes))


def _side_by_side(values: Sequence[Value], place: int) -> Reach:
    """Rows joined along the channel axis at a place in the list of channel axes."""
    widths = [list(value.widths) for value in values]
    whole = list(widths[0])
    whole[place] = sum(width[place] for width in widths)
    at = np.arange(math.prod(whole)).reshape(whole)
    pieces, start = [], 0
    for value, width in zip(values, widths, strict=True):
        where = np.take(at, range(start, start + width[place]), axis=place).reshape(-1)
        pieces.append((where, value.reach))
        start += width[place]
    return joined(pieces, at.size)


@rule("Split", attributes=("axis", "split", "num_outputs"), types=(ANY, (INT64,)), extended=True, exact=True)
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
    starts = np.cumsum([0, *sizes])
    return [_cut(call, value, axis, range(starts[i], starts[i + 1])) for i in range(count)]


def _sized(value: Value, axis: int, dim: Dim) -> Value:
    return replace(value, dims=(*value.dims[:axis], dim, *value.dims[axis + 1 :]), tests="")


def _cut(call: Call, value: Value, axis: int, kept: Sequence[int]) -> Value:
    """Some places of an axis whose size is a number."""
    shorter = _sized(value, axis, len(kept))
    if axis not in value.axes:
        return shorter
    place = value.axes.index(axis)
    return replace(shorter, reach=moved(call, value, lambda x: np.take(x, kept, axis=place)))


@rule("Slice", attributes=("starts", "ends", "axes"), types=(ANY, WHOLE), extended=True, exact=True)
def cut(call: Call) -> Result:
    """Some places along some axes."""
    value = call.value()
    if "starts" in call.attributes:
        starts, ends = (list(call.attributes[name]) for name in ("starts", "ends"))
        axes = list(call.attributes.get("axes", range(len(starts))))
        steps = [1] * len(starts)
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
        known = all(isinstance(number, int) for number in (start, end, step))
        if known and isinstance(dim, int):
            value = _cut(call, value, axis, range(dim)[slice(start, end, step)])
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
    if table and data.stored is not None and axis == 0 and data.kind in FLOATS:
        return _rows(call, data, index.dims)
    channels = [a for a in range(len(data.dims)) if a != axis] if table else ()
    value = as_value(data, channels)
    fixed = isinstance(index, Constant) and axis in value.axes and len(index.dims) <= 1
    if fixed:
        kept = np.asarray(index.values).reshape(-1) % size_of(value.dims[axis])
        value = _cut(call, value, axis, [int(place) for place in kept])
    else:
        value = in_positions(value, [a for a in value.axes if a != axis])
    dims = (*value.dims[:axis], *index.dims, *value.dims[axis + 1 :])
    if fixed and not index.dims:
        value = replace(value, axes=tuple(a for a in value.axes if a != axis))
    shift = len(index.dims) - 1
    axes = tuple(a + shift if a > axis else a for a in value.axes)
    shares = value.shares
    if shares is not None:
        shares = None if shares == axis else shares + shift if shares > axis else shares
    facts = replace(value.facts, origin=value.facts.origin | index.facts.origin)
    return replace(value, dims=dims, axes=axes, shares=shares, facts=facts if not table else data.facts, tests="")


def _rows(call: Call, table: Constant, dims: Sequence[Dim]) -> Value:
    """Rows of a large table, whose longest row and largest elements are read."""
    assert table.stored is not None
    width, reach = table.dims[1], rows_of_table(table.stored)
    if not np.isfinite(reach.each).all():
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    return Value(table.kind, (*dims, width), (len(dims),), reach, facts=table.facts)


@rule("GatherND", attributes=("batch_dims",), types=(ANY, (INT64,)), extended=True, exact=True)
def gather_nd(call: Call) -> Result:
    """Pieces by the places that the last axis of the indices tells."""
    value, index = in_positions(call.value(), ()), call.operand(1)
    told = size_of(index.dims[-1]) + call.attributes.get("batch_dims", 0)
    dims = (*index.dims[:-1], *value.dims[told:])
    facts = replace(value.facts, origin=value.facts.origin | index.facts.origin)
    return replace(value, dims=dims, shares=None, facts=facts, tests="")


@rule("GatherElements", attributes=("axis",), types=(ANY, WHOLE), extended=True, exact=True)
def gather_elements(call: Call) -> Result:
    """Elements by their places along an axis."""
    value = in_positions(call.value(), ())
    return replace(value, dims=tuple(call.operand(1).dims), shares=None, tests="", facts=call.facts)


@rule("ScatterND", "ScatterElements", attributes=("axis", "reduction"), types=(ANY, WHOLE, ANY), exact=True)
def scatter(call: Call) -> Result:
    """Elements of a tensor, or others in their place."""
    if call.attributes.get("reduction", b"none") != b"none":
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "reduction"))
    data, updates = (in_positions(as_value(call.operand(place)), ()) for place in (0, 2))
    ends = min(data.low, updates.low), max(data.high, updates.high)
    return replace(interval(data.kind, data.dims, *ends, call.facts))


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
        dims[axis] = sum(numbers) if len(numbers) == 3 else call.fresh() if axis in grown else dims[axis]
    low, high, reach = value.low, value.high, value.reach
    if call.attributes.get("mode", b"constant") == b"constant":
        filling = in_positions(as_value(call.operand(2)), ()) if call.has(2) else None
        ends = (0.0, 0.0) if filling is None else (filling.low, filling.high)
        low, high = min(low, ends[0]), max(high, ends[1])
        if ends != (0.0, 0.0):
            reach = one_of([reach, Box(np.full(reach.channels, max(map(abs, ends))))])
    return replace(value, dims=tuple(dims), reach=reach, low=low, high=high, shares=None, facts=call.facts)


@rule("Trilu", attributes=("upper",), types=(ANY, (INT64,)), exact=True)
def triangle(call: Call) -> Result:
    """Elements on one side of a diagonal, and zero on the other."""
    value = in_positions(call.value(), ())
    return replace(value, low=min(value.low, 0.0), high=max(value.high, 0.0), shares=None)


@rule("CumSum", attributes=("exclusive", "reverse"), types=(WHOLE, WHOLE), exact=True)
def running_sum(call: Call) -> Result:
    """A running sum of whole numbers, which wraps around."""
    value = call.value()
    return interval(value.kind, value.dims, *natural(value.kind), call.facts)


__all__ = ["Ellipsoids", "in_channels", "regrouped"]
