"""Channel axes that become position axes, and the other way round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import SLACK, Box, Ellipsoids, Reach, joined, one_of
from slanc_onnx.prove.trusted.sizes import size_of
from slanc_onnx.prove.trusted.values import MOST_KINDS, Operand, Value, as_value, refuse_wide
from slanc_onnx.reasons import Unread, reason


def in_positions(value: Value, keep: Sequence[int] = ()) -> Value:
    """The same tensor with no other channel axes than these; any others become positions."""
    kept = tuple(axis for axis in value.axes if axis in keep)
    if kept == value.axes:
        return value
    places = np.arange(value.reach.channels).reshape(value.widths)
    dropped = [i for i, axis in enumerate(value.axes) if axis not in kept]
    first = np.moveaxis(places, dropped, range(len(dropped)))
    groups = first.reshape(-1, math.prod(first.shape[len(dropped) :]))
    return replace(value, axes=kept, reach=_any_of(value.reach, groups))


def _any_of(reach: Reach, groups: Array) -> Reach:
    """The rows that any of some groups of channels make, [groups, channels]."""
    if len(groups) <= MOST_KINDS and groups.shape[1] > 1:
        return one_of([reach.pick(group) for group in groups])
    return Box(reach.each[groups].max(axis=0, initial=0.0))


def in_channels(value: Value, axis: int, width: int | None = None) -> Value:
    """The same tensor with one more channel axis: rows at any positions end to end.

    Args:
        value: The tensor.
        axis: The axis.
        width: Its size, where the tensor has to have that or 1.
    """
    if axis in value.axes:
        return value
    width = width or size_of(value.dims[axis])
    refuse_wide(width * value.reach.channels)
    axes = tuple(sorted((*value.axes, axis)))
    inner = [size for size, own in zip(value.widths, value.axes, strict=True) if own > axis]
    outer = value.reach.channels // max(1, math.prod(inner))
    after = math.prod(inner)
    places = np.arange(outer * width * after).reshape(outer, width, after)
    reach = _end_to_end(value.reach, np.moveaxis(places, 1, 0).reshape(width, -1))
    dims = (*value.dims[:axis], width, *value.dims[axis + 1 :])
    return replace(value, axes=axes, dims=dims, reach=reach)


def _end_to_end(reach: Reach, places: Array) -> Reach:
    """Rows of a set end to end, each at its places, [copies, channels]."""
    if len(places) == 1:
        return reach
    each = np.empty(places.size)
    each[places] = reach.each
    if reach.channels == 1 or isinstance(reach, Box):
        return Box(each)
    if len(places) <= MOST_KINDS:
        return joined([(place, reach) for place in places], places.size)
    return Ellipsoids(
        each, (np.full(places.size, reach.length() * math.sqrt(len(places)) * SLACK),)
    )


def with_axes(value: Value, axes: Sequence[int]) -> Value:
    """The same tensor with exactly these channel axes."""
    value = in_positions(value, axes)
    for axis in axes:
        value = in_channels(value, axis)
    return value


def apart(value: Value, axes: Sequence[int]) -> Value:
    """The same tensor where channels at different places of some axes are independent."""
    own = [i for i, axis in enumerate(value.axes) if axis in axes]
    if not own:
        return value
    places = np.arange(value.reach.channels).reshape(value.widths)
    first = np.moveaxis(places, own, range(len(own)))
    groups = first.reshape(math.prod(first.shape[: len(own)]), -1)
    if len(groups) <= 1:
        return value
    if len(groups) > MOST_KINDS:
        return replace(value, reach=Box(value.reach.each))
    pieces = [(group, value.reach.pick(group)) for group in groups]
    return replace(value, reach=joined(pieces, value.reach.channels))


def either(one: Operand, other: Operand, fresh: Callable[[], str]) -> Operand:
    """What holds of a tensor that is one of two; sizes that differ are open.

    Raises:
        NoBound: they are of other types or ranks.
    """
    if one is other:
        return one
    parts = as_value(one), as_value(other)
    a, b = parts
    if a.kind != b.kind or a.rank != b.rank:
        raise NoBound(reason(Unread.SHAPES_DIFFER, str(a.dims), str(b.dims)))
    dims = [x if x == y else fresh() for x, y in zip(a.dims, b.dims, strict=True)]
    axes = [i for i in sorted({*a.axes, *b.axes}) if isinstance(dims[i], int)]
    sets = [with_axes(as_value(part, axes), axes).reach for part in (one, other)]
    nan = [part.nan for part in parts if part.nan is not None]
    none: frozenset[str] = frozenset()
    return Value(
        a.kind,
        tuple(dims),
        tuple(axes),
        one_of(sets),
        min(a.low, b.low),
        max(a.high, b.high),
        infinite=a.infinite or b.infinite,
        hides=(a.hides if a.infinite else none) | (b.hides if b.infinite else none),
        nan=frozenset().union(*nan) if nan else None,
        shares=a.shares if a.shares == b.shares else None,
        beyond=max(a.beyond, b.beyond),
        facts=a.facts | b.facts,
    )
