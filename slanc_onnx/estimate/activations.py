"""Elementwise ops and activations on sample rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from slanc_onnx.graph import Array


def apply_function(name: str, x: Array, parameters: tuple[float | str, ...] = ()) -> Array:
    """An ONNX elementwise op on FP32 rows, with its attributes as the trace lists them."""
    numbers = [np.float32(p) for p in parameters if not isinstance(p, str)]
    with np.errstate(all="ignore"):
        if name in ("Gelu", "FastGelu", "BiasGelu"):
            if name == "FastGelu" or parameters[:1] == ("tanh",):
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
                return np.asarray(0.5 * x * (1 + np.tanh(inner)))
            return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))
        return np.asarray(_FUNCTIONS[name](x, *numbers), dtype=np.float32)


def erf(x: Array) -> Array:
    """Error function, to 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    coefficients = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    polynomial = np.zeros_like(t)
    for c in coefficients:
        polynomial = (polynomial + c) * t
    return np.asarray(np.sign(x) * (1 - polynomial * np.exp(-x * x)))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _celu(x: Array, alpha: float) -> Array:
    return np.asarray(np.where(x < 0, alpha * np.expm1(np.minimum(x, 0) / alpha), x))


# Of the values and the op's numeric attributes.
_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": _sigmoid,
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "QuickGelu": lambda x, alpha: x * _sigmoid(alpha * x),
    "Swish": lambda x, alpha: x * _sigmoid(alpha * x),
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "Elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "Celu": _celu,
    "Selu": lambda x, alpha, gamma: gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "Mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Softplus": lambda x: np.logaddexp(x, 0),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
    "Erf": erf,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Abs": np.abs,
    "Sin": np.sin,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Cos": np.cos,
}
