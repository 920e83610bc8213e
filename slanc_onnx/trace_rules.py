"""One rule per op: from the values of its inputs to the values of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from slanc_onnx.attention_rules import ATTENTION
from slanc_onnx.conv_rules import batch_norm, convolved
from slanc_onnx.expert_rules import EXPERTS, moved
from slanc_onnx.expression import (
    COMPARISONS,
    CONDITION,
    CONTRACTIONS,
    Apply,
    Embedding,
    Join,
    Product,
    Select,
    Sum,
    Weight,
    is_ids,
)  # fmt: skip
from slanc_onnx.graph import op_of
from slanc_onnx.load import Array
from slanc_onnx.matmul_rules import einsum, matmul
from slanc_onnx.movement import FOLDS, MOVERS, CannotFollow, Mover
from slanc_onnx.quantized_rules import QUANTIZED
from slanc_onnx.reduce_rules import REDUCTIONS, is_total_of
from slanc_onnx.select_rules import SELECTIONS, first_row, gathered, looked_up
from slanc_onnx.trace_step import Rule, Step, added, linear, matrix, scaled
from slanc_onnx.values import (
    Chosen,
    Const,
    Items,
    Readable,
    Value,
    View,
    as_table,
    as_view,
    as_weight,
    combine,
    either,
    ids_view,
    row_view,
    shares_view,
)


def _move(step: Step) -> list[Value]:
    chosen = step.value(0)
    if isinstance(chosen, Chosen):
        return moved(step, chosen)
    source = step.known(0)
    others = [v for v in step.inputs if isinstance(v, Const)]
    return [_moved(source, mover, any(v.varies for v in others)) for mover in step.movers()]


def _moved(source: Value, mover: Mover, varies: bool) -> Value:
    if isinstance(source, View):
        return View(source.expr, mover(source.ids))
    if isinstance(source, Const):
        return Const(mover(source.array), varies)
    assert isinstance(source, Weight)
    weight: Weight = source
    shape = mover(np.broadcast_to(np.int8(0), weight.shape)).shape
    return Weight(weight.name, shape, lambda: mover(weight.read()))


def _same(step: Step) -> list[Value]:
    """Casts and their like: the same value, and Weights stay readable row by row."""
    value = step.known(0)
    if step.node.op == "Cast" and isinstance(value, Const):
        dtype = _CASTS.get(int(step.attributes["to"]), np.dtype(np.float32))
        with np.errstate(invalid="ignore"):
            return [Const(value.array.astype(dtype), value.varies)]
    return [value]


# Element types other than floats, in which divisions and comparisons differ.
_CASTS: dict[int, np.dtype[Any]] = {
    TensorProto.BOOL: np.dtype(bool),
    **dict.fromkeys((TensorProto.INT32, TensorProto.INT64), np.dtype(np.int64)),
}


def _gather(step: Step) -> list[Value]:
    """Rows of a table, or channels of a row."""
    return gathered(step) or _move(step)


def _slice(step: Step) -> list[Value]:
    """As data movement, but rows of a table up to the sequence's length are rows of that table."""
    data, starts = step.known(0), step.value(1)
    bounds = [v for v in step.inputs[1:] if isinstance(v, Const)]
    moved = _move(step)
    if isinstance(data, Weight) and any(v.varies for v in bounds) and len(data.shape) > 1:
        rows, after = int(np.prod(data.shape[:-1])), moved[0]
        if rows > 1 and isinstance(after, Weight) and after.shape[-1] == data.shape[-1]:
            first = first_row(starts) if isinstance(starts, Const) else None
            table = as_table(data, rows)
            return [row_view(Embedding(data.shape[-1], table, first), after.shape)]
    return moved


def _shape(step: Step) -> list[Value]:
    shape = step.known(0).shape[step.attributes.get("start", 0) : step.attributes.get("end")]
    return [Const(np.array(shape, dtype=np.int64), varies=True)]


def _elementwise(step: Step) -> list[Value]:
    """Sums, products, powers and limits of activations; what else there is for constants."""
    values = [step.known(i) for i in range(len(step.inputs))]
    op = op_of(step.node)
    if not any(isinstance(v, View) for v in values):
        return [_fold(op, values)]
    if op == "Sum":
        total = as_view(values[0])
        for value in values[1:]:
            total = combine(Sum, total, as_view(value))
        return [total]
    if op == "Pow":
        base, exponent = step.view(0), step.array(1)
        if exponent is None or exponent.size != 1:
            raise CannotFollow("raises channels to different powers")
        power = float(exponent.reshape(-1)[0])
        if power in (2.0, 3.0):
            square = combine(Product, base, base)
            return [square if power == 2.0 else combine(Product, square, base)]
        return [_unary("Pow", base, power)]
    if op in ("Min", "Max"):
        view, *others = (v for v in values if isinstance(v, View))
        if others:
            return [either(view, others[0])]
        shape = np.broadcast_shapes(*(v.shape for v in values))
        return [View(view.expr, np.broadcast_to(view.ids, shape))]  # a limit on the values
    if op in LOGIC:
        return [_compared(op, values)]
    if op not in ("Add", "Sub", "Mul", "Div"):
        raise CannotFollow("has no rule for activations")
    b: Value = values[1]
    if op == "Div":
        if isinstance(b, View) and isinstance(values[0], View) and is_total_of(b, values[0]):
            return [shares_view(values[0].shape)]
        b = _fold("Reciprocal", [b]) if not isinstance(b, View) else _unary("Reciprocal", b)
    if op == "Sub":
        b = _fold("Neg", [b]) if not isinstance(b, View) else scaled(b, -1.0)
    if op == "Add":
        for zero, other in (values, values[::-1]):
            blank = isinstance(zero, Const) and not zero.array.any()
            if blank and np.broadcast_shapes(zero.shape, other.shape) == other.shape:
                return [as_view(other)]
        return [added(as_view(values[0]), as_view(b))]
    kind: type[Sum] | type[Product] = Sum if op == "Sub" else Product
    return [combine(kind, as_view(values[0]), as_view(b))]


