"""Constants in 16 bits, held against NumPy's own float16 and ml_dtypes' bfloat16."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx.accelerator import FLOAT16, Format
from slanc_onnx.apply.convert.constants import (
    Counts,
    Limits,
    half_of_largest,
    least_kept,
    narrowed,
)

BFLOAT16 = Format.named("bfloat16")
TYPES = {FLOAT16: np.dtype(np.float16), BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
each_form = pytest.mark.parametrize("form", [FLOAT16, BFLOAT16], ids=str)


def of(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def rounded(values: NDArray[np.float32], form: Format) -> NDArray[np.float32]:
    """To nearest, by NumPy or ml_dtypes; infinity where the format ends."""
    with np.errstate(all="ignore"):
        return values.astype(TYPES[form]).astype(np.float32)


@each_form
@given(st.lists(st.floats(width=32), max_size=20))
def test_what_the_format_holds_is_rounded_to_nearest(form: Format, values: list[float]) -> None:
    x = np.array(values, np.float32)
    got, _ = narrowed(x, Limits(form, form.largest))
    assert got.dtype == TYPES[form]
    expected = rounded(x, form)
    beyond = np.isinf(expected) & np.isfinite(x)
    expected[beyond] = np.copysign(np.float32(form.largest), x[beyond])
    np.testing.assert_array_equal(got.astype(np.float32), expected)


@each_form
def test_every_number_of_the_format_stays(form: Format) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(TYPES[form])
    got, counts = narrowed(every.astype(np.float32), Limits(form, form.largest))
    nans = np.isnan(every.astype(np.float32))
    assert (np.isnan(got.astype(np.float32)) == nans).all()
    assert got[~nans].tobytes() == every[~nans].tobytes()
    assert (counts.clipped, counts.raised, counts.zero) == (0, 0, 0)
    assert counts.elements == 2**16 - 2  # the two zeros
    mantissas = 2 ** {FLOAT16: 10, BFLOAT16: 7}[form] - 1
    assert counts.subnormal == 2 * mantissas


def test_shapes_stay_and_chunks_are_counted_together() -> None:
    for shape in ((), (0,), (2, 0, 3), (2, 3)):
        got, counts = narrowed(np.ones(shape, np.float32), Limits(FLOAT16, 1.0))
        assert got.shape == shape and counts.elements == np.prod(shape, dtype=int)
    large = np.full(2**20 + 3, 70000, np.float32)
    large[-1] = 80000
    got, counts = narrowed(large, Limits(FLOAT16, 32752.0))
    assert counts.clipped == large.size and counts.largest == 80000
    assert (got == 32752).all()


def test_a_mask_is_clamped_and_infinity_and_nan_stay() -> None:
    x = of(0, -3.4028235e38, 3.4e38, -np.inf, np.inf, np.nan, -70000)
    got, counts = narrowed(x, Limits(FLOAT16, half_of_largest(FLOAT16)))
    np.testing.assert_array_equal(got, of(0, -32752, 32752, -np.inf, np.inf, np.nan, -32752))
    assert counts.clipped == 3 and counts.largest == pytest.approx(3.4028235e38)
    with np.errstate(over="raise"):
        assert np.isfinite(got[1] + got[1])  # two masks on each other


def test_a_number_between_the_largest_and_infinity_is_the_largest() -> None:
    got, counts = narrowed(of(65505, 65519.99, 65520), Limits(FLOAT16, 32752.0))
    assert got.tolist() == [65504, 65504, 32752] and counts.clipped == 1


def test_a_small_number_is_raised_where_it_may_not_be_zero_and_only_there() -> None:
    x = of(1e-12, -1e-12, 0, 1e-7, 1e-5, 1)
    plain, counts = narrowed(x, Limits(FLOAT16, 1.0))
    assert plain[:3].tolist() == [0, 0, 0] and (counts.raised, counts.zero) == (0, 2)
    least = least_kept(FLOAT16, flushes=False)
    raised, counts = narrowed(x, Limits(FLOAT16, 1.0, least))
    assert raised[:3].tolist() == [2.0**-24, -(2.0**-24), 0]
    assert (counts.raised, counts.zero) == (2, 0) and counts.smallest == pytest.approx(1e-12)
    np.testing.assert_array_equal(raised[3:], x[3:].astype(np.float16))


def test_on_a_device_that_flushes_a_small_number_is_raised_to_the_smallest_normal() -> None:
    least = least_kept(FLOAT16, flushes=True)
    got, counts = narrowed(of(1e-5, 1e-12, 1e-3), Limits(FLOAT16, 1.0, least))
    assert got[:2].tolist() == [2.0**-14] * 2 and counts.raised == 2
    assert got[2] == np.float16(1e-3)


def test_what_fades_is_counted() -> None:
    x = of(1, 0, 3e-5, 1e-7, 2e-8, np.nan, -4e-5)
    _, counts = narrowed(x, Limits(FLOAT16, 1.0))
    assert counts == Counts(elements=6, subnormal=4, zero=1)


def test_counts_add_up() -> None:
    total = Counts(1, 2, 3, 4, 5, 6.0, 7.0) + Counts(1, 1, 1, 1, 1, 9.0, 0.0)
    assert total == Counts(2, 3, 4, 5, 6, 9.0, 7.0)
    assert Counts() + Counts() == Counts()


@each_form
def test_half_of_the_largest_is_in_the_format_and_twice_it_is_too(form: Format) -> None:
    half = np.float32(half_of_largest(form))
    assert rounded(np.array([half]), form)[0] == half
    assert np.isfinite(rounded(np.array([2 * half]), form)).all()
