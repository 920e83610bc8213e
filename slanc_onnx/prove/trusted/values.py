"""What a tensor of the graph can hold, whatever the data: a set of rows, an interval, and facts.

Each axis of a tensor is a channel axis or a position axis. A row is made of all channels at one
position; nothing is assumed of how many positions there are, and every statement is about all of
them. A size that the file leaves open is a symbol, which no rule takes for a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.sets import (
    SLACK,
    Blocks,
    Bounded,
    Box,
    Ellipsoids,
    Gate,
    OneOf,
    Reach,
    constant,
)
from slanc_onnx.prove.trusted.kinds import (
    FLOATS,
    INT64,
    ROUNDED,
    largest_of,
    natural,
    nearest_ends,
    whole,
)
from slanc_onnx.prove.trusted.repeated import distinct
from slanc_onnx.prove.trusted.sizes import Dim, size_of
from slanc_onnx.reasons import Reason, Unproved, Unread, reason
from slanc_onnx.weights import Stored

LARGE = 1 << 12  # elements of a matrix that is read where it is used
CONVERTED = 1 << 22  # elements of a constant that are FP64 at one time
MOST_CHANNELS = 1 << 18  # of a row
# Elements of FP32 that a step may be off by SUBNORMAL, and so by far more than a share of them.
TINY, SUBNORMAL = 2.0**-100, 2.0**-126
MOST_PARTS = 1 << 12  # of a set that is made of sets, each as often as it is walked
MOST_IN_PARTS = 1 << 22  # numbers of these, if each is as wide as the row
MOST_KINDS = 64  # pieces of a row whose lengths are taken one by one


@dataclass(frozen=True)
class Facts:
    """What a statement about a tensor rests on.

    Attributes:
        conditions: What it asks of graph inputs.
        norms: The norms whose outputs it takes to be finite.
        loose: Whether cheap norms of large matrices were used.
        origin: The graph inputs of whole numbers whose values are taken to be any; "" for data that
            these chose, like rows of a table.
    """

    conditions: frozenset[Condition] = frozenset()
    norms: frozenset[str] = frozenset()
    loose: bool = False
    origin: frozenset[str] = frozenset()

    @property
    def deciders(self) -> frozenset[str]:
        """The inputs that decide what a test of the tensor says; "" among them for data.

        Data is what norms made or what a condition limits: no mask, whatever else it comes from.
        """
        asked = {condition.input for condition in self.conditions} - {"", *self.origin}
        return self.origin | ({""} if self.norms or asked else set())

    def __or__(self, other: Facts) -> Facts:
        return Facts(
            self.conditions | other.conditions,
            self.norms | other.norms,
            self.loose or other.loose,
            self.origin | other.origin,
        )


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor whose numbers the file tells.

    Attributes:
        kind: Its ONNX element type.
        dims: Its shape.
        read: Gives its numbers.
        stored: The same as a matrix to be read by blocks; None where it is none.
        facts: That initializers a caller may replace keep their defaults.
    """

    kind: int
    dims: tuple[int, ...]
    read: Callable[[], Array]
    stored: Stored | None = None
    facts: Facts = Facts()

    @cached_property
    def values(self) -> Array:
        """Its numbers, as an array of its shape."""
        return self.read()

    @cached_property
    def finite(self) -> bool:
        """Whether no number is infinite or nan; True for matrices, whose sizes are checked."""
        if self.stored is not None or self.kind not in FLOATS:
            return True
        return bool(np.isfinite(distinct(np.asarray(self.values))).all())

    @property
    def size(self) -> int:
        return math.prod(self.dims)


