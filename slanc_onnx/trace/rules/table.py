"""The table of rules, and the rules of ops that need few lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from slanc_onnx.graph import Array, told_type
from slanc_onnx.ops import (
    ELEMENTWISE,
    MOST_TRACED,
    MOVES,
    CannotFollow,
    Mover,
    axis_of,
    broadcast,
    refuse_large,
    too_large,
    whole_numbers,
)
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.constants import ON_CONSTANTS
from slanc_onnx.trace.expression import Embedding, Join, Sum, Weight, is_ids
from slanc_onnx.trace.rules.attention import ATTENTION
from slanc_onnx.trace.rules.conv import batch_norm, convolved
from slanc_onnx.trace.rules.elementwise import ELEMENTWISE_RULES, function_of
from slanc_onnx.trace.rules.experts import EXPERTS, moved
from slanc_onnx.trace.rules.matmul import einsum, matmul
from slanc_onnx.trace.rules.quantized import QUANTIZED
from slanc_onnx.trace.rules.reduce import REDUCTIONS
from slanc_onnx.trace.rules.select import SELECTIONS, first_row, gathered, looked_up
from slanc_onnx.trace.values import (
    Const,
    ExpertWeights,
    Items,
    Value,
    View,
    as_table,
    as_view,
    as_weight,
    combine,
    row_view,
)
from slanc_onnx.trace.visit import Rule, Visit, linear, matrix, scaled


def _move(visit: Visit) -> list[Value]:
    chosen = visit.value(0)
    if isinstance(chosen, ExpertWeights):
        return moved(visit, chosen)
    source = visit.known(0)
    others = [v for v in visit.inputs if isinstance(v, Const)]
    return [_moved(source, mover, any(v.varies for v in others)) for mover in visit.movers()]


def _moved(source: Value, mover: Mover, varies: bool) -> Value:
    if isinstance(source, View):
        return View(source.expr, mover(source.ids))
    if isinstance(source, Const):
        return Const(mover(source.array), varies)
    assert isinstance(source, Weight)
    weight: Weight = source
    shape = mover(broadcast(np.zeros((), np.int8), weight.shape)).shape
    return Weight(weight.name, shape, lambda: mover(weight.read()))


def _same(visit: Visit) -> list[Value]:
    """Casts and their like give their input; a weight can still be read row by row."""
    value, dtype = visit.known(0), _cast_to(visit)
    if dtype is not None and isinstance(value, Const):
        with np.errstate(invalid="ignore"):
            return [Const(value.array.astype(dtype), value.varies)]
    return [value]


def _cast_to(visit: Visit) -> np.dtype[Any] | None:
    """The type to which a node casts; None where it does not, or the file does not tell it."""
    if visit.node.op == "Cast":
        return _CASTS.get(int(visit.attributes["to"]), np.dtype(np.float32))
    if visit.node.op != "CastLike":
        return None
    like, told = visit.value(1), told_type(visit.node.inputs[1])
    if isinstance(like, Const):
        return like.array.dtype
    return None if told is None else _CASTS.get(told, np.dtype(np.float32))


# Element types other than floats: divisions and comparisons give other results in them.
_CASTS: dict[int, np.dtype[Any]] = {
    TensorProto.BOOL: np.dtype(bool),
    **dict.fromkeys((TensorProto.INT32, TensorProto.INT64), np.dtype(np.int64)),
}


def _gather(visit: Visit) -> list[Value]:
    """Rows of a table, or channels of a row."""
    return gathered(visit) or _move(visit)


def _slice(visit: Visit) -> list[Value]:
    """Data movement; but a table cut at the sequence length gives rows of the whole table."""
    data, starts = visit.known(0), visit.value(1)
    bounds = [v for v in visit.inputs[1:] if isinstance(v, Const)]
    moved = _move(visit)
    if isinstance(data, Weight) and any(v.varies for v in bounds) and len(data.shape) > 1:
        rows, after = int(np.prod(data.shape[:-1])), moved[0]
        if rows > 1 and isinstance(after, Weight) and after.shape[-1] == data.shape[-1]:
            first = first_row(starts) if isinstance(starts, Const) else None
            table = as_table(data, rows)
            return [row_view(Embedding(data.shape[-1], table, first), after.shape)]
    return moved


def _shape(visit: Visit) -> list[Value]:
    shape = visit.known(0).shape[visit.attributes.get("start", 0) : visit.attributes.get("end")]
    return [Const(np.array(shape, dtype=np.int64), varies=True)]


def _gemm(visit: Visit) -> list[Value]:
    weight = matrix(visit.known(1), bool(visit.attributes.get("transB", 0)))
    if weight is None or visit.attributes.get("transA", 0):
        raise CannotFollow(Unread.NO_RULE_FOR_ATTRIBUTE, "transA")
    x = visit.rows(0, weight.shape[0])
    result = scaled(linear(x, weight), float(visit.attributes.get("alpha", 1.0)))
    if visit.value(2) is not None:
        beta = float(visit.attributes.get("beta", 1.0))
        result = combine(Sum, result, scaled(visit.view(2), beta))
    return [_after(visit, result)]


def _concat(visit: Visit) -> list[Value]:
    values = [visit.known(i) for i in range(len(visit.inputs)) if visit.node.op == "Concat"]
    sequence = visit.value(0)
    if isinstance(sequence, Items):
        if visit.attributes.get("new_axis", 0):
            raise CannotFollow(Unread.NO_RULE_FOR_ATTRIBUTE, "new_axis")
        values = [as_view(value) for value in sequence.values]
    axis = int(visit.attributes["axis"])
    shapes = [v.shape or (1,) for v in values]
    if not any(isinstance(v, Weight) for v in values):
        refuse_large(sum(map(math.prod, shapes)))
    at = axis_of(axis, len(shapes[0])) if shapes else 0
    if len({(len(s), *s[:at], *s[at + 1 :]) for s in shapes}) != 1:
        raise CannotFollow(Unread.MISFIT, *shapes, axis)
    if all(isinstance(v, Const) for v in values):
        consts = [v for v in values if isinstance(v, Const)]
        joined = np.concatenate([np.atleast_1d(c.array) for c in consts], axis=axis)
        return [Const(joined, any(c.varies for c in consts))]
    if not any(isinstance(v, View) for v in values):
        weights = [v for v in values if isinstance(v, Weight)]
        shape = (*shapes[0][:at], sum(s[at] for s in shapes), *shapes[0][at + 1 :])
        parts = [as_weight(v) for v in values if isinstance(v, (Const, Weight))]

        def read() -> Array:
            return np.concatenate([v.read().astype(np.float32) for v in parts], axis=axis)

        return [Weight(weights[0].name, shape, read)]
    views = [as_view(v) for v in values]
    filled = [v for v in views if v.ids.size] or views[:1]
    if all(v.expr is filled[0].expr for v in filled):
        return [View(filled[0].expr, np.concatenate([v.ids for v in filled], axis=axis))]
    offsets = np.cumsum([0, *(v.expr.channels for v in filled)])
    ids = [v.ids + int(o) for v, o in zip(filled, offsets[:-1], strict=True)]
    join = Join(int(offsets[-1]), tuple(v.expr for v in filled))
    return [View(join, np.concatenate(ids, axis=axis).astype(np.int32))]


def _conv(visit: Visit) -> list[Value]:
    last = visit.node.op == "NhwcConv"
    result = convolved(visit, visit.view(0), visit.known(1), visit.value(2), channels_last=last)
    return [_after(visit, result)]


def _after(visit: Visit, view: View) -> View:
    """The output of an op with the activation that ONNX Runtime fused into it."""
    name = visit.attributes.get("activation")
    if not name:
        return view
    if name not in ELEMENTWISE:
        raise CannotFollow(Unread.NO_RULE_FOR_FUNCTION, name)
    defaults = ELEMENTWISE[name].attributes
    given = list(visit.attributes.get("activation_params") or [])  # FusedConv
    named = [visit.attributes.get(f"activation_{key}", value) for key, value in defaults.items()]
    return function_of(str(name), view, *(given[: len(named)] + named[len(given) :]))


def _embed_layer_norm(visit: Visit) -> list[Value]:
    """The sum of embedding rows that EmbedLayerNormalization normalises."""
    total: View | None = None
    for position in (2, 3, 4):
        table = visit.value(position)
        if isinstance(table, Weight):
            # Positions count from 0 up; at sequence length 1 there is that one.
            start = Const(np.zeros(visit.known(0).shape, np.int64), varies=True)
            rows = looked_up(table, start.shape, start if position == 3 else visit.view(0))
            total = rows if total is None else combine(Sum, total, rows)
    if total is None:
        raise CannotFollow(Unread.NOT_CONSTANT, "table")
    return [total]


def _const(function: Callable[..., Array]) -> Rule:
    """A rule for an op whose inputs are all constants.

    Args:
        function: Gives the output from the op's attributes and its input arrays.
    """

    def rule(visit: Visit) -> list[Value]:
        consts = [visit.known(i) for i in range(len(visit.inputs))]
        arrays = [visit.array(i) for i in range(len(consts))]
        varies = any(c.varies for c in consts if isinstance(c, Const))
        return [Const(np.asarray(function(visit.attributes, *arrays)), varies)]

    return rule


def _cumulative(visit: Visit) -> list[Value]:
    """The running sum of constants; along a mask it counts positions, which stay ids."""
    source = visit.known(0)
    if isinstance(source, View):
        if is_ids(source.expr):
            return [source]
        raise CannotFollow(Unread.NO_RULE_FOR_ACTIVATIONS)
    return _const(_running_sum)(visit)


def _running_sum(attributes: dict[str, Any], x: Array, axis: Array) -> Array:
    return np.cumsum(x, axis=axis_of(int(_number(axis)), x.ndim))


def _number(value: Array) -> Any:
    """The number that a constant is; raises CannotFollow where it is more or less than one."""
    if value.size != 1:
        raise CannotFollow(Unread.MISFIT, value.size)
    return value.reshape(-1)[0]


def _range(attributes: dict[str, Any], first: Array, limit: Array, *steps: Array) -> Array:
    """Range; the step may be left out in com.microsoft."""
    start, stop = _number(first), _number(limit)
    step = _number(steps[0]) if steps else 1
    if not step or not abs((float(stop) - float(start)) / float(step)) < MOST_TRACED:
        raise CannotFollow(Unread.MISFIT, float(start), float(stop), float(step))
    return np.arange(start, stop, step)


def _constant_of_shape(attributes: dict[str, Any], shape: Array) -> Array:
    value = attributes.get("value")
    fill = np.float32(0) if value is None else _number(np.asarray(value.values))
    sizes = tuple(whole_numbers(shape))
    if min(sizes, default=0) < 0 or too_large(sizes):
        raise CannotFollow(Unread.MISFIT, tuple(sizes))
    return np.full(sizes, fill)


# Ops whose output has the broadcast shape of their inputs.
KEEPS_SHAPE = {
    *ON_CONSTANTS,
    "Softmax",
    "LogSoftmax",
    "CumSum",
    "IsNaN",
    "IsInf",
    "Round",
    "Trilu",
    "RotaryEmbedding",
    "Xor",
    "BitwiseAnd",
}

RULES: dict[str, Rule] = {
    **{op: _same if moves.movers is None else _move for op, moves in MOVES.items()},
    "Gather": _gather,
    "GatherND": _gather,
    "Slice": _slice,
    "Shape": _shape,
    "MatMul": matmul,
    "FusedMatMul": matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "Einsum": einsum,
    "Concat": _concat,
    "ConcatFromSequence": _concat,
    "Conv": _conv,
    "FusedConv": _conv,
    "NhwcConv": _conv,
    "BatchNormalization": batch_norm,
    "EmbedLayerNormalization": _embed_layer_norm,
    "CumSum": _cumulative,
    **ELEMENTWISE_RULES,
    **ATTENTION,
    **QUANTIZED,
    **REDUCTIONS,
    **SELECTIONS,
    **EXPERTS,
    "Range": _const(_range),
    "ConstantOfShape": _const(_constant_of_shape),
    "Size": lambda visit: [Const(np.array(np.prod(visit.known(0).shape)), varies=True)],
}
