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
    packed: Array, scales: Array, zero_points: Array | None, bits: int, block: int, width: int,
    groups: Array | None = None,
) -> Array:  # fmt: skip
    """Rows of `width` numbers from blocks of `block` integers, each with a scale, FP32.

    Args:
        packed: Bytes, [rows, blocks * block * bits / 8] in any shape with that first axis.
        scales: [rows, blocks], in any shape.
        zero_points: Packed like the values, or as floats; None for the middle of the range.
        bits: 2, 4 or 8 per value.
        block: Values per block.
        width: Values per row, without the padding of the last block.
        groups: For each value of a row the block whose scale it has; None for its own.
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
    factors = scales.reshape(rows, blocks).astype(np.float32)
    if groups is not None:
        return (values[:, :width] - zero[:, groups]) * factors[:, groups]
    scaled = (values.reshape(rows, blocks, block) - zero[:, :, None]) * factors[:, :, None]
    return scaled.reshape(rows, -1)[:, :width]


def _matmul_nbits(step: Step) -> list[Value]:
    """com.microsoft MatMulNBits: x times the transpose of [N, K] blocks, plus a bias."""
    attributes = step.attributes
    k, n = int(attributes["K"]), int(attributes["N"])
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    packed, scales, zero = step.known(1), step.known(2), step.value(3)
    groups = step.array(4)

    def read() -> Array:
        zeros = None if zero is None else _values(zero)
        values = _values(packed), _values(scales)
        return dequantize_blocks(*values, zeros, bits, block, k, groups).T

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
        shift = np.float32(0) if zeros is None else spread(zeros)
        return np.asarray((data.astype(np.float32) - shift) * spread(_values(scales)))

    def spread(per_block: Array) -> Array:
        return np.repeat(per_block.astype(np.float32), block, axis=-1)[..., :width]

    table = Weight(step.node.inputs[0].name, (data.shape[0], width), read)
    return [row_view(Embedding(width, table), (*step.known(1).shape, width))]


def _spread(values: Array, shape: tuple[int, ...], step: Step) -> Array:
    """Scales or zero points for every element: per tensor, per axis or in blocks."""
    axis = int(step.attributes.get("axis", 1))
    block = int(step.attributes.get("block_size", 0))
    if values.size == 1:
        return values.reshape(()).astype(np.float32)
    if block:
        repeated = np.repeat(values.astype(np.float32), block, axis=axis)
        return np.take(repeated, range(shape[axis]), axis=axis)
    where = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
    return values.astype(np.float32).reshape(where)


def _dequantize_linear(step: Step) -> list[Value]:
    """DequantizeLinear of a constant."""
    source, scales, zero = step.known(0), step.known(1), step.value(2)

    def read() -> Array:
        shift = 0.0 if zero is None else _spread(_values(zero), source.shape, step)
        values = _values(source).astype(np.float32) - shift
        return np.asarray(values * _spread(_values(scales), source.shape, step))

    _values(scales)
    if not isinstance(source, (Const, Weight)):
        return [source]  # an activation that was quantised and comes back
    return [Weight(step.node.inputs[0].name, source.shape, read)]


def _quantize_linear(step: Step) -> list[Value]:
    """QuantizeLinear: activations pass, a constant is rounded and clipped to the 8 or 16 bits."""
    source, scales, zero = step.known(0), step.known(1), step.value(2)
    if not isinstance(source, (Const, Weight)):
        return [source]
    dtype = np.dtype(np.uint8) if zero is None else _values(zero).dtype
    if dtype.kind not in "iu":
        raise CannotFollow(f"quantises a constant to {dtype}")
    limits = np.iinfo(dtype)

    def read() -> Array:
        shift = 0.0 if zero is None else _spread(_values(zero), source.shape, step)
        values = _values(source).astype(np.float32) / _spread(_values(scales), source.shape, step)
        return np.clip(np.rint(values) + shift, limits.min, limits.max)

    return [Weight(step.node.inputs[0].name, source.shape, read)]


QUANTIZED: dict[str, Rule] = {
    "MatMulNBits": _matmul_nbits,
    "GatherBlockQuantized": _gather_block_quantized,
    "DequantizeLinear": _dequantize_linear,
    "QuantizeLinear": _quantize_linear,
}
