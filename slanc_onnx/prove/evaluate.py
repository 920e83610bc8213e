"""The set of rows of every expression, made once; bounds are read off these sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from slanc_onnx.graph import read_through
from slanc_onnx.prove.activation_bounds import NoBound, image_of
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.moved import mixed, picked, rows_of_table, scaled_by
from slanc_onnx.prove.sets import (
    DEVICE_SLACK,
    DEVICE_UNIT,
    SLACK,
    Bounded,
    Box,
    Ellipsoids,
    Gate,
    Reach,
    ball,
    constant,
    joined,
    one_of,
    sides,
    through_measured,
    total,
)
from slanc_onnx.reasons import Reason, Unproved, Unread, reason
from slanc_onnx.trace import (
    CONDITION,
    Alternatives,
    Apply,
    Combined,
    Convolution,
    Embedding,
    Experts,
    Expr,
    Input,
    Join,
    Known,
    Linear,
    Mapped,
    Mix,
    Normalised,
    Opaque,
    Pick,
    Pooled,
    Product,
    Reading,
    Select,
    Shares,
    Source,
    Sum,
    Trace,
    constant_values,
    kind_of,
    reader,
    walk,
)
from slanc_onnx.weights import MatrixSizes, cheap_spectral_bound, lengths, read_once, spectral_bound

# Of larger matrices "auto" takes the cheaper norms: a tight one costs as much as running as many
# rows as the smaller side has, which for these is more than the scales take.
EXACT_SIZE = 3 << 18

# Products within each other whose sets keep both factors: each doubles the work on a length.
MOST_GATES = 8


@dataclass(frozen=True)
class Outputs:
    """Bounds of norms' outputs, on a device or in exact arithmetic.

    Attributes:
        radius: Gives the greatest length of a norm's output before gamma, by norm name and width.
        affine: Relative rounding of gamma, of beta and of the results with them.
        tiny: What each of these is off by at most below the smallest normal number.
    """

    radius: Callable[[str, int], float]
    affine: float
    tiny: float = 0.0


def _root_of_width(name: str, width: int) -> float:
    return math.sqrt(width)


EXACT = Outputs(_root_of_width, 0.0)


def row_width(expr: Expr) -> int:
    """The elements of a norm's row, which for a GroupNorm runs over positions."""
    kinds = expr.kinds if isinstance(expr, Alternatives) else (expr,)
    positions = max(kind.positions if isinstance(kind, Pooled) else 1 for kind in kinds)
    return expr.channels * positions


Facts = tuple[frozenset[Condition], bool]  # conditions, and whether cheap norms were used


