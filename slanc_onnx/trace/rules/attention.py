"""Rules for the attention ops: what leaves one is, per head, a convex mix of rows of V."""

from __future__ import annotations

import numpy as np

from slanc_onnx.trace.expression import Sum, Weight
from slanc_onnx.trace.movement import CannotFollow
from slanc_onnx.trace.step import Rule, Step, linear, matrix, mixed
from slanc_onnx.trace.values import Unknown, Value, View, as_view, combine


def _outputs(step: Step, first: View) -> list[Value]:
    """The op's output; its caches and score outputs lead to no norm."""
    return [first, *(Unknown(step.node.op, t.name) for t in step.node.outputs[1:])]


def _repeated(values: View, heads: int, value_heads: int) -> View:
    """Rows of value_heads heads, each head repeated for the query heads that share it."""
    if value_heads == heads:
        return values
    width = values.shape[-1] // value_heads
    ids = values.ids.reshape(*values.shape[:-1], value_heads, width)
    ids = np.repeat(ids, heads // value_heads, axis=-2)
    return View(values.expr, ids.reshape(*values.shape[:-1], heads * width))


def _group_query_attention(step: Step) -> list[Value]:
    """com.microsoft GroupQueryAttention: separate q, k, v, or packed in the first input."""
    heads = int(step.attributes["num_heads"])
    value_heads = int(step.attributes["kv_num_heads"])
    if step.value(2) is not None:
        values = step.view(2)
    else:
        packed = step.view(0)
        width = packed.shape[-1] // (heads + 2 * value_heads)
        values = View(packed.expr, packed.ids[..., -value_heads * width :])
    values = _repeated(values, heads, value_heads)
    return _outputs(step, mixed(values, values.shape[-2], heads))


def _multi_head_attention(step: Step) -> list[Value]:
    """com.microsoft MultiHeadAttention: v is the third input, its bias the last third."""
    if step.value(2) is None:  # packed [batch, rows, heads, 3, width]
        packed = step.view(0)
        ids = packed.ids[..., 2, :] if packed.ids.ndim == 5 else packed.ids
        if packed.ids.ndim != 5:
            raise CannotFollow("packs its inputs in an unknown layout")
        values = View(packed.expr, ids.reshape(*ids.shape[:-2], -1))
    else:
        values = step.view(2)
        if values.ids.ndim == 4:  # [batch, heads, rows, width], as caches are
            ids = values.ids.transpose(0, 2, 1, 3)
            values = View(values.expr, ids.reshape(*ids.shape[:2], -1))
    if step.value(3) is not None:
        bias = step.view(3)
        width = values.shape[-1]
        values = combine(Sum, values, View(bias.expr, bias.ids[-width:]))
    return _outputs(step, mixed(values, values.shape[-2], int(step.attributes["num_heads"])))


def _attention(step: Step) -> list[Value]:
    """com.microsoft Attention projects x itself; ai.onnx Attention takes q, k, v."""
    if step.node.domain == "com.microsoft":
        weight = matrix(step.known(1))
        if weight is None:
            raise CannotFollow("has a weight that is no matrix")
        sizes = step.attributes.get("qkv_hidden_sizes")
        width = int(sizes[2]) if sizes else weight.shape[1] // 3
        start = weight.shape[1] - width
        whole = weight
        v = Weight(weight.name, (weight.shape[0], width), lambda: whole.read()[:, start:])
        values = linear(step.view(0), v)
        if step.value(2) is not None:
            bias = as_view(step.known(2))
            values = combine(Sum, values, View(bias.expr, bias.ids[..., start:]))
        return _outputs(step, mixed(values, values.shape[-2], int(step.attributes["num_heads"])))
    query, values = step.view(0), step.view(2)
    if values.ids.ndim == 4:  # [batch, heads, rows, width]
        repeats = query.shape[1] // values.shape[1]
        values = View(values.expr, np.repeat(values.ids, repeats, axis=1))
        return _outputs(step, mixed(values, query.shape[-2]))
    heads = int(step.attributes["q_num_heads"])
    values = _repeated(values, heads, int(step.attributes["kv_num_heads"]))
    return _outputs(step, mixed(values, query.shape[-2], heads))


ATTENTION: dict[str, Rule] = {
    "GroupQueryAttention": _group_query_attention,
    "MultiHeadAttention": _multi_head_attention,
    "Attention": _attention,
}