def _compared(op: str, values: Sequence[Readable]) -> View:
    """Where a row lies above or below a number; any other condition is just a mask."""
    x, limit = values[0], values[-1]
    one = isinstance(limit, Const) and limit.array.size == 1
    if op in COMPARISONS and isinstance(x, View) and not is_ids(x.expr) and one:
        assert isinstance(limit, Const)
        return _unary(op, x, float(limit.array.reshape(-1)[0]))
    shape = np.broadcast_shapes(*(v.shape for v in values))
    return ids_view(CONDITION, shape)


def _fold(op: str, values: Sequence[Value]) -> Value:
    function = FOLDS.get(op)
    if function is None:
        raise CannotFollow("has no rule for constants")
    if all(isinstance(v, Const) for v in values):
        consts = [v for v in values if isinstance(v, Const)]
        arrays = [c.array for c in consts]
        if op == "Reciprocal":
            arrays = [a.astype(np.float32) for a in arrays]
        with np.errstate(all="ignore"):
            return Const(np.asarray(function(*arrays)), any(c.varies for c in consts))
    weights = [v for v in values if isinstance(v, Weight)]
    parts = [as_weight(v) for v in values if isinstance(v, (Const, Weight))]
    shape = np.broadcast_shapes(*(v.shape for v in parts))
    return Weight(
        weights[0].name, shape, lambda: np.asarray(function(*(v.read() for v in parts)))
    )


def _where(step: Step) -> list[Value]:
    condition, *values = step.value(0), step.known(1), step.known(2)
    if isinstance(condition, (Const, Weight)) and not any(isinstance(v, View) for v in values):
        return [_fold("Where", [condition, *values])]
    branches = [v for v in values if isinstance(v, View)]
    if len(branches) == 1:  # a mask
        other = next(v for v in values if not isinstance(v, View))
        shape = np.broadcast_shapes(branches[0].shape, other.shape)
        return [View(branches[0].expr, np.broadcast_to(branches[0].ids, shape))]
    if not branches:
        raise CannotFollow("chooses between constants by data")
    if isinstance(condition, View) and isinstance(condition.expr, Apply):
        a, b = (np.broadcast_to(v.ids, condition.shape) for v in branches)
        same = {condition.expr.channels} == {v.expr.channels for v in branches}
        if same and np.array_equal(a, condition.ids) and np.array_equal(b, condition.ids):
            rows = (condition.expr, branches[0].expr, branches[1].expr)
            return [View(Select(condition.expr.channels, *rows), condition.ids)]
    return [either(*branches)]


def _unary(op: str, view: View, *parameters: float | str) -> View:
    return View(Apply(view.expr.channels, op, view.expr, parameters), view.ids)


