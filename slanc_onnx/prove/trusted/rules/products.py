"""Rules of products with matrices: MatMul, Gemm, Conv, and of shares with rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.moved import scaled_by
from slanc_onnx.prove.sets import (
    DEVICE_UNIT,
    SLACK,
    Blocks,
    Ellipsoids,
    Reach,
    ball,
    constant,
    joined,
    sides,
    through_measured,
    total,
)
from slanc_onnx.prove.trusted.axes import apart, in_channels, in_positions, with_axes
from slanc_onnx.prove.trusted.rules.joins import common_dims
from slanc_onnx.prove.trusted.sizes import Dim, factors_in, size_of
from slanc_onnx.prove.trusted.table import Call, Result, rule
from slanc_onnx.prove.trusted.values import Constant, Facts, Value, as_value, interval, widened
from slanc_onnx.reasons import Unproved, Unread, reason
from slanc_onnx.weights import (
    cheap_spectral_bound,
    frobenius_norm,
    lengths,
    read_once,
    spectral_bound,
)

# Of larger matrices "auto" takes the cheaper norms: a tight one costs as much as running as many
# rows as the smaller side has, which for these is more than the scales take.
EXACT_SIZE = 3 << 18
# A sum over positions is rounded once for each; this many are allowed for.
MOST_POSITIONS = 1 << 17
MOST_ON_THE_WAY = 2.0**127  # in FP32, of parts of a sum
POSITIONS = Condition("", "positions", 1.0, float(MOST_POSITIONS))


def mixed_over(value: Value, dims: Sequence[Dim], beyond: float = 0.0) -> Value:
    """Sums of rows with shares, rounded as often as there are positions.

    The shares may come to less than 1, by rounding or as an op leaves some for what has no row.

    Args:
        value: The rows.
        dims: The sizes of the axes that are summed over.
        beyond: By how much the shares may be more than 1 together.
    """
    facts, count = value.facts, math.prod(dim for dim in dims if isinstance(dim, int))
    opened = sum(map(factors_in, dims))
    if opened or count > MOST_POSITIONS:
        each = math.floor((MOST_POSITIONS / max(count, 1)) ** (1 / max(opened, 1)) + 1e-9)
        facts |= Facts(frozenset({replace(POSITIONS, high=float(each))}))
        count = MOST_POSITIONS
    share = (1 + beyond) * (1 + 2 * (count + 8) * DEVICE_UNIT) - 1
    low, high = min(value.low, 0.0) * (1 + share), max(value.high, 0.0) * (1 + share)
    return replace(value, reach=_off(value.reach, share), low=low, high=high, facts=facts)


def _off(reach: Reach, share: float) -> Reach:
    """Rows that are off by a share of the longest of them, in any direction."""
    if isinstance(reach, Blocks):
        return joined([(at, _off(piece, share)) for at, piece in reach.pieces], reach.channels)
    if not isinstance(reach, Ellipsoids):
        return widened(reach, share)
    off = ball(reach.channels, share * reach.length() * SLACK)
    both = total([reach, off])
    return Ellipsoids(np.minimum(both.each, reach.each * (1 + share)), both.terms, both.slack)


def through(call: Call, reach: Reach, matrix: Constant, turned: bool) -> tuple[Reach, bool]:
    """Rows times a matrix or its transpose, and whether its cheap norms were used."""
    exact = not call.rough and (call.exact or matrix.size <= EXACT_SIZE)
    if exact or matrix.stored is None:
        values = np.asarray(matrix.values, dtype=np.float64)
        _refuse_overflow(reach, frobenius_norm(values))
        return reach.through(values.T if turned else values, exact), not (exact or call.rough)
    stored = matrix.stored.turned() if turned else matrix.stored
    _, sizes = read_once(stored, None, sides(reach), call.executor)
    assert sizes is not None
    _refuse_overflow(reach, sizes.frobenius)
    return through_measured(reach, sizes), not call.rough


def _refuse_overflow(reach: Reach, frobenius: float) -> None:
    """Refuse products whose sums FP32 may not hold on the way, whatever they come to.

    A part of a sum over channels is at most the length of the row times that of the column.
    """
    most = reach.outline() * frobenius
    if not most <= MOST_ON_THE_WAY:
        raise NoBound(reason(Unproved.OVERFLOWS_BETWEEN, most, MOST_ON_THE_WAY))


@rule("MatMul")
def matmul(call: Call) -> Result:
    """Rows times a matrix, shares times rows, or dot products."""
    a, b = call.operand(0), call.operand(1)
    if len(a.dims) < 2 or len(b.dims) < 2:
        raise NoBound(reason(Unread.NO_MATRIX, len(b.dims)))
    if isinstance(b, Constant) and len(b.dims) == 2 and not isinstance(a, Constant):
        value = with_axes(as_value(a), (len(a.dims) - 1,))
        return times(call, value, b, False)
    first, second = call.value(0), call.value(1)
    inner = {first.dims[-1], second.dims[-2]}
    if len({size for size in inner if isinstance(size, int)}) > 1:
        raise NoBound(reason(Unread.SHAPES_DIFFER, *map(str, inner)))
    if first.shares == first.rank - 1:
        return _mixed(call, first, second)
    return _dots(call, first, second)


def times(call: Call, value: Value, matrix: Constant, turned: bool) -> Value:
    """Rows times a matrix or its transpose."""
    height, width = matrix.dims[::-1] if turned else matrix.dims
    if value.dims[-1] != height:
        raise NoBound(reason(Unread.SHAPES_DIFFER, str(value.dims[-1]), str(height)))
    reach, loose = through(call, value.reach, matrix, turned)
    dims = (*value.dims[:-1], width)
    facts = value.facts | matrix.facts | Facts(loose=loose)
    return Value(value.kind, dims, value.axes, reach, facts=facts)


def _batch(a: Value, b: Value) -> tuple[Dim, ...]:
    """The sizes of the axes before the last two of a product."""
    outer = [interval(v.kind, v.dims[:-2], 0, 0, Facts()) for v in (a, b)]
    return common_dims(outer)


def _mixed(call: Call, shares: Value, rows: Value) -> Value:
    """Shares times rows: every row lies between the rows of the second and zero.

    Different places of the axes before, such as heads, have shares of their own.
    """
    batch = _batch(shares, rows)
    shift = len(batch) + 2 - rows.rank
    dims = (*batch, shares.dims[-2], rows.dims[-1])
    same = [a for a in rows.axes if a < rows.rank - 2 and rows.dims[a] == batch[a + shift]]
    last = [a for a in rows.axes if a == rows.rank - 1]
    kept = apart(in_positions(rows, [*same, *last]), same)
    axes = tuple(axis + shift for axis in kept.axes)
    mixed = Value(shares.kind, dims, axes, kept.reach, facts=call.facts)
    size = shares.dims[-1] if isinstance(shares.dims[-1], int) else rows.dims[-2]
    return mixed_over(mixed, [size], shares.beyond)


def _dots(call: Call, a: Value, b: Value) -> Value:
    """Dot products of any numbers: their count times the largest two."""
    size = a.dims[-1] if isinstance(a.dims[-1], int) else size_of(b.dims[-2])
    rows = in_channels(in_positions(a, (a.rank - 1,)), a.rank - 1, size_of(size))
    most = min(size * a.largest, math.sqrt(size) * rows.reach.length()) * b.largest
    most *= (1 + 2 * (size + 8) * DEVICE_UNIT) * SLACK
    low = 0.0 if a.low >= 0 and b.low >= 0 else -most
    return interval(a.kind, (*_batch(a, b), a.dims[-2], b.dims[-1]), low, most, call.facts)


@rule("Gemm", attributes=("alpha", "beta", "transA", "transB"))
def gemm(call: Call) -> Result:
    """alpha A B + beta C with constant B and C."""
    if call.attributes.get("transA", 0):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "transA"))
    value = with_axes(call.value(0), (1,))
    alpha, beta = (float(call.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    made = times(call, value, call.constant(1), bool(call.attributes.get("transB", 0)))
    reach = scaled_by(made.reach, np.full(made.reach.channels, alpha)) if alpha != 1 else made.reach
    if call.has(2):
        added = call.constant(2)
        numbers = beta * np.asarray(added.values, dtype=np.float64)
        if numbers.ndim > 1 and numbers.shape[0] != 1:
            raise NoBound(reason(Unread.NO_RULE_FOR_CONSTANTS))
        reach = total([reach, constant(np.broadcast_to(numbers.reshape(-1), reach.each.shape))])
        made = replace(made, facts=made.facts | added.facts)
    return replace(made, reach=reach)


@rule("Conv", attributes=("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"))
def convolution(call: Call) -> Result:
    """A sum over taps of rows at any positions, each through the tap's block of each group."""
    weight = np.asarray(call.constant(1).values, dtype=np.float64)
    count = int(call.attributes.get("group", 1))
    value = call.value(0)
    if not isinstance(value.dims[1], int):  # with another size a runtime refuses the op
        value = in_channels(value, 1, weight.shape[1] * count)
    value = with_axes(value, (1,))
    if value.dims[1] != weight.shape[1] * count or weight.shape[0] % count:
        raise NoBound(reason(Unread.SHAPES_DIFFER, str(value.dims[1]), str(weight.shape[1])))
    dims = (value.dims[0], weight.shape[0], *sizes_after(call, value, weight.shape))
    reach = _through_taps(
        value.reach, weight.reshape(count, -1, *weight.shape[1:2], math.prod(weight.shape[2:]))
    )
    if call.has(2):
        reach = total([reach, constant(np.asarray(call.constant(2).values, dtype=np.float64))])
    return Value(value.kind, dims, (1,), reach, facts=call.facts)


