"""Rules of ops that only move elements: to other axes, to fewer or more positions, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import Box, Reach, joined, one_of
from slanc_onnx.prove.trusted.axes import in_channels, in_positions, with_axes
from slanc_onnx.prove.trusted.kinds import INT64
from slanc_onnx.prove.trusted.rules.joins import common_dims, filled
from slanc_onnx.prove.trusted.rules.products import POSITIONS
from slanc_onnx.prove.trusted.rules.shapes import target_dims
from slanc_onnx.prove.trusted.sizes import Dim, above_none, may_be_none, merged, size_of
from slanc_onnx.prove.trusted.table import ANY, Call, Result, rule
from slanc_onnx.prove.trusted.values import (
    MOST_KINDS,
    Constant,
    Facts,
    Value,
    as_value,
    interval,
    refuse_wide,
)
from slanc_onnx.reasons import Unread, reason


def picked(reach: Reach, index: np.ndarray) -> Reach:
    """The rows with the channels at `index`, where some may come again.

    A channel that comes again is counted each time: a set of its own for each round of channels.
    """
    refuse_wide(len(index))
    seen = np.zeros(reach.channels, dtype=int)
    rounds = np.empty(len(index), dtype=int)
    for place, channel in enumerate(index):
        rounds[place] = seen[channel]
        seen[channel] += 1
    if not len(index) or rounds.max() == 0:
        return reach.pick(index)
    if rounds.max() >= MOST_KINDS:
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
    reach = (
        value.reach
        if places == sorted(places)
        else moved(call, value, lambda x: x.transpose(places))
    )
    return replace(
        value,
        dims=tuple(value.dims[axis] for axis in order),
        axes=tuple(i for i, axis in enumerate(order) if axis in value.axes),
        reach=reach,
        shares=None if value.shares is None else order.index(value.shares),
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
    return reaxed(value, dims, pairs)


@rule("Squeeze", attributes=("axes",), types=(ANY, (INT64,)), extended=True, exact=True)
def squeeze(call: Call) -> Result:
    """Fewer axes of size 1."""
    value = call.value()
    own = call.numbers(1) or list(call.attributes.get("axes", ()))
    if call.has(1) and not own:  # which runtimes read in two ways
        raise NoBound(reason(Unread.EMPTY))
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
        math.prod(half) if all(isinstance(d, int) for d in half) else merged(half, call.fresh())
        for half in halves
    ]
    return regrouped(value, dims)


@rule("Reshape", attributes=("allowzero",), types=(ANY, (INT64,)), extended=True, exact=True)
def reshape(call: Call) -> Result:
    """The same elements in the same order with other sizes."""
    value = call.value()
    asked = target_dims(call, 1)
    if 0 in asked and call.attributes.get("allowzero", 0):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "allowzero"))
    dims: list[Dim] = [
        value.dims[i] if dim == 0 and i < value.rank else _told(call, value, dim)
        for i, dim in enumerate(asked)
    ]
    if -1 in dims:
        dims[dims.index(-1)] = _left(call, value.dims, [dim for dim in dims if dim != -1])
    if dims and call.wide is not None and not isinstance(dims[-1], int):
        dims[-1] = call.wide
    return regrouped(value, dims)


def _told(call: Call, value: Value, dim: Dim) -> Dim:
    """A size that is asked for; a new symbol for one that may be 0 or -1, which are no sizes.

    One that the tensor has itself may be 0 only where there are no elements.
    """
    known = isinstance(dim, int) or not may_be_none(dim) or dim in value.dims
    return dim if known else call.fresh()


def _left(call: Call, whole: Sequence[Dim], others: Sequence[Dim]) -> Dim:
    """The size that is left where all others are told; a new symbol where an open one remains."""
    rest, known = list(whole), 1
    for dim in others:
        if isinstance(dim, int):
            known *= dim
        elif dim in rest:
            rest.remove(dim)
        else:
            return merged(whole, call.fresh())
    if all(isinstance(dim, int) for dim in rest) and known:
        return math.prod(int(dim) for dim in rest) // known
    if len(rest) == 1 and known == 1:
        return rest[0]
    opened = [dim for dim in rest if not isinstance(dim, int)]
    number = math.prod(dim for dim in rest if isinstance(dim, int))
    if len(opened) == 1 and number == known:
        return opened[0]
    return merged(rest, call.fresh())


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
    return replace(value, dims=tuple(dims), axes=tuple(sorted(axes)), shares=shares)


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
                a, i = a * old[i], i - 1
                mine.insert(0, i + 1)
            elif b < a and j >= 0 and isinstance(new[j], int):
                b, j = b * new[j], j - 1
                theirs.insert(0, j + 1)
            else:
                return groups
        groups.append((mine, theirs))
    return groups


@rule("Expand", types=(ANY, (INT64,)), extended=True, exact=True)
def expand(call: Call) -> Result:
    """The same numbers again at more positions, or for more channels."""
    value = call.value()
    wanted = target_dims(call, 1)
    if any(isinstance(dim, int) and dim < 0 for dim in wanted):  # some runtimes keep such an axis
        raise NoBound(reason(Unread.NO_FIT, str(value.dims), str(wanted)))
    asked = interval(value.kind, wanted, 0, 0, Facts())
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
    facts = call.facts
    for other, dim in enumerate(dims):
        told = [value.dims[other] for value in values]
        if other != axis and len(set(told)) > 1:  # a runtime passes over what has no elements
            facts |= Facts(frozenset({POSITIONS}))
            dims[other] = next((size for size in told if isinstance(size, int)), dim)
    sizes = [value.dims[axis] for value in values]
    if all(isinstance(size, int) for size in sizes):
        dims[axis] = sum(size_of(size) for size in sizes)
    else:
        dims[axis] = call.fresh() if all(map(may_be_none, sizes)) else above_none(call.fresh())
    reach = (
        _side_by_side(values, wanted.index(axis)) if along else one_of([v.reach for v in values])
    )
    ends = min(v.low for v in values), max(v.high for v in values)
    nan = [v.nan for v in values if v.nan is not None]
    return Value(
        values[0].kind,
        tuple(dims),
        tuple(wanted),
        reach,
        *ends,
        infinite=any(v.infinite for v in values),
        hides=frozenset().union(*(v.hides for v in values if v.infinite)),
        nan=frozenset().union(*nan) if nan else None,
        facts=facts,
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
    refuse_wide(math.prod(whole))
    at = np.arange(math.prod(whole)).reshape(whole)
    pieces, start = [], 0
    for value, width in zip(values, widths, strict=True):
        where = np.take(at, range(start, start + width[place]), axis=place).reshape(-1)
        pieces.append((where, value.reach))
        start += width[place]
    return joined(pieces, at.size)
