"""One record per elementwise function of one tensor: all that the library knows of it.

The trace reads the names and attributes, sample rows use the arithmetic, bounds the slope, range,
growth and domain, folding the degree. To add an activation is to add a record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from slanc_onnx.graph import Array

Parameter = float | str
Domain = Literal["real", "not negative", "positive", "not zero"]
Interval = tuple[float, float]
REAL: Interval = (-math.inf, math.inf)


@dataclass(frozen=True)
class Elementwise:
    """One elementwise function F; each fact is a function of F's attributes p, in their order.

    Attributes:
        arithmetic: Gives F(x) for an array x of any shape and p; FP32 for FP32.
        attributes: The attributes that change F, with ONNX's defaults.
        from_inputs: Whether a node has them as further inputs instead.
        slope: Gives c with |F(z)| <= c |z| for all z of the domain; None for no such c.
        range: Gives an interval that holds F(z) for all z of the domain.
        growth: Gives, for an array x >= 0 and p, a bound of |F(z)| over all |z| <= x in the domain;
            None where slope or range bound F, or nothing does.
        off: Gives how far F(z) in FP32 may be off however small it is: e^z is rounded before 1 is
            taken from it.
        domain: Gives the z for which F(z) is finite; elsewhere it is nan or infinite.
        degree: Gives k with F(c z) = c^k F(z) for every c > 0; None for no such k.
        exact: Whether F(z) is z, -z or 0, which needs no rounding.
    """

    arithmetic: Callable[..., Array]
    attributes: Mapping[str, Parameter] = field(default_factory=dict)
    from_inputs: bool = False
    slope: Callable[..., float | None] = lambda *_: None
    range: Callable[..., Interval] = lambda *_: REAL
    growth: Callable[..., Array] | None = None
    off: Callable[..., float] = lambda *_: 0.0
    domain: Callable[..., Domain] = lambda *_: "real"
    degree: Callable[..., float | None] = lambda *_: None
    exact: bool = False


def apply_function(name: str, x: Array, parameters: tuple[Parameter, ...] = ()) -> Array:
    """Apply an elementwise function to FP32 rows.

    Args:
        name: A key of `ELEMENTWISE`.
        x: FP32, any shape.
        parameters: The values of its attributes, in their order.

    Returns:
        FP32, the shape of x.
    """
    typed = (p if isinstance(p, str) else np.float32(p) for p in parameters)
    with np.errstate(all="ignore"):
        return np.asarray(ELEMENTWISE[name].arithmetic(x, *typed), dtype=np.float32)


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


def _gelu(x: Array, approximate: Parameter = "none") -> Array:
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1 + erf(x / math.sqrt(2))))


def _fast_gelu(x: Array) -> Array:
    return _gelu(x, "tanh")


def _swish(x: Array, alpha: float) -> Array:
    return np.asarray(x * _sigmoid(alpha * x))


def _elu(x: Array, alpha: float) -> Array:
    return np.asarray(np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x))


def _celu(x: Array, alpha: float) -> Array:
    return np.asarray(np.where(x < 0, alpha * np.expm1(np.minimum(x, 0) / alpha), x))


def _selu(x: Array, alpha: float, gamma: float) -> Array:
    return np.asarray(gamma * _elu(x, alpha))


def _of_difference(*factors: float) -> float:
    return abs(math.prod(factors)) * 2.0**-22


def _always_one(*_: object) -> float:
    return 1.0


def _within(low: float, high: float) -> Callable[..., Interval]:
    return lambda *_: (low, high)


def _of_power(exponent: float) -> Domain:
    if exponent % 1:
        return "not negative" if exponent > 0 else "positive"
    return "real" if exponent >= 0 else "not zero"


def _power_range(exponent: float) -> Interval:
    return REAL if exponent % 2 == 1 else (0.0, math.inf)


def _power_growth(x: Array, exponent: float) -> Array:
    return np.asarray(x**exponent if exponent >= 0 else np.full_like(x, math.inf))


def _clip_slope(low: float, high: float) -> float | None:
    return 1.0 if low <= 0 <= high else None


def _comparison(arithmetic: Callable[..., Array]) -> Elementwise:
    return Elementwise(arithmetic, {"limit": 0.0}, True, range=_within(0.0, 1.0))


_POSITIVE = _within(0.0, math.inf)
_ONE = _within(-1.0, 1.0)
_SHARE = _within(0.0, 1.0)

ELEMENTWISE: dict[str, Elementwise] = {
    "Relu": Elementwise(
        lambda x: np.maximum(x, 0),
        slope=_always_one,
        range=_POSITIVE,
        degree=_always_one,
        exact=True,
    ),
    "LeakyRelu": Elementwise(
        lambda x, alpha: np.where(x < 0, alpha * x, x),
        {"alpha": 0.01},
        slope=lambda alpha: max(1.0, abs(alpha)),
        range=lambda alpha: REAL if alpha > 0 else (0.0, math.inf),
        degree=_always_one,
    ),
    "Gelu": Elementwise(_gelu, {"approximate": "none"}, slope=_always_one),
    "BiasGelu": Elementwise(_gelu, slope=_always_one),  # the bias is added before
    "FastGelu": Elementwise(_fast_gelu, slope=_always_one),
    "QuickGelu": Elementwise(_swish, {"alpha": 1.702}, slope=_always_one),
    "Swish": Elementwise(_swish, {"alpha": 1.0}, slope=_always_one),
    "HardSwish": Elementwise(lambda x: x * np.clip(x / 6 + 0.5, 0, 1), slope=_always_one),
    "Mish": Elementwise(lambda x: x * np.tanh(np.logaddexp(x, 0)), slope=_always_one),
    "Elu": Elementwise(
        _elu, {"alpha": 1.0}, slope=lambda alpha: max(1.0, abs(alpha)), off=_of_difference
    ),
    # A negative alpha makes the exponential grow below zero.
    "Celu": Elementwise(
        _celu,
        {"alpha": 1.0},
        slope=lambda alpha: 1.0 if alpha > 0 else None,
        off=_of_difference,
    ),
    "Selu": Elementwise(
        _selu,
        {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
        slope=lambda alpha, gamma: abs(gamma) * max(1.0, abs(alpha)),
        off=_of_difference,
    ),
    "Tanh": Elementwise(np.tanh, slope=_always_one, range=_ONE),
    # The slope of erf at 0.
    "Erf": Elementwise(erf, slope=lambda: 2 / math.sqrt(math.pi), range=_ONE),
    "Softsign": Elementwise(lambda x: x / (1 + np.abs(x)), slope=_always_one, range=_ONE),
    "Sin": Elementwise(np.sin, slope=_always_one, range=_ONE),
    "Cos": Elementwise(np.cos, range=_ONE),
    "Sigmoid": Elementwise(_sigmoid, range=_SHARE),
    "HardSigmoid": Elementwise(
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        {"alpha": 0.2, "beta": 0.5},
        range=_SHARE,
    ),
    "Softplus": Elementwise(
        lambda x: np.logaddexp(x, 0), range=_POSITIVE, growth=lambda x: x + math.log(2.0)
    ),
    "Exp": Elementwise(np.exp, range=_POSITIVE, growth=np.exp),
    "Log": Elementwise(np.log, domain=lambda: "positive"),
    "Sqrt": Elementwise(
        np.sqrt,
        range=_POSITIVE,
        growth=np.sqrt,
        domain=lambda: "not negative",
        degree=lambda: 0.5,
    ),
    "Pow": Elementwise(
        np.power,
        {"exponent": 1.0},
        from_inputs=True,
        range=_power_range,
        growth=_power_growth,
        domain=_of_power,
        degree=lambda exponent: exponent,
    ),
    "Reciprocal": Elementwise(np.reciprocal, domain=lambda: "not zero", degree=lambda: -1.0),
    "Neg": Elementwise(np.negative, slope=_always_one, degree=_always_one, exact=True),
    "Abs": Elementwise(np.abs, slope=_always_one, range=_POSITIVE, degree=_always_one, exact=True),
    "Clip": Elementwise(
        lambda x, low, high: np.minimum(np.maximum(x, low), high),
        {"min": -math.inf, "max": math.inf},
        from_inputs=True,
        slope=_clip_slope,
        growth=lambda x, low, high: np.maximum(x, max(low, -high, 0.0)),
        degree=lambda low, high: 1.0 if {low, high} <= {-math.inf, 0.0, math.inf} else None,
        range=lambda low, high: (min(low, high), high),
    ),
    "Greater": _comparison(np.greater),
    "GreaterOrEqual": _comparison(np.greater_equal),
    "Less": _comparison(np.less),
    "LessOrEqual": _comparison(np.less_equal),
}

# Comparisons of a row with one number, as functions of the row.
COMPARISONS = tuple(name for name, record in ELEMENTWISE.items() if "limit" in record.attributes)
# Functions that a node applies to its first input alone.
UNARY = tuple(name for name, record in ELEMENTWISE.items() if not record.from_inputs)
# Those among them with F(c z) = c F(z) for every c > 0.
HOMOGENEOUS = tuple(
    name for name in UNARY if ELEMENTWISE[name].degree(*ELEMENTWISE[name].attributes.values()) == 1
)
