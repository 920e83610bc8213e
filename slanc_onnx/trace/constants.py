"""Arithmetic on constants, which the trace does by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import ELEMENTWISE


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        return np.asarray(np.trunc(a / b)).astype(a.dtype)
    return np.asarray(a / b)


# Arithmetic on values that are known: shapes, positions, masks, and constants of the model.
ON_CONSTANTS: dict[str, Callable[..., Array]] = {
    **{name: record.arithmetic for name, record in ELEMENTWISE.items()},
    "Add": np.add,
    "Sub": np.subtract,
    "Sum": lambda *xs: np.asarray(sum(xs)),
    "Mul": np.multiply,
    "Div": _divide,
    "Mod": np.mod,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Min": lambda *xs: np.asarray(np.minimum.reduce(np.broadcast_arrays(*xs))),
    "Max": lambda *xs: np.asarray(np.maximum.reduce(np.broadcast_arrays(*xs))),
    "Equal": np.equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Where": np.where,
    "Sign": np.sign,
}
