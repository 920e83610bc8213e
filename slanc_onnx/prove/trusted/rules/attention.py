"""Rules of shares: Softmax, and the attention ops that mix rows by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.sets import joined
from slanc_onnx.prove.trusted.axes import apart, with_axes
from slanc_onnx.prove.trusted.kinds import BOOL, FLOATS, INT64, largest_of
from slanc_onnx.prove.trusted.rules.products import MOST_ON_THE_WAY, MOST_POSITIONS, mixed_over
from slanc_onnx.prove.trusted.sizes import Dim, size_of
from slanc_onnx.prove.trusted.table import ANY, MICROSOFT, Call, Result, rule
from slanc_onnx.prove.trusted.values import Facts, Value, interval, masks_in, refuse_wide, rounded
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
        masks = value.hides or {""}  # without a name, nothing outside prevents it
        nan = (nan or frozenset()) | {Condition(name, "keeps") for name in masks}
    made = interval(value.kind, value.dims, 0.0, 1.0, value.facts)
    return replace(made, shares=axis, nan=nan)


@rule(
    "Attention",
    attributes=(
        "is_causal", "kv_num_heads", "q_num_heads", "scale", "softcap", "qk_matmul_output_mode",
    ),
    types=(FLOATS, FLOATS, FLOATS, (*FLOATS, BOOL), FLOATS, FLOATS, ANY),
    since=23,
    extended=True,
)  # fmt: skip
def attention(call: Call) -> Result:
    """Shares of queries and keys mix the values, head by head.

    A causal mask alone leaves every query a position; another one may leave none.
    """
    if any(call.has(place) for place in (4, 5, 6)) or any(call.outputs[3:]):
        raise NoBound(reason(Unread.UNKNOWN_INPUT, "past_key"))  # caches of the graph are left out
    query, key, value = (call.value(place) for place in range(3))
    if any(part.infinite or part.nan is not None for part in (query, key, value)):
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    scores = _most_scores(call, query, key)
    heads = call.attributes.get("q_num_heads", 0)
    groups = call.attributes.get("kv_num_heads", 0)
    _refuse_rounded(call, query, key, size_of(query.dims[-1]) / (heads if query.rank == 3 else 1))
    if value.rank == 3 and heads and groups:
        made = _by_heads(call, query, value, heads, groups)
    elif value.rank != 4 or query.rank != 4:
        raise NoBound(reason(Unread.NO_MATRIX, value.rank))
    else:
        own = (1, 3) if query.dims[1] == value.dims[1] else (3,)
        rows = apart(with_axes(value, [axis for axis in value.axes if axis in own]), (1,))
        dims = (*query.dims[:3], value.dims[3])
        made = replace(rows, dims=dims, shares=None, facts=call.facts)
    made = replace(made, nan=_unmasked(call, scores, 3), facts=made.facts | _made_by_model(call, 4))
    size = call.fresh() if any(call.names[4:6]) else value.dims[-2]
    return [_mixed(made, size, value), *(None for _ in call.outputs[1:])]


def _unmasked(call: Call, scores: float, place: int) -> frozenset[Condition] | None:
    """The conditions under which the mask at a place of the inputs leaves every query a position.

    None where it always does.

    Without a mask all are left, or the first one by a causal mask; and whatever finite numbers are
    added to scores, as long as the sums are finite.
    """
    if not call.has(place):
        return None
    mask = call.value(place)
    if mask.nan is not None:
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    most = largest_of(mask.kind) * (1 + 2.0**-26)  # what is closer than half a unit is rounded down
    if mask.kind in FLOATS and not mask.infinite and mask.largest + scores <= most:
        return None
    hides = mask.hides if mask.infinite else masks_in([mask])
    return frozenset(Condition(name, "keeps") for name in hides or {""})


@rule(
    "RotaryEmbedding",
    attributes=("interleaved", "num_heads", "rotary_embedding_dim"),
    types=(FLOATS, FLOATS, FLOATS, (INT64,)),
    since=23,
)
@rule(
    "RotaryEmbedding",
    attributes=("interleaved", "num_heads", "rotary_embedding_dim", "scale"),
    types=(FLOATS, (INT64,), FLOATS, FLOATS),
    domain=MICROSOFT,
)
def rotary_embedding(call: Call) -> Result:
    """Pairs of elements turned: each becomes a cos - b sin or a sin + b cos."""
    value = call.value()
    own = [call.value(place) for place in range(1, len(call.inputs)) if call.has(place)]
    tables = [table.largest for table in own if table.kind in FLOATS]
    most = value.largest * max(1.0, sum(tables)) * (1 + 2.0**-20)
    return interval(value.kind, value.dims, -most, most, call.facts)


def _mixed(made: Value, size: Dim, value: Value) -> Value:
    """Rows mixed by shares of so many values, which a runtime may divide behind the sum.

    Raises:
        NoBound: the sum before that may be more than FP32 holds.
    """
    count = size if isinstance(size, int) else MOST_POSITIONS
    if not count * value.largest <= MOST_ON_THE_WAY:
        raise NoBound(reason(Unproved.OVERFLOWS_BETWEEN, count * value.largest, MOST_ON_THE_WAY))
    shares = rounded(interval(value.kind, (), 0.0, 1.0, Facts(), shares=0))
    return mixed_over(made, [size], shares.beyond)


def _made_by_model(call: Call, first: int) -> Facts:
    """That the caches an op reads hold rows that this model made."""
    names = call.names[first : first + 2]
    return Facts(frozenset(Condition(name, "made") for name in names if name))


def _most_scores(call: Call, query: Value, key: Value, turned: float = 1.0) -> float:
    """An upper bound of the scores' magnitudes, times the scale where that is above 1.

    Args:
        call: The node.
        query: Its queries.
        key: Its keys.
        turned: By how much the op's own rotation may lengthen both.

    Raises:
        NoBound: FP32 cannot hold them, or the scale has no root.
    """
    scale = float(call.attributes.get("scale", 0.0))
    if scale < 0:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "scale"))
    most = size_of(query.dims[-1]) * query.largest * key.largest * max(1.0, scale) * turned**2
    if not most <= 2.0**126:
        raise NoBound(reason(Unproved.OVERFLOWS_BETWEEN, most, 2.0**126))
    return most


def _refuse_rounded(
    call: Call, query: Value, key: Value, width: float, turned: float = 1.0
) -> None:
    """Refuse scores that the type of the queries does not hold: the op rounds them to it.

    Args:
        call: The node.
        query: Its queries.
        key: Its keys.
        width: Elements of a head.
        turned: By how much the op's own rotation may lengthen both, which it rounds likewise.

    Raises:
        NoBound: it may not hold one, whose softmax is nan.
    """
    scale = float(call.attributes.get("scale", 0.0)) or width**-0.5
    scores = width * query.largest * key.largest * turned**2 * scale
    for most in (scores, query.largest * turned, key.largest * turned):
        if not most * (1 + 2.0**-6) <= largest_of(query.kind):
            raise NoBound(reason(Unproved.OVERFLOWS_BETWEEN, most, largest_of(query.kind)))


def _by_heads(call: Call, query: Value, value: Value, heads: int, groups: int) -> Value:
    """The values of [batch, positions, groups * width], each group for as many heads."""
    value = with_axes(value, (2,))
    width, rest = divmod(size_of(value.dims[2]), groups)
    if rest or not width or heads % groups:
        raise NoBound(reason(Unread.NO_FIT, str(value.dims[2]), str(groups)))
    refuse_wide(heads * width)
    places = np.arange(groups * width).reshape(groups, width)
    own = [value.reach.pick(places[head * groups // heads]) for head in range(heads)]
    at = np.arange(heads * width).reshape(heads, width)
    reach = joined(list(zip(at, own, strict=True)), heads * width)
    dims = (query.dims[0], query.dims[1], heads * width)
    return Value(value.kind, dims, (2,), reach, facts=call.facts)


@rule(
    "GroupQueryAttention",
    attributes=(
        "num_heads", "kv_num_heads", "do_rotary", "scale", "rotary_interleaved",
        "local_window_size", "softcap", "smooth_softmax", "sliding_window_cache",
    ),
    types=(*(FLOATS,) * 5, *(ANY,) * 7),
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
        width, rest = divmod(size_of(query.dims[2]), heads + 2 * groups)
        if rest:
            raise NoBound(reason(Unread.NO_FIT, str(query.dims[2]), str(heads + 2 * groups)))
        kept = np.arange((heads + groups) * width, (heads + 2 * groups) * width)
        dims = (*query.dims[:2], len(kept))
        key, value = query, replace(query, dims=dims, reach=query.reach.pick(kept))
    if call.has(3) or call.has(4):  # caches of the graph are left out
        raise NoBound(reason(Unread.UNKNOWN_INPUT, "past_key"))
    tables = [call.value(place).largest for place in (7, 8) if call.has(place)]
    turned = max(1.0, sum(tables)) if call.attributes.get("do_rotary", 0) else 1.0
    scores = _most_scores(call, query, key, turned)
    _refuse_rounded(call, query, key, size_of(value.dims[2]) / groups, turned)
    if _unmasked(call, scores, 10) is not None:
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    made = _by_heads(call, query, value, heads, groups)
    made = replace(made, facts=made.facts | _made_by_model(call, 3))
    return [_mixed(made, call.fresh(), value), *(None for _ in call.outputs[1:])]
