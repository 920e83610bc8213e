"""Bounds of matrix norms: never below what an SVD in float64 finds, and seldom far above."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx.weights.matrix_norms import (
    FP32_SIZE,
    ITERATIONS,
    MARGINS,
    about,
    cheap_spectral_bound,
    frobenius_norm,
    largest_eigenvalue_bound,
    lengths,
    spectral_bound,
    upward,
)
from tests.models.small_graphs import Matrix

# What LAPACK's SVD itself may be off by, relative to the largest singular value.
SVD_ERROR = 1e-13


def largest_singular(matrix: Matrix) -> float:
    """By LAPACK, on numbers near 1."""
    size = float(np.abs(matrix).max(initial=0.0))
    if size == 0.0:
        return 0.0
    return float(np.linalg.svd(matrix / size, compute_uv=False)[0]) * size


def gaussian(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    return rng.standard_normal((rows, columns))


def low_rank(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    rank = max(1, min(rows, columns) // 3)
    return gaussian(rng, rows, rank) @ gaussian(rng, rank, columns)


def one_row_kept(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    matrix = np.zeros((rows, columns))
    matrix[rng.integers(rows)] = rng.standard_normal(columns)
    return matrix


def one_huge_element(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    matrix = gaussian(rng, rows, columns)
    matrix[rng.integers(rows), rng.integers(columns)] = 1e12
    return matrix


def clustered(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    """Singular values within a millionth of 1."""
    q, _ = np.linalg.qr(gaussian(rng, max(rows, columns), min(rows, columns)))
    values = 1 - 1e-6 * rng.random(min(rows, columns))
    turned, _ = np.linalg.qr(gaussian(rng, min(rows, columns), min(rows, columns)))
    matrix = np.asarray(q * values @ turned)
    return matrix if rows >= columns else matrix.T


def outlier_columns(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    return np.asarray(gaussian(rng, rows, columns) * np.exp(4 * rng.standard_normal(columns)))


def repeated_rows(rng: np.random.Generator, rows: int, columns: int) -> Matrix:
    return np.asarray(np.outer(np.ones(rows), rng.standard_normal(columns)))


KINDS = [
    gaussian,
    low_rank,
    one_row_kept,
    one_huge_element,
    clustered,
    outlier_columns,
    repeated_rows,
]
matrices = st.builds(
    lambda kind, seed, rows, columns, decade: (
        kind(np.random.default_rng(seed), rows, columns) * 10.0**decade
    ),
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(-30, 30),
)


@settings(max_examples=300, deadline=None)
@given(matrices)
@example(np.ones((1, 1)))
@example(np.full((7, 1), 1e30))
@example(np.full((1, 7), 1e-30))
@example(np.eye(9))
def test_a_spectral_bound_is_never_below_and_at_most_a_few_percent_above(matrix: Matrix) -> None:
    true = largest_singular(matrix)
    bound = spectral_bound(matrix)
    assert bound >= true * (1 - SVD_ERROR)
    assert bound <= true * 1.02


@settings(max_examples=150, deadline=None)
@given(matrices)
def test_the_cheap_bounds_are_never_below(matrix: Matrix) -> None:
    true = largest_singular(matrix)
    cheap = cheap_spectral_bound(matrix)
    assert cheap >= true * (1 - SVD_ERROR)
    assert cheap <= frobenius_norm(matrix) * (1 + 1e-12)
    assert cheap <= true * math.sqrt(min(matrix.shape)) * (1 + 1e-9)  # as Frobenius is


@settings(max_examples=150, deadline=None)
@given(matrices)
def test_sizes_are_never_below_those_in_long_double(matrix: Matrix) -> None:
    square = matrix.astype(np.longdouble) ** 2
    assert frobenius_norm(matrix) >= np.sqrt(square.sum())
    for axis, kept in ((0, 1), (1, 0)):
        found = lengths(matrix, axis=axis)
        assert found.shape == (matrix.shape[kept],)
        true = np.sqrt(square.sum(axis=axis))
        assert (found >= true).all()
        assert (found <= true * (1 + 1e-12)).all()


@settings(max_examples=50, deadline=None)
@given(matrices)
def test_weights_in_fp32_are_measured_in_fp64(matrix: Matrix) -> None:
    stored = (matrix / np.abs(matrix).max() * 1e25).astype(np.float32)  # squares leave FP32
    true = largest_singular(stored.astype(np.float64))
    for bound in (spectral_bound, cheap_spectral_bound, frobenius_norm):
        assert true * (1 - SVD_ERROR) <= bound(stored) < math.inf


@settings(max_examples=150, deadline=None)
@given(matrices)
def test_an_eigenvalue_bound_is_never_below(matrix: Matrix) -> None:
    matrix = matrix / np.abs(matrix).max()
    gram = matrix @ matrix.T
    true = float(np.linalg.eigvalsh(gram)[-1])
    bound = largest_eigenvalue_bound(gram)
    assert true * (1 - SVD_ERROR) <= bound <= true * 1.04


def hidden_from_a_start(size: int) -> Matrix:
    """A Gram matrix whose top direction is orthogonal to ones and to its largest diagonal's row.

    Power iteration that starts there never sees the largest eigenvalue, size - 1. All numbers
    that it meets are exact, so that no rounding helps it.
    """
    signs = np.tile([1.0, -1.0], (size - 1) // 2)
    gram = np.zeros((size, size))
    gram[0, 0] = 2.0
    gram[1:, 1:] = np.outer(signs, signs)
    return gram


@pytest.mark.parametrize("size", [5, 17, 33, 101])
def test_where_power_iteration_fails_the_bound_still_holds(size: int) -> None:
    gram = hidden_from_a_start(size)
    start = gram @ np.ones(size) + gram[0]
    for _ in range(ITERATIONS):
        start = gram @ (start / np.abs(start).max())
    assert np.linalg.norm(gram @ start) / np.linalg.norm(start) == 2.0
    assert size - 1 <= largest_eigenvalue_bound(gram) <= (size - 1) * 1.02
    matrix = np.zeros((2, size))
    matrix[0, 0], matrix[1, 1:] = math.sqrt(2), gram[1, 1:]
    assert math.sqrt(size - 1) <= spectral_bound(matrix) <= math.sqrt(size - 1) * 1.02


def test_a_slow_power_iteration_is_not_believed() -> None:
    """Ten thousand steps would be needed to tell the largest of these values from the next."""
    rng = np.random.default_rng(3)
    for gap in (1e-3, 1e-9, 1e-15):
        q, _ = np.linalg.qr(rng.standard_normal((30, 30)))
        values = np.concatenate([[1 + gap], np.ones(29)])
        matrix = np.asarray(q * values @ q.T)
        assert spectral_bound(matrix) >= 1 + gap - SVD_ERROR


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (3, 4), (4, 3)])
def test_of_zeros_there_is_nothing(shape: tuple[int, int]) -> None:
    zeros = np.zeros(shape)
    assert spectral_bound(zeros) == cheap_spectral_bound(zeros) == frobenius_norm(zeros) == 0.0
    assert not lengths(zeros, axis=0).any()
    assert largest_eigenvalue_bound(np.zeros((shape[0], shape[0]))) == 0.0


def test_of_no_elements_there_is_nothing() -> None:
    assert spectral_bound(np.zeros((0, 3))) == spectral_bound(np.zeros((3, 0))) == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (3, 4), (4, 3)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_bound(shape: tuple[int, int], bad: float) -> None:
    matrix = np.ones(shape)
    matrix[-1, -1] = bad
    assert spectral_bound(matrix) == math.inf
    for bound in (cheap_spectral_bound, frobenius_norm):
        assert not math.isfinite(bound(matrix))


@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e150, 1e200, 1.7e308])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 3)])
@np.errstate(over="ignore")
def test_squares_that_leave_fp64_do_not_fool_a_spectral_bound(
    size: float, shape: tuple[int, int]
) -> None:
    matrix = np.full(shape, size)
    true = np.longdouble(size) * np.sqrt(np.longdouble(matrix.size))
    assert spectral_bound(matrix) >= true or spectral_bound(matrix) == math.inf
    assert spectral_bound(matrix) > 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200))
def test_upward_makes_good_for_the_rounding_of_a_sum(numbers: list[float]) -> None:
    total = 0.0
    for number in numbers:
        total += number
    assert upward(total, len(numbers)) >= math.fsum(numbers)


WIDE = (256, 512)  # as many elements as a Gram matrix in FP32 starts at


def rank_one(rng: np.random.Generator) -> Matrix:
    return np.outer(rng.standard_normal(WIDE[0]), rng.standard_normal(WIDE[1]))


def one_number(rng: np.random.Generator) -> Matrix:
    """All products round the same way."""
    return np.full(WIDE, rng.uniform(0.1, 1.0))


@pytest.mark.parametrize("kind", [rank_one, one_number, lambda rng: gaussian(rng, *WIDE)])
def test_a_gram_matrix_in_fp32_gives_no_smaller_bound(
    kind: Callable[[np.random.Generator], Matrix],
) -> None:
    """Of rank 1 the bound is the trace of the Gram matrix, without the room of a trial value."""
    assert math.prod(WIDE) >= FP32_SIZE
    for seed in range(3):
        matrix = kind(np.random.default_rng(seed))
        true = float(np.linalg.svd(matrix, compute_uv=False)[0])
        assert true * (1 - SVD_ERROR) <= spectral_bound(matrix) <= true * 1.02


def test_a_gram_matrix_in_fp32_takes_the_room_of_its_theorem() -> None:
    """512 products of u = 2^-24 each and 4 more of |M|_F^2, which for rank 1 is all there is."""
    matrix = rank_one(np.random.default_rng(0))
    true = float(np.linalg.svd(matrix, compute_uv=False)[0])
    assert spectral_bound(matrix) / true - 1 == pytest.approx(516 * 2.0**-24, rel=1e-3)


def test_the_gram_matrix_is_that_of_the_shorter_side(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def spy(matrix: Matrix) -> tuple[Matrix, float]:
        shapes.append(matrix.shape)
        return matrix @ matrix.T, 2.0**-53

    monkeypatch.setattr("slanc_onnx.weights.matrix_norms._gram", spy)
    for shape in ((3, 50), (50, 3)):
        spectral_bound(gaussian(np.random.default_rng(0), *shape))
    assert shapes == [(3, 50), (3, 50)]


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_lengths_of_fp32_are_computed_in_fp32_with_its_room(count: int) -> None:
    room = 1 + (count + 4) * 2.0**-24
    stored = np.zeros((count, 2), np.float32)
    stored[-1] = 3.0, 4.0
    np.testing.assert_allclose(lengths(stored, axis=0), [3 * room, 4 * room], rtol=1e-13)
    np.testing.assert_allclose(lengths(stored.T, axis=1), [3 * room, 4 * room], rtol=1e-13)
    tiny = np.full((count, 2), 2.0**-80, np.float32)  # squares of 2^-160, which FP32 has not
    tiny[:, 1] = 1.0
    most = math.sqrt(count) * 2.0**-63 * room  # each counts as the smallest normal number
    np.testing.assert_allclose(lengths(tiny, axis=0)[:1], [most], rtol=1e-13)
    rng = np.random.default_rng(count)
    drawn = rng.standard_normal((count, 5)).astype(np.float32)
    true = np.sqrt((drawn.astype(np.longdouble) ** 2).sum(axis=0))
    assert (lengths(drawn, axis=0) >= true).all()


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-19, 1e-10, 1e10, 1e19, 1e36, 3e38])
def test_lengths_of_fp32_are_those_of_its_numbers_where_their_squares_leave_it(size: float) -> None:
    matrix = np.random.default_rng(0).uniform(0.5, 1.0, (40, 6)) * size
    true = np.sqrt((matrix.astype(np.float32).astype(np.longdouble) ** 2).sum(axis=0))
    found = lengths(matrix.astype(np.float32), axis=0)
    assert (found >= true).all() and (found <= true * (1 + 1e-4)).all()


def test_lengths_of_what_is_not_finite_are_not() -> None:
    matrix = np.array([[np.inf, 1.0], [1e30, np.nan]], np.float32)
    assert lengths(matrix, axis=0)[0] == np.inf and np.isnan(lengths(matrix, axis=0)[1])
    assert not lengths(np.zeros((0, 3), np.float32), axis=0).any()


def test_a_cheap_bound_is_that_of_rows_and_columns_where_it_is_smaller() -> None:
    assert cheap_spectral_bound(np.eye(9)) == pytest.approx(1.0, rel=1e-12)  # Frobenius: 3
    for value in np.random.default_rng(0).random(20).astype(np.float32):
        column = np.full((1001, 1), value, np.float32)  # sums in FP32 would round some down
        true = np.longdouble(value) * np.sqrt(np.longdouble(1001))
        assert cheap_spectral_bound(column) >= true


def test_a_value_that_a_factorisation_accepts_gets_the_room_of_its_theorem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rump 2.3: 2 (n + 2) u times the trace of the shifted matrix, at most n tried + trace."""
    monkeypatch.setattr("slanc_onnx.weights.matrix_norms._by_power_iteration", lambda gram: 4.0)
    tried = MARGINS[0] * 4.0
    room = 2 * 11 * 2.0**-53 * (9 * tried + 20.0)
    gram = np.diag([4.0] + [2.0] * 8)
    assert largest_eigenvalue_bound(gram) - tried == pytest.approx(room, abs=2e-15)
    # Where that is no better than the Frobenius norm of n^2 addends, the latter it is.
    gram = np.diag([4.0, 0.125] + [0.0] * 8)
    room = math.hypot(4.0, 0.125) * 104 * 2.0**-53
    simple = largest_eigenvalue_bound(gram) - math.hypot(4.0, 0.125)
    assert simple == pytest.approx(room, abs=2e-15)


