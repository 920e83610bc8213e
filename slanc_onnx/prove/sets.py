"""Sets that contain every row an expression can have, whatever the data.

A norm's output is a ball, and a linear map makes an ellipsoid of a ball. Sums of rows lie in the
sum of their sets, which allows for every combination, whether or not the rows depend on each other.
After an activation or a gate only sizes are known. All sets are symmetric and convex, so that a
convex or sub-convex combination of rows (attention) stays inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.weights import (
    MatrixSizes,
    about,
    cheap_spectral_bound,
    frobenius_norm,
    lengths,
    spectral_bound,
)

# Relative error of an FP32 product on the device, per addend; that of FP64 here counts for nothing.
DEVICE_UNIT = 2.0**-24
DEVICE_SLACK = 1 + 2.0**-20  # of one elementwise op there, activations included: 16 units
SLACK = 1 + 1e-9  # of a figure computed in FP64 with fewer than 10^6 operations
MOST_ELEMENTS = 1 << 25  # of the matrices that one set keeps, and 2^14 for each: x + x doubles them
UPWARD = 1 + 2.0**-50


@dataclass(frozen=True, eq=False)
class Reach:
    """Base of all sets of rows.

    Attributes:
        each: Upper bound of |r_j| for each channel, FP64, shape [channels].
    """

    each: Array

    @property
    def channels(self) -> int:
        return len(self.each)

    def length(self, weights: Array | None = None) -> float:
        """An upper bound of the L2 norm of r, or of r * weights with weights >= 0, [channels]."""
        raise NotImplementedError

    def pick(self, index: Array) -> Reach:
        """The set of the channels at `index`, none of which repeats."""
        raise NotImplementedError

    def through(self, matrix: Array, exact: bool) -> Reach:
        """The set of r times a matrix [channels, out]; `exact` takes the time for tight norms."""
        raise NotImplementedError

    def outline(self) -> float:
        """A bound of the L2 norm from the elements alone, which costs nothing."""
        return self._box(None)

    def _box(self, weights: Array | None) -> float:
        sides = self.each if weights is None else self.each * weights
        return float(np.linalg.norm(sides)) * SLACK


@dataclass(frozen=True, eq=False)
class Ellipsoids(Reach):
    """All sums of rows u_i N_i with |u_i| <= 1, plus a row of length at most `slack`.

    Attributes:
        terms: The N_i: matrices [any, channels], or diagonals [channels].
        slack: Allowance for rounding.
    """

    terms: tuple[Array, ...]
    slack: float = 0.0

    def length(self, weights: Array | None = None) -> float:
        if weights is None and all(_is_ball(t) for t in self.terms if t.ndim == 1):
            balls = sum(abs(float(t[0])) for t in self.terms if t.ndim == 1)
            return min((balls + self._matrices) * SLACK + self.slack, self._box(None))
        terms = self.terms if weights is None else tuple(t * weights for t in self.terms)
        widest = 1.0 if weights is None else float(weights.max(initial=0.0))
        within = sum_of_ellipsoids(terms) + self.slack * widest
        return min(within, self._box(weights))

    @cached_property
    def _matrices(self) -> float:
        """The length of the sum of the terms that are no diagonals."""
        matrices = tuple(t for t in self.terms if t.ndim > 1)
        return sum_of_ellipsoids(matrices) if matrices else 0.0

    def pick(self, index: Array) -> Ellipsoids:
        return Ellipsoids(self.each[index], tuple(t[..., index] for t in self.terms), self.slack)

    def through(self, matrix: Array, exact: bool) -> Reach:
        rows = len(matrix)
        if not exact:
            return _through_sizes(self, matrix, exact)
        terms = tuple(_slim(t[:, None] * matrix if t.ndim == 1 else t @ matrix) for t in self.terms)
        size = frobenius_norm(matrix)
        spread = sum(float(np.linalg.norm(t)) for t in self.terms)
        rounding = 8 * matrix.size * 2.0**-53 * spread * size  # product and triangle: Higham 19.4
        slack = self.slack * size + (rounding + self._device(rows, size)) * SLACK
        columns = sum((lengths(t, axis=0) for t in terms), np.zeros(matrix.shape[1])) + slack
        each = np.minimum(columns, self.each @ np.abs(matrix) * SLACK + slack)
        return Ellipsoids(each, terms, slack)

    def _device(self, rows: int, size: float) -> float:
        """How far an FP32 product on the device can be off: n u |x| |W|_F (Higham 3.5)."""
        return rows * DEVICE_UNIT * self.outline() * size

    def scaled(self, factors: Array) -> Ellipsoids:
        """The set with each channel times a number of its own, or all times one."""
        factors = np.asarray(factors, dtype=np.float64)
        each = self.each * np.abs(factors) * DEVICE_SLACK
        widest = float(np.abs(factors).max(initial=0.0))
        device = DEVICE_UNIT * float(np.linalg.norm(each)) * SLACK
        terms = tuple(t * factors for t in self.terms)
        return Ellipsoids(each, terms, self.slack * widest + device)

    def simplified(self) -> Ellipsoids:
        """A set of one diagonal around this one, so that a residual stream stays small."""
        ball = self.slack + self._matrices
        diagonals = [t for t in self.terms if t.ndim == 1]
        if ball > 0.0:
            diagonals.append(np.full(self.channels, ball))
        radii = np.zeros(self.channels)
        for diagonal in diagonals:
            radii = _both(radii, np.abs(diagonal))
        return Ellipsoids(self.each, (radii * SLACK,))


@dataclass(frozen=True, eq=False)
class Blocks(Reach):
    """Rows whose groups of channels, like heads or pieces, count as independent.

    Attributes:
        pieces: The places of each group's channels, and its set.
    """

    pieces: tuple[tuple[Array, Reach], ...]

    def length(self, weights: Array | None = None) -> float:
        parts = [r.length(None if weights is None else weights[i]) for i, r in self.pieces]
        return math.hypot(*parts) * SLACK

    def pick(self, index: Array) -> Reach:
        places = np.full(self.channels, -1)
        places[index] = np.arange(len(index))
        pieces = []
        for channels, reach in self.pieces:
            kept = np.flatnonzero(places[channels] >= 0)
            if len(kept):
                pieces.append((places[channels[kept]], reach.pick(kept)))
        return Blocks(self.each[index], tuple(pieces))

    def through(self, matrix: Array, exact: bool) -> Reach:
        if not exact:
            return _through_sizes(self, matrix, exact)
        parts = total([r.through(matrix[i], exact) for i, r in self.pieces])
        # The device adds across the pieces: its error grows with the length of the whole row.
        device = len(matrix) * DEVICE_UNIT * self.outline() * frobenius_norm(matrix) * SLACK
        by_pieces = Ellipsoids(parts.each + device, parts.terms, parts.slack + device)
        by_length = _through_sizes(self, matrix, exact)
        return by_length if by_length.length() < by_pieces.length() else by_pieces


@dataclass(frozen=True, eq=False)
class Gate(Reach):
    """Elementwise products of a row of one set and a row of another."""

    a: Reach
    b: Reach

    def length(self, weights: Array | None = None) -> float:
        weights = np.ones(self.channels) if weights is None else weights
        both = self.b.length(self.a.each * weights), self.a.length(self.b.each * weights)
        return min(min(both) * DEVICE_SLACK, self._box(weights))

    def pick(self, index: Array) -> Gate:
        return Gate(self.each[index], self.a.pick(index), self.b.pick(index))

    def through(self, matrix: Array, exact: bool) -> Reach:
        return _through_sizes(self, matrix, exact)


@dataclass(frozen=True, eq=False)
class Bounded(Reach):
    """Rows with elements of at most `factor` times another set's plus `off`, within `each`."""

    of: Reach
    factor: float
    off: float = 0.0

    def length(self, weights: Array | None = None) -> float:
        off = Box(np.full(self.channels, self.off)).length(weights)
        return min(self.factor * self.of.length(weights) + off, self._box(weights))

    def pick(self, index: Array) -> Bounded:
        return Bounded(self.each[index], self.of.pick(index), self.factor, self.off)

    def through(self, matrix: Array, exact: bool) -> Reach:
        return _through_sizes(self, matrix, exact)


