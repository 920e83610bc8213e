"""Rules for quantised weights, which are read as the matrix or table that they stand for.

Quantised activations are read as the numbers that they stand for, too; their scales count as 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow, broadcast, common_shape
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Embedding, Product, Sum, Weight
from slanc_onnx.trace.rules.conv import convolved
from slanc_onnx.trace.values import Const, Value, View, as_view, combine, row_view
from slanc_onnx.trace.visit import Rule, Visit, is_shares, linear, matrix, mixed
from slanc_onnx.weights import Stored, whole


def _values(value: Value | None) -> Array:
    if isinstance(value, Const):
        return value.array
    if isinstance(value, Weight):
        return value.read()
    raise CannotFollow(Unread.NOT_CONSTANT, "quantised values")


def unpack(packed: Array, bits: int) -> Array:
    """Unsigned integers of `bits` bits from the bytes of the last axis, low bits first."""
    if bits == 8:
        return packed
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    spread = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return spread.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)


class Layout(NamedTuple):
    """How a row of numbers lies in blocks of integers.

    Attributes:
        bits: 2, 4 or 8 per value.
        block: Values per block.
        width: Values per row, without the padding of the last block.
        groups: For each value of a row the block whose scale it has; None for its own.
    """

    bits: int
    block: int
    width: int
    groups: Array | None = None


def dequantize_blocks(
    packed: Array, scales: Array, zero_points: Array | None, layout: Layout
) -> Array:
    """Rows of numbers from blocks of integers, each block with a scale, FP32 [rows, width].

    Args:
        packed: Bytes, [rows, blocks * block * bits / 8] in any shape with that first axis.
        scales: [rows, blocks], in any shape.
        zero_points: Packed like the values, or as floats; None for the middle of the range.
        layout: How the numbers of a row lie.
    """
    bits, block, width, groups = layout
    rows = packed.shape[0]
    values = unpack(packed.reshape(rows, -1), bits).astype(np.float32)
    blocks = values.shape[1] // block
    if zero_points is None:
        zero: Array = np.float32(1 << (bits - 1)) * np.ones((rows, blocks), np.float32)
    elif zero_points.dtype == np.uint8:
        zero = unpack(zero_points.reshape(rows, -1), bits)[:, :blocks].astype(np.float32)
    else:
        zero = zero_points.reshape(rows, blocks).astype(np.float32)
    factors = scales.reshape(rows, blocks).astype(np.float32)
    if groups is not None:
        return (values[:, :width] - zero[:, groups]) * factors[:, groups]
    scaled = (values.reshape(rows, blocks, block) - zero[:, :, None]) * factors[:, :, None]
    return scaled.reshape(rows, -1)[:, :width]


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Columns of the transpose of [N, K] blocks, of which some can be read; see `Stored`.

    Attributes:
        packed: Bytes, of N rows in any shape; the scales and zero points likewise.
        scales: FP32 or FP16; a weight is read when a part is taken.
        zeros: None for the middle of the range.
        rows: N.
        layout: How the K numbers of a row lie.
    """

    packed: Const | Weight
    scales: Const | Weight
    zeros: Const | Weight | None
    rows: int
    layout: Layout

    @property
    def shape(self) -> tuple[int, int]:
        return self.layout.width, self.rows

    def columns(self, start: int, stop: int) -> Array:
        part = self.part(start, stop)
        zeros = None if part.zeros is None else _values(part.zeros)
        return dequantize_blocks(_values(part.packed), _values(part.scales), zeros, self.layout).T

    def part(self, start: int, stop: int) -> _Blocks:
        def some(value: Const | Weight) -> Const:
            return Const(_values(value).reshape(self.rows, -1)[start:stop])

        zeros = None if self.zeros is None else some(self.zeros)
        return _Blocks(some(self.packed), some(self.scales), zeros, stop - start, self.layout)

    @property
    def nbytes(self) -> int:
        return math.prod(self.packed.shape)

    def turned(self) -> Stored:
        return whole(self.columns(0, self.rows).T)

    def opened(self) -> _Blocks:
        return self


