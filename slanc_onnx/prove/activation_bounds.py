"""Bounds of elementwise functions, by slope, limit or growth."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from slanc_onnx.ops import ELEMENTWISE
from slanc_onnx.prove.sets import DEVICE_SLACK, SLACK, Bounded, Box, Reach
from slanc_onnx.reasons import Reason, Unproved, reason
from slanc_onnx.trace import Apply, never_negative


class NoBound(Exception):
    """Nothing bounds an expression.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def image_of(expr: Apply, x: Reach, inputs: Collection[str] = ()) -> Reach:
    """The set of rows that an elementwise function, or ReduceSum, makes of a set of rows.

    Args:
        expr: The function.
        x: The set of rows that it reads.
        inputs: Names of graph inputs that have no element below zero.

    Raises:
        NoBound: nothing limits the function, or a row may lie outside its domain.
    """
    name, parameters = expr.function, expr.parameters
    if name == "ReduceSum":
        return Box(np.array([min(float(x.each.sum()), math.sqrt(x.channels) * x.length())]) * SLACK)
    record = ELEMENTWISE.get(name)
    domain = "not zero" if record is None else record.domain(*parameters)
    if record is None or domain in ("not zero", "positive"):
        raise NoBound(reason(Unproved.NO_LIMIT, name))
    if domain == "not negative" and not never_negative(expr.x, inputs):
        raise NoBound(reason(Unproved.NEGATIVE_ARGUMENT, name))
    limit = max(abs(end) for end in record.range(*parameters))
    slope = record.slope(*parameters)
    if slope is not None:
        slope *= DEVICE_SLACK
        return Bounded(np.minimum(slope * x.each, limit), x, slope)
    if math.isfinite(limit):
        return Box(np.full(x.channels, limit))
    if record.growth is None:
        raise NoBound(reason(Unproved.NO_LIMIT, name))
    return Box(record.growth(x.each, *parameters) * DEVICE_SLACK)