@dataclass(frozen=True, eq=False)
class Sizes:
    """A tensor of INT64 made of sizes of other tensors: numbers, and symbols for open sizes.

    Attributes:
        dims: Its shape.
        entries: Its elements in order.
    """

    dims: tuple[int, ...]
    entries: tuple[Dim, ...]
    kind: int = INT64
    facts: Facts = Facts()


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a tensor.

    Every element is finite and within the bounds, except for what `infinite` and `nan` allow.

    Attributes:
        kind: Its ONNX element type.
        dims: Its shape; a symbol is an open size.
        axes: Its channel axes, ascending; their sizes are numbers.
        reach: The set of its rows, over the channel axes in order; one channel where there is none.
        low: No element is below.
        high: No element is above.
        infinite: Whether elements may be -inf.
        hides: The graph inputs that decide which elements are; "" among them for data, and for
            rows of a constant that has nothing else.
        nan: None where no element is nan; else the conditions under which none is.
        shares: The axis along which no element is negative and the sum is at most 1 + `beyond`.
        beyond: What rounding to 16 bits may add to sums of shares.
        tests: The tensor of which this tells whether elements are nan; "" for any other.
        facts: What all of this rests on.
    """

    kind: int
    dims: tuple[Dim, ...]
    axes: tuple[int, ...]
    reach: Reach
    low: float = -math.inf
    high: float = math.inf
    infinite: bool = False
    hides: frozenset[str] = frozenset()
    nan: frozenset[Condition] | None = None
    shares: int | None = None
    beyond: float = 0.0
    tests: str = ""
    facts: Facts = field(default_factory=Facts)

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def widths(self) -> tuple[int, ...]:
        """The sizes of the channel axes."""
        return tuple(size_of(self.dims[axis]) for axis in self.axes)

    @property
    def largest(self) -> float:
        """An upper bound of every magnitude."""
        return float(self.reach.each.max(initial=0.0))


Operand = Value | Constant | Sizes


def facts_of(operands: Iterable[Operand | None]) -> Facts:
    """What statements about several tensors rest on."""
    found = Facts()
    for operand in operands:
        found = found if operand is None else found | operand.facts
    return found


def settled(operand: Operand) -> Operand:
    """The operand; sizes that are all numbers as a constant."""
    if not isinstance(operand, Sizes) or not all(isinstance(e, int) for e in operand.entries):
        return operand
    array = np.array(operand.entries, dtype=np.int64).reshape(operand.dims)
    return Constant(operand.kind, operand.dims, lambda: array, facts=operand.facts)


def interval(
    kind: int, dims: Sequence[Dim], low: float, high: float, facts: Facts, **more: object
) -> Value:
    """A tensor of which only an interval is known: all of its axes are positions."""
    bound = Box(np.array([max(abs(low), abs(high))]))
    return replace(Value(kind, tuple(dims), (), bound, low, high, facts=facts), **more)  # type: ignore[arg-type]


def few_parts(reach: Reach) -> Reach:
    """The set, or the box around it where it is made of so many that a walk would not end."""
    if isinstance(reach, Box | Ellipsoids):
        return reach
    waiting, count = [reach], 0
    while waiting:
        count += 1
        if count > MOST_PARTS or count * reach.channels > MOST_IN_PARTS:
            return Box(reach.each)
        match waiting.pop():
            case Blocks() as blocks:
                waiting += [piece for _, piece in blocks.pieces]
            case Gate() as gate:
                waiting += [gate.a, gate.b]
            case Bounded() as bounded:
                waiting.append(bounded.of)
            case OneOf() as one:
                waiting += one.kinds
    return reach


def checked(value: Value, op: str) -> Value:
    """A value whose elements fit into their type, with the interval that the rows give.

    Raises:
        NoBound: one may be too large, so that it is infinite.
    """
    most, each = largest_of(value.kind), value.reach.each
    if value.kind not in FLOATS:
        low, high = whole(value.kind, value.low, value.high)
        if (low, high) == (value.low, value.high):
            return value
        return interval(value.kind, value.dims, low, high, value.facts)
    if value.low < -most and value.high <= most and not math.isnan(value.largest):
        # What is below the least number becomes -inf, as a mask does.
        held = Box(np.minimum(each, most))
        hides = value.hides or masks_in([value]) or frozenset({""})
        return replace(value, reach=held, low=-most, infinite=True, hides=hides)
    if not value.largest <= most * (1 + 2.0**-26):  # less than half a unit beyond is rounded down
        raise NoBound(Reason(Unproved.OVERFLOWS_BETWEEN, (value.largest, most), op=op))
    reach = value.reach
    if value.largest > most:
        reach = Box(np.minimum(each, most))
    top = float(reach.each.max(initial=0.0))
    low, high = max(value.low, -top), min(value.high, top)
    return replace(value, reach=reach, low=low, high=high)


def masks_in(values: Iterable[Value]) -> frozenset[str]:
    """The graph inputs that tensors are masks of: made of these alone, and 0 or more somewhere."""
    found: frozenset[str] = frozenset()
    for value in values:
        found |= value.facts.deciders if value.high >= 0 else {""}
    return found if "" not in found else frozenset()


def refuse_wide(channels: int) -> None:
    """Refuse a row of more channels than any model has.

    Raises:
        NoBound: it has more.
    """
    if channels > MOST_CHANNELS:
        raise NoBound(reason(Unread.TOO_LARGE, channels))


def widened(reach: Reach, share: float, at_least: float = 0.0) -> Reach:
    """A set of rows whose elements are off by a share of the largest that they can be.

    Args:
        reach: The rows without that.
        share: Relative to the elements, or to the length of the row.
        at_least: What an element is off by however small it is.
    """
    each = reach.each * (1 + share) + at_least
    if isinstance(reach, Blocks):
        pieces = tuple((at, widened(piece, share, at_least)) for at, piece in reach.pieces)
        return Blocks(each, pieces)
    beyond = math.sqrt(reach.channels) * at_least
    if isinstance(reach, Ellipsoids):
        small = sum(term.size for term in reach.terms if term.ndim > 1) <= LARGE
        longest = reach.length() if small else reach.outline()  # which costs nothing
        slack = (reach.slack + share * longest + beyond) * SLACK
        return Ellipsoids(each, reach.terms, slack)
    if isinstance(reach, Box):
        return Box(each)
    return Bounded(each, reach, 1 + share * 2, at_least)


def off_by(value: Value, share: float, at_least: float) -> Value:
    """A value whose elements are off by that, the ends of its interval included; see `widened`."""
    low = value.low * (1 + math.copysign(share, -value.low)) - at_least
    high = value.high * (1 + math.copysign(share, value.high)) + at_least
    return replace(value, reach=widened(value.reach, share, at_least), low=low, high=high)


def rounded(value: Value) -> Value:
    """A value whose elements were rounded to its type, the ends of its interval included."""
    if value.kind not in FLOATS:
        return value
    low, high = nearest_ends(value.low, value.high, value.kind)
    value = replace(value, low=low, high=high)
    if value.kind not in ROUNDED:
        return replace(value, reach=_with_subnormals(value.reach))
    share, tiny = ROUNDED[value.kind]
    beyond = value.beyond if value.shares is None else (1 + value.beyond) * (1 + share) - 1
    return replace(value, reach=widened(value.reach, share, tiny), beyond=beyond)


def _with_subnormals(reach: Reach) -> Reach:
    """Rows of FP32 whose elements were rounded, the smallest to a whole number of 2^-149."""
    each = reach.each
    if not ((each > 0) & (each < TINY)).any():
        return reach  # what is rounded there is within SLACK
    return widened(reach, 0.0, SUBNORMAL)


def of_constant(given: Constant, rank: int, axes: Sequence[int]) -> Value:
    """A constant as a value: a tensor of that rank whose rows lie along these axes.

    Raises:
        NoBound: it holds nan or +inf.
    """
    array = np.asarray(given.values)
    if array.dtype.kind not in "fiub" and given.kind not in FLOATS:
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    array = array[(*(np.newaxis,) * (rank - array.ndim), ...)]
    shape = tuple(array.shape)
    axes = tuple(axis for axis in axes if shape[axis] > 1)
    array = distinct(array, kept=axes)
    hidden = bool(rank and shape[-1] > 1 and np.isneginf(array).all(axis=-1).any())
    others = [axis for axis in range(rank) if axis not in axes]
    rows = np.moveaxis(array, others, range(len(others)))
    rows = rows.reshape(math.prod(rows.shape[: len(others)]), -1)
    each, longest, low, high, infinite = np.zeros(rows.shape[1]), 0.0, np.inf, -np.inf, False
    at_once = max(1, CONVERTED // max(1, rows.shape[1]))
    for start in range(0, len(rows), at_once):
        block = rows[start : start + at_once].astype(np.float64)
        below = np.isneginf(block)
        if not (np.isfinite(block) | below).all():
            raise NoBound(Reason(Unproved.WEIGHTS_NOT_FINITE))
        infinite = infinite or bool(below.any())
        block[below] = 0.0
        low, high = float(block.min(initial=low)), float(block.max(initial=high))
        longest = max(longest, float(np.linalg.norm(block, axis=1).max()))
        each = np.maximum(each, np.abs(block).max(axis=0))
    reach = constant(block[0]) if len(rows) == 1 else _of_rows(each, longest * SLACK)
    ends = (low, high) if array.size else (0.0, 0.0)
    held = ends if given.kind in FLOATS else whole(given.kind, *ends)
    if held != ends:
        ends, reach = held, Box(np.full(len(each), max(map(abs, held))))
    hides = frozenset({""} if hidden else ())  # whatever the inputs leave of such a row
    return Value(
        given.kind, shape, axes, reach, *ends, infinite=infinite, hides=hides, facts=given.facts
    )


def _of_rows(each: Array, longest: float) -> Reach:
    """The set of rows whose channels are at most `each`, and which are no longer than that."""
    return Ellipsoids(each, (np.full(len(each), longest),)) if len(each) > 1 else Box(each)


def as_value(operand: Operand, axes: Sequence[int] = (), rank: int | None = None) -> Value:
    """An operand as a value; a constant with rows along these axes, all positions by default."""
    if isinstance(operand, Value):
        return operand
    if isinstance(operand, Sizes):
        return interval(INT64, operand.dims, *natural(INT64), operand.facts)
    return of_constant(operand, len(operand.dims) if rank is None else rank, axes)
