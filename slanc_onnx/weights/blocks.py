"""Matrices and tables in blocks of integers, each block with a scale of its own.

As com.microsoft's MatMulNBits and GatherBlockQuantized have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.weights.stored import Stored, whole

Read = Callable[[], Array]


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


def fit(values: int, factors: Sequence[int], rows: int, by: Layout) -> bool:
    """Whether the parts of a matrix in blocks fit together.

    Args:
        values: How many bytes hold the numbers.
        factors: How many scales there are, then how many zero points, if any.
        rows: Of the matrix.
        by: How the numbers of a row lie.
    """
    if by.bits not in (2, 4, 8) or by.block < 1 or rows < 1 or by.width < 1:
        return False
    blocks, per_byte = factors[0] // rows, 8 // by.bits
    fits = values * per_byte == rows * blocks * by.block and factors[0] == rows * blocks
    for size in factors[1:]:  # as floats, or packed like the values, each row in whole bytes
        fits &= size in (rows * blocks, rows * -(-blocks // per_byte))
    if by.groups is not None:
        groups = by.groups
        fits &= groups.shape == (by.width,) and groups.min() >= 0 and groups.max() < blocks
    return bool(fits) and blocks * by.block >= by.width


def unpack(packed: Array, bits: int) -> Array:
    """Unsigned integers of `bits` bits from the bytes of the last axis, low bits first."""
    if bits == 8:
        return packed
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    spread = (packed[..., None] >> shifts) & ((1 << bits) - 1)
    return spread.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)


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


@dataclass(frozen=True)
class _Held:
    """A part that has been read."""

    array: Array

    def __call__(self) -> Array:
        return self.array


@dataclass(frozen=True, eq=False)
class Blocks:
    """Columns of the transpose of [N, K] blocks, of which some can be read; see `Stored`.

    Attributes:
        packed: Reads the bytes, of N rows in any shape; the scales and zero points likewise.
        scales: FP32 or FP16.
        zeros: None for the middle of the range.
        rows: N.
        layout: How the K numbers of a row lie.
        nbytes: Bytes to read for all of it.
    """

    packed: Read
    scales: Read
    zeros: Read | None
    rows: int
    layout: Layout
    nbytes: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.layout.width, self.rows

    def columns(self, start: int, stop: int) -> Array:
        part = self.part(start, stop)
        zeros = None if part.zeros is None else part.zeros()
        return dequantize_blocks(part.packed(), part.scales(), zeros, self.layout).T

    def part(self, start: int, stop: int) -> Blocks:
        def some(read: Read) -> _Held:
            return _Held(read().reshape(self.rows, -1)[start:stop])

        zeros = None if self.zeros is None else some(self.zeros)
        packed = some(self.packed)
        held = packed.array.nbytes
        return Blocks(packed, some(self.scales), zeros, stop - start, self.layout, held)

    def turned(self) -> Stored:
        return whole(self.columns(0, self.rows).T)

    def opened(self) -> Blocks:
        return self
