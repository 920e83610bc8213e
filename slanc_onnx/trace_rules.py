"""One rule per op: from the values of its inputs to the values of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from slanc_onnx.attention_rules import ATTENTION
from slanc_onnx.expression import (
    CONTRACTIONS,
    Alternatives,
    Apply,
    Convolution,
    Embedding,
    Expr,
    Input,
    Join,
    Mix,
    Product,
    Shares,
    Sum,
    Weight,
)  # fmt: skip
from slanc_onnx.load import Array
from slanc_onnx.movement import FOLDS, MOVERS, CannotFollow, Mover
from slanc_onnx.quantized_rules import QUANTIZED
from slanc_onnx.trace_step import Rule, Step, is_shares, linear, matrix, mixed, scaled
from slanc_onnx.values import Const, Value, View, as_table, as_view, combine, row, row_view


def _move(step: Step) -> list[Value]:
    source = step.known(0)
    parameters = [step.array(i) for i in range(1, len(step.inputs))]
    attributes = {**step.attributes, "outputs": len(step.node.outputs)}
    movers = MOVERS[step.node.op](attributes, parameters)
    others = [v for v in step.inputs if isinstance(v, Const)]
    return [_moved(source, mover, any(v.varies for v in others)) for mover in movers]


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
    data, indices = step.known(0), step.known(1)
    axis = int(step.attributes.get("axis", 0))
    is_table = isinstance(data, Weight) and len(data.shape) > 1 and axis == 0
    if isinstance(indices, Weight):
        raise CannotFollow("gathers at positions that are not known")
    if is_table and (isinstance(indices, View) or indices.varies):
        assert isinstance(data, Weight)
        return [_embedding(data, indices)]
    if isinstance(data, View) and isinstance(indices, View):
        # Rows at positions that depend on the input: the same kind of row.
        where = np.zeros(indices.shape, np.int64)
        return [View(data.expr, np.take(data.ids, where, axis=axis))]
    return _move(step)


def _gather_elements(step: Step) -> list[Value]:
    """As Gather, with an index per element: ids and positions picked out of a constant buffer."""
    data, indices = step.known(0), step.known(1)
    if isinstance(data, Const) and isinstance(indices, Const):
        axis = int(step.attributes.get("axis", 0))
        return [Const(np.take_along_axis(data.array, indices.array.astype(np.int64), axis), True)]
    raise CannotFollow("gathers element by element")


def _first(position: Const | View) -> int | None:
    """The row that a position index names at sequence length 1; None for token ids."""
    if isinstance(position, Const) and position.array.size == 1:
        return int(position.array.reshape(-1)[0])
    if isinstance(position, View) and isinstance(position.expr, Input):
        return 0 if "position" in position.expr.name.lower() else None
    return None


def _embedding(table: Weight, positions: Const | View) -> View:
    rest = table.shape[1:]
    rows = as_table(table, table.shape[0])
    ids = np.arange(rows.shape[1], dtype=np.int32).reshape(rest)
    expr = Embedding(rows.shape[1], rows, _first(positions))
    return View(expr, np.broadcast_to(ids, (*positions.shape, *rest)))


def _slice(step: Step) -> list[Value]:
    """As data movement, but rows of a table up to the sequence's length are rows of that table."""
    data, starts = step.known(0), step.value(1)
    bounds = [v for v in step.inputs[1:] if isinstance(v, Const)]
    moved = _move(step)
    if isinstance(data, Weight) and any(v.varies for v in bounds) and len(data.shape) > 1:
        rows, after = int(np.prod(data.shape[:-1])), moved[0]
        if rows > 1 and isinstance(after, Weight) and after.shape[-1] == data.shape[-1]:
            first = _first(starts) if isinstance(starts, Const) else None
            table = as_table(data, rows)
            return [row_view(Embedding(data.shape[-1], table, first), after.shape)]
    return moved


def _shape(step: Step) -> list[Value]:
    shape = step.known(0).shape[step.attributes.get("start", 0) : step.attributes.get("end")]
    return [Const(np.array(shape, dtype=np.int64), varies=True)]


