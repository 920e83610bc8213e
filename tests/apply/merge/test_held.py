"""Steps on weights are those of NumPy in float64, however a weight is cut on the way."""

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.apply.merge import held
from slanc_onnx.apply.merge.held import Added, Centred, Scaled, cast, changed
from tests.models.small_graphs import normal


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [-2, -1])
def test_steps_in_order(
    chunk: int, dtype: type, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "_CHUNK", chunk)
    weight: NDArray[Any] = normal(1, 6, 5).astype(dtype)
    factors, row = normal(2, 6, 1), normal(3, 1, 5)
    steps = (Scaled(factors), Added(row), Centred(axis))
    exact = weight.astype(np.float64) * factors + row
    exact = exact - exact.mean(axis=axis, keepdims=True)
    made = changed(weight, steps)
    assert made.dtype == weight.dtype
    if chunk > 7 or axis == -1:
        np.testing.assert_array_equal(made, exact.astype(dtype))
    else:  # sums of parts have another order
        np.testing.assert_allclose(made.astype(np.float64), exact, atol=1e-2)


def test_one_number_and_no_elements() -> None:
    assert changed(np.array(3.0, np.float32), (Scaled(np.array([2.0])),)) == 6
    assert changed(np.empty((0, 4), np.float32), (Centred(-2),)).shape == (0, 4)


def exactly_between(dtype: Any) -> NDArray[np.float64]:
    """FP64 numbers beside the ties of a format, which FP32 rounds onto these, and others."""
    random = np.random.default_rng(7)
    x = random.standard_normal(20000) * 2.0 ** random.integers(-26, 17, 20000)
    with np.errstate(over="ignore"):
        near = x.astype(dtype)
    near = near[np.isfinite(near.astype(np.float64)) & (near != 0)]
    up = np.nextafter(near, np.array(np.inf, dtype)).astype(np.float64)
    ties = (near.astype(np.float64) + up) / 2
    return np.concatenate([x, ties, ties * (1 + 2.0**-40), ties * (1 - 2.0**-40), [0.0, -0.0]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_what_is_rounded_to_odd_may_be_rounded_again(dtype: Any) -> None:
    x = exactly_between(dtype)
    with np.errstate(over="ignore"):
        once = x.astype(dtype)
        twice = cast(x, np.dtype(np.float32)).astype(dtype)
        odd = cast(x, np.dtype(np.float32), odd=True).astype(dtype)
    if dtype is not np.float16:  # ml_dtypes goes by way of FP32
        once = np.array([in_bfloat16(v) for v in x]).astype(dtype)
    assert (twice != once).sum() > 100
    np.testing.assert_array_equal(odd, once)
    np.testing.assert_array_equal(cast(x, np.dtype(dtype)), once)


def in_bfloat16(value: float) -> float:
    """To nearest, ties to even, by Python's integers."""
    if value == 0:
        return value
    exponent = max(math.frexp(value)[1], -125)
    return math.ldexp(round(Fraction(value) / Fraction(2) ** (exponent - 8)), exponent - 8)


def test_odd_is_a_neighbour_and_leaves_what_is_exact() -> None:
    x = np.array([1.0, 1 + 2.0**-30, -1 - 2.0**-30, 1 - 2.0**-30, 1e39, np.inf, np.nan, 1e-60])
    odd = cast(x, np.dtype(np.float32), odd=True)
    ulp = 2.0**-23
    expected = [1, 1 + ulp, -1 - ulp, 1 - ulp / 2, np.inf, np.inf, np.nan, 2.0**-149]
    np.testing.assert_array_equal(odd, np.array(expected, np.float32))
    assert cast(x[:4], np.dtype(np.float16), odd=True).dtype == np.float16
