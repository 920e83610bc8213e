"""Norms: the rows of their inputs, and the set of rows that their outputs have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import NodeProto

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.prove.bound import NoBound, damage_has_no_bound
from slanc_onnx.prove.deferred import lost_in_product
from slanc_onnx.prove.moved import scaled_by
from slanc_onnx.prove.sets import SLACK, Bounded, Reach, ball, constant, joined, total
from slanc_onnx.prove.step_bounds import output_radius
from slanc_onnx.prove.trusted.axes import with_axes
from slanc_onnx.prove.trusted.rules import summed
from slanc_onnx.prove.trusted.sizes import Dim, size_of
from slanc_onnx.prove.trusted.values import (
    Constant,
    Facts,
    Value,
    as_value,
    checked,
    off_by,
)
from slanc_onnx.reasons import Reason, Unproved, Unread, Unscalable, reason

# The places of what an op adds before it normalises.
_ADDENDS = {"SkipLayerNormalization": (0, 1, 4), "SkipSimplifiedLayerNormalization": (0, 1, 3)}
_PLAIN = ("decomposed", "LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")


def input_of(norm: Norm, node: NodeProto, found: Mapping[str, Any]) -> Any:
    """What a norm's input can hold, the sum of its addends included; None where that is open."""
    places = _ADDENDS.get(norm.form)
    if places is None:
        known = norm.form in _PLAIN or norm.axes.grouped
        given = found.get(norm.input) if known else None
        return as_value(given) if isinstance(given, Constant) else given
    names = [node.input[i] for i in places if i < len(node.input) and node.input[i]]
    parts = [found.get(name) for name in names]
    opened = next((part for part in parts if not isinstance(part, Value | Constant)), None)
    if opened is not None or None in parts:
        return opened
    return checked(summed(parts), norm.form)  # type: ignore[arg-type]


