"""Element types: the numbers that each holds, and what rounding to it changes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.reasons import Unproved, reason

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
BOOL, INT64 = TensorProto.BOOL, TensorProto.INT64
# What one rounding to a narrow type changes: relative, and where underflow makes it absolute.
ROUNDED: dict[int, tuple[float, float]] = {
    TensorProto.FLOAT16: (2.0**-11, 2.0**-25),
    TensorProto.BFLOAT16: (2.0**-8, 2.0**-134),
}


def largest_of(kind: int) -> float:
    """The largest number of an element type; of DOUBLE that of FP32, which devices compute in."""
    if kind in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return float(np.finfo(np.float32).max)
    if kind == BOOL:
        return 1.0
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if dtype.kind in "iu":
        return float(np.iinfo(dtype).max)
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def natural(kind: int) -> tuple[float, float]:
    """The least and the largest number of a type of whole numbers.

    Raises:
        NoBound: it is no such type, or one that NumPy lacks.
    """
    if kind == BOOL:
        return 0.0, 1.0
    dtype = helper.tensor_dtype_to_np_dtype(kind) if kind else np.dtype("V")
    if dtype.kind not in "iu":
        raise NoBound(reason(Unproved.NO_RULE_FOR_TYPE, TensorProto.DataType.Name(kind)))
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def whole(kind: int, low: float, high: float) -> tuple[float, float]:
    """An interval of whole numbers; that of their type where they may wrap around.

    So also where FP64, in which the ends are computed, does not hold every whole number.
    """
    least, most = natural(kind)
    sure = least <= low <= high <= most and max(-low, high) < 2.0**53
    return (low, high) if sure else (least, most)


def nearest_ends(low: float, high: float, kind: int) -> tuple[float, float]:
    """The interval of a type's numbers next to those of one; what is subnormal may be 0 instead."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    tiny = max(float(ml_dtypes.finfo(dtype).tiny), 2.0**-126)  # type: ignore[no-untyped-call]
    if kind != TensorProto.DOUBLE:
        with np.errstate(over="ignore"):
            low, high = (float(np.float32(end).astype(dtype)) for end in (low, high))
    return (0.0 if 0 < low < tiny else low), (0.0 if -tiny < high < 0 else high)