def _elementwise(step: Step) -> list[Value]:
    """Sums, products, powers and limits of activations; what else there is for constants."""
    values = [step.known(i) for i in range(len(step.inputs))]
    op = step.node.op
    if not any(isinstance(v, View) for v in values):
        return [_fold(op, values)]
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
            raise CannotFollow("picks the smaller or larger of two activations")
        shape = np.broadcast_shapes(*(v.shape for v in values))
        return [View(view.expr, np.broadcast_to(view.ids, shape))]  # a limit on the values
    if op not in ("Add", "Sub", "Mul", "Div"):
        raise CannotFollow("has no rule for activations")
    b: Value = values[1]
    if op == "Div":
        b = _fold("Reciprocal", [b]) if not isinstance(b, View) else _unary("Reciprocal", b)
    if op == "Sub":
        b = _fold("Neg", [b]) if not isinstance(b, View) else scaled(b, -1.0)
    kind: type[Sum] | type[Product] = Sum if op in ("Add", "Sub") else Product
    return [combine(kind, as_view(values[0]), as_view(b))]


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
    parts = [v for v in values if isinstance(v, (Const, Weight))]
    weights = [v for v in parts if isinstance(v, Weight)]
    shape = np.broadcast_shapes(*(v.shape for v in parts))

    def read() -> Array:
        arrays = [v.array.astype(np.float32) if isinstance(v, Const) else v.read() for v in parts]
        return np.asarray(function(*arrays))

    return Weight(weights[0].name, shape, read)


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
    a, b = row(branches[0]), row(branches[1])
    shape = np.broadcast_shapes(branches[0].shape, branches[1].shape)
    return [row_view(Alternatives(a.channels, (a, b), (0.5, 0.5)), shape)]


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
    return [View(Shares(1), np.zeros(step.known(0).shape, np.int32))]


def _matmul(step: Step) -> list[Value]:
    a, b = step.known(0), step.known(1)
    attributes = step.attributes
    alpha = float(attributes.get("alpha", 1.0))
    if isinstance(a, View) and not isinstance(b, View):
        weight = matrix(b, bool(attributes.get("transB", 0)))
        if weight is None or attributes.get("transA", 0):
            raise CannotFollow("multiplies with a vector")
        return [scaled(linear(a, weight), alpha)]
    if isinstance(b, View) and attributes.get("transB", 0):
        b = View(b.expr, np.swapaxes(b.ids, -1, -2))
    if isinstance(b, View) and not isinstance(a, View):
        weight = matrix(a, not attributes.get("transA", 0))
        if weight is None:
            raise CannotFollow("multiplies with a vector")
        turned = linear(View(b.expr, np.swapaxes(b.ids, -1, -2)), weight)
        return [scaled(View(turned.expr, np.swapaxes(turned.ids, -1, -2)), alpha)]
    if isinstance(a, View) and isinstance(b, View) and not attributes.get("transA", 0):
        if is_shares(a.expr):
            shape = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            spread = View(b.expr, np.broadcast_to(b.ids, (*shape, *b.shape[-2:])))
            return [scaled(mixed(spread, a.shape[-2]), alpha)]
        raise CannotFollow("multiplies two activations")
    raise CannotFollow("multiplies two constants")


def _gemm(step: Step) -> list[Value]:
    weight = matrix(step.known(1), bool(step.attributes.get("transB", 0)))
    if weight is None or step.attributes.get("transA", 0):
        raise CannotFollow("transposes its first input")
    result = scaled(linear(step.view(0), weight), float(step.attributes.get("alpha", 1.0)))
    if step.value(2) is not None:
        beta = float(step.attributes.get("beta", 1.0))
        result = combine(Sum, result, scaled(step.view(2), beta))
    return [result]


def _concat(step: Step) -> list[Value]:
    values = [step.known(i) for i in range(len(step.inputs))]
    axis = int(step.attributes["axis"])
    if all(isinstance(v, Const) for v in values):
        consts = [v for v in values if isinstance(v, Const)]
        joined = np.concatenate([np.atleast_1d(c.array) for c in consts], axis=axis)
        return [Const(joined, any(c.varies for c in consts))]
    if not any(isinstance(v, View) for v in values):
        weights = [v for v in values if isinstance(v, Weight)]
        arrays = [np.broadcast_to(np.int8(0), v.shape) for v in values]
        shape = np.concatenate(arrays, axis=axis).shape
        parts = [v for v in values if isinstance(v, (Const, Weight))]

        def read() -> Array:
            read_in = [v.array if isinstance(v, Const) else v.read() for v in parts]
            return np.concatenate([a.astype(np.float32) for a in read_in], axis=axis)

        return [Weight(weights[0].name, shape, read)]
    views = [as_view(v) for v in values]
    filled = [v for v in views if v.ids.size] or views[:1]
    if all(v.expr is filled[0].expr for v in filled):
        return [View(filled[0].expr, np.concatenate([v.ids for v in filled], axis=axis))]
    offsets = np.cumsum([0, *(v.expr.channels for v in filled)])
    ids = [v.ids + int(o) for v, o in zip(filled, offsets[:-1], strict=True)]
    join = Join(int(offsets[-1]), tuple(v.expr for v in filled))
    return [View(join, np.concatenate(ids, axis=axis).astype(np.int32))]


