"""Sets of rows: no row of a set is outside what the set says of itself.

A set's rows are drawn by `member`, which knows the definitions and none of the bounds, and pushed
outwards: on a sum of ellipsoids by alternating maximisation, which is exact for one and climbs for
several.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slanc_onnx.prove.sets import (
    Blocks,
    Bounded,
    Box,
    Ellipsoids,
    Gate,
    OneOf,
    Reach,
    ball,
    constant,
    joined,
    one_of,
    sides,
    sum_of_ellipsoids,
    through_measured,
    total,
)
from slanc_onnx.weights import MatrixSizes
from tests.models.small_graphs import Matrix, spectral

Rng = np.random.Generator
ROUNDING = 1 + 1e-12  # of what a test itself computes in FP64
seeds = st.integers(0, 2**32 - 1)


def unit(rng: Rng, size: int) -> Matrix:
    """On the unit sphere; now and then along an axis, or with equal elements."""
    kind = rng.integers(4)
    if kind == 0:
        return np.asarray(np.eye(size)[rng.integers(size)])
    row = rng.choice([-1.0, 1.0], size) if kind == 1 else rng.standard_normal(size)
    return np.asarray(row / np.linalg.norm(row))


def as_matrix(term: Matrix) -> Matrix:
    return np.asarray(np.diag(term)) if term.ndim == 1 else term


def member(reach: Reach, rng: Rng) -> Matrix:
    """A row of a set, by its definition, on the rim where that has one."""
    match reach:
        case Ellipsoids():
            rows = [unit(rng, len(as_matrix(t))) @ as_matrix(t) for t in reach.terms]
            extra = reach.slack * unit(rng, reach.channels)
            return shrunk(np.sum([extra, *rows], axis=0), reach.each)
        case Blocks():
            row = np.zeros(reach.channels)
            for places, piece in reach.pieces:
                row[places] = member(piece, rng)
            return row
        case Gate():
            return member(reach.a, rng) * member(reach.b, rng)
        case Bounded():
            shares = rng.choice([-1.0, 1.0, 0.0, 0.5], reach.channels, p=[0.4, 0.4, 0.1, 0.1])
            off = reach.off * rng.choice([-1.0, 1.0], reach.channels)
            row = reach.factor * shares * member(reach.of, rng) + off
            return np.asarray(np.clip(row, -reach.each, reach.each))
        case OneOf():
            rows = [member(kind, rng) for kind in reach.kinds]
            share = rng.choice([0.0, 0.3, 1.0])
            return np.asarray(share * rows[0] + (1 - share) * rows[-1])
        case Box():
            return np.asarray(reach.each * rng.choice([-1.0, 1.0], reach.channels))
    raise TypeError(type(reach).__name__)


def shrunk(row: Matrix, each: Matrix) -> Matrix:
    """As a whole, so that no element is larger than a set says: this keeps the direction."""
    over = np.abs(row) / np.maximum(each, 1e-300)
    return np.asarray(row / max(1.0, float(over.max())))


def ellipsoid(rng: Rng, channels: int) -> Ellipsoids:
    """A sum of matrices and diagonals, sometimes of very different sizes; `each` by definition."""
    terms = []
    for _ in range(rng.integers(1, 4)):
        size = 10.0 ** rng.integers(-3, 4)
        shape = (channels,) if rng.random() < 0.4 else (int(rng.integers(1, 9)), channels)
        terms.append(size * rng.standard_normal(shape))
    slack = float(rng.choice([0.0, 0.1]))
    each = np.sum([np.sqrt((as_matrix(t) ** 2).sum(axis=0)) for t in terms], axis=0) + slack
    if rng.random() < 0.3:  # more is known of the elements than of the whole
        each = each * rng.random(channels)
    return Ellipsoids(each, tuple(terms), slack)


def any_set(rng: Rng, channels: int, depth: int = 2) -> Reach:
    """A random set; those made of others hold random ones."""
    kind = rng.integers(3 if depth == 0 else 7)
    if kind < 2:
        return ellipsoid(rng, channels)
    if kind == 2:
        return Box(np.abs(rng.standard_normal(channels)))
    if kind == 3 and channels > 1:
        order, cut = rng.permutation(channels), int(rng.integers(1, channels))
        places = [order[:cut], order[cut:]]
        return joined([(p, any_set(rng, len(p), depth - 1)) for p in places], channels)
    a, b = any_set(rng, channels, depth - 1), any_set(rng, channels, depth - 1)
    if kind == 4:
        return Gate(a.each * b.each, a, b)
    if kind == 5:
        return one_of([a, b])
    factor, off = float(rng.choice([0.5, 1.0, 2.0])), float(rng.choice([0.0, 0.0, 1e-4, 3.0]))
    limit = 0.5 if rng.random() < 0.3 else math.inf
    return Bounded(np.minimum(factor * a.each + off, limit), a, factor, off)


def check(reach: Reach, row: Matrix, rng: Rng) -> None:
    """Every figure that a set gives holds for one of its rows."""
    assert row.shape == (reach.channels,)
    assert (np.abs(row) <= reach.each * ROUNDING).all()
    assert np.linalg.norm(row) <= reach.length() * ROUNDING
    weights = np.exp(rng.standard_normal(reach.channels)) * (rng.random(reach.channels) < 0.8)
    assert np.linalg.norm(row * weights) <= reach.length(weights) * ROUNDING
    assert np.linalg.norm(row) <= reach.outline() * ROUNDING


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 8))
def test_no_row_is_longer_than_its_set_says(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    reach = any_set(rng, channels)
    for _ in range(10):
        check(reach, member(reach, rng), rng)


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_no_row_leaves_its_set_on_the_way_through_a_matrix(
    seed: int, channels: int, out: int, exact: bool
) -> None:
    rng = np.random.default_rng(seed)
    reach = any_set(rng, channels)
    matrix = rng.standard_normal((channels, out)) * 10.0 ** rng.integers(-2, 3, size=(channels, 1))
    if rng.random() < 0.3:
        matrix[:, 0] = matrix[:, -1] = 1.0
    after = reach.through(matrix, exact)
    for _ in range(10):
        check(after, member(reach, rng) @ matrix, rng)


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 8))
def test_channels_are_picked_with_what_is_known_of_them(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    reach = any_set(rng, channels)
    index = rng.permutation(channels)[: rng.integers(1, channels + 1)]
    for _ in range(5):
        check(reach.pick(index), member(reach, rng)[index], rng)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 8))
def test_sums_scales_and_outlines_of_ellipsoids_hold_their_rows(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    sets = [any_set(rng, channels, depth=1) for _ in range(3)]
    whole = total(sets)
    factors = rng.standard_normal(channels) * 10.0 ** rng.integers(-3, 4)
    one = np.array([-2.5])
    for _ in range(5):
        row = np.sum([member(reach, rng) for reach in sets], axis=0)
        check(whole, row, rng)
        check(whole.scaled(factors), row * factors, rng)
        check(whole.scaled(one), row * one, rng)
        check(whole.simplified(), row, rng)
        check(whole.simplified().simplified(), row, rng)


def longest_found(terms: list[Matrix], rng: Rng, starts: int = 4) -> float:
    """max |sum u_i N_i| over |u_i| <= 1 by alternating maximisation.

    For a direction v of the sum the best u_i is N_i v / |N_i v|; the new sum has the next v. Each
    step makes the sum longer, up to a local maximum, of which diagonals have one on each axis.
    """
    matrices, best = [as_matrix(t) for t in terms], 0.0
    for v in (*np.eye(len(matrices[0].T)), *(unit(rng, len(matrices[0].T)) for _ in range(starts))):
        for _ in range(40):
            images = [m @ v for m in matrices]
            units = [i / max(float(np.linalg.norm(i)), 1e-300) for i in images]
            row = np.sum([u @ m for u, m in zip(units, matrices, strict=True)], axis=0)
            length = float(np.linalg.norm(row))
            if length == 0.0:
                break
            v, best = row / length, max(best, length)
    return best


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 8))
def test_a_sum_of_ellipsoids_lies_between_the_longest_found_and_the_triangle_inequality(
    seed: int, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    terms = list(ellipsoid(rng, channels).terms)
    bound = sum_of_ellipsoids(terms)
    assert longest_found(terms, rng) <= bound * ROUNDING
    apart = sum(spectral(as_matrix(t)) for t in terms)
    assert bound <= apart * 1.02  # the room that each spectral norm takes
    assert bound <= longest_found(terms, rng) * math.sqrt(len(terms)) * 1.02


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(2, 8))
def test_through_keeps_the_shape_of_an_ellipsoid(seed: int, channels: int) -> None:
    """What a matrix cancels is not counted: |N W| may be far below |N| |W|."""
    rng = np.random.default_rng(seed)
    narrow = rng.standard_normal((1, channels))
    matrix = rng.standard_normal((channels, channels))
    matrix -= narrow.T @ (narrow @ matrix) / (narrow @ narrow.T)  # the row is in its kernel
    reach = Ellipsoids(np.abs(narrow[0]), (narrow,))
    cancelled = reach.through(matrix, True).length()
    assert np.linalg.norm(narrow @ matrix) <= cancelled
    assert cancelled <= 1e-4 * reach.length() * spectral(matrix)
    assert reach.through(matrix, False).length() >= np.linalg.norm(narrow @ matrix)


def test_two_that_point_apart_are_shorter_than_the_sum_of_their_norms() -> None:
    a, b = np.diag([3.0, 0.0]), np.diag([0.0, 4.0])
    assert 5.0 <= sum_of_ellipsoids([a, b]) <= 6.0  # the choice of weights costs something
    assert sum_of_ellipsoids([a, a]) == pytest.approx(6.0, rel=1e-2)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_ball_is_as_long_as_its_radius_in_every_direction(channels: int) -> None:
    rng = np.random.default_rng(0)
    reach = ball(channels, 3.0)
    for _ in range(20):
        check(reach, 3.0 * unit(rng, channels), rng)
    assert 3.0 <= reach.length() <= 3.0 * (1 + 1e-8)
    assert 6.0 <= total([reach, reach]).length() <= 6.0 * (1 + 1e-6)


def test_a_constant_is_as_long_as_it_is() -> None:
    values = np.array([4.0, 2.0, 4.0])
    reach = constant(values)
    check(reach, values, np.random.default_rng(0))
    check(reach, -values, np.random.default_rng(0))
    assert reach.length() == pytest.approx(6.0, rel=1e-8)


def test_one_kind_is_itself_and_two_are_as_long_as_the_longer() -> None:
    short, long = ball(4, 1.0), ball(4, 2.0)
    assert one_of([short]) is short
    assert one_of([short, long]).length() == long.length()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("make", [lambda row: constant(row), lambda row: Ellipsoids(row, (row,))])
@np.errstate(invalid="ignore")
def test_a_row_that_is_not_finite_is_not_left_out(
    bad: float, make: Callable[[Matrix], Ellipsoids]
) -> None:
    broken = make(np.array([1.0, bad, 0.0]))
    for reach in (broken, total([broken, ball(3, 1.0)]), broken.scaled(np.array([0.5]))):
        assert not math.isfinite(reach.length())


def test_what_the_device_rounds_is_counted() -> None:
    """FP32 sums and products come out longer than exact ones; the sets allow for it."""
    n = 4096
    a, b = np.ones(n, np.float32), np.full(n, 2.0**-24 * 1.01, np.float32)
    on_device = (a + b).astype(np.float64)  # every element rounds up
    whole = total([constant(a), constant(b)])
    exact = float(np.linalg.norm(a.astype(np.float64) + b))
    assert exact < np.linalg.norm(on_device) <= whole.length()
    third = np.float32(1 / 3)
    times = (a * third * np.float32(3.0000002)).astype(np.float64)
    once = constant(a * third).scaled(np.array([np.float32(3.0000002)]))
    assert np.linalg.norm(times) <= once.length()
    pieces = [(np.arange(0, n, 2), constant(a[::2])), (np.arange(1, n, 2), constant(a[1::2]))]
    weights = np.full((n, 1), 0.1, np.float32)
    row = np.float32(0)
    for weight in weights[:, 0]:
        row += weight  # one running sum
    after = joined(pieces, n).through(weights.astype(np.float64), True)
    assert float(weights.astype(np.float64).sum()) < float(row) <= after.length()


UNIT = 2.0**-24


def rounded_up_each_time(n: int) -> tuple[Matrix, float]:
    """Addends of FP32 whose running sum is off by nearly n UNIT, and that sum.

    After the 1, each addend is a little over half of the last bit of the sum.
    """
    addends = np.full(n, 1.01 * UNIT, np.float32)
    addends[0] = 1.0
    running = np.add.accumulate(addends, dtype=np.float32)[-1]
    exact = math.fsum(addends.astype(np.float64))
    assert (n - 2) * 0.98 * UNIT < float(running) / exact - 1 < n * UNIT
    return addends.astype(np.float64), float(running)


def halves(row: Matrix) -> Reach:
    """A row as two pieces, the first of one element."""
    pieces = [(np.arange(1), constant(row[:1])), (np.arange(1, len(row)), constant(row[1:]))]
    return joined(pieces, len(row))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("n", [256, 4096])
@pytest.mark.parametrize("make", [constant, Box, halves, lambda row: one_of([Box(row), Box(row)])])
def test_a_product_on_the_device_is_as_far_off_as_a_running_sum(
    make: Callable[[Matrix], Reach], n: int, exact: bool
) -> None:
    """Row and column are the roots of the addends, so that |x| |w| is no larger than the sum."""
    addends, running = rounded_up_each_time(n)
    row, column = 4 * np.sqrt(addends), np.sqrt(addends)[:, None] / 64  # exact, and of other sizes
    after = make(row).through(column, exact)
    assert running / 16 <= after.length() <= float(addends.sum()) * (1 + 2 * n * UNIT) / 16
    assert running / 16 <= after.each[0]
    row, column = row / 1024, column * 4096
    assert running / 4 <= make(row).through(column, exact).length()


def test_a_product_of_which_sizes_were_measured_is_as_far_off() -> None:
    addends, running = rounded_up_each_time(1024)
    root = np.sqrt(addends)
    length = float(np.linalg.norm(root))
    through = np.array([[root @ root]])
    after = through_measured(Box(root), MatrixSizes(root, length, length, through))
    assert running <= after.length()
    assert running <= after.each[0]
    with pytest.raises(ValueError, match="zip"):
        through_measured(
            Box(root), MatrixSizes(root, length, length, np.repeat(through, 2, axis=0))
        )


def test_kinds_inside_of_kinds_are_measured_one_by_one() -> None:
    kinds = [Box(np.array([size, 0.0])) for size in (1.0, 2.0, 3.0)]
    nested = one_of([one_of(kinds[:2]), kinds[2]])
    np.testing.assert_array_equal(sides(nested), [[1, 0], [2, 0], [3, 0]])


def test_tight_norms_are_taken_where_they_are_asked_for() -> None:
    matrix = np.random.default_rng(3).standard_normal((30, 40))
    box, ones = Box(np.ones(30)), np.ones(30)
    tight = math.sqrt(30) * spectral(matrix) * 1.02
    assert box.through(matrix, False).length() > tight
    for reach in (box, Gate(ones, box, box), Bounded(ones, box, 1.0), one_of([box, Box(ones / 2)])):
        assert reach.through(matrix, True).length() <= tight


def test_what_cancels_inside_of_pieces_is_not_counted() -> None:
    row, column = np.array([1.0, 1, 2, 2]), np.array([[1.0], [-1], [2], [-2]])
    pieces = [(np.arange(2), constant(row[:2])), (np.arange(2, 4), constant(row[2:]))]
    assert joined(pieces, 4).through(column, True).length() <= 1e-4
    assert joined(pieces, 4).through(column, False).length() >= 9.0


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_the_allowance_for_rounding_is_scaled_with_its_row(factor: float) -> None:
    reach = Ellipsoids(np.full(3, 9.0), (np.zeros((1, 3)),), 0.5).scaled(np.array([factor]))
    assert 0.5 * factor <= reach.slack <= 0.5 * factor + 2e-6 * factor


def test_a_tall_map_is_kept_as_its_triangle() -> None:
    tall = np.random.default_rng(0).standard_normal((20, 6))
    after = Ellipsoids(np.full(6, 99.0), (tall,)).through(np.eye(6)[:, :3], True)
    assert isinstance(after, Ellipsoids) and after.terms[0].shape == (3, 3)
    assert spectral(after.terms[0]) == pytest.approx(spectral(tall[:, :3]), rel=1e-12)


def test_channels_and_rows_of_nothing_but_zeros_cost_nothing() -> None:
    """Two orthogonal rows are sqrt(2) long at most; the others are never multiplied."""
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1e3], [0, 0, 0]])
    after = Box(np.array([1.0, 1.0, 0.0, 1.0])).through(matrix, True)
    assert math.sqrt(2) <= after.length() <= math.sqrt(2) * 1.02


def test_pieces_of_a_sum_keep_their_places() -> None:
    """Of two balls side by side the sum is in a ball of sqrt(2), far from the corner of a box."""
    halves_of = [(np.arange(4), ball(4, 1.0)), (np.arange(4, 8), ball(4, 1.0))]
    assert math.sqrt(2) <= total([joined(halves_of, 8)]).length() <= math.sqrt(2) * 1.02
    allowed = Ellipsoids(np.full(2, 9.0), (np.zeros((1, 2)),), 0.5)
    assert total([joined([(np.array([1, 0]), allowed)], 2)]).slack >= 0.5


def test_integers_are_no_smaller_than_they_are() -> None:
    """-128 has no opposite in eight bits."""
    reach = constant(np.array([-128, 0], np.int8))
    assert reach.each[0] == 128.0
    assert 128.0 <= reach.length() <= 128.0 * (1 + 1e-8)
