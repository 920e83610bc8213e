"""The largest row that is reckoned with, and how far it may move a scale."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate.estimate import LEAST_BEYOND, MOST_BEYOND, REACH, Estimate, beyond
from slanc_onnx.scale.window import place

sums = st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=300).map(np.array)


@given(sums)
def test_it_lies_between_the_largest_row_and_twice_that(rows: NDArray[np.float64]) -> None:
    assert rows.max() < beyond(rows) <= MOST_BEYOND * rows.max() * (1 + 1e-12)


@given(sums, st.integers(-40, 40))
def test_it_grows_with_its_argument(rows: NDArray[np.float64], power: int) -> None:
    assert beyond(rows * 2.0**power) == pytest.approx(beyond(rows) * 2.0**power, rel=1e-9)


@given(sums, st.floats(1, 1e6), st.randoms())
def test_a_larger_largest_row_never_lowers_it(
    rows: NDArray[np.float64], factor: float, random: Random
) -> None:
    larger = np.sort(rows)
    larger[-1] *= factor
    order = list(range(len(larger)))
    random.shuffle(order)  # nor does the order of the rows matter
    assert beyond(larger[order]) >= beyond(rows) * (1 - 1e-12)


@given(st.floats(1e-3, 1e12), st.integers(2, 300))
def test_rows_that_are_all_alike_leave_a_little_room_and_one_row_as_much_again(
    row: float, count: int
) -> None:
    assert beyond(np.full(count, row)) == pytest.approx(row * LEAST_BEYOND)
    assert beyond(np.array([row])) == row * MOST_BEYOND


def test_of_a_power_law_it_is_the_largest_of_ten_times_as_many_rows() -> None:
    """log of the largest of n rows with P(row > x) = x^(-1/xi) is xi (log n + 0.5772)."""
    random, xi, count = np.random.default_rng(0), 0.08, 2000
    found = [beyond(np.exp(random.exponential(xi, count))) for _ in range(300)]
    expected = xi * (np.log(REACH * count) + 0.5772)
    assert np.mean(np.log(found)) == pytest.approx(expected, rel=0.03)


def test_the_reach_gives_way_where_the_window_is_narrow() -> None:
    """SmolLM2's massive layers: one power of two, with little to spare, serves all rows seen."""
    device, width = Accelerator(), 576
    largest = 65504 * 4.0**7 * 0.99

    def scale(typical: float, upper: float, seen: float | None) -> float:
        return place(Estimate(typical, upper, typical, "probe", None, seen), width, device).scale

    assert scale(1.8e4, largest * 1.2, largest) == 128
    assert scale(1.8e4, largest * 1.2, None) == 256
    assert scale(1e8, largest * 1.2, largest) == scale(1e8, largest * 1.2, None)


exponents, reaches = st.floats(-20, 40), st.floats(1, MOST_BEYOND)
WIDTH = 64
# log2 of typical / seen where the window of rows that were seen is just empty.
MOST = np.log2(65504 / WIDTH * 2.0**14)


def placed(typical: float, ratio: float, reach: float, seen: bool) -> float:
    """The scale for rows of up to 2^ratio times 2^typical that were seen, and `reach` beyond."""
    largest = 2.0 ** (typical + ratio)
    known = largest if seen else None
    estimate = Estimate(2.0**typical, largest * reach, 2.0**typical, "probe", None, known)
    return place(estimate, WIDTH, Accelerator()).scale


@given(exponents, st.floats(0, 6), reaches)
def test_in_a_narrow_window_the_reach_never_moves_the_scale(
    typical: float, room: float, reach: float
) -> None:
    """Up to 6 bits between overflow and underflow are left to the small elements."""
    ratio = MOST - room - 1e-6
    assert placed(typical, ratio, reach, True) == placed(typical, ratio, 1.0, True)


@given(exponents, st.floats(8, 20), reaches)
def test_in_a_wide_window_the_reach_counts_in_full(
    typical: float, room: float, reach: float
) -> None:
    ratio = MOST - room
    scale = placed(typical, ratio, reach, True)
    assert scale == placed(typical, ratio, reach, False)
    assert scale >= placed(typical, ratio, 1.0, True)


def test_in_a_wide_window_the_reach_moves_the_scale_up_for_some_rows() -> None:
    typical = np.linspace(0, 2, 40)
    without = [placed(t, MOST - 10, 1.0, True) for t in typical]
    reached = [placed(t, MOST - 10, MOST_BEYOND, True) for t in typical]
    moved = [after / before for before, after in zip(without, reached, strict=True)]
    assert set(moved) == {1.0, 2.0}