class Evaluator:
    """Sets of rows by expression, each made once."""

    def __init__(
        self,
        trace: Trace,
        outputs: Outputs,
        ranges: Mapping[str, tuple[float, float]],
        exact: bool,
        executor: Executor | None,
    ) -> None:
        self.trace, self.outputs, self.ranges = trace, outputs, ranges
        self.exact, self.executor = exact, executor
        self.sizes: dict[int, MatrixSizes] = {}  # of matrices that were read for the sample rows
        self.made: dict[int, Reach] = {}
        self.conditions: dict[int, Condition] = {}
        self.loose: set[int] = set()
        self._refused: dict[
            int, tuple[int, Reason]
        ] = {}  # serial of the part without bound, and why
        self._facts: dict[Expr, Facts] = {}
        self._gates: dict[Expr, int] = {}

    def reach(self, expr: Expr) -> Reach:
        """The set of rows of an expression.

        Raises:
            NoBound: something in it is not bounded.
        """
        for at, part in self._unmade(expr):
            try:
                self._make(part)
            except NoBound as error:
                self._refused[part.serial] = self._refused[expr.serial] = at, error.reason
                raise
        return self.made[expr.serial]

    def _unmade(self, expr: Expr) -> list[tuple[int, Expr]]:
        """The parts whose sets are missing, in order, each with its place; norms end the search.

        An expression without bound takes the place of its part that has none.
        """
        known = self.made.keys() | self._refused.keys()
        parts = walk(expr, lambda e: isinstance(e, (Normalised, Opaque)) or e.serial in known)
        left = [e for e in parts if e.serial not in self.made]
        places = [(self._place(e), e) for e in left]
        return sorted(places, key=lambda place: (place[0], place[1].serial))

    def _place(self, part: Expr) -> int:
        """Where an expression stands in the order: at its part without bound, if it has one."""
        refused = self._refused.get(part.serial)
        return part.serial if refused is None else refused[0]

    def _make(self, part: Expr) -> None:
        """Make the set of rows of an expression, from the sets of its parts.

        Raises:
            NoBound: the expression is not bounded.
        """
        if part.serial in self._refused:
            raise NoBound(self._refused[part.serial][1])
        why = self.trace.estimated.get(part.serial)
        if why is not None:
            raise NoBound(Reason(Unproved.ESTIMATE_ONLY, behind=why))
        past = self.trace.past.get(part.serial)
        if past is not None:
            self.conditions[part.serial] = Condition(past, "made")
        reach = self._evaluate(part)
        self.made[part.serial] = self._rounded(reach) if _is_affine(part) else reach

    def _rounded(self, reach: Reach) -> Reach:
        """A set of a norm's output times gamma or plus beta, widened by the device's rounding."""
        affine = self.outputs.affine
        if not affine or not isinstance(reach, Ellipsoids):
            return reach
        grow = (1 + affine) ** 2
        moved = (grow - 1) * sum(
            float(np.linalg.norm(t)) * SLACK for t in reach.terms if t.ndim > 1
        )  # of beta, which has a direction that rounding does not keep
        terms = tuple(t * grow if t.ndim == 1 else t for t in reach.terms)
        moved += math.sqrt(reach.channels) * 2 * self.outputs.tiny * grow
        each = (reach.each + 2 * self.outputs.tiny) * grow
        return Ellipsoids(each, terms, reach.slack * grow + moved)

    def simplify(self, expr: Expr, reach: Reach) -> None:
        """Keep only the outline of the set at a norm's input, which is a residual stream."""
        if isinstance(reach, Ellipsoids):
            self.made[expr.serial] = reach.simplified()

    def facts(self, expr: Expr) -> tuple[tuple[Condition, ...], bool]:
        """The conditions of an expression and its parts, and whether cheap norms were used.

        A norm's output needs no condition, as its length is bounded for every input.
        """
        conditions, loose = read_through(expr, self._facts_of, self._facts)
        return tuple(sorted(conditions)), loose

    def _facts_of(self, expr: Expr) -> Reading[Facts]:
        own = self.conditions.get(expr.serial)
        conditions = frozenset() if own is None else frozenset({own})
        loose = expr.serial in self.loose
        for part in () if isinstance(expr, Normalised) else expr.parts:
            behind, rough = yield part
            conditions, loose = conditions | behind, loose or rough
        return conditions, loose

    def _evaluate(self, expr: Expr) -> Reach:
        values = constant_values(expr)
        if values is not None:
            return constant(values)
        kind = kind_of(expr)
        if isinstance(kind, Source):
            return self._source(kind)
        if isinstance(kind, Mapped):
            return self._mapped(kind, self.made[kind.x.serial])
        return self._combined(kind)

    def _mapped(self, expr: Mapped, x: Reach) -> Reach:
        """The set of an expression that is made of rows of the set x."""
        match expr:
            case Linear():
                return self._linear(expr)
            case Experts():
                return self._experts(expr)
            case Convolution():
                return self._convolution(expr)
            case Apply():
                positive = {name for name, (low, _) in self.ranges.items() if low >= 0}
                return image_of(expr, x, positive)
            case Mix():
                return mixed(expr, x)
            case Pick():
                return picked(x, expr.index)
            case Pooled():
                factor = math.sqrt(expr.positions)
                return Bounded(x.each * factor * SLACK, x, factor * SLACK)
            case _:
                assert_never(expr)

    def _combined(self, expr: Combined) -> Reach:
        """The set of an expression that is made of several."""
        match expr:
            case Sum():
                return total([self._wide(part, expr.channels) for part in expr.parts])
            case Product():
                return self._product(expr)
            case Select():
                return self._select(expr)
            case Join():
                ends = np.cumsum([0, *(piece.channels for piece in expr.pieces)])
                places = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
                pieces = [self.made[piece.serial] for piece in expr.pieces]
                return joined(list(zip(places, pieces, strict=True)), int(ends[-1]))
            case Alternatives():
                return one_of([self._wide(kind, expr.channels) for kind in expr.kinds])
            case _:
                assert_never(expr)

    def _source(self, expr: Source) -> Reach:
        """The set of rows of a source: a norm, a table, a graph input."""
        match expr:
            case Normalised():
                return ball(expr.channels, self.outputs.radius(expr.norm, row_width(expr.input)))
            case Embedding():
                return rows_of_table(expr)
            case Input():
                return self._input(expr)
            case Opaque():
                here = Reason(Unread.NOTHING_SAID).at(expr.op, expr.tensor)
                raise NoBound(Reason(Unread.STOPPED, behind=here))
            case Shares():
                return ball(1, 1.0)
            case Known():  # constants have a set of their own, without their kind
                raise TypeError("a constant is no source of rows")
            case _:
                assert_never(expr)

    def _exactly(self, expr: Expr, shape: Sequence[int]) -> bool:
        exactly = self.takes_tight(shape)
        if not exactly:
            self.loose.add(expr.serial)
        return exactly

    def takes_tight(self, shape: Sequence[int]) -> bool:
        """Whether a matrix of this shape gets its tight norms."""
        return self.exact or math.prod(shape) <= EXACT_SIZE

    def _linear(self, expr: Linear) -> Reach:
        x = self.made[expr.x.serial]
        if self._exactly(expr, expr.weight.shape):
            return x.through(np.asarray(expr.weight.read(), dtype=np.float64), True)
        sizes = self.sizes.pop(expr.serial, None)
        if sizes is None:
            _, sizes = read_once(expr.weight.blocks(), None, sides(x), self.executor)
            assert sizes is not None
        return through_measured(x, sizes)

    def _wide(self, part: Expr, channels: int) -> Reach:
        """The set of a part, widened to so many channels where it has one.

        One channel stands for as many different numbers, unless it is a constant.
        """
        reach = self.made[part.serial]
        if part.channels == channels:
            return reach
        if part.channels != 1:
            raise NoBound(reason(Unproved.ROWS_DIFFER, part.channels, channels))
        each = np.repeat(reach.each, channels)
        return constant(each) if constant_values(part) is not None else Box(each)

    def _input(self, expr: Input) -> Reach:
        if not expr.floats:
            low, high = self.ranges.get(expr.name, (0.0, 1.0))
            if expr.name != CONDITION:
                self.conditions[expr.serial] = Condition(expr.name, "range", low, high)
            return ball(1, max(abs(low), abs(high)))
        if expr.name not in self.ranges:
            raise NoBound(reason(Unproved.INPUT_UNLIMITED, expr.name))
        low, high = self.ranges[expr.name]
        self.conditions[expr.serial] = Condition(expr.name, "range", low, high)
        return Box(np.full(expr.channels, max(abs(low), abs(high))))

    def _experts(self, expr: Experts) -> Reach:
        x = self.made[expr.x.serial]
        matrices = np.asarray(expr.weight.read(), dtype=np.float32)
        exactly = self._exactly(expr, matrices.shape[1:])
        # Sizes only: as many sets as experts would each go through what follows.
        kinds = [x.through(matrix.astype(np.float64), exactly) for matrix in matrices]
        each = np.max([kind.each for kind in kinds], axis=0)
        return Ellipsoids(each, (np.full(len(each), max(kind.length() for kind in kinds)),))

    def _convolution(self, expr: Convolution) -> Reach:
        """A sum over taps of rows at any positions, each through the tap's block of each group."""
        x = self.made[expr.x.serial]
        weight = np.asarray(expr.weight.read(), dtype=np.float64)  # [out, in / groups, taps]
        weight = weight.reshape(expr.groups, -1, *weight.shape[1:])
        exactly = self._exactly(expr, (weight.shape[1], weight.shape[2]))
        bound = spectral_bound if exactly else cheap_spectral_bound
        inner = x.length()
        taps = range(weight.shape[3])
        radius = inner * sum(max(bound(group[:, :, tap]) for group in weight) for tap in taps)
        each_in = x.each.reshape(expr.groups, -1)
        by_element = np.einsum("goit,gi->go", np.abs(weight), each_in).reshape(-1)
        of_taps = [[lengths(group[:, :, tap], axis=1) for tap in taps] for group in weight]
        columns = np.sum(of_taps, axis=1).reshape(-1)
        each = np.minimum(by_element, columns * inner)
        # Every output is a product of this length in FP32 on the device, as in `sets.py`.
        products = weight.shape[2] * weight.shape[3]
        device = products * DEVICE_UNIT * inner * float(np.linalg.norm(columns))
        each = (each + device) * SLACK
        radius = min((radius + device) * SLACK, float(np.linalg.norm(each)) * SLACK)
        return Ellipsoids(np.minimum(each, radius), (np.full(expr.channels, radius),))

    def _select(self, expr: Select) -> Reach:
        a, b = self._wide(expr.a, expr.channels), self._wide(expr.b, expr.channels)
        # No direction is left where any element may come from either. But |r|^2 <= |a|^2
        # + |b|^2 <= max(|a + b|^2, |a - b|^2), whatever the weights of the elements.
        return Bounded(np.maximum(a.each, b.each), total([a, b]), 1.0)

    def _nesting(self, expr: Expr) -> int:
        return read_through(expr, _gates_in, self._gates)

    def _product(self, expr: Product) -> Reach:
        for factor, other in ((expr.a, expr.b), (expr.b, expr.a)):
            values = constant_values(factor)
            if values is not None:
                return scaled_by(self._wide(other, expr.channels), values.reshape(-1))
        a, b = self._wide(expr.a, expr.channels), self._wide(expr.b, expr.channels)
        each = a.each * b.each * DEVICE_SLACK
        if self._nesting(expr) > MOST_GATES:
            return Box(each)
        return Gate(each, a, b)


def _gates_in(expr: Expr) -> Reading[int]:
    """How many products of rows lie within each other in an expression, as far back as norms."""
    deepest = 0
    for part in () if isinstance(expr, Normalised) else expr.parts:
        deepest = max(deepest, (yield part))
    return deepest + isinstance(expr, Product)


@reader
def _is_affine(expr: Expr) -> Reading[bool]:
    """Whether an expression is a norm's output times gamma, or that plus beta."""
    if isinstance(expr, Sum):
        constant = [part for part in expr.parts if constant_values(part) is not None]
        others = [part for part in expr.parts if part not in constant]
        if not constant or len(others) != 1:
            return False
        return isinstance(others[0], Normalised) or (yield others[0])
    return isinstance(expr, Product) and any(isinstance(e, Normalised) for e in expr.parts)
