"""Steps on weights are those of NumPy in float64, however a weight is cut on the way."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.apply.merge import held
from slanc_onnx.apply.merge.held import Added, Centred, Scaled, changed
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
