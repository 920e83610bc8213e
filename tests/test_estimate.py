"""The largest row that is reckoned with, and how far it may move a scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import MOST_BEYOND, REACH, Estimate, beyond
from slanc_onnx.window import place

sums = st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=300).map(np.array)


@given(sums)
def test_it_lies_between_the_largest_row_and_twice_that(rows: np.ndarray) -> None:
    assert rows.max() < beyond(rows) <= MOST_BEYOND * rows.max() * (1 + 1e-12)


@given(sums, st.integers(-40, 40))
def test_it_grows_with_its_argument(rows: np.ndarray, power: int) -> None:
    assert beyond(rows * 2.0**power) == pytest.approx(beyond(rows) * 2.0**power, rel=1e-9)


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
        return place(Estimate(typical, upper, typical, "drawn", None, seen), width, device).scale

    assert scale(1.8e4, largest * 1.2, largest) == 128
    assert scale(1.8e4, largest * 1.2, None) == 256
    assert scale(1e8, largest * 1.2, largest) == scale(1e8, largest * 1.2, None)