def row_of(norm: Norm, value: Value) -> tuple[float, int, Facts]:
    """The greatest length of a row of a norm's input, its width, and what that rests on.

    Raises:
        NoBound: a row has an open size, or elements may be nan or infinite.
    """
    if value.infinite or (value.nan is not None and any(not c.input for c in value.nan)):
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    facts = value.facts | Facts(value.nan or frozenset())
    width = width_of(norm, value.dims)
    if not norm.axes.grouped:
        return with_axes(value, _row_axes(norm, value.rank)).reach.length(), width, facts
    channel, each = _groups(norm, value.dims)
    reach = with_axes(value, (channel,)).reach
    places = np.arange(reach.channels).reshape(-1, each)
    longest = float(np.max([reach.pick(place).length() for place in places]))
    return longest * math.sqrt(width // each) * SLACK, width, facts


def width_of(norm: Norm, dims: Sequence[Dim]) -> int:
    """The number of elements in a row of a norm.

    Args:
        norm: The norm.
        dims: The shape of its input.

    Raises:
        NoBound: one of their sizes is open, or they do not fit the norm.
    """
    if norm.axes.grouped:
        channel, each = _groups(norm, dims)
        others = [dim for axis, dim in enumerate(dims) if axis not in (0, channel)]
        width = each * math.prod(map(size_of, others))
    else:
        width = math.prod(size_of(dims[axis]) for axis in _row_axes(norm, len(dims)))
    _check_width(norm, width)
    return width


def _check_width(norm: Norm, width: int) -> None:
    if norm.width not in (None, width):
        raise NoBound(reason(Unproved.ROWS_DIFFER, norm.width or 0, width))


def known_width(norm: Norm, dims: Sequence[Dim] | None) -> int:
    """As `width_of`; 0 where that is not known."""
    try:
        with damage_has_no_bound():
            return 0 if dims is None else width_of(norm, dims)
    except NoBound:
        return 0


def _groups(norm: Norm, dims: Sequence[Dim]) -> tuple[int, int]:
    """The axis of the channels, and the number of channels in a group."""
    channel = len(dims) - 1 if norm.axes.channels_last else 1
    channels = size_of(dims[channel])
    groups = norm.axes.groups or channels
    if channels % groups:
        raise NoBound(reason(Unread.NO_FIT, str(channels), str(groups)))
    return channel, channels // groups


def _row_axes(norm: Norm, rank: int) -> tuple[int, ...]:
    axes = norm.axes
    if axes.grouped:
        return ()
    unread = norm.skip_reason
    if unread is not None and unread.kind is Unscalable.AXIS_UNKNOWN:  # the rank was, not the axis
        return tuple(range(int(str(unread.facts[0])), rank))
    if unread is not None and unread.kind is Unscalable.AXES_UNKNOWN:
        raise NoBound(unread)  # the axes of the norm are the usual ones, not those of the file
    if axes.rank not in (None, rank) or any(not -rank <= axis < rank for axis in axes.axes):
        raise NoBound(Reason(Unread.NO_FIT, (str(axes.axes), str(rank))))
    return tuple(sorted(axis % rank for axis in axes.axes))


def output_of(
    norm: Norm, given: Any, affine: Sequence[Constant | None], device: Accelerator
) -> Value:
    """The rows that a norm makes, gamma and beta included where its op applies them.

    Args:
        norm: The norm.
        given: What tells the shape of its input.
        affine: Gamma and beta, None where they are no constants.
        device: Whose rounding counts.

    Raises:
        NoBound: a row has an open size, or gamma or beta is none of the file's numbers.
    """
    rank = len(given.dims)
    facts = Facts(norms=frozenset({norm.name}))
    if norm.axes.grouped:
        value = _grouped(norm, given, device, facts)
    else:
        axes, width = _row_axes(norm, rank), width_of(norm, given.dims)
        reach = ball(width, output_radius(norm, width, device))
        value = Value(norm.output_type, tuple(given.dims), axes, reach, facts=facts)
    if norm.output == norm.normalised:
        value = _with_affine(norm, value, affine)
    if norm.silu:
        value = replace(value, reach=Bounded(value.reach.each, value.reach, 1.0))
    return checked(value, norm.form)


def divided(norm: Norm, row: Value, product: Value, device: Accelerator) -> Value:
    """What a product makes of a norm's row over its root, where the division comes behind it.

    Args:
        norm: The norm.
        row: Its row over its root.
        product: What the product would make of that.
        device: Whose rounding counts.
    """
    return off_by(product, *lost_in_product(norm, row.reach.channels, device))


def columns_of(
    norm: Norm, nodes: Sequence[NodeProto], numbers: Callable[[str], Array | None]
) -> dict[str, Array | None]:
    """The weights of a norm's deferred products, [width, out], by what is made of them.

    None for one that is no constant.
    """
    found = dict[str, Array | None]()
    for one in norm.deferred:
        node = nodes[one.product]
        weight = numbers(node.input[1])
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        found[one.output] = weight.T if turned and weight is not None else weight
    return found


def _grouped(norm: Norm, given: Any, device: Accelerator, facts: Facts) -> Value:
    channel, each = _groups(norm, given.dims)
    channels = size_of(given.dims[channel])
    piece = ball(each, output_radius(norm, width_of(norm, given.dims), device))
    places = np.arange(channels).reshape(-1, each)
    reach = joined([(place, piece) for place in places], channels)
    return Value(norm.output_type, tuple(given.dims), (channel,), reach, facts=facts)


def _with_affine(norm: Norm, value: Value, affine: Sequence[Constant | None]) -> Value:
    reach: Reach = value.reach
    facts = value.facts
    for place, (name, given) in enumerate(zip((norm.gamma, norm.beta), affine, strict=True)):
        if name is None:
            continue
        if given is None:
            raise NoBound(Reason(Unproved.AFFINE_NOT_CONSTANT))
        facts = facts | given.facts
        before = value.rank - len(given.dims)
        wide = {axis + before for axis, dim in enumerate(given.dims) if dim != 1}
        if not norm.axes.grouped and not wide <= set(value.axes):  # numbers of positions
            raise NoBound(Reason(Unproved.AFFINE_NOT_CONSTANT))
        numbers = np.asarray(given.values, dtype=np.float64).reshape(-1)
        if len(numbers) not in (1, reach.channels):
            if not norm.axes.grouped or reach.channels % len(numbers):
                raise NoBound(Reason(Unproved.AFFINE_NOT_CONSTANT))
            numbers = np.repeat(numbers, reach.channels // len(numbers))
        numbers = np.broadcast_to(numbers, (reach.channels,))
        reach = scaled_by(reach, numbers) if place == 0 else total([reach, constant(numbers)])
    return replace(value, reach=reach, facts=facts)
