"""Rules of elementwise ops of several tensors: sums, products, choices, comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.moved import scaled_by
from slanc_onnx.prove.sets import (
    DEVICE_SLACK,
    DEVICE_UNIT,
    Bounded,
    Box,
    Ellipsoids,
    Gate,
    Reach,
    one_of,
    total,
)
from slanc_onnx.prove.trusted.axes import in_channels, in_positions
from slanc_onnx.prove.trusted.kinds import BOOL, FLOATS, largest_of, natural, whole
from slanc_onnx.prove.trusted.sizes import Dim
from slanc_onnx.prove.trusted.table import ANY, WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import (
    Constant,
    Facts,
    Operand,
    Value,
    as_value,
    facts_of,
    interval,
    masks_in,
)
from slanc_onnx.reasons import Unproved, Unread, reason

NUMBERS = (*FLOATS, *WHOLE)
_OUT = 1 + 2.0**-50  # of an end of an interval that was computed in FP64
MOST_GATES = 8  # products within each other whose sets keep both factors


def common_dims(operands: Sequence[Operand]) -> tuple[Dim, ...]:
    """The shape to which tensors broadcast.

    Raises:
        NoBound: two sizes cannot go together.
    """
    rank = max(len(operand.dims) for operand in operands)
    dims: list[Dim] = []
    for back in range(rank, 0, -1):
        sizes = {o.dims[-back] for o in operands if len(o.dims) >= back} - {1}
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) > 1:
            raise NoBound(reason(Unread.SHAPES_DIFFER, *(str(n) for n in numbers[:2])))
        # A number settles an open size that is not 1. Among open sizes any may be 1.
        names = {part for size in sizes for part in str(size).split("|")}
        dims.append(numbers[0] if numbers else "|".join(sorted(names)) or 1)
    return tuple(dims)


def aligned(operands: Sequence[Operand]) -> tuple[tuple[Dim, ...], tuple[int, ...], list[Value]]:
    """Tensors broadcast to one shape: the shape, its channel axes, and the tensors.

    Axes of size 1 are left as they are: there the tensor repeats its numbers.
    """
    dims = common_dims(operands)
    rank = len(dims)
    axes: set[int] = set()
    for operand in operands:
        if isinstance(operand, Value):
            shift = rank - operand.rank
            axes |= {a + shift for a in operand.axes if dims[a + shift] != 1}
    channels = tuple(sorted(axes))
    return dims, channels, [_placed(operand, dims, channels) for operand in operands]


def _placed(operand: Operand, dims: Sequence[Dim], channels: Sequence[int]) -> Value:
    rank = len(dims)
    value = as_value(operand, channels, rank)
    shift = rank - value.rank
    value = replace(
        value,
        dims=(1,) * shift + value.dims,
        axes=tuple(axis + shift for axis in value.axes),
        shares=None if value.shares is None else value.shares + shift,
    )
    value = in_positions(value, channels)
    for axis in channels:
        if value.dims[axis] != 1 and axis not in value.axes:
            width = dims[axis]
            assert isinstance(width, int)
            value = in_channels(value, axis, width)
    return value


def filled(value: Value, dims: Sequence[Dim], channels: Sequence[int]) -> Reach:
    """The rows of a tensor that repeats its numbers along channel axes of size 1."""
    same = all(value.dims[axis] == dims[axis] for axis in channels)
    if tuple(channels) == value.axes and same:
        return value.reach
    widths = [int(dims[axis]) if value.dims[axis] == 1 else 1 for axis in channels]
    own = [int(value.dims[axis]) for axis in channels]
    each = value.reach.each.reshape(own)
    return Box(np.ascontiguousarray(np.tile(each, widths)).reshape(-1))


def made(
    facts: Facts,
    parts: Sequence[Value],
    dims: tuple[Dim, ...],
    axes: tuple[int, ...],
    reach: Reach,
    ends: tuple[float, float],
) -> Value:
    """The result of an elementwise op; whole numbers outside their type wrap around."""
    kind = parts[-1].kind
    low, high = ends
    if math.isnan(low) or math.isnan(high):
        low, high = -math.inf, math.inf
    if kind not in FLOATS:
        return interval(kind, dims, *whole(kind, low, high), facts)
    out = DEVICE_SLACK if axes else _OUT
    low = low * out if low < 0 else low / out
    high = high * out if high > 0 else high / out
    if not axes:
        with np.errstate(over="ignore"):  # the nearest number in FP32, as the op gives it
            ends = float(np.float32(low)), float(np.float32(high))
        wide = kind == TensorProto.DOUBLE  # which a runtime may keep, and a device may not
        low, high = (min(low, ends[0]), max(high, ends[1])) if wide else ends
        reach = Box(np.array([max(abs(low), abs(high))]))
    return Value(kind, dims, axes, reach, low, high, facts=facts)


@rule("Add", "Sum", "Sub", types=(NUMBERS,), extended=True)
def add(call: Call) -> Result:
    """a + b, or a - b; -inf plus what is finite is -inf."""
    return summed([o for o in call.inputs if o is not None], call.op == "Sub")


def summed(operands: Sequence[Operand], minus: bool = False) -> Value:
    """The sum of tensors, or the difference of two."""
    dims, axes, parts = aligned(operands)
    if any(part.nan is not None for part in parts) or (minus and parts[1].infinite):
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    if axes:
        reach: Reach = total([filled(part, dims, axes) for part in parts])
    else:
        reach = Box(np.zeros(1))
    signs = [-1 if minus and i else 1 for i in range(len(parts))]
    low = sum(p.low if s > 0 else -p.high for p, s in zip(parts, signs, strict=True))
    high = sum(p.high if s > 0 else -p.low for p, s in zip(parts, signs, strict=True))
    if len(parts) > 2:  # whose sums on the way are rounded, and may cancel
        off = len(parts) * DEVICE_UNIT * sum(max(abs(p.low), abs(p.high)) for p in parts)
        low, high = low - off, high + off
        below, above = sum(min(p.low, 0.0) for p in parts), sum(max(p.high, 0.0) for p in parts)
        most = largest_of(parts[-1].kind)  # beyond which one of them stays, whatever is added
        low, high = below if below < -most else low, above if above > most else high
    result = made(facts_of(operands), parts, dims, axes, reach, (low, high))
    infinite = any(part.infinite for part in parts)
    return replace(result, infinite=infinite, hides=_hidden(parts, result))


def _hidden(parts: Sequence[Value], result: Value) -> frozenset[str]:
    """The inputs that decide which elements of a sum are -inf.

    Where it is too low for its type that is a mask among the parts, if the others are not.
    """
    hides = frozenset().union(*(part.hides for part in parts if part.infinite))
    least = -largest_of(result.kind)
    if result.low >= least:
        return hides
    masks = [part for part in parts if masks_in([part])]
    rest = sum(part.low for part in parts if part not in masks)
    return hides | (masks_in(masks) if masks and rest >= least else {""})


@rule("Mul", types=(NUMBERS,))
def mul(call: Call) -> Result:
    """a times b, elementwise."""
    dims, axes, (a, b) = aligned(call.inputs[:2])  # type: ignore[arg-type]
    same = call.names[0] == call.names[1]
    ends = _product_of(a, b)
    if same:
        ends = (max(0.0, ends[0]), ends[1])
    result = made(call.facts, (a, b), dims, axes, _product(dims, axes, (a, b)), ends)
    for part, other in ((a, b), (b, a)):
        kept = _kept_shares(part, dims)
        if kept is not None and 0 <= other.low <= other.high <= DEVICE_SLACK:
            grown = other.high * (1 + 2 * DEVICE_UNIT) if other.high > 1 else 1.0
            result = replace(result, shares=kept, beyond=(1 + part.beyond) * grown * _OUT - 1)
    return result


def _product(dims: Sequence[Dim], axes: tuple[int, ...], pair: Sequence[Value]) -> Reach:
    for factor, other in (pair, pair[::-1]):
        if axes and other.axes == axes:
            by_constants = _scaled(filled(other, dims, axes), factor, dims, axes)
            if by_constants is not None:
                return by_constants
    for factor, other in (pair, pair[::-1]):
        if isinstance(factor.reach, Box) and other.axes == axes and axes:
            own, rows = filled(factor, dims, axes).each, filled(other, dims, axes)
            most = float(own.max()) * DEVICE_SLACK
            return Bounded(own * rows.each * DEVICE_SLACK, rows, most)
    a, b = (filled(part, dims, axes) for part in pair)
    each = a.each * b.each * DEVICE_SLACK
    return Box(each) if gates_in(a) + gates_in(b) >= MOST_GATES or not axes else Gate(each, a, b)


def _scaled(
    reach: Reach, factor: Value, dims: Sequence[Dim], axes: tuple[int, ...]
) -> Reach | None:
    """Rows times one number each, or channel by channel times constants; None for other factors.

    A constant row keeps its signs: the set of a product with other signs is another one.
    """
    if not factor.axes:
        return scaled_by(reach, factor.reach.each)
    own = factor.reach
    if not (isinstance(own, Ellipsoids) and len(own.terms) == 1 and own.terms[0].ndim == 2):
        return None
    if len(own.terms[0]) != 1 or own.slack:
        return None
    signed = own.terms[0].reshape([int(factor.dims[axis]) for axis in axes])
    wide = np.broadcast_to(signed, [int(dims[axis]) for axis in axes])
    return scaled_by(reach, wide.reshape(-1))


def gates_in(reach: Reach) -> int:
    """How many products lie within each other in a set."""
    if isinstance(reach, Gate):
        return 1 + gates_in(reach.a) + gates_in(reach.b)
    return gates_in(reach.of) if isinstance(reach, Bounded) else 0


def _product_of(a: Value, b: Value) -> tuple[float, float]:
    ends = [x * y if x and y else 0.0 for x in (a.low, a.high) for y in (b.low, b.high)]
    return min(ends), max(ends)


@rule("Div", types=(NUMBERS,))
def div(call: Call) -> Result:
    """a / b, where b is never zero."""
    dims, axes, (a, b) = aligned(call.inputs[:2])  # type: ignore[arg-type]
    if not (b.low > 0 or b.high < 0):
        if b.kind not in FLOATS:
            return interval(b.kind, dims, *natural(b.kind), call.facts)
        if not (isinstance(call.inputs[1], Constant) and np.all(call.constant(1).values)):
            raise NoBound(reason(Unproved.NO_LIMIT, call.op))
    if isinstance(call.inputs[1], Constant):
        given = call.constant(1)
        with np.errstate(all="ignore"):
            turned = 1.0 / np.asarray(given.values).astype(np.float64)
        inverse = _placed(replace_values(given, turned), dims, axes)
    else:
        least = min(abs(b.low), abs(b.high))
        sign = 1.0 if b.low > 0 else -1.0
        ends = sorted((sign / least, sign / max(abs(b.low), abs(b.high))))
        inverse = interval(a.kind, (1,) * len(dims), ends[0], ends[1], b.facts)
    low, high = _product_of(a, inverse)
    reach = a.reach
    if axes:
        by_row = not b.axes
        factor = replace(inverse, reach=Box(inverse.reach.each)) if by_row else inverse
        rows = filled(a, dims, axes)
        reach = (_scaled(rows, factor, dims, axes) if by_row or inverse.axes else None) or Gate(
            rows.each * filled(inverse, dims, axes).each * DEVICE_SLACK,
            rows,
            Box(filled(inverse, dims, axes).each),
        )
    if a.kind not in FLOATS:
        low, high = math.floor(low), math.ceil(high)
    return made(call.facts, (a, b), dims, axes, reach, (low, high))


def replace_values(given: Constant, values: np.ndarray) -> Constant:
    """A constant of the same shape with other numbers."""
    return Constant(given.kind, given.dims, lambda: values, facts=given.facts)


@rule("Max", "Min", types=(NUMBERS,), extended=True, exact=True)
def extreme(call: Call) -> Result:
    """The largest or the smallest of several numbers."""
    dims, axes, parts = aligned([o for o in call.inputs if o is not None])
    largest = call.op == "Max"
    if any(part.nan is not None for part in parts):
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    infinite = [part.infinite for part in parts]
    if largest and any(infinite) and not all(infinite):
        pick = max
        finite = [part for part in parts if not part.infinite]
        low, high = max(p.low for p in finite), max(p.high for p in parts)
    else:
        pick = max if largest else min
        low, high = pick(p.low for p in parts), pick(p.high for p in parts)
    reach = _either([filled(part, dims, axes) for part in parts])
    result = made(call.facts, parts, dims, axes, reach, (low, high))
    hides = frozenset().union(*(part.hides or {""} for part in parts if part.infinite))
    return replace(result, infinite=all(infinite) if largest else any(infinite), hides=hides)


def _either(reaches: Sequence[Reach]) -> Reach:
    """Rows whose elements come from any of several rows: |r|^2 <= max(|a + b|^2, |a - b|^2)."""
    if reaches[0].channels == 1:
        return Box(np.max([r.each for r in reaches], axis=0))
    return Bounded(np.max([r.each for r in reaches], axis=0), total(reaches), 1.0)


@rule("Where", types=((BOOL,), ANY, ANY), extended=True, exact=True)
def where(call: Call) -> Result:
    """Elements of a or of b; nan tests of a tensor put what follows in the place of nan."""
    condition = call.operand(0)
    dims, axes, parts = aligned([condition, call.operand(1), call.operand(2)])
    test, a, b = parts
    tested = condition.tests if isinstance(condition, Value) else ""
    if tested and tested == call.names[2] and b.nan is not None:
        b = replace(b, nan=None)
    nan = [part.nan for part in (a, b) if part.nan is not None]
    sets = [filled(part, dims, axes) for part in (a, b)]
    by_row = all(test.dims[axis] == 1 for axis in axes)
    reach = one_of(sets) if by_row else _either(sets)
    low, high = min(a.low, b.low), max(a.high, b.high)
    facts = a.facts | b.facts
    if a.kind in FLOATS:
        result = Value(a.kind, dims, axes, reach, low, high, facts=facts)
    else:
        result = interval(a.kind, dims, low, high, facts)
    deciders = condition.facts.deciders
    below = [place for place, part in ((1, a), (2, b)) if part.infinite]
    told = [isinstance(call.operand(place), Constant) for place in below]  # which hides nothing
    hides = frozenset().union(
        *(
            deciders if constant else parts[place].hides or deciders
            for place, constant in zip(below, told, strict=True)
        )
    )
    hides |= deciders if len(below) > 1 else frozenset()
    result = replace(result, infinite=bool(below), hides=hides)
    zero = a.largest == 0 and not a.infinite
    return replace(
        result,
        facts=facts | condition.facts,
        nan=frozenset().union(*nan) if nan else None,
        shares=_kept_shares(b, dims) if zero else None,
        beyond=b.beyond,
    )


def _kept_shares(part: Value, dims: Sequence[Dim]) -> int | None:
    """The axis of shares of a tensor that was broadcast, unless that repeats shares along it."""
    axis = part.shares
    return axis if axis is not None and part.dims[axis] == dims[axis] else None


@rule("And", "Or", "Xor", "Not", types=((BOOL,),), extended=True, exact=True)
@rule(
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    types=(ANY,),
    extended=True,
    exact=True,
)
def test(call: Call) -> Result:
    """Truth, of which nothing is known."""
    operands = [o for o in call.inputs if o is not None]
    return interval(BOOL, common_dims(operands), 0.0, 1.0, Facts(origin=call.facts.deciders))


@rule("IsNaN", types=(FLOATS,), extended=True, exact=True)
def is_nan(call: Call) -> Result:
    """Whether elements are nan, of that very tensor."""
    return interval(
        BOOL, call.operand(0).dims, 0.0, 1.0, Facts(origin=call.facts.deciders), tests=call.names[0]
    )


@rule("Mod", attributes=("fmod",), types=(WHOLE,), exact=True)
def mod(call: Call) -> Result:
    """A remainder of whole numbers."""
    operands = [o for o in call.inputs if o is not None]
    kind = operands[0].kind
    return interval(kind, common_dims(operands), *natural(kind), call.facts)
