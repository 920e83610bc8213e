"""How large a function makes what it is applied to: slopes, limits, growth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove.sets import DEVICE_SLACK, SLACK, Bounded, Box, Reach
from slanc_onnx.trace import Apply


class NoBound(Exception):
    """Nothing bounds an expression; the message says why."""


# |F(z)| <= c |z|, and what |F(z)| never exceeds. 2 / sqrt(pi) is the slope of erf at 0; SELU's is
# gamma alpha from below.
_SLOPES: dict[str, Callable[..., float]] = {
    **dict.fromkeys(
        (
            "Relu",
            "Gelu",
            "FastGelu",
            "BiasGelu",
            "QuickGelu",
            "Swish",
            "HardSwish",
            "Mish",
            "Tanh",
            "Softsign",
            "Sin",
            "Abs",
            "Neg",
            "Celu",
        ),
        lambda *parameters: 1.0,
    ),
    "Erf": lambda: 2 / math.sqrt(math.pi),
    "LeakyRelu": lambda alpha: max(1.0, abs(alpha)),
    "Elu": lambda alpha: max(1.0, abs(alpha)),
    "Selu": lambda alpha, gamma: abs(gamma) * max(1.0, abs(alpha)),
}
_LIMITS = dict.fromkeys(
    (
        "Tanh",
        "Erf",
        "Sin",
        "Cos",
        "Softsign",
        "Sigmoid",
        "HardSigmoid",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
    ),
    1.0,
)


def applied(expr: Apply, x: Reach) -> Reach:
    """Where an elementwise function takes rows; or their sum, for ReduceSum.

    Raises:
        NoBound: nothing limits the function.
    """
    name = expr.function
    if name == "ReduceSum":
        return Box(np.array([min(float(x.each.sum()), math.sqrt(x.channels) * x.length())]) * SLACK)
    if name in _SLOPES:
        numbers = [p for p in expr.parameters if not isinstance(p, str)]
        slope = _SLOPES[name](*numbers) * DEVICE_SLACK
        return Bounded(np.minimum(slope * x.each, _LIMITS.get(name, math.inf)), x, slope)
    if name in _LIMITS:
        return Box(np.full(x.channels, _LIMITS[name]))
    grows = _GROWING.get(name)
    if grows is None:
        raise NoBound(f"nothing limits {name}")
    return Box(grows(x.each, *expr.parameters) * DEVICE_SLACK)


def _power(x: Array, exponent: float) -> Array:
    if exponent < 0:
        raise NoBound("nothing limits a negative power")
    return np.asarray(x**exponent)


# Of functions that grow with |z|, the largest |F| for |z| <= x.
_GROWING: dict[str, Callable[..., Array]] = {
    "Softplus": lambda x: x + math.log(2.0),
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Pow": _power,
}