# Attributes that change a function, with their defaults.
_PARAMETERS: dict[str, dict[str, float | str]] = {
    "Gelu": {"approximate": "none"},
    "QuickGelu": {"alpha": 1.702},
    "Swish": {"alpha": 1.0},
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Celu": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}


def _activation(step: Step) -> list[Value]:
    value = step.known(0)
    if not isinstance(value, View):
        return [_fold(step.node.op, [value])]
    if step.node.op == "Neg":
        return [scaled(value, -1.0)]
    if step.node.op in ("BiasGelu", "FastGelu") and step.value(1) is not None:
        value = combine(Sum, value, step.view(1))
    defaults = _PARAMETERS.get(step.node.op, {})
    parameters = [step.attributes.get(name, value) for name, value in defaults.items()]
    return [_unary(step.node.op, value, *parameters)]


def _clip(step: Step) -> list[Value]:
    return [step.known(0)]  # a limit on the values; the rows are those of the input


def _softmax(step: Step) -> list[Value]:
    return [shares_view(step.known(0).shape, int(step.attributes.get("axis", -1)))]


def _gemm(step: Step) -> list[Value]:
    weight = matrix(step.known(1), bool(step.attributes.get("transB", 0)))
    if weight is None or step.attributes.get("transA", 0):
        raise CannotFollow("transposes its first input")
    x = step.rows(0, weight.shape[0])
    result = scaled(linear(x, weight), float(step.attributes.get("alpha", 1.0)))
    if step.value(2) is not None:
        beta = float(step.attributes.get("beta", 1.0))
        result = combine(Sum, result, scaled(step.view(2), beta))
    return [_after(step, result)]


def _concat(step: Step) -> list[Value]:
    values = [step.known(i) for i in range(len(step.inputs)) if step.node.op == "Concat"]
    sequence = step.value(0)
    if isinstance(sequence, Items):
        if step.attributes.get("new_axis", 0):
            raise CannotFollow("stacks the tensors of a sequence")
        values = [as_view(value) for value in sequence.values]
    axis = int(step.attributes["axis"])
    if all(isinstance(v, Const) for v in values):
        consts = [v for v in values if isinstance(v, Const)]
        joined = np.concatenate([np.atleast_1d(c.array) for c in consts], axis=axis)
        return [Const(joined, any(c.varies for c in consts))]
    if not any(isinstance(v, View) for v in values):
        weights = [v for v in values if isinstance(v, Weight)]
        arrays = [np.broadcast_to(np.int8(0), v.shape) for v in values]
        shape = np.concatenate(arrays, axis=axis).shape
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


def _conv(step: Step) -> list[Value]:
    last = step.node.op == "NhwcConv"
    result = convolved(step, step.view(0), step.known(1), step.value(2), channels_last=last)
    return [_after(step, result)]


def _after(step: Step, view: View) -> View:
    """The activation that ONNX Runtime fused into an op."""
    name = step.attributes.get("activation")
    if not name:
        return view
    if name not in RULES:
        raise CannotFollow(f"has the activation {name}, which has no rule")
    defaults = _PARAMETERS.get(str(name), {})
    given = list(step.attributes.get("activation_params") or [])  # FusedConv
    named = [step.attributes.get(f"activation_{key}", value) for key, value in defaults.items()]
    return _unary(str(name), view, *(given[: len(named)] + named[len(given) :]))


def _embed_layer_norm(step: Step) -> list[Value]:
    """The sum of rows that EmbedLayerNormalization normalises."""
    total: View | None = None
    for position in (2, 3, 4):
        table = step.value(position)
        if isinstance(table, Weight):
            # Positions count from 0 up; at sequence length 1 there is that one.
            start = Const(np.zeros(step.known(0).shape, np.int64), varies=True)
            rows = looked_up(table, start.shape, start if position == 3 else step.view(0))
            total = rows if total is None else combine(Sum, total, rows)
    if total is None:
        raise CannotFollow("looks up a table that is not known")
    return [total]


def _const(function: Callable[..., Array]) -> Rule:
    """A function of known values only."""

    def rule(step: Step) -> list[Value]:
        consts = [step.known(i) for i in range(len(step.inputs))]
        arrays = [step.array(i) for i in range(len(consts))]
        varies = any(c.varies for c in consts if isinstance(c, Const))
        return [Const(np.asarray(function(step.attributes, *arrays)), varies)]

    return rule


def _cumulative(step: Step) -> list[Value]:
    """Of known numbers their running sums; positions counted along a mask stay positions."""
    source = step.known(0)
    if isinstance(source, View):
        if is_ids(source.expr):
            return [source]
        raise CannotFollow("adds up activations")
    return _const(lambda attributes, x, axis: np.cumsum(x, axis=int(axis)))(step)


def _constant_of_shape(attributes: dict[str, Any], shape: Array) -> Array:
    value = attributes.get("value")
    fill = np.asarray(value.values).reshape(-1)[0] if value is not None else np.float32(0)
    return np.full(tuple(int(n) for n in shape), fill)


# Ops whose output is a condition.
LOGIC = {*COMPARISONS, "Equal", "And", "Or", "Not", "Xor", "IsNaN", "IsInf"}

# Ops whose output has the broadcast shape of their inputs.
ELEMENTWISE = {
    *FOLDS, *CONTRACTIONS, "Sigmoid", "Clip", "Softmax", "LogSoftmax", "CumSum", "IsNaN", "IsInf",
    "Round", "Trilu", "RotaryEmbedding", "Xor", "BitwiseAnd",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **{op: _move for op in MOVERS},
    **{op: _same for op in ("Identity", "Dropout", "Cast", "CastLike")},
    **{op: _elementwise for op in (*FOLDS, *LOGIC)},
    **{op: _activation for op in (*CONTRACTIONS, "Sigmoid", "HardSigmoid", "Exp", "Log", "Sqrt",
                                  "Reciprocal", "Softplus", "Cos")},
    "Gather": _gather,
    "GatherND": _gather,
    "Slice": _slice,
    "Shape": _shape,
    "Where": _where,
    "Clip": _clip,
    "Softmax": _softmax,
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
    **ATTENTION,
    **QUANTIZED,
    **REDUCTIONS,
    **SELECTIONS,
    **EXPERTS,
    "Range": _const(lambda attributes, a, b, c: np.arange(a.item(), b.item(), c.item())),
    "ConstantOfShape": _const(_constant_of_shape),
    "Size": lambda step: [Const(np.array(np.prod(step.known(0).shape)), varies=True)],
}  # fmt: skip
