"""Sets of rows that are scaled or looked up."""

from __future__ import annotations

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove.sets import (
    DEVICE_SLACK,
    Blocks,
    Box,
    Ellipsoids,
    Gate,
    Reach,
)
from slanc_onnx.weights import Stored, lengths

TABLE_BLOCK = 1 << 19  # elements


def scaled_by(reach: Reach, factors: Array) -> Reach:
    """A set of rows with each channel times a constant of its own, like gamma."""
    if isinstance(reach, Ellipsoids):
        return reach.scaled(factors)
    sizes = np.broadcast_to(np.abs(factors), (reach.channels,)).astype(np.float64)
    if isinstance(reach, Blocks):
        pieces = tuple((i, scaled_by(r, sizes[i])) for i, r in reach.pieces)
        return Blocks(reach.each * sizes * DEVICE_SLACK, pieces)
    return Gate(reach.each * sizes * DEVICE_SLACK, Box(sizes), reach)


def rows_of_table(turned: Stored) -> Reach:
    """The set of a table's rows, by the longest row and the largest element of each channel.

    Args:
        turned: The transpose of the table.
    """
    width, count = turned.shape
    each, longest = np.zeros(width), 0.0
    columns = turned.opened()
    step = max(1, TABLE_BLOCK // max(1, width))
    for start in range(0, count, step):
        rows = columns.columns(start, min(start + step, count)).T
        each = np.maximum(each, np.maximum(rows.max(axis=0), -rows.min(axis=0)))
        longest = max(float(lengths(rows, axis=1).max()), longest)  # nan stays in each
    return Ellipsoids(each, (np.full(width, longest),))
