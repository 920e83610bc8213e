"""Whether what a runtime makes is among what the proof says of a tensor."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from slanc_onnx.prove.trusted.values import Constant, Operand, Sizes

ROUNDED = 1 + 2.0**-20  # what FP32 on this machine may add


def holds(value: Operand, array: NDArray[Any]) -> None:
    """Assert that an array is among what a value says."""
    dims = value.dims
    assert len(dims) == array.ndim
    sizes = zip(dims, array.shape, strict=True)
    assert all(said == size for said, size in sizes if isinstance(said, int))
    if isinstance(value, Constant):
        assert np.array_equal(value.values, array)
        return
    if isinstance(value, Sizes):
        entries = zip(value.entries, array.reshape(-1), strict=True)
        assert all(said == size for said, size in entries if isinstance(said, int))
        return
    assert value.kind == helper.np_dtype_to_tensor_dtype(array.dtype)
    numbers = array.astype(np.float64)
    assert value.nan is not None or not np.isnan(numbers).any()
    numbers = np.where(np.isneginf(numbers) & value.infinite, 0.0, np.nan_to_num(numbers, nan=0.0))
    finite = numbers[np.isfinite(array.astype(np.float64))]
    slack = 1e-6 * max(1.0, float(np.abs(finite).max(initial=0.0)))
    assert (finite >= value.low - slack).all() and (finite <= value.high + slack).all()
    others = [axis for axis in range(array.ndim) if axis not in value.axes]
    rows = np.transpose(numbers, [*others, *value.axes])
    rows = rows.reshape(-1, value.reach.channels)
    assert (np.abs(rows) <= value.reach.each * ROUNDED + 1e-12).all()
    assert (np.linalg.norm(rows, axis=1) <= value.reach.length() * ROUNDED + 1e-12).all()
    if value.shares is not None:
        assert (numbers >= 0).all() and (numbers.sum(axis=value.shares) <= ROUNDED).all()
