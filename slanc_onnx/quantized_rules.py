"""Rules for quantised weights: read as the matrix or table that they stand for."""

from __future__ import annotations

import numpy as np

from slanc_onnx.expression import Embedding, Sum, Weight
from slanc_onnx.load import Array
from slanc_onnx.movement import CannotFollow
from slanc_onnx.trace_step import Rule, Step, linear
from slanc_onnx.values import Const, Value, as_view, combine, row_view


def _values(value: Value | None) -> Array:
    if isinstance(value, Const):
        return value.array
    if isinstance(value, Weight):
        return value.read()
    raise CannotFollow("has quantised values that are no constants")


def unpack(packed: Array, bits: int) -> Array:
    """Unsigned integers of `bits` bits from the bytes of the last axis, low bits first."""
    if bits == 8:
        return packed
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    spread = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return spread.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)


def dequantize_blocks(
    packed: Array, scales: Array, zero_points: Array | None, bits: int, block: int, width: int
) -> Array:
    """Rows of `width` numbers from blocks of `block` integers, each with a scale, FP32.

    Args:
        packed: Bytes, [rows, blocks * block * bits / 8] in any shape with that first axis.
        scales: [rows, blocks], in any shape.
        zero_points: Packed like the values, or as floats; None for the middle of the range.
        bits: 2, 4 or 8 per value.
        block: Values per block.
        width: Values per row, without the padding of the last block.
    """
    rows = packed.shape[0]
    values = unpack(packed.reshape(rows, -1), bits).astype(np.float32)
    blocks = values.shape[1] // block
    if zero_points is None:
        zero: Array = np.float32(1 << (bits - 1)) * np.ones((rows, blocks), np.float32)
    elif zero_points.dtype == np.uint8:
        zero = unpack(zero_points.reshape(rows, -1), bits)[:, :blocks].astype(np.float32)
    else:
        zero = zero_points.reshape(rows, blocks).astype(np.float32)
    shaped = values.reshape(rows, blocks, block) - zero[:, :, None]
    scaled = shaped * scales.reshape(rows, blocks)[:, :, None].astype(np.float32)
    return scaled.reshape(rows, -1)[:, :width]


def _matmul_nbits(step: Step) -> list[Value]:
    """com.microsoft MatMulNBits: x times the transpose of [N, K] blocks, plus a bias."""
    attributes = step.attributes
    k, n = int(attributes["K"]), int(attributes["N"])
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    packed, scales, zero = step.known(1), step.known(2), step.value(3)

    def read() -> Array:
        zeros = None if zero is None else _values(zero)
        return dequantize_blocks(_values(packed), _values(scales), zeros, bits, block, k).T

    name = step.node.inputs[1].name
    result = linear(step.view(0), Weight(name, (k, n), read))
    bias = step.value(5)
    return [result if bias is None else combine(Sum, result, as_view(bias))]


def _gather_block_quantized(step: Step) -> list[Value]:
    """com.microsoft GatherBlockQuantized: rows of a quantised table."""
    attributes = step.attributes
    data, scales, zero = _values(step.known(0)), step.known(2), step.value(3)
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    unsigned = data.dtype == np.uint8
    width = data.shape[-1] * (8 // bits if unsigned else 1)

    def read() -> Array:
        zeros = None if zero is None else _values(zero)
        if unsigned:
            return dequantize_blocks(data, _values(scales), zeros, bits, block, width)
        expanded = np.repeat(_values(scales).astype(np.float32), block, axis=-1)[..., :width]
        return data.astype(np.float32) * expanded

    table = Weight(step.node.inputs[0].name, (data.shape[0], width), read)
    return [row_view(Embedding(width, table), (*step.known(1).shape, width))]


def _dequantize_linear(step: Step) -> list[Value]:
    """DequantizeLinear of a constant: per tensor, per axis or in blocks."""
    source, scales, zero = step.known(0), step.known(1), step.value(2)
    shape = source.shape
    axis = int(step.attributes.get("axis", 1))
    block = int(step.attributes.get("block_size", 0))

    def spread(values: Array) -> Array:
        if values.size == 1:
            return values.reshape(()).astype(np.float32)
        if block:
            repeated = np.repeat(values.astype(np.float32), block, axis=axis)
            return np.take(repeated, range(shape[axis]), axis=axis)
        where = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
        return values.astype(np.float32).reshape(where)

    def read() -> Array:
        shift = 0.0 if zero is None else spread(_values(zero))
        return np.asarray((_values(source).astype(np.float32) - shift) * spread(_values(scales)))

    _values(scales)
    if not isinstance(source, (Const, Weight)):
        return [source]  # an activation that was quantised and comes back
    return [Weight(step.node.inputs[0].name, shape, read)]


QUANTIZED: dict[str, Rule] = {
    "MatMulNBits": _matmul_nbits,
    "GatherBlockQuantized": _gather_block_quantized,
    "DequantizeLinear": _dequantize_linear,
    "QuantizeLinear": lambda step: [step.known(0)],
}
