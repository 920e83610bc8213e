"""Parts that decoder models share: causal mask, rotary positions, grouped-query attention.

They are written in elementary operations, as PyTorch exporters write them: key and value heads are
repeated with Unsqueeze, Expand and Reshape, the mask is computed from the sequence length.
"""

from dataclasses import dataclass

import numpy as np

from sample_models.graph_builder import GraphBuilder


@dataclass(frozen=True)
class Heads:
    """Shape of an attention: query heads, key/value heads, size of one head."""

    query: int
    key_value: int
    size: int


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of the positions, each [1, 1, sequence, head size]."""

    cos: str
    sin: str


def positions(g: GraphBuilder, input_ids: str) -> str:
    """Return 0, 1, … as int64 for the length of `input_ids` [batch, sequence]."""
    length = g.node("Gather", [g.node("Shape", [input_ids]), g.constant(1)], axis=0)
    return g.node("Range", [g.constant(0), length, g.constant(1)])


def rotary_tables(g: GraphBuilder, position: str, theta: float, size: int) -> Rotary:
    """Compute the rotary tables in float32, whatever the type of the weights."""
    frequency = (theta ** -(np.arange(0, size, 2) / size)).astype(np.float32)
    column = g.node("Unsqueeze", [g.cast(position, "float32"), g.constant([1])])
    half = g.node("Mul", [column, g.constant(frequency)])
    angle = g.node("Concat", [half, half], axis=-1)

    def table(op: str) -> str:
        values = g.node("Unsqueeze", [g.node(op, [angle]), g.constant([0, 1])])
        return values if g.dtype == np.float32 else g.cast(values, str(g.dtype))

    return Rotary(table("Cos"), table("Sin"))


def causal_mask(g: GraphBuilder, position: str, window: int | None = None) -> str:
    """Return what to add to the scores, [sequence, sequence]: 0, or the lowest number.

    Args:
        window: how many keys a query sees at most, itself included; None for all before it.
    """
    query = g.node("Unsqueeze", [position, g.constant([1])])
    key = g.node("Unsqueeze", [position, g.constant([0])])
    visible = g.node("LessOrEqual", [key, query])
    if window is not None:
        near = g.node("Less", [g.node("Sub", [query, key]), g.constant(window)])
        visible = g.node("And", [visible, near])
    lowest = float(np.finfo(g.dtype).min)
    return g.node("Where", [visible, g.constant(0.0), g.constant(lowest)])


def split_heads(g: GraphBuilder, x: str, size: int) -> str:
    """[batch, sequence, heads · size] to [batch, sequence, heads, size]."""
    return g.node("Reshape", [x, g.constant([0, 0, -1, size])])


def heads_first(g: GraphBuilder, x: str) -> str:
    """[batch, sequence, heads, size] to [batch, heads, sequence, size]."""
    return g.node("Transpose", [x], perm=[0, 2, 1, 3])


def rotate(g: GraphBuilder, x: str, rotary: Rotary, size: int) -> str:
    """Apply rotary positions to [batch, heads, sequence, size]."""
    axis, zero, middle, end = (g.constant([value]) for value in (3, 0, size // 2, size))
    first = g.node("Slice", [x, zero, middle, axis])
    second = g.node("Slice", [x, middle, end, axis])
    turned = g.node("Concat", [g.node("Neg", [second]), first], axis=-1)
    return g.node("Add", [g.node("Mul", [x, rotary.cos]), g.node("Mul", [turned, rotary.sin])])


def repeat_heads(g: GraphBuilder, x: str, heads: Heads) -> str:
    """Repeat each key or value head for the query heads of its group."""
    groups = heads.query // heads.key_value
    if groups == 1:
        return x
    x = g.node("Unsqueeze", [x, g.constant([2])])
    x = g.node("Expand", [x, g.constant([1, 1, groups, 1, 1])])
    return g.node("Reshape", [x, g.constant([0, heads.query, -1, heads.size])])


def attend(g: GraphBuilder, q: str, k: str, v: str, mask: str, heads: Heads) -> str:
    """Mix the values; all of [batch, heads, sequence, size], returns [batch, sequence, hidden]."""
    k, v = repeat_heads(g, k, heads), repeat_heads(g, v, heads)
    scores = g.node("MatMul", [q, g.node("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = g.node("Add", [g.node("Mul", [scores, g.constant(heads.size**-0.5)]), mask])
    mixed = g.node("MatMul", [g.node("Softmax", [scores], axis=-1), v])
    return g.node("Reshape", [heads_first(g, mixed), g.constant([0, 0, heads.query * heads.size])])
