"""The values that the tracer gives to tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import MOST_CHANNELS, CannotFollow, axis_of, broadcast, common_shape, too_large
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import (
    Alternatives,
    Embedding,
    Expr,
    Input,
    Join,
    Known,
    Opaque,
    Pick,
    Product,
    Shares,
    Sum,
    Weight,
)


@dataclass(frozen=True, eq=False)
class Const:
    """A tensor whose values are known: a small constant, or computed from shapes.

    Attributes:
        array: The values.
        varies: Whether they depend on the sequence length.
    """

    array: Array
    varies: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True, eq=False)
class View:
    """An activation: which channel of an expression each of its elements is.

    Attributes:
        expr: One row, of at most `MOST_CHANNELS`.
        ids: Channel numbers in the shape that the tensor has at batch 1, sequence length 1; at
            most `MOST_TRACED`, as an export of a damaged file may have any shape.
    """

    expr: Expr
    ids: Array

    def __post_init__(self) -> None:
        if too_large(self.ids.shape) or self.expr.channels > MOST_CHANNELS:
            raise CannotFollow(Unread.TOO_LARGE, max(self.ids.size, self.expr.channels))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ids.shape


@dataclass(frozen=True, eq=False)
class Unknown:
    """A tensor of unknown shape.

    Attributes:
        op: The op that stopped the trace.
        tensor: The output of that op.
        reads: The inputs of that op that are known.
    """

    op: str
    tensor: str
    reads: tuple[Expr, ...] = ()

    def row(self, channels: int) -> View:
        """The tensor as rows of so many channels, in the usual rank 3."""
        expr = Opaque(channels, self.op, self.tensor, self.reads)
        return row_view(expr, (1, 1, channels))


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """Matrices that the data picks out of a stack: the weights of the experts of each token.

    Attributes:
        stack: All matrices, shape [experts, rows, columns].
        shape: Shape of the tensor, [..., rows, columns].
    """

    stack: Weight
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Items:
    """A sequence of tensors."""

    values: tuple[Value, ...]


Readable = Const | Weight | View
Value = Readable | Unknown | ExpertWeights | Items


_ZERO = np.zeros((), np.int32)


def row_view(expr: Expr, shape: tuple[int, ...]) -> View:
    """A tensor of `shape` whose last axis is the expression's row."""
    if not shape or expr.channels not in (1, shape[-1]) or min(shape) < 0:
        raise CannotFollow(Unread.MISFIT, expr.channels, shape)
    return View(expr, broadcast(np.arange(expr.channels, dtype=np.int32), shape))


def ids_view(name: str, shape: tuple[int, ...]) -> View:
    """A tensor of ids, indices or a mask, whose values the data gives."""
    return View(Input(1, name, floats=False), broadcast(_ZERO, shape))


def shares_view(shape: tuple[int, ...], axis: int = -1) -> View:
    """Numbers of at least 0 that add up to 1 along an axis."""
    return View(
        Shares(1, shape[axis_of(axis, len(shape))] if shape else 1), broadcast(_ZERO, shape)
    )


def as_weight(value: Const | Weight) -> Weight:
    """A constant as a weight; one whose values are known becomes FP32."""
    if isinstance(value, Weight):
        return value
    array = value.array.astype(np.float32)
    return Weight("constant", array.shape, lambda: array)


def as_view(value: Value) -> View:
    """A value as an activation; a constant becomes one that depends on nothing.

    Raises:
        CannotFollow: the value is unknown, a sequence, or weights that the data chooses.
    """
    if isinstance(value, View):
        return value
    if isinstance(value, Const):
        weight = as_weight(value)
    elif isinstance(value, Weight):
        weight = value
        if len(weight.shape) > 1 and min(weight.shape[-2:]) > 1:  # another row at each position
            table = as_table(weight, int(np.prod(weight.shape[:-1])))
            return row_view(Embedding(weight.shape[-1], table), weight.shape)
    elif isinstance(value, Unknown):
        raise CannotFollow(Unread.UNKNOWN_TENSOR, value.tensor, value.op)
    else:
        raise CannotFollow(Unread.CHOSEN_WEIGHTS)
    size = math.prod(weight.shape)
    if too_large((size,)):
        raise CannotFollow(Unread.TOO_LARGE, size)
    return View(Known(size, weight), np.arange(size, dtype=np.int32).reshape(weight.shape))


