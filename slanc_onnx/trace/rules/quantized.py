"""Rules for quantised weights, which are read as the matrix or table that they stand for.

Quantised activations are read as the numbers that they stand for, too; their scales count as 1.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow, broadcast, common_shape
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Embedding, Product, Sum, Weight
from slanc_onnx.trace.rules.blocks import (
    constants_of,
    gather_block_quantized,
    matmul_nbits,
    values_of,
)
from slanc_onnx.trace.rules.conv import convolved
from slanc_onnx.trace.values import Const, Value, View, as_view, combine
from slanc_onnx.trace.visit import Rule, Visit, is_shares, linear, matrix, mixed


def _spread(values: Array, shape: tuple[int, ...], visit: Visit) -> Array:
    """Scales or zero points for every element: per tensor, per axis or in blocks."""
    axis = int(visit.attributes.get("axis", 1))
    block = int(visit.attributes.get("block_size", 0))
    if values.size == 1:
        return values.reshape(()).astype(np.float32)
    if block:
        repeated = np.repeat(values.astype(np.float32), block, axis=axis)
        return np.take(repeated, range(shape[axis]), axis=axis)
    where = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
    return values.astype(np.float32).reshape(where)


def _check_spread(source: Value, parts: list[Const | Weight], visit: Visit) -> None:
    """Whether scales and zero points fit a constant; raises CannotFollow where they do not."""
    axis = int(visit.attributes.get("axis", 1))
    block = int(visit.attributes.get("block_size", 0))
    shape = source.shape if isinstance(source, (Const, Weight)) else ()
    for part in parts:
        if math.prod(part.shape) == 1:
            continue
        if not -len(shape) <= axis < len(shape):
            raise CannotFollow(Unread.MISFIT, axis, shape)
        wanted = list(shape) if block else [shape[axis]]
        if block > 0:
            wanted[axis] = -(-wanted[axis] // block)
        if block < 0 or list(part.shape) != wanted:
            raise CannotFollow(Unread.MISFIT, part.shape, axis, shape)


def _dequantize_linear(visit: Visit) -> list[Value]:
    """DequantizeLinear of a constant, or of rows of a table of integers."""
    source, scales, zero = visit.known(0), visit.known(1), visit.value(2)
    if isinstance(source, View) and isinstance(source.expr, Embedding):
        if source.expr.table.quantised:
            return [_table_of_numbers(visit, source, source.expr)]
        return [source]

    def read() -> Array:
        shift = 0.0 if zero is None else _spread(values_of(zero), source.shape, visit)
        values = values_of(source).astype(np.float32) - shift
        return np.asarray(values * _spread(values_of(scales), source.shape, visit))

    parts = constants_of(scales, zero)
    if not isinstance(source, (Const, Weight)):
        return [source]  # an activation that was quantised and comes back
    _check_spread(source, parts, visit)
    return [Weight(visit.node.inputs[0].name, source.shape, read)]


def _table_of_numbers(visit: Visit, view: View, rows: Embedding) -> View:
    """Rows of a table of integers as the rows of the numbers that they stand for."""
    scales, zero = visit.known(1), visit.value(2)
    axis = int(visit.attributes.get("axis", 1))
    parts = constants_of(scales, zero)
    per_channel = not all(math.prod(part.shape) == 1 for part in parts)
    channels = np.arange(rows.channels)
    last = view.shape[-1:] == (rows.channels,) and bool((view.ids == channels).all())
    fits = all(math.prod(part.shape) in (1, rows.channels) for part in parts)
    if per_channel and not (last and fits and axis in (-1, len(view.shape) - 1)):
        raise CannotFollow(Unread.MISFIT, view.shape, axis)
    if int(visit.attributes.get("block_size", 0)):
        raise CannotFollow(Unread.NO_RULE_FOR_ATTRIBUTE, "block_size")

    def read() -> Array:
        shift = np.float32(0) if zero is None else values_of(zero).astype(np.float32).reshape(-1)
        return (rows.table.read() - shift) * values_of(scales).astype(np.float32).reshape(-1)

    table = Weight(rows.table.name, rows.table.shape, read)
    return View(Embedding(rows.channels, table, rows.first, rows.ids), view.ids)


def _quantize_linear(visit: Visit) -> list[Value]:
    """QuantizeLinear: an activation stays, a constant is rounded and clipped to its type."""
    source, scales, zero = visit.known(0), visit.known(1), visit.value(2)
    if not isinstance(source, (Const, Weight)):
        return [source]
    _check_spread(source, constants_of(scales, zero), visit)

    def scaled_down() -> Array:
        values = values_of(source).astype(np.float32)
        return np.asarray(values / _spread(values_of(scales), source.shape, visit))

    kind = visit.attributes.get("output_dtype") or TensorProto.UINT8
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(int(kind)))
    if zero is not None:
        dtype = values_of(zero).dtype
    whole = dtype.kind in "iu" or dtype.name.startswith(("int", "uint"))
    limits = (ml_dtypes.iinfo if whole else ml_dtypes.finfo)(dtype)

    def read() -> Array:
        shift = 0.0 if zero is None else _spread(values_of(zero), source.shape, visit)
        values = scaled_down() + shift if not whole else np.rint(scaled_down()) + shift
        clipped = np.clip(values, float(limits.min), float(limits.max))
        return clipped if whole else np.asarray(clipped.astype(dtype).astype(np.float32))

    return [Weight(visit.node.inputs[0].name, source.shape, read)]


def _real(
    visit: Visit, value: int, scale: int | None, zero: int | None, rows_first: bool = False
) -> Value:
    """A quantised operand as the real numbers it stands for: an activation, or a constant.

    Args:
        visit: The op.
        value: Position of the operand among the inputs.
        scale: Position of its scale; None for 1.
        zero: Position of its zero point; None for 0.
        rows_first: Whether the first axis holds the output channels.
    """
    source = visit.known(value)
    if isinstance(source, View):
        return source
    scales = None if scale is None else visit.value(scale)
    shift = None if zero is None else visit.value(zero)
    channels = (source.shape or (1,))[0 if rows_first else -1]
    for part in constants_of(source, scales, shift)[1:]:
        if math.prod(part.shape) not in (1, channels):
            raise CannotFollow(Unread.MISFIT, part.shape, source.shape)

    def read() -> Array:
        values = values_of(source).astype(np.float32)
        if shift is not None:
            values = values - _per_channel(values_of(shift), values, rows_first)
        if scales is None:
            return values
        return values * _per_channel(values_of(scales), values, rows_first)

    return Weight(visit.node.inputs[value].name, source.shape, read)


def _per_channel(values: Array, like: Array, rows_first: bool) -> Array:
    """Scales or zero points along the first axis, or along the last one."""
    flat = values.astype(np.float32).reshape(-1)
    if flat.size == 1:
        return np.asarray(flat[0])
    return flat.reshape(-1, *([1] * (like.ndim - 1))) if rows_first else flat


def _dynamic_quantize(visit: Visit) -> list[Value]:
    """DynamicQuantizeLinear: the activation itself, with the scale 1 and the zero point 0."""
    scale: Value = Const(np.array(1.0, np.float32))
    return [visit.view(0), scale, Const(np.array(0, np.uint8))][: len(visit.node.outputs)]


# Positions of (values, scale, zero point) of both operands, and of the bias.
_Operand = tuple[int, int | None, int | None]
_PRODUCTS: dict[str, tuple[_Operand, _Operand, int]] = {
    "MatMulInteger": ((0, None, 2), (1, None, 3), -1),
    "QLinearMatMul": ((0, 1, 2), (3, 4, 5), -1),
    "MatMulIntegerToFloat": ((0, 2, 4), (1, 3, 5), 6),
    "DynamicQuantizeMatMul": ((0, None, None), (1, 2, 3), 4),
    "QGemm": ((0, 1, 2), (3, 4, 5), 6),
}


def _product(visit: Visit) -> list[Value]:
    """A matrix product of quantised operands: two activations, or one and a weight."""
    first, second, bias = _PRODUCTS[visit.node.op]
    transposed = bool(visit.attributes.get("transB", 0))
    a, b = _real(visit, *first), _real(visit, *second, rows_first=transposed)
    shift = visit.value(bias) if bias >= 0 else None
    if visit.node.op == "QGemm" and shift is not None:
        shift = _bias(visit, bias, first, second)
    if isinstance(a, View) and isinstance(b, View):
        if not is_shares(a.expr):
            raise CannotFollow(Unread.TWO_ACTIVATIONS)
        lead = common_shape(a.shape[:-2], b.shape[:-2])
        return [mixed(View(b.expr, broadcast(b.ids, (*lead, *b.shape[-2:]))), a.shape[-2])]
    weight = matrix(b, transposed)
    if not isinstance(a, View) or weight is None:
        raise CannotFollow(Unread.TWO_CONSTANTS)
    return [linear(a, weight, shift)]


def _bias(visit: Visit, position: int, first: _Operand, second: _Operand) -> Value:
    """A bias in units of the product of both scales."""
    values, scale = visit.known(position), visit.value(second[1] or 0)
    unit = visit.value(first[1] or 0)
    for part in constants_of(values, scale, unit)[1:]:
        if math.prod(part.shape) not in (1, math.prod(values.shape)):
            raise CannotFollow(Unread.MISFIT, part.shape, values.shape)

    def read() -> Array:
        return np.asarray(values_of(values).astype(np.float32) * values_of(scale) * values_of(unit))

    return Weight(visit.node.inputs[position].name, values.shape, read)


def _elementwise(visit: Visit) -> list[Value]:
    """com.microsoft QLinearAdd and QLinearMul."""
    a, b = (as_view(_real(visit, i, i + 1, i + 2)) for i in (0, 3))
    return [combine(Sum if visit.node.op == "QLinearAdd" else Product, a, b)]


def _convolution(visit: Visit) -> list[Value]:
    whole = visit.node.op == "ConvInteger"
    value, scale, zero = (1, None, 3) if whole else (3, 4, 5)
    weight = _real(visit, value, scale, zero, rows_first=True)
    bias = None if whole or visit.value(8) is None else _bias(visit, 8, (0, 1, 2), (3, 4, 5))
    return [convolved(visit, visit.view(0), weight, bias)]


QUANTIZED: dict[str, Rule] = {
    "MatMulNBits": matmul_nbits,
    "GatherBlockQuantized": gather_block_quantized,
    "DequantizeLinear": _dequantize_linear,
    "QuantizeLinear": _quantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize,
    **{op: _product for op in _PRODUCTS},
    "QLinearAdd": _elementwise,
    "QLinearMul": _elementwise,
    "QLinearConv": _convolution,
    "ConvInteger": _convolution,
}