def _reduce(step: Step) -> list[Value]:
    """A mean over positions mixes rows; over channels it is no longer a row."""
    view = step.view(0)
    axes = step.array(1) if len(step.inputs) > 1 else step.attributes.get("axes")
    if axes is None:
        raise CannotFollow("reduces over all axes")
    wanted = {int(a) % view.ids.ndim for a in np.asarray(axes).reshape(-1)}
    ids = view.ids
    for axis in wanted:
        first = np.take(ids, [0], axis=axis)
        if not (ids == first).all():
            raise CannotFollow("reduces over channels")
        if step.node.op == "ReduceSum" and ids.shape[axis] > 1:
            raise CannotFollow("adds up rows of several positions")
        ids = first
    if not step.attributes.get("keepdims", 1):
        ids = np.squeeze(ids, tuple(wanted))
    return [View(Mix(view.expr.channels, view.expr), ids)]


def _conv(step: Step) -> list[Value]:
    view, weight = step.view(0), step.known(1)
    if not isinstance(weight, Weight):
        raise CannotFollow("has a kernel that is no constant")
    kernel = weight.shape[2:]
    attributes = step.attributes
    strides = attributes.get("strides") or [1] * len(kernel)
    dilations = attributes.get("dilations") or [1] * len(kernel)
    pads = attributes.get("pads") or [0] * (2 * len(kernel))
    same = str(attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    spatial = []
    for i, size in enumerate(view.shape[2:]):
        padded = size + pads[i] + pads[i + len(kernel)] - dilations[i] * (kernel[i] - 1) - 1
        spatial.append(-(-size // strides[i]) if same else padded // strides[i] + 1)
    channels, taps = weight.shape[0], int(np.prod(kernel))
    whole = weight
    flat = Weight(weight.name, (channels, weight.shape[1], taps),
                  lambda: whole.read().reshape(channels, -1, taps))  # fmt: skip
    source = row(view, axis=1)
    expr: Expr = Convolution(channels, source, flat, int(attributes.get("group", 1)))
    if step.value(2) is not None:
        expr = Sum(channels, expr, as_view(step.known(2)).expr)
    ids = np.arange(channels, dtype=np.int32).reshape(1, -1, *([1] * len(kernel)))
    return [View(expr, np.broadcast_to(ids, (view.shape[0], channels, *spatial)))]


def _embed_layer_norm(step: Step) -> list[Value]:
    """The sum of rows that EmbedLayerNormalization normalises."""
    total: View | None = None
    for position in (2, 3, 4):
        table = step.value(position)
        if isinstance(table, Weight):
            # Positions count from 0 up; at sequence length 1 there is that one.
            start = Const(np.zeros(step.known(0).shape, np.int64), varies=True)
            rows = _embedding(table, start if position == 3 else step.view(0))
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


def _constant_of_shape(attributes: dict[str, Any], shape: Array) -> Array:
    value = attributes.get("value")
    fill = np.asarray(value.values).reshape(-1)[0] if value is not None else np.float32(0)
    return np.full(tuple(int(n) for n in shape), fill)


# Ops whose output has the broadcast shape of their inputs.
ELEMENTWISE = {
    *FOLDS, *CONTRACTIONS, "Sigmoid", "Clip", "Softmax", "LogSoftmax", "CumSum", "IsNaN", "IsInf",
    "Round", "Trilu", "RotaryEmbedding", "Xor", "BitwiseAnd",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **{op: _move for op in MOVERS},
    **{op: _same for op in ("Identity", "Dropout", "Cast", "CastLike")},
    **{op: _elementwise for op in FOLDS},
    **{op: _activation for op in (*CONTRACTIONS, "Sigmoid", "HardSigmoid", "Exp", "Log", "Sqrt",
                                  "Reciprocal", "Softplus", "Cos")},
    "Gather": _gather,
    "Slice": _slice,
    "Shape": _shape,
    "Where": _where,
    "Clip": _clip,
    "Softmax": _softmax,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "Gemm": _gemm,
    "Concat": _concat,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Conv": _conv,
    "EmbedLayerNormalization": _embed_layer_norm,
    "GatherElements": _gather_elements,
    "CumSum": _const(lambda attributes, x, axis: np.cumsum(x, axis=int(axis))),
    **ATTENTION,
    **QUANTIZED,
    "Range": _const(lambda attributes, a, b, c: np.arange(a.item(), b.item(), c.item())),
    "ConstantOfShape": _const(_constant_of_shape),
    "Size": lambda step: [Const(np.array(np.prod(step.known(0).shape)), varies=True)],
}  # fmt: skip