def as_table(weight: Weight, rows: int) -> Weight:
    """A constant as a table of shape [rows, channels]."""
    if len(weight.shape) == 2 and weight.shape[0] == rows:
        return weight
    shape = (rows, int(np.prod(weight.shape)) // rows)
    return Weight(weight.name, shape, lambda: weight.read().reshape(shape))


def row(view: View, axis: int = -1) -> Expr:
    """The row along an axis; Alternatives where it differs between positions.

    Raises:
        CannotFollow: the tensor is empty at sequence length 1.
    """
    ids = np.moveaxis(view.ids, axis, -1) if view.ids.ndim else view.ids.reshape(1)
    if not ids.size:
        raise CannotFollow(Unread.EMPTY)
    rows = ids.reshape(-1, ids.shape[-1])
    if (rows == rows[0]).all():
        return pick(view.expr, rows[0])
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    shares = tuple(float(c) / len(rows) for c in counts)
    return Alternatives(kinds.shape[1], tuple(pick(view.expr, k) for k in kinds), shares)


def pick(expr: Expr, index: Array) -> Expr:
    """The channels of an expression at `index`, or itself where these are all in order."""
    index = np.asarray(index)
    if not index.size:
        raise CannotFollow(Unread.EMPTY)
    if len(index) == expr.channels and bool((index == np.arange(expr.channels)).all()):
        return expr
    if isinstance(expr, Pick):
        return pick(expr.x, expr.index[index])
    if isinstance(expr, Join):
        start = 0
        for piece in expr.pieces:
            if start <= index.min() and index.max() < start + piece.channels:
                return pick(piece, index - start)
            start += piece.channels
    return Pick(len(index), expr, index)


def combine(kind: type[Sum] | type[Product], a: View, b: View) -> View:
    """Elementwise sum or product; shapes broadcast as in NumPy."""
    one, many = sorted((a, b), key=lambda v: v.expr.channels)
    try:
        shape = common_shape(a.shape, b.shape)
    except CannotFollow:
        return _row_by_row(kind, a, b)
    if one.expr.channels == 1 and len(shape) == len(many.shape):
        ids = broadcast(many.ids, shape)
        return View(kind(many.expr.channels, a.expr, b.expr), ids)
    first, second = broadcast(a.ids, shape), broadcast(b.ids, shape)
    if a.expr.channels == b.expr.channels and np.array_equal(first, second):
        return View(kind(a.expr.channels, a.expr, b.expr), first)
    keys = first.astype(np.int64) * b.expr.channels + second
    pairs, ids = np.unique(keys.reshape(-1), return_inverse=True)
    left, right = pick(a.expr, pairs // b.expr.channels), pick(b.expr, pairs % b.expr.channels)
    return View(kind(len(pairs), left, right), ids.astype(np.int32).reshape(shape))


def _row_by_row(kind: type[Sum] | type[Product], a: View, b: View) -> View:
    """Sum or product of tensors with different numbers of rows, read row by row.

    They differ where a table is for another image size, say.
    """
    if not a.shape or a.shape[-1:] != b.shape[-1:]:
        raise CannotFollow(Unread.SHAPES_DIFFER, a.shape, b.shape)
    shape = max(a.shape, b.shape, key=lambda s: (len(s), s))
    return row_view(kind(a.shape[-1], row(a), row(b)), shape)


def either(a: View, b: View) -> View:
    """A tensor each of whose rows is one of a or one of b, equally often."""
    first, second = row(a), row(b)
    shape = common_shape(a.shape, b.shape)
    if first.channels != second.channels:  # one number for the whole row
        wider = max(a, b, key=lambda v: v.expr.channels)
        return View(wider.expr, broadcast(wider.ids, shape))
    return row_view(Alternatives(first.channels, (first, second), (0.5, 0.5)), shape)
