"""Checks of ops: each says why a rule's output holds only as an estimate, or None if it is sound.

A check looks at the op's attributes, at its constant inputs and at the views that the rule read and
gave. `provable.py` says which op has which check, and what a sound output claims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import TensorProto

from slanc_onnx.graph import op_of
from slanc_onnx.ops import ELEMENTWISE, CannotFollow, common_shape
from slanc_onnx.reasons import Doubt
from slanc_onnx.trace.expression import (
    Alternatives,
    Apply,
    Embedding,
    Expr,
    Join,
    Linear,
    Mix,
    Mixture,
    Normalised,
    OfRow,
    Product,
    Select,
    Shares,
    Sum,
    Weight,
    is_ids,
)
from slanc_onnx.trace.ranges import never_negative, value_range
from slanc_onnx.trace.reading import Reading, reader
from slanc_onnx.trace.rules import is_total_of
from slanc_onnx.trace.values import Const, ExpertWeights, Items, Value, View
from slanc_onnx.trace.visit import Visit, is_shares

Check = Callable[[Visit, Sequence[Value]], Doubt | None]

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


def views_in(values: Sequence[Value | None]) -> Iterator[View]:
    """The activations among values, those of sequences included."""
    for value in values:
        if isinstance(value, View):
            yield value
        if isinstance(value, Items):
            yield from views_in(value.values)


def channel_axes(view: View) -> set[int]:
    """The axes along which the elements are different channels."""
    axes = range(view.ids.ndim if view.ids.size else 0)
    return {a for a in axes if (view.ids != np.take(view.ids, [0], axis=a)).any()}


def repeats(view: View, axis: int = -1) -> Doubt | None:
    """Why rows that hold a channel twice cannot be read; None where none does.

    The second one may be of another position and no copy. Rows of a Mix and shares are exempt:
    there each repetition stands for a number of its own.

    Args:
        view: The tensor.
        axis: Along which its rows lie.
    """
    if not view.ids.size:
        return Doubt.EMPTY_INPUT
    rows = np.moveaxis(view.ids, axis, -1) if view.ids.ndim else view.ids.reshape(1)
    rows = np.sort(rows.reshape(-1, rows.shape[-1]), axis=-1)
    if isinstance(view.expr, (Mix, Shares)) or not (rows[:, 1:] == rows[:, :-1]).any():
        return None
    return Doubt.ONE_ROW_OF_SEVERAL


@reader
def has_zero(expr: Expr) -> Reading[bool]:
    """Whether an expression stands for a row of zeros, among others."""
    match expr:
        case Mix() | Mixture() | Shares() | Normalised():
            return True
        case Product():
            return (yield expr.a) or (yield expr.b)
        case Sum():
            return (yield expr.a) and (yield expr.b)
        case Apply():
            record = ELEMENTWISE.get(expr.function)
            return record is not None and record.zero_at_zero(*expr.parameters) and (yield expr.x)
        case Select():
            return (yield expr.a) and (yield expr.b)
        case Join():
            for piece in expr.pieces:
                if not (yield piece):
                    return False
            return True
        case Alternatives():
            for kind in expr.kinds:
                if (yield kind):
                    return True
        case Linear() | OfRow():
            return (yield expr.x)
    return False


def always(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Accept every output."""
    return None


