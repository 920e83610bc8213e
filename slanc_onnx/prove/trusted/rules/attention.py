"""Rules of shares: Softmax, and the attention ops that mix rows by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.sets import joined
from slanc_onnx.prove.trusted.rules.products import mixed_over
from slanc_onnx.prove.trusted.table import ANY, MICROSOFT, Call, Operand, Result, rule
from slanc_onnx.prove.trusted.values import FLOATS, Value, apart, interval, size_of, with_axes
from slanc_onnx.reasons import Unproved, Unread, reason


@rule("Softmax", attributes=("axis",), extended=True)
def softmax(call: Call) -> Result:
    """Shares along an axis; nan where every score is -inf, which masks from outside may cause."""
    value = call.value()
    axis = call.attributes.get("axis", -1 if call.opset >= 13 else 1) % value.rank
    if call.opset < 13 and axis != value.rank - 1:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "axis"))
    nan = value.nan
    if value.infinite:
        masks = value.facts.origin or {""}  # without a name, nothing outside prevents it
        nan = (nan or frozenset()) | {Condition(name, "keeps") for name in masks}
    made = interval(value.kind, value.dims, 0.0, 1.0, value.facts)
    return replace(made, shares=axis, nan=nan)


@rule(
    "Attention",
    attributes=("is_causal", "kv_num_heads", "q_num_heads", "scale"),
    types=(FLOATS, FLOATS, FLOATS, ANY),
    since=23,
)
def attention(call: Call) -> Result:
    """Shares of queries and keys mix the values, head by head.

    Without a mask of its own, or with a causal one, every query keeps a position.
    """
    if call.has(3) or call.has(4) or call.has(5) or any(call.outputs[1:]):
        raise NoBound(reason(Unread.UNKNOWN_INPUT, "attn_mask"))
    query, key, value = (call.value(place) for place in range(3))
    _scores_fit(query, key)
    heads = call.attributes.get("q_num_heads", 0)
    groups = call.attributes.get("kv_num_heads", 0)
    if value.rank == 3 and heads and groups:
        return _by_heads(call, query, value, heads, groups)
    if value.rank != 4 or query.rank != 4:
        raise NoBound(reason(Unread.NO_MATRIX, value.rank))
    rows = with_axes(value, [axis for axis in value.axes if axis in (1, 3)])
    if query.dims[1] != value.dims[1]:
        rows = with_axes(value, [axis for axis in value.axes if axis == 3])
    rows = apart(rows, (1,))
    dims = (*query.dims[:3], value.dims[3])
    return mixed_over(replace(rows, dims=dims, shares=None, facts=call.facts), value.dims[2])


def _scores_fit(query: Value, key: Value) -> None:
    """Refuse scores that FP32 cannot hold."""
    width = size_of(query.dims[-1])
    if not width * query.largest * key.largest <= 2.0**126:
        raise NoBound(reason(Unproved.OVERFLOWS_BETWEEN, query.largest * key.largest, 2.0**126))


def _by_heads(call: Call, query: Value, value: Value, heads: int, groups: int) -> Value:
    """The values of [batch, positions, groups * width], each group for as many heads."""
    value = with_axes(value, (2,))
    width, rest = divmod(size_of(value.dims[2]), groups)
    if rest or heads % groups:
        raise NoBound(reason(Unread.NO_FIT, str(value.dims[2]), str(groups)))
    places = np.arange(groups * width).reshape(groups, width)
    own = [value.reach.pick(places[head * groups // heads]) for head in range(heads)]
    at = np.arange(heads * width).reshape(heads, width)
    reach = joined(list(zip(at, own, strict=True)), heads * width)
    dims = (query.dims[0], query.dims[1], heads * width)
    made = Value(value.kind, dims, (2,), reach, facts=call.facts)
    return mixed_over(made, value.dims[1])


@rule(
    "GroupQueryAttention",
    attributes=(
        "num_heads", "kv_num_heads", "do_rotary", "scale", "rotary_interleaved",
        "local_window_size",
    ),
    types=(FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, ANY),
    domain=MICROSOFT,
)  # fmt: skip
def group_query_attention(call: Call) -> Result:
    """The same with a cache, which the model made: each of its rows is a row of the values."""
    heads, groups = call.attributes["num_heads"], call.attributes["kv_num_heads"]
    query = call.value(0)
    if call.has(1) and call.has(2):
        key, value = call.value(1), call.value(2)
    else:
        query = with_axes(query, (2,))
        width = size_of(query.dims[2]) // (heads + 2 * groups)
        kept = np.arange((heads + groups) * width, (heads + 2 * groups) * width)
        dims = (*query.dims[:2], len(kept))
        key, value = query, replace(query, dims=dims, reach=query.reach.pick(kept))
    _scores_fit(query, key)
    made = _by_heads(call, query, value, heads, groups)
    past = call.names[4] if len(call.names) > 4 else ""
    if past:
        kept_by = {Condition(name, "made") for name in call.names[3:5] if name}
        made = replace(made, facts=replace(made.facts, conditions=made.facts.conditions | kept_by))
    return [mixed_over(made, call.fresh()), *(None for _ in call.outputs[1:])]


__all__ = ["Operand"]