@dataclass(frozen=True, eq=False)
class OneOf(Reach):
    """Rows that lie in one of several sets, or between them."""

    kinds: tuple[Reach, ...]

    def length(self, weights: Array | None = None) -> float:
        return float(np.max([kind.length(weights) for kind in self.kinds]))  # which keeps nan

    def pick(self, index: Array) -> OneOf:
        return OneOf(self.each[index], tuple(kind.pick(index) for kind in self.kinds))

    def through(self, matrix: Array, exact: bool) -> Reach:
        return one_of([kind.through(matrix, exact) for kind in self.kinds])


@dataclass(frozen=True, eq=False)
class Box(Reach):
    """Rows with bounded elements, and no other bound."""

    def length(self, weights: Array | None = None) -> float:
        return self._box(weights)

    def pick(self, index: Array) -> Box:
        return Box(self.each[index])

    def through(self, matrix: Array, exact: bool) -> Reach:
        return _through_sizes(self, matrix, exact)


def ball(channels: int, radius: float) -> Ellipsoids:
    """The set of rows no longer than `radius`."""
    radii = np.full(channels, radius)
    return Ellipsoids(radii, (radii,))


def constant(values: Array) -> Ellipsoids:
    """The set of one row, and of all rows between it and its negative."""
    values = np.asarray(values, dtype=np.float64).reshape(1, -1)
    return Ellipsoids(np.abs(values[0]), (values,))


