"""What rules have in common: a node with the values of its inputs, and maps that several ops share.

The maps are matrix products, mixtures of rows and multiples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from slanc_onnx.graph import Array
from slanc_onnx.ops import (
    BETWEEN,
    MOST_CHANNELS,
    CannotFollow,
    Mover,
    broadcast,
    moved_by,
    reshaped,
)
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import (
    Expr,
    Linear,
    Mix,
    Mixture,
    Pick,
    Product,
    Shares,
    Sum,
    Weight,
)
from slanc_onnx.trace.ranges import value_range
from slanc_onnx.trace.reading import Reading, reader
from slanc_onnx.trace.values import (
    Const,
    ExpertWeights,
    Items,
    Readable,
    Unknown,
    Value,
    View,
    as_view,
    as_weight,
    combine,
    pick,
    row,
    row_view,
)


@dataclass(frozen=True)
class Visit:
    """One node with the values of its inputs, as a rule reads it.

    Attributes:
        node: The node.
        inputs: The value of each input; None for an optional one that is left out.
        shapes: Shapes by tensor name, inferred at batch 1 and sequence length 1.
    """

    node: gs.Node
    inputs: Sequence[Value | None]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.node.attrs)

    def value(self, position: int) -> Value | None:
        """The value of an input, None where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else None

    def known(self, position: int) -> Readable:
        """The value of an input.

        Raises:
            CannotFollow: the input is absent, or no rule can read its value.
        """
        value = self.value(position)
        if value is None or isinstance(value, (Unknown, ExpertWeights, Items)):
            raise CannotFollow(Unread.UNKNOWN_VALUE)
        return value

    def shape(self, output: int = 0) -> tuple[int, ...] | None:
        """The shape of an output, where shape inference tells it."""
        return self.shapes.get(self.node.outputs[output].name)

    def view(self, position: int) -> View:
        """An input as an activation; raises as `known` does."""
        return as_view(self.known(position))

    def rows(self, position: int, channels: int) -> View:
        """An input as an activation; one of unknown shape gets rows of so many channels."""
        value = self.value(position)
        return value.row(channels) if isinstance(value, Unknown) else self.view(position)

    def movers(self) -> list[Mover]:
        """The functions that move the elements of the first input, one per output.

        Raises:
            CannotFollow: the op moves nothing, or a constant that it depends on is not known.
        """
        record = BETWEEN.get(self.node.op)
        if record is None or record.moves is None or record.moves.movers is None:
            raise CannotFollow(Unread.NO_RULE)
        parameters = [self.array(i) for i in range(1, len(self.inputs))]
        attributes = {**self.attributes, "outputs": len(self.node.outputs)}
        movers = record.moves.movers(attributes, parameters)
        return [partial(moved_by, mover) for mover in movers]

    def array(self, position: int) -> Array | None:
        """The values of a constant input, None where it is absent.

        Raises:
            CannotFollow: it is no constant.
        """
        value = self.value(position)
        if value is None:
            return None
        if not isinstance(value, Const):
            raise CannotFollow(Unread.UNKNOWN_VALUE)
        return value.array


Rule = Callable[[Visit], list[Value]]


@reader
def is_shares(expr: Expr) -> Reading[bool]:
    """Whether a value is the output of a softmax, at most masked or dropped out."""
    if isinstance(expr, Shares):
        return True
    if isinstance(expr, (Pick, Mix)):
        return (yield expr.x)
    if isinstance(expr, Product):
        ranges = [value_range(e) for e in (expr.a, expr.b)]
        bounded = all(r is not None and r[0] >= 0 and r[1] <= 1 for r in ranges)
        return bounded and ((yield expr.a) or (yield expr.b))
    return False


def linear(x: View, weight: Weight, bias: Value | None = None) -> View:
    """x W + bias over the last axis, W of shape [in, out].

    Raises:
        CannotFollow: the rows of x have another length.
    """
    source = row(x)
    if not weight.shape[0] or not weight.shape[1]:
        raise CannotFollow(Unread.MISFIT, weight.shape)
    if source.channels != weight.shape[0]:
        raise CannotFollow(Unread.SHAPES_DIFFER, (source.channels,), weight.shape)
    result = row_view(Linear(weight.shape[1], source, weight), (*x.shape[:-1], weight.shape[1]))
    return result if bias is None else combine(Sum, result, as_view(bias))


