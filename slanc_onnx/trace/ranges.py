"""What is known of the values of an expression, whatever the data."""

from __future__ import annotations

import math

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import ELEMENTWISE, Interval
from slanc_onnx.trace.expression import (
    Apply,
    Expr,
    Known,
    Mix,
    Pick,
    Product,
    Shares,
    Sum,
)
from slanc_onnx.trace.reading import Reading, reader


@reader
def value_range(expr: Expr) -> Reading[Interval | None]:
    """An interval that holds every element, whatever the data; None where there is none.

    This is how an activation written out is seen: z * 0.5 * (1 + erf(z / sqrt 2)) is z times a
    factor in [0, 1], and so is z * sigmoid(z).
    """
    if isinstance(expr, Apply):
        return _finite(function_range(expr))
    if isinstance(expr, Shares):
        return (0.0, 1.0)
    if isinstance(expr, Known):
        if expr.channels != 1:
            return None
        value = float(np.asarray(expr.weight.read()).reshape(-1)[0])
        return (value, value)
    if isinstance(expr, (Pick, Mix)):
        return (yield expr.x)
    if isinstance(expr, (Sum, Product)):
        a, b = (yield expr.a), (yield expr.b)
        if a is None or b is None:
            return None
        if isinstance(expr, Sum):
            return (a[0] + b[0], a[1] + b[1])
        corners = [p * q for p in a for q in b]
        return (min(corners), max(corners))
    return None


def function_range(expr: Apply) -> tuple[float, float]:
    """An interval that holds all values of an elementwise function; its ends may be infinite."""
    record = ELEMENTWISE.get(expr.function)
    return (-math.inf, math.inf) if record is None else record.range(*expr.parameters)


def _finite(interval: tuple[float, float]) -> tuple[float, float] | None:
    return interval if all(math.isfinite(end) for end in interval) else None


@reader
def constant_values(expr: Expr) -> Reading[Array | None]:
    """The values of an expression made of constants alone, FP64, [1, channels]; else None."""
    match expr:
        case Known():
            return np.asarray(expr.weight.read(), dtype=np.float64).reshape(1, -1)
        case Pick():
            values = yield expr.x
            return None if values is None else values[:, expr.index]
        case Apply(function="Reciprocal"):
            values = yield expr.x
            return None if values is None else 1 / values
        case Sum() | Product():
            a, b = (yield expr.a), (yield expr.b)
            if a is not None and b is not None:
                return a + b if isinstance(expr, Sum) else a * b
    return None


@reader
def is_nonlinear(expr: Expr) -> Reading[bool]:
    """Whether an activation function lies between the expression and its linear maps."""
    match expr:
        case Apply():
            return True
        case Pick() | Mix():
            return (yield expr.x)
        case Product() if any(value_range(part) is not None for part in expr.parts):
            factors = [part for part in expr.parts if not isinstance(part, Known)]
            return len(factors) == 2 or (bool(factors) and (yield factors[0]))
        case Product() | Sum():
            return (yield expr.a) or (yield expr.b)
    return False
