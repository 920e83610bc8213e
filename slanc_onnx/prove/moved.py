"""Sets of rows that are scaled, picked, mixed or looked up."""

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
    joined,
)
from slanc_onnx.trace import (
    Embedding,
    Mix,
)
from slanc_onnx.weights import lengths

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


def picked(reach: Reach, index: Array) -> Reach:
    """A set of rows with the channels at `index`; repeated ones belong to other rows of the set.

    Whole rows may lie end to end, like joined heads, or interleaved, like merged patches. Otherwise
    every run of neighbouring channels counts as part of another row.
    """
    if len(np.unique(index)) == len(index):
        return reach.pick(index)
    places = np.arange(len(index))
    copies = int(np.unique(index, return_counts=True)[1].max())
    if len(index) % copies == 0:
        for shape, order in (((copies, -1), "C"), ((-1, copies), "T")):
            rows, at = index.reshape(shape), places.reshape(shape)
            if order == "T":
                rows, at = rows.T, at.T
            if (rows == rows[0]).all() and len(np.unique(rows[0])) == len(rows[0]):
                piece = reach.pick(rows[0])
                return joined([(where, piece) for where in at], len(index))
    runs = np.split(places, np.flatnonzero(np.diff(index) != 1) + 1)
    return joined([(run, reach.pick(index[run])) for run in runs], len(index))


def mixed(expr: Mix, x: Reach) -> Reach:
    """The set of mixed rows; heads are independent, as each has shares of its own."""
    if expr.heads is None:
        return x
    heads = [np.flatnonzero(expr.heads == head) for head in np.unique(expr.heads)]
    if len(heads) == 1:
        return x
    return joined([(channels, x.pick(channels)) for channels in heads], expr.channels)


def rows_of_table(expr: Embedding) -> Reach:
    """The set of a table's rows, by the longest row and the largest element of each channel."""
    each, longest = np.zeros(expr.channels), 0.0
    count, stored = expr.table.shape[0], expr.table.stored
    columns = None if stored is None else stored.turned().opened()
    step = max(1, TABLE_BLOCK // max(1, expr.channels))
    for start in range(0, count, step):
        stop = min(start + step, count)
        rows = (
            expr.table.rows(np.arange(start, stop))
            if columns is None
            else (columns.columns(start, stop).T)
        )
        each = np.maximum(each, np.maximum(rows.max(axis=0), -rows.min(axis=0)))
        longest = max(float(lengths(rows, axis=1).max()), longest)  # nan stays
    return Ellipsoids(each, (np.full(expr.channels, longest),))