def mixed(x: View, rows: int, heads: int = 1) -> View:
    """Convex combinations of the rows in axis -2 of x.

    Args:
        x: Shape [..., positions, channels]; every index of the axes before is a head of its own.
        rows: How many combinations there are.
        heads: How many heads lie side by side in a row.
    """
    if len(x.shape) < 2 or not x.ids.size:
        raise CannotFollow(Unread.MISFIT, x.shape)
    shape = (*x.shape[:-2], rows, x.shape[-1])
    if not (x.ids == x.ids[..., :1, :]).all():
        return row_view(Mix(x.shape[-1], row(x)), shape)
    ids = x.ids[..., 0, :]
    split = View(x.expr, reshaped(ids, *ids.shape[:-1], heads, -1))
    by_head = mixed_by_head(split, split.ids.ndim - 1)
    return View(by_head.expr, broadcast(by_head.ids.reshape(ids.shape)[..., None, :], shape))


def mixed_by_head(x: View, axes: int) -> View:
    """Mixed rows, in which each index of the first `axes` axes is a head with its own shares.

    An axis along which all rows are the same stays an axis of positions.
    """
    ids = x.ids
    for axis in range(axes):
        first = np.take(ids, [0], axis=axis)
        if (ids == first).all():
            ids = first
    if ids.size > MOST_CHANNELS:
        raise CannotFollow(Unread.TOO_LARGE, ids.size)
    heads = np.arange(int(np.prod(ids.shape[:axes]))).repeat(int(np.prod(ids.shape[axes:])))
    source = pick(x.expr, ids.reshape(-1))
    mix = Mix(source.channels, source, heads)
    made = np.arange(source.channels, dtype=np.int32).reshape(ids.shape)
    return View(mix, broadcast(made, x.shape))


def matrix(value: Value, transposed: bool = False) -> Weight | None:
    """A constant as a matrix, without leading axes of length 1; None where it is no matrix.

    Raises:
        CannotFollow: it is a stack of several matrices.
    """
    if isinstance(value, Const) and value.array.dtype.kind == "f":
        value = as_weight(value)
    if not isinstance(value, Weight) or len(value.shape) < 2:
        return None
    if int(np.prod(value.shape[:-2])) != 1:
        raise CannotFollow(Unread.NO_MATRIX, value.shape)
    weight, shape = value, value.shape[-2:]
    stored = weight.stored
    if transposed:
        return Weight(
            weight.name,
            shape[::-1],
            lambda: weight.read().reshape(shape).T,
            stored=stored and stored.turned(),
        )
    return Weight(weight.name, shape, lambda: weight.read().reshape(shape), stored=stored)


def scaled(view: View, factor: float) -> View:
    """An activation times a number."""
    if factor == 1.0:
        return view
    return combine(Product, view, as_view(Const(np.array(factor, np.float32))))


@reader
def has_shares(expr: Expr) -> Reading[bool]:
    """Whether a row was multiplied by shares, as the addends of a convex combination are."""
    if isinstance(expr, (Shares, Mixture)):
        return True
    if isinstance(expr, (Pick, Mix)):
        return (yield expr.x)
    return isinstance(expr, Product) and ((yield expr.a) or (yield expr.b))


def added(a: View, b: View) -> View:
    """The sum of two activations; a mixture of experts where both were multiplied by shares."""
    shared = a.shape == b.shape and bool(a.shape) and has_shares(a.expr) and has_shares(b.expr)
    if not shared or a.expr.channels == 1 or a.expr is b.expr:
        return combine(Sum, a, b)
    kinds = [k for e in (row(a), row(b)) for k in (e.kinds if isinstance(e, Mixture) else (e,))]
    mixture = Mixture(kinds[0].channels, tuple(kinds), (1 / len(kinds),) * len(kinds))
    return row_view(mixture, a.shape)
