"""Rules for matrices and tables in blocks of integers, each block with a scale of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Embedding, Sum, Weight
from slanc_onnx.trace.values import Const, Value, as_view, combine, row_view
from slanc_onnx.trace.visit import Visit, linear
from slanc_onnx.weights import Stored, whole


def values_of(value: Value | None) -> Array:
    if isinstance(value, Const):
        return value.array
    if isinstance(value, Weight):
        return value.read()
    raise CannotFollow(Unread.NOT_CONSTANT, "quantised values")


def constants_of(*values: Value | None) -> list[Const | Weight]:
    """Those operands that are there, of which a matrix is read later on.

    Raises:
        CannotFollow: one is no constant, so that it cannot be read then.
    """
    given = [value for value in values if value is not None]
    held = [value for value in given if isinstance(value, (Const, Weight))]
    if len(held) < len(given):
        raise CannotFollow(Unread.NOT_CONSTANT, "quantised values")
    return held


def _check_blocks(packed: Value, scales: Value, zero: Value | None, rows: int, by: Layout) -> None:
    """Whether the parts of a matrix in blocks fit together.

    Raises:
        CannotFollow: they do not.
    """
    if by.bits not in (2, 4, 8) or by.block < 1 or rows < 1 or by.width < 1:
        raise CannotFollow(Unread.MISFIT, rows, by.width, by.block, by.bits)
    if not isinstance(packed, Const) or packed.array.dtype != np.uint8:
        raise CannotFollow(Unread.NOT_CONSTANT, "quantised values")
    values, *factors = (math.prod(part.shape) for part in constants_of(packed, scales, zero))
    blocks = factors[0] // rows
    per_byte = 8 // by.bits
    fits = values * per_byte == rows * blocks * by.block and factors[0] == rows * blocks
    for size in factors[1:]:  # as floats, or packed like the values, each row in whole bytes
        fits &= size in (rows * blocks, rows * -(-blocks // per_byte))
    if not fits or blocks * by.block < by.width:
        raise CannotFollow(Unread.MISFIT, values, tuple(factors), rows, by.width)
    if by.groups is not None and not (
        by.groups.shape == (by.width,) and by.groups.min() >= 0 and by.groups.max() < blocks
    ):
        raise CannotFollow(Unread.MISFIT, by.width)


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
        zeros = None if part.zeros is None else values_of(part.zeros)
        return dequantize_blocks(
            values_of(part.packed), values_of(part.scales), zeros, self.layout
        ).T

    def part(self, start: int, stop: int) -> _Blocks:
        def some(value: Const | Weight) -> Const:
            return Const(values_of(value).reshape(self.rows, -1)[start:stop])

        zeros = None if self.zeros is None else some(self.zeros)
        return _Blocks(some(self.packed), some(self.scales), zeros, stop - start, self.layout)

    @property
    def nbytes(self) -> int:
        return math.prod(self.packed.shape)

    def turned(self) -> Stored:
        return whole(self.columns(0, self.rows).T)

    def opened(self) -> _Blocks:
        return self


def matmul_nbits(visit: Visit) -> list[Value]:
    """com.microsoft MatMulNBits: x times the transpose of [N, K] blocks, plus a bias."""
    attributes = visit.attributes
    k, n = int(attributes["K"]), int(attributes["N"])
    bits, block = int(attributes.get("bits", 4)), int(attributes["block_size"])
    packed, scales, zero = visit.known(1), visit.known(2), visit.value(3)
    layout = Layout(bits, block, k, visit.array(4))
    _check_blocks(packed, scales, zero, n, layout)
    constants = constants_of(packed, scales, zero)

    def read() -> Array:
        zeros = None if zero is None else values_of(zero)
        values = values_of(packed), values_of(scales)
        return dequantize_blocks(*values, zeros, layout).T

    name = visit.node.inputs[1].name
    stored = _Blocks(constants[0], constants[1], (*constants, None)[2], n, layout)
    result = linear(visit.rows(0, k), Weight(name, (k, n), read, stored=stored))
    bias = visit.value(5)
    return [result if bias is None else combine(Sum, result, as_view(bias))]


def gather_block_quantized(visit: Visit) -> list[Value]:
    """com.microsoft GatherBlockQuantized: rows of a quantised table."""
    attributes = visit.attributes
    data, scales, zero = values_of(visit.known(0)), visit.known(2), visit.value(3)
    bits, block = int(attributes.get("bits", 4)), int(attributes.get("block_size", 128))
    unsigned = data.dtype == np.uint8
    if data.ndim != 2 or bits not in (2, 4, 8) or block < 1:
        raise CannotFollow(Unread.MISFIT, data.shape, block, bits)
    width = data.shape[-1] * (8 // bits if unsigned else 1)
    if unsigned:
        _check_blocks(visit.known(0), scales, zero, len(data), Layout(bits, block, width))
    for part in constants_of(scales, zero) if not unsigned else ():
        if part.shape != (len(data), -(-width // block)):
            raise CannotFollow(Unread.MISFIT, part.shape, data.shape)

    def read() -> Array:
        zeros = None if zero is None else values_of(zero)
        if unsigned:
            return dequantize_blocks(data, values_of(scales), zeros, Layout(bits, block, width))
        shift = np.float32(0) if zeros is None else spread(zeros)
        return np.asarray((data.astype(np.float32) - shift) * spread(values_of(scales)))

    def spread(per_block: Array) -> Array:
        return np.repeat(per_block.astype(np.float32), block, axis=-1)[..., :width]

    table = Weight(visit.node.inputs[0].name, (data.shape[0], width), read)
    return [row_view(Embedding(width, table), (*visit.known(1).shape, width))]
