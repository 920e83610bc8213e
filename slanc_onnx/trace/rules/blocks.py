"""Rules for matrices and tables in blocks of integers, each block with a scale of its own."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import CannotFollow
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Embedding, Sum, Weight
from slanc_onnx.trace.values import Const, Value, as_view, combine, row_view
from slanc_onnx.trace.visit import Visit, linear
from slanc_onnx.weights import Blocks, Layout, dequantize_blocks, fit


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
    if not isinstance(packed, Const) or packed.array.dtype != np.uint8:
        raise CannotFollow(Unread.NOT_CONSTANT, "quantised values")
    values, *factors = (math.prod(part.shape) for part in constants_of(packed, scales, zero))
    if not fit(values, factors, rows, by):
        raise CannotFollow(Unread.MISFIT, values, tuple(factors), rows, by.width)


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
    reads = [partial(values_of, part) for part in constants]
    stored = Blocks(reads[0], reads[1], (*reads, None)[2], n, layout, math.prod(packed.shape))
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