def of_constants(doubt: Doubt) -> Check:
    """A check that accepts constants and refuses activations, for this reason."""

    def check(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
        return doubt if any(True for _ in views_in(visit.inputs)) else None

    return check


def dequantised(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A DequantizeLinear may read constants, and rows of a table of integers."""
    source = visit.value(0)
    rows = source.expr if isinstance(source, View) else None
    if isinstance(rows, Embedding) and rows.table.quantised:
        return None
    return of_constants(Doubt.ROUNDED)(visit, outputs)


def elementwise(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Elementwise ops have to combine rows of equal length, and no ids as numbers."""
    views = list(views_in(visit.inputs))
    if not views:
        return None
    known = [visit.known(i) for i in range(len(visit.inputs))]
    try:
        common_shape(*(v.shape for v in known))
    except CannotFollow:
        return Doubt.ROW_COUNTS_DIFFER
    if any(isinstance(o.expr, Mixture) for o in views_in(outputs)):
        return Doubt.SEVERAL_SOFTMAXES
    if op_of(visit.node) == "Div":
        total = visit.value(1)
        if isinstance(total, View) and is_total_of(total, views[0]):
            return _quotient(views[0])
        if any(is_ids(view.expr) for view in views):
            return Doubt.WHOLE_NUMBERS
    for one in views:
        for many in views:
            if one.expr.channels == 1 < many.expr.channels and _is_wide(one, many):
                return Doubt.ONE_NUMBER_PER_ROW
    return None


def _is_wide(one: View, many: View) -> bool:
    """Whether a tensor that is read as one number per row may differ between channels."""
    axes = {axis - many.ids.ndim for axis in channel_axes(many)}
    return any(-axis <= one.ids.ndim and one.shape[axis] > 1 for axis in axes)


def _quotient(part: View) -> Doubt | None:
    """Why numbers divided by their sum are no shares: one may be negative, or counts twice."""
    last = np.sort(part.ids.reshape(-1, part.shape[-1]), axis=-1)
    if not never_negative(part.expr) or (last[:, 1:] == last[:, :-1]).any():
        return Doubt.SIGNED_SHARES
    return None


def _is_in(made: Value, limited: View) -> bool:
    """Whether the expression of an output holds the limit, as a Clip of the input."""
    return (
        isinstance(made, View)
        and isinstance(made.expr, Apply)
        and made.expr.function == "Clip"
        and made.expr.x is limited.expr
    )


def limited(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Limits that the expression leaves out must never bind."""
    views = list(views_in(visit.inputs))
    if not views or _is_in(outputs[0], views[0]):
        return None
    limits = value_range(views[0].expr)
    op = visit.node.op
    numbers = [v.array for v in visit.inputs if isinstance(v, Const)]
    if limits is None or len(views) > 1 or len(numbers) != len(visit.inputs) - 1:
        return Doubt.LIMIT_LEFT_OUT
    lowest, highest = limits
    if op == "Clip":
        low = visit.attributes.get("min", -np.inf) if visit.array(1) is None else visit.array(1)
        high = visit.attributes.get("max", np.inf) if visit.array(2) is None else visit.array(2)
        binds = bool(np.any(np.asarray(low) > lowest) or np.any(np.asarray(high) < highest))
    elif op == "Min":
        binds = any(bool(np.any(n < highest)) for n in numbers)
    else:
        binds = any(bool(np.any(n > lowest)) for n in numbers)
    return Doubt.LIMIT_LEFT_OUT if binds else None


def where(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Where has to choose whole rows, or be read as a Select."""
    condition, *branches = (visit.value(i) for i in range(3))
    views = [v for v in branches if isinstance(v, View)]
    if not views or isinstance(getattr(outputs[0], "expr", None), Select):
        return None
    shape = getattr(condition, "shape", ())
    by_element = any(
        -a <= len(shape) and shape[a] > 1
        for v in views
        for a in (axis - v.ids.ndim for axis in channel_axes(v))
    )
    other = next((v for v in branches if isinstance(v, Const)), None)
    if len(views) == 1:
        blank = other is not None and not other.array.any()
        if not blank:
            return Doubt.CONSTANT_IN_PLACE
        if is_shares(views[0].expr):
            return None
        if by_element or not has_zero(views[0].expr):
            return Doubt.ZERO_IN_PLACE
        return None
    if by_element or views[0].expr.channels != views[1].expr.channels:
        return Doubt.CHOSEN_BY_ELEMENT
    if any(v.ids.ndim - 1 not in channel_axes(v) for v in views):
        return Doubt.CHOSEN_ALONG_OTHER_AXIS
    return None


def cast(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A cast of numbers has to be to a float type."""
    source = visit.value(0)
    if isinstance(source, View) and not is_ids(source.expr):
        if visit.node.op == "Cast" and int(visit.attributes["to"]) not in _FLOATS:
            return Doubt.ROUNDED
        like = visit.value(1)
        if visit.node.op == "CastLike" and not (
            isinstance(like, Weight)
            or (isinstance(like, View) and not is_ids(like.expr))
            or (isinstance(like, Const) and like.array.dtype.kind in "fV")
        ):
            return Doubt.UNKNOWN_TYPE
    if isinstance(source, Const) and visit.node.op == "Cast" and source.array.dtype.kind == "f":
        known = int(visit.attributes["to"]) in {
            *_FLOATS,
            TensorProto.BOOL,
            TensorProto.INT32,
            TensorProto.INT64,
        }
        return None if known else Doubt.ROUNDED
    return None


def dropout(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Dropout has to be off, as it is outside training."""
    training = visit.value(2)
    off = training is None or (isinstance(training, Const) and not training.array.any())
    return None if off else Doubt.CHOSEN_BY_DATA


def softmax(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A softmax has to run over the last axis.

    Before opset 13 it runs over all axes from `axis` on; along the last one the sum is less then.
    """
    rank = len(visit.known(0).shape)
    axis = int(visit.attributes.get("axis", -1))
    return None if axis in (-1, rank - 1) else Doubt.SHARES_ALONG_OTHER_AXIS


def matmul(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A row times a matrix may hold no channel twice."""
    a, b = visit.value(0), visit.value(1)
    if isinstance(a, View) and isinstance(b, View):
        return None  # shares times rows: those of a row add up to 1 along the last axis
    if isinstance(a, View) and not isinstance(b, ExpertWeights):
        return repeats(a)
    if isinstance(b, View):
        return repeats(b, -1 if visit.attributes.get("transB", 0) else -2)
    return repeats(a) if isinstance(a, View) else None


def gemm(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """As `matmul`, for the first input."""
    views = list(views_in(visit.inputs[:1]))
    return repeats(views[0]) if views else None


def einsum(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Shares have to be summed along their last axis, over rows of one kind."""
    a, b = visit.value(0), visit.value(1)
    if not isinstance(a, View) or not isinstance(b, View):
        view = a if isinstance(a, View) else b
        return repeats(view) if isinstance(view, View) else None
    letters = str(visit.attributes["equation"]).replace(" ", "").partition("->")
    first, second = letters[0].split(",")
    if is_shares(b.expr):
        a, b, first, second = b, a, second, first
    summed = [c for c in first if c in second and c not in letters[2]]
    if summed not in ([], [first[-1]]) or any(c not in letters[2] + second for c in first):
        return Doubt.SHARES_ALONG_OTHER_AXIS
    if any(second.index(c) in channel_axes(b) for c in summed):
        return Doubt.SEVERAL_KINDS
    return None


def conv(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """The channels of a convolution's input may hold none twice."""
    source = visit.value(0)
    if not isinstance(source, View):
        return None
    return repeats(source, -1 if visit.node.op == "NhwcConv" else 1)


def batch_norm(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """The statistics have to be those of training."""
    return Doubt.OWN_STATISTICS if visit.attributes.get("training_mode") else None


def embed(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """The tables of EmbedLayerNormalization have to be constants."""
    tables = [visit.value(i) for i in (2, 3, 4)]
    every = all(v is None or isinstance(v, Weight) for v in tables)
    return None if every else Doubt.TABLE_NOT_CONSTANT


def total(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A sum has to be over the channels of a row; one over positions depends on their number."""
    for source, made in zip(views_in(visit.inputs), views_in(outputs), strict=False):
        whole = isinstance(made.expr, Apply) and made.expr.function == "ReduceSum"
        if not whole or made.expr is source.expr or repeats(source) is not None:
            return Doubt.REDUCED
    return None


def attention(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Attention has to mix rows of V as they are; `past_values` tells of past rows."""
    op, domain = visit.node.op, visit.node.domain
    if str(visit.attributes.get("v_quant_type", "NONE")) != "NONE":
        return Doubt.ROUNDED
    values = visit.value(0 if op == "Attention" and domain == "com.microsoft" else 2)
    if isinstance(values, Const) and values.varies:
        return Doubt.NUMBERS_BY_LENGTH
    return repeats(values) if isinstance(values, View) and op == "Attention" else None


def nbits(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """As `gemm`, for weights in blocks of integers: the input may not be rounded too."""
    if int(visit.attributes.get("accuracy_level", 0)) == 4:
        return Doubt.INPUT_ROUNDED
    return gemm(visit, outputs)


def mean(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A mean has to be over positions, which is a Mix."""
    views = list(views_in(outputs))
    if views and not isinstance(views[0].expr, Mix):
        return Doubt.REDUCED_CHANNELS
    return None