def one_of(kinds: Sequence[Reach]) -> Reach:
    """The set of rows of several kinds."""
    each = np.max([kind.each for kind in kinds], axis=0)
    return kinds[0] if len(kinds) == 1 else OneOf(each, tuple(kinds))


def joined(pieces: Sequence[tuple[Array, Reach]], channels: int) -> Blocks:
    """The set of rows made of pieces, each with its places in the row."""
    each = np.zeros(channels)
    for places, reach in pieces:
        each[places] = reach.each
    return Blocks(each, tuple(pieces))


def total(sets: Sequence[Reach]) -> Ellipsoids:
    """The set of sums of rows, one from each set."""
    parts = [_as_ellipsoids(reach) for reach in sets]
    terms = tuple(t for part in parts for t in part.terms)
    each = np.sum([part.each for part in parts], axis=0) * DEVICE_SLACK
    device = len(parts) * DEVICE_UNIT * float(np.linalg.norm(each)) * SLACK
    result = Ellipsoids(each, terms, sum(part.slack for part in parts) + device)
    return result.simplified() if sum(t.size + 2**14 for t in terms) > MOST_ELEMENTS else result


def _as_ellipsoids(reach: Reach) -> Ellipsoids:
    if isinstance(reach, Ellipsoids):
        return reach
    if isinstance(reach, Blocks):
        inner = [(places, _as_ellipsoids(r)) for places, r in reach.pieces]
        terms = tuple(_spread(t, places, reach.channels) for places, r in inner for t in r.terms)
        return Ellipsoids(reach.each, terms, sum(r.slack for _, r in inner))
    return Ellipsoids(reach.each, (np.full(reach.channels, reach.length()),))


def _spread(term: Array, places: Array, channels: int) -> Array:
    wide = np.zeros((*term.shape[:-1], channels))
    wide[..., places] = term
    return wide


def sum_of_ellipsoids(terms: Sequence[Array]) -> float:
    """An upper bound of |sum u_i N_i| over all |u_i| <= 1.

    With any weights t_i > 0 and v_i = u_i / sqrt(t_i), the sum is v times the stacked sqrt(t_i)
    N_i, so its square is at most sum 1/t_i times the largest eigenvalue of sum t_i N_i^T N_i.
    t_i = 1 / |N_i| makes that at most (sum |N_i|)^2, the triangle inequality (Kurzhanski and
    Valyi, "Ellipsoidal calculus for estimation and control", 1997, section 2.2); as any weights
    will do, |N_i| need not be exact.

    The terms are matrices [any, channels] or diagonals [channels].
    """
    matrices = [t for t in terms if t.ndim > 1 and t.any()]
    diagonals = [np.abs(t) for t in terms if t.ndim == 1 and t.any()]
    if not all(np.isfinite(t).all() for t in (*matrices, *diagonals)):
        return math.inf
    balls = sum(float(d[0]) for d in diagonals if _is_ball(d))
    others = [d for d in diagonals if not _is_ball(d)]
    sizes = [about(t) for t in matrices] + [float(d.max()) for d in others]
    if not matrices:
        radii = np.zeros(1)
        for radius in others:
            radii = _both(radii, radius)
        return (balls + float(radii.max())) * SLACK
    if len(sizes) == 1:
        return (balls + spectral_bound(matrices[0])) * SLACK
    weighted = [t / math.sqrt(size) for t, size in zip(matrices, sizes, strict=False)]
    rest = zip(others, sizes[len(matrices) :], strict=True)
    diagonal: Array = sum((d**2 / size for d, size in rest), np.zeros(1))
    square = spectral_bound(np.concatenate(weighted)) ** 2 + float(diagonal.max())
    return (balls + math.sqrt(square * sum(sizes))) * SLACK


