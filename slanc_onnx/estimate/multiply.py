"""Products of sample rows with a weight; estimates read matrices in no other way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.trace import Linear, Weight
from slanc_onnx.weights import holds_nan, read_once

NAN_COLUMNS = 1024  # searched at a time

# Gives rows times the matrix of an expression.
Multiply = Callable[[Linear, Array], Array]


def product_of(expr: Linear, rows: Array, executor: Executor | None = None) -> Array:
    """Rows times the matrix of an expression, a block at a time."""
    product, _ = read_once(expr.weight.blocks(), rows, None, executor)
    assert product is not None
    return product


def checked_product_of(expr: Linear, rows: Array, executor: Executor | None = None) -> Array:
    """As `product_of`, with a check for nan.

    Raises:
        SlancError: the matrix holds nan.
    """
    product = product_of(expr, rows, executor)
    refuse_nan(product, expr.weight)
    return product


def refuse_nan(product: Array, weight: Weight) -> None:
    """Refuse a weight that holds nan, if its product with rows shows that it may.

    Raises:
        SlancError: the weight holds nan.
    """
    if not np.isnan(product).any():
        return
    matrix = weight.blocks()
    for start in range(0, matrix.shape[1], NAN_COLUMNS):
        stop = min(start + NAN_COLUMNS, matrix.shape[1])
        if np.isnan(matrix.columns(start, stop)).any():
            raise holds_nan(weight.name)