def sizes_after(call: Call, value: Value, shape: Sequence[int]) -> list[Dim]:
    """The numbers of positions after a convolution, by ONNX's formula; open ones stay open."""
    count = value.rank - 2
    if call.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        return list(call.symbols(count))
    pads = list(call.attributes.get("pads", [0] * 2 * count))
    strides = list(call.attributes.get("strides", [1] * count))
    dilations = list(call.attributes.get("dilations", [1] * count))
    sizes: list[Dim] = []
    for axis, dim in enumerate(value.dims[2:]):
        extent = dilations[axis] * (shape[axis + 2] - 1) + 1
        if isinstance(dim, int):
            sizes.append((dim + pads[axis] + pads[axis + count] - extent) // strides[axis] + 1)
        else:
            sizes.append(call.fresh())
    return sizes


def _through_taps(x: Reach, weight: Array) -> Ellipsoids:
    """Rows through a convolution, [groups, out / groups, in / groups, taps]."""
    exactly = weight[0, :, :, 0].size <= EXACT_SIZE
    bound = spectral_bound if exactly else cheap_spectral_bound
    inner, taps = x.length(), range(weight.shape[3])
    radius = inner * sum(max(bound(group[:, :, tap]) for group in weight) for tap in taps)
    each_in = x.each.reshape(len(weight), -1)
    by_element = np.einsum("goit,gi->go", np.abs(weight), each_in).reshape(-1)
    of_taps = [[lengths(group[:, :, tap], axis=1) for tap in taps] for group in weight]
    columns = np.sum(of_taps, axis=1).reshape(-1)
    each = np.minimum(by_element, columns * inner)
    # Every output is a product of this length in FP32 on the device, as in `sets.py`.
    device = weight.shape[2] * len(taps) * DEVICE_UNIT * inner * float(np.linalg.norm(columns))
    each = (each + device) * SLACK
    radius = min((radius + device) * SLACK, float(np.linalg.norm(each)) * SLACK)
    return Ellipsoids(np.minimum(each, radius), (np.full(len(each), radius),))