def _is_ball(term: Array) -> bool:
    return term.ndim == 1 and float(np.ptp(term)) == 0.0


def _both(a: Array, b: Array) -> Array:
    """The diagonal around the sum of two, with the weights of `sum_of_ellipsoids`."""
    sizes = float(a.max()), float(b.max())
    if min(sizes) == 0.0:
        return a + b
    whole = sum(sizes)
    return np.asarray(np.sqrt(a**2 * (whole / sizes[0]) + b**2 * (whole / sizes[1])))


def _slim(matrix: Array) -> Array:
    """The triangular factor of a tall matrix, which maps the unit ball to the same ellipsoid."""
    tall = matrix.shape[0] > matrix.shape[1]
    return np.asarray(np.linalg.qr(matrix, mode="r")) if tall else matrix


def sides(reach: Reach) -> Array:
    """The bounds of the elements, per kind of rows, for `through_measured`: [kinds, channels]."""
    return np.stack([kind.each for kind in _kinds(reach)])


def _kinds(reach: Reach) -> list[Reach]:
    if isinstance(reach, OneOf):
        return [inner for kind in reach.kinds for inner in _kinds(kind)]
    return [reach]


def through_measured(reach: Reach, sizes: MatrixSizes) -> Reach:
    """The set of r times a matrix, from the sizes that were measured for `sides(reach)`."""
    kinds = zip(_kinds(reach), sizes.through, strict=True)
    return one_of([_measured(kind, sizes, elements) for kind, elements in kinds])


def _measured(reach: Reach, sizes: MatrixSizes, elements: Array) -> Ellipsoids:
    """The smaller of two bounds: sum |r_j| |w_j|, and the length times the cheap spectral norm."""
    by_rows = float(sizes.rows @ reach.each) * SLACK
    return _round(
        reach, min(by_rows, reach.length() * sizes.spectral), sizes.frobenius, elements * SLACK
    )


def _through_sizes(reach: Reach, matrix: Array, exact: bool) -> Ellipsoids:
    """The set of r times a matrix W, for rows of which only sizes are known.

    Its radius is the smaller of sum |r_j| |w_j| and the length times the spectral norm. For the
    latter the elements are balanced against the rows of W: |r / D| |D W| with D_j^2 = each_j /
    |w_j|. The cheap norm takes D = 1.
    """
    rows = lengths(matrix, axis=1)
    elements = reach.each @ np.abs(matrix)
    frobenius = frobenius_norm(matrix)
    if not exact:
        sizes = MatrixSizes(rows, cheap_spectral_bound(matrix), frobenius, elements[None])
        return _measured(reach, sizes, elements)
    radius = float(rows @ reach.each) * SLACK
    used = (rows > 0) & (reach.each > 0)
    if used.any():
        balance = np.sqrt(np.where(used, reach.each, 0.0) / np.where(used, rows, 1.0))
        inverse = np.divide(1.0, balance, out=np.zeros_like(balance), where=used) * UPWARD
        radius = min(radius, reach.length(inverse) * spectral_bound(balance[:, None] * matrix))
    return _round(reach, radius, frobenius, elements * SLACK)


def _round(reach: Reach, radius: float, frobenius: float, elements: Array) -> Ellipsoids:
    """A ball around the products of the rows of `reach` with a matrix, computed in FP32.

    Such a product is off by at most n u |x| |W|_F; `radius` and `elements` bound an exact one.
    """
    device = reach.channels * DEVICE_UNIT * reach.outline() * frobenius
    radius = (radius + device) * SLACK
    each = np.minimum(elements + device, radius)
    return Ellipsoids(each, (np.full(len(elements), radius),))
