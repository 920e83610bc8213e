"""How the rest of a norm changes when its input is divided: epsilon, and a Skip op's sum."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from slanc_onnx.graph import Array
from slanc_onnx.norms.norm import Norm

_MOST = float(np.finfo(np.float32).max)


def residual_name(node: onnx.NodeProto, norm: Norm) -> str:
    """The name of the output with the sum of a Skip op's addends; "" without one."""
    there = norm.residual is not None and norm.residual < len(node.output)
    return str(node.output[norm.residual]) if there else ""


def scaled_epsilon(norm: Norm, scale: float) -> float | None:
    """The epsilon of the scaled norm: epsilon / s^2, or epsilon / s outside the root."""
    return None if norm.epsilon is None else norm.epsilon / scale**norm.epsilon_power


def lost_limit(norm: Norm, scale: float) -> tuple[str, float] | None:
    """The type and the value of a limit that, divided along, its type does not hold; else None.

    A rounded one would change what the norm gives. Epsilon may be rounded: see `rounded`; but no
    FP32 model holds one that becomes infinite.
    """
    epsilon = scaled_epsilon(norm, scale)
    if norm.epsilon is not None and epsilon is not None and epsilon > _MOST:
        return "FLOAT", norm.epsilon
    for limit in norm.limits:
        kind = limit.place.element_type
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        values = np.array(limit.values or (), np.float64)
        with np.errstate(over="ignore", under="ignore"):
            divided = (values / scale**limit.power).astype(dtype).astype(np.float64)
            lost = divided * scale**limit.power != values.astype(dtype).astype(np.float64)
        if lost.any():
            return str(TensorProto.DataType.Name(kind)), float(values[lost][0])
    return None


def rounded(value: float, dtype: np.dtype[np.generic]) -> Array:
    """The value in an element type; never infinite, nor 0 for one above it: 0 * rsqrt(0) is nan."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(value).astype(dtype)
    if np.isinf(rounded):
        rounded = np.nextafter(rounded, np.zeros((), dtype))
    if value > 0 and rounded.astype(np.float64) == 0:
        rounded = np.nextafter(np.zeros((), dtype), np.ones((), dtype))
    return np.asarray(rounded)