def test_a_start_that_the_matrix_sends_to_zero_leaves_the_rest_to_lapack() -> None:
    vector = np.array([2.0, -2.0, -2.0, -2.0])  # its start is zero
    assert 16.0 <= largest_eigenvalue_bound(np.outer(vector, vector)) <= 16.0 * 1.02


def test_lengths_of_fp16_do_not_overflow() -> None:
    found = lengths(np.full((4, 9), 300.0, np.float16), axis=1)
    np.testing.assert_allclose(found, 900.0, rtol=1e-12)


def test_about_is_close_and_exact_for_rank_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        matrix = gaussian(rng, 12, 30)
        assert 0.8 * largest_singular(matrix) <= about(matrix) <= largest_singular(matrix) * 1.001
        outer = np.outer(rng.standard_normal(12), rng.standard_normal(30))
        assert about(outer) == pytest.approx(largest_singular(outer), rel=1e-12)


def test_a_cholesky_factorisation_proves_no_more_than_its_rounding_allows() -> None:
    """Some of these eigenvalues lie an ulp above a value whose factorisation runs to its end.

    The largest is hidden from power iteration, which sees one that is smaller by the first margin.
    It is a sum of squares of integers, which no rounding blurs.
    """
    rng = np.random.default_rng(0)
    for _ in range(300):
        half = rng.integers(1, 50, rng.integers(2, 60)).astype(float)
        half[-1] = 400.0  # a large last pivot is where rounding may pass for a positive one
        vector = np.stack([half, -half], axis=1).reshape(-1)  # orthogonal to ones
        largest = float(np.sum(vector**2))
        seen = largest / MARGINS[0]
        while seen * MARGINS[0] >= largest:
            seen = float(np.nextafter(seen, 0.0))
        gram = np.zeros((len(vector) + 1,) * 2)
        gram[0, 0], gram[1:, 1:] = seen, np.outer(vector, vector)
        assert largest <= largest_eigenvalue_bound(gram) <= largest * 1.04


def test_transposing_changes_nothing_of_note() -> None:
    tall: NDArray[np.float64] = gaussian(np.random.default_rng(0), 50, 3)
    assert spectral_bound(tall) == pytest.approx(spectral_bound(tall.T), rel=1e-2)
