"""Rules for the attention ops: the output is, per head, a convex combination of rows of V."""

from __future__ import annotations

import numpy as np

from slanc_onnx.ops import CannotFollow, refuse_large, reshaped
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Sum, Weight
from slanc_onnx.trace.values import Unknown, Value, View, as_view, combine
from slanc_onnx.trace.visit import Rule, Visit, linear, matrix, mixed


def _outputs(visit: Visit, first: View) -> list[Value]:
    """The outputs of an attention op: caches and scores stay unknown, as they lead to no norm."""
    return [first, *(Unknown(visit.node.op, t.name) for t in visit.node.outputs[1:])]


def _rows(view: View) -> int:
    """The number of rows that attend; raises CannotFollow where there is no axis of them."""
    if view.ids.ndim < 2:
        raise CannotFollow(Unread.MISFIT, view.shape)
    return view.shape[-2]


def _repeated(values: View, heads: int, value_heads: int) -> View:
    """Rows of `value_heads` heads, each repeated for the query heads that share it."""
    if value_heads == heads:
        return values
    if value_heads < 1 or heads < 1 or heads % value_heads or not values.shape:
        raise CannotFollow(Unread.MISFIT, value_heads, heads)
    ids = reshaped(values.ids, *values.shape[:-1], value_heads, -1)
    refuse_large(heads // value_heads * ids.size)
    ids = np.repeat(ids, heads // value_heads, axis=-2)
    return View(values.expr, reshaped(ids, *values.shape[:-1], -1))


def _group_query_attention(visit: Visit) -> list[Value]:
    """com.microsoft GroupQueryAttention: v is the third input, or packed in the first."""
    heads = int(visit.attributes["num_heads"])
    value_heads = int(visit.attributes["kv_num_heads"])
    if visit.value(2) is not None:
        values = visit.view(2)
    else:
        packed = visit.view(0)
        if not packed.shape or heads < 1 or value_heads < 1:
            raise CannotFollow(Unread.MISFIT, heads, value_heads, packed.shape)
        width = packed.shape[-1] // (heads + 2 * value_heads)
        values = View(packed.expr, packed.ids[..., -value_heads * width :])
    values = _repeated(values, heads, value_heads)
    return _outputs(visit, mixed(values, _rows(values), heads))


def _multi_head_attention(visit: Visit) -> list[Value]:
    """com.microsoft MultiHeadAttention: v is the third input, its bias the last third."""
    if visit.value(2) is None:  # packed [batch, rows, heads, 3, width]
        packed = visit.view(0)
        if packed.ids.ndim != 5 or packed.shape[3] != 3:
            raise CannotFollow(Unread.UNKNOWN_INPUT, "query")
        ids = packed.ids[..., 2, :]
        values = View(packed.expr, ids.reshape(*ids.shape[:-2], -1))
    else:
        values = visit.view(2)
        if values.ids.ndim == 4:  # [batch, heads, rows, width], as caches are
            ids = values.ids.transpose(0, 2, 1, 3)
            values = View(values.expr, ids.reshape(*ids.shape[:2], -1))
    if visit.value(3) is not None:
        bias = visit.view(3)
        if bias.ids.ndim != 1 or not values.shape:
            raise CannotFollow(Unread.MISFIT, bias.shape, values.shape)
        width = values.shape[-1]
        values = combine(Sum, values, View(bias.expr, bias.ids[-width:]))
    return _outputs(visit, mixed(values, _rows(values), int(visit.attributes["num_heads"])))


def _attention(visit: Visit) -> list[Value]:
    """com.microsoft Attention projects x itself; ai.onnx Attention takes q, k, v."""
    if visit.node.domain == "com.microsoft":
        weight = matrix(visit.known(1))
        if weight is None:
            raise CannotFollow(Unread.NO_MATRIX, ())
        sizes = visit.attributes.get("qkv_hidden_sizes")
        if sizes and (len(sizes) != 3 or not 0 < sizes[2] <= weight.shape[1]):
            raise CannotFollow(Unread.MISFIT, tuple(sizes), weight.shape)
        width = int(sizes[2]) if sizes else weight.shape[1] // 3
        start = weight.shape[1] - width
        whole = weight
        v = Weight(weight.name, (weight.shape[0], width), lambda: whole.read()[:, start:])
        values = linear(visit.view(0), v)
        if visit.value(2) is not None:
            bias = as_view(visit.known(2))
            if bias.shape != weight.shape[1:]:
                raise CannotFollow(Unread.MISFIT, bias.shape, weight.shape)
            values = combine(Sum, values, View(bias.expr, bias.ids[..., start:]))
        return _outputs(visit, mixed(values, _rows(values), int(visit.attributes["num_heads"])))
    query, values = visit.view(0), visit.view(2)
    if values.ids.ndim == 4:  # [batch, heads, rows, width]
        if query.ids.ndim != 4 or not values.shape[1] or query.shape[1] % values.shape[1]:
            raise CannotFollow(Unread.MISFIT, values.shape, query.shape)
        repeats = query.shape[1] // values.shape[1]
        if not values.ids.size:  # NumPy counts for the axes of an empty one, however long
            raise CannotFollow(Unread.EMPTY)
        refuse_large(repeats * values.ids.size)
        values = View(values.expr, np.repeat(values.ids, repeats, axis=1))
        return _outputs(visit, mixed(values, _rows(query)))
    heads = int(visit.attributes.get("q_num_heads", 0))
    if heads < 1 or query.ids.ndim != 3:
        raise CannotFollow(Unread.MISFIT, heads, query.shape)
    values = _repeated(values, heads, int(visit.attributes.get("kv_num_heads", 0)))
    return _outputs(visit, mixed(values, _rows(query), heads))


ATTENTION: dict[str, Rule] = {
    "GroupQueryAttention": _group_query_attention,
    "MultiHeadAttention": _multi_head_attention,
    "Attention": _attention,
}