def _matmul_nbits(visit: Visit) -> list[Value]:
    """com.microsoft MatMulNBits: x times the transpose of [N, K] blocks, plus a bias."""
    attributes = visit.attributes
    k, n = int(attributes["K"]), int(attributes["N"])
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    packed, scales, zero = visit.known(1), visit.known(2), visit.value(3)
    layout = Layout(bits, block, k, visit.array(4))

    def read() -> Array:
        zeros = None if zero is None else _values(zero)
        values = _values(packed), _values(scales)
        return dequantize_blocks(*values, zeros, layout).T

    name, stored = visit.node.inputs[1].name, None
    constants = [v for v in (packed, scales, zero) if isinstance(v, (Const, Weight))]
    if len(constants) == 2 + (zero is not None):
        stored = _Blocks(constants[0], constants[1], (*constants, None)[2], n, layout)
    result = linear(visit.rows(0, k), Weight(name, (k, n), read, stored=stored))
    bias = visit.value(5)
    return [result if bias is None else combine(Sum, result, as_view(bias))]


def _gather_block_quantized(visit: Visit) -> list[Value]:
    """com.microsoft GatherBlockQuantized: rows of a quantised table."""
    attributes = visit.attributes
    data, scales, zero = _values(visit.known(0)), visit.known(2), visit.value(3)
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    unsigned = data.dtype == np.uint8
    width = data.shape[-1] * (8 // bits if unsigned else 1)

    def read() -> Array:
        zeros = None if zero is None else _values(zero)
        if unsigned:
            return dequantize_blocks(data, _values(scales), zeros, Layout(bits, block, width))
        shift = np.float32(0) if zeros is None else spread(zeros)
        return np.asarray((data.astype(np.float32) - shift) * spread(_values(scales)))

    def spread(per_block: Array) -> Array:
        return np.repeat(per_block.astype(np.float32), block, axis=-1)[..., :width]

    table = Weight(visit.node.inputs[0].name, (data.shape[0], width), read)
    return [row_view(Embedding(width, table), (*visit.known(1).shape, width))]


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


def _dequantize_linear(visit: Visit) -> list[Value]:
    """DequantizeLinear of a constant."""
    source, scales, zero = visit.known(0), visit.known(1), visit.value(2)

    def read() -> Array:
        shift = 0.0 if zero is None else _spread(_values(zero), source.shape, visit)
        values = _values(source).astype(np.float32) - shift
        return np.asarray(values * _spread(_values(scales), source.shape, visit))

    _values(scales)
    if not isinstance(source, (Const, Weight)):
        return [source]  # an activation that was quantised and comes back
    return [Weight(visit.node.inputs[0].name, source.shape, read)]


def _quantize_linear(visit: Visit) -> list[Value]:
    """QuantizeLinear: an activation stays, a constant is rounded and clipped to its type."""
    source, scales, zero = visit.known(0), visit.known(1), visit.value(2)
    if not isinstance(source, (Const, Weight)):
        return [source]

    def scaled_down() -> Array:
        values = _values(source).astype(np.float32)
        return np.asarray(values / _spread(_values(scales), source.shape, visit))

    kind = visit.attributes.get("output_dtype") or TensorProto.UINT8
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(int(kind)))
    if zero is not None:
        dtype = _values(zero).dtype
    whole = dtype.kind in "iu" or dtype.name.startswith(("int", "uint"))
    limits = (ml_dtypes.iinfo if whole else ml_dtypes.finfo)(dtype)

    def read() -> Array:
        shift = 0.0 if zero is None else _spread(_values(zero), source.shape, visit)
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

    def read() -> Array:
        values = _values(source).astype(np.float32)
        if shift is not None:
            values = values - _per_channel(_values(shift), values, rows_first)
        if scales is None:
            return values
        return values * _per_channel(_values(scales), values, rows_first)

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

    def read() -> Array:
        return np.asarray(_values(values).astype(np.float32) * _values(scale) * _values(unit))

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
    "MatMulNBits": _matmul_nbits,
    "GatherBlockQuantized": _gather_block_quantized,
    "DequantizeLinear": _dequantize_linear,
    "QuantizeLinear": _quantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize,
    **{op: _product for op in _PRODUCTS},
    "QLinearAdd": _elementwise,
    "QLinearMul": _elementwise,
    "QLinearConv": _convolution,
    "ConvInteger": _convolution,
}
