"""Rules of whole numbers that stand for others: QuantizeLinear, and weights in blocks.

A constant that is dequantised is computed (`constants.py`), or read by the formula of
`weights/blocks.py` where ONNX Runtime's op has it inside.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from slanc_onnx.graph import Array
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import DEVICE_SLACK, DEVICE_UNIT, Box, total
from slanc_onnx.prove.trusted.axes import with_axes
from slanc_onnx.prove.trusted.kinds import FLOATS, natural
from slanc_onnx.prove.trusted.rules.joins import mul, summed
from slanc_onnx.prove.trusted.rules.picks import rows_of
from slanc_onnx.prove.trusted.rules.products import times
from slanc_onnx.prove.trusted.table import MICROSOFT, WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import LARGE, Constant, facts_of, interval
from slanc_onnx.reasons import Unread, reason
from slanc_onnx.weights import Blocks, Layout, Read, fit

_BYTES = (TensorProto.UINT8,)
# What MatMulNBits may round its input to: nothing, or whole numbers of 8 bits per block.
_LEVELS, _IN_BYTES = (0, 1, 4), 4
_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)


def _along_axis(call: Call, place: int, rank: int) -> Constant:
    """A scale or a zero point, so that it broadcasts to its tensor: one, or one per place of an
    axis."""
    given = call.constant(place)
    numbers = np.asarray(given.values)
    if call.attributes.get("block_size", 0):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "block_size"))
    if numbers.size == 1:
        dims: tuple[int, ...] = ()
    elif numbers.ndim == 1:
        dims = (numbers.size, *(1,) * (rank - 1 - call.attributes.get("axis", 1) % rank))
    else:
        raise NoBound(reason(Unread.NO_RULE_FOR_CONSTANTS))
    kind = call.constant(1).kind  # a zero point as a float: the difference is one
    wide = numbers.astype(np.float32).reshape(dims)
    return Constant(kind, dims, lambda: wide, facts=given.facts)


@rule("DequantizeLinear", attributes=("axis", "block_size"), types=(WHOLE, FLOATS, WHOLE))
def dequantize(call: Call) -> Result:
    """(x - zero point) scale."""
    value = replace(call.value(), kind=call.constant(1).kind)
    if call.has(2):
        value = summed([value, _along_axis(call, 2, value.rank)], minus=True)
    return mul(replace(call, inputs=(value, _along_axis(call, 1, value.rank)), names=("", "scale")))


@rule(
    "QuantizeLinear",
    attributes=("axis", "block_size", "saturate"),
    types=(FLOATS, FLOATS, _NARROW),
    exact=True,
)
def quantize(call: Call) -> Result:
    """x / scale + zero point, to the next whole number of the type: that of the zero point."""
    value = call.value()
    if call.has(2) and call.constant(2).kind not in _NARROW:
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    kind = call.constant(2).kind if call.has(2) else TensorProto.UINT8
    zero = np.asarray(call.constant(2).values) if call.has(2) else np.zeros(1)
    scale = np.asarray(call.constant(1).values, dtype=np.float64)
    if not scale.min() > 0:
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    least, most = natural(kind)
    most_steps = max(abs(value.low), abs(value.high)) / float(scale.min()) * DEVICE_SLACK + 1
    low, high = float(zero.min()) - most_steps, float(zero.max()) + most_steps
    low, high = (min(max(end, least), most) for end in (math.floor(low), math.ceil(high)))
    return interval(kind, value.dims, low, high, call.facts)


def _blocks(call: Call, places: tuple[int, int, int], rows: int, layout: Layout) -> Blocks:
    """The matrix in the inputs at some places: packed bytes, scales and zero points.

    Raises:
        NoBound: they do not fit together.
    """
    parts = [call.constant(place) for place in places if call.has(place)]
    sizes = [part.size for part in parts]
    if len(sizes) < 2 or not fit(sizes[0], sizes[1:], rows, layout):
        raise NoBound(reason(Unread.MISFIT, tuple(sizes), rows, layout.width))
    packed, scales, zeros = (*parts, None)[:3]
    assert packed is not None and scales is not None
    reads = [None if part is None else _reader(part) for part in (packed, scales, zeros)]
    assert reads[0] is not None and reads[1] is not None
    return Blocks(reads[0], reads[1], reads[2], rows, layout, packed.size)


def _reader(part: Constant) -> Read:
    return lambda: np.asarray(part.values)


@rule(
    "MatMulNBits",
    attributes=("K", "N", "bits", "block_size", "accuracy_level"),
    types=(FLOATS, _BYTES, FLOATS, (*FLOATS, *_BYTES), (TensorProto.INT32,), FLOATS),
    domain=MICROSOFT,
)
def product_with_blocks(call: Call) -> Result:
    """Rows times the transpose of [N, K] blocks, plus a bias."""
    height, width = (int(call.attributes[name]) for name in ("K", "N"))
    groups = np.asarray(call.constant(4).values) if call.has(4) else None
    bits, block = int(call.attributes.get("bits", 4)), int(call.attributes["block_size"])
    if groups is not None and (bits != 4 or (call.has(3) and call.constant(3).kind in _BYTES)):
        # With these ONNX Runtime 1.32 reads 2 bits as 4, and takes packed zero points for 8.
        raise NoBound(reason(Unread.READ_IN_TWO_WAYS, "g_idx"))
    stored = _blocks(call, (1, 2, 3), width, Layout(bits, block, height, groups))
    facts = facts_of(call.inputs[1:5])
    matrix = Constant(
        call.constant(2).kind,
        (height, width),
        lambda: stored.columns(0, width),
        stored if height * width > LARGE else None,
        facts,
    )
    value = with_axes(call.value(), (call.value().rank - 1,))
    level = call.attributes.get("accuracy_level", 0)
    if level not in _LEVELS:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "accuracy_level"))
    longest, widest = value.reach.length(), float(value.reach.each.max(initial=0.0))
    if level == _IN_BYTES:  # which rounds a row to 127 steps up to its largest element, or finer
        off = Box(np.full(height, widest / 254 * DEVICE_SLACK))
        value = replace(value, reach=total([value.reach, off]))
    made = times(call, value, matrix, False)
    # A runtime may sum x q and x z apart, each far larger than x (q - z).
    largest = [float(np.abs(part).max(initial=0.0)) for part in _factors(call)]
    apart = 2 * height * DEVICE_UNIT * longest * math.sqrt(height) * largest[0]
    both = total([made.reach, Box(np.full(width, apart * (2**bits + largest[1])))])
    made = replace(made, reach=both)
    return summed([made, call.constant(5)]) if call.has(5) else made


def _factors(call: Call) -> tuple[Array, Array]:
    """The scales, and the zero points that are floats."""
    zeros = call.constant(3) if call.has(3) else None
    floats = zeros is not None and zeros.kind in FLOATS
    return (
        np.asarray(call.constant(2).values, np.float64),
        np.asarray(zeros.values if zeros is not None and floats else 0.0, np.float64),
    )


@rule(
    "GatherBlockQuantized",
    attributes=("bits", "block_size", "gather_axis", "quantize_axis"),
    types=(_BYTES, WHOLE, FLOATS, _BYTES),
    domain=MICROSOFT,
)
def rows_of_blocks(call: Call) -> Result:
    """Rows of a table in blocks."""
    data = call.constant(0)
    bits, block = (call.attributes.get(name, n) for name, n in (("bits", 4), ("block_size", 128)))
    if len(data.dims) != 2 or call.attributes.get("gather_axis", 0) % 2 != 0:
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "gather_axis"))
    if call.attributes.get("quantize_axis", 1) % 2 != 1 or bits not in (2, 4, 8):
        raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, "quantize_axis"))
    width = data.dims[1] * 8 // bits
    stored = _blocks(call, (0, 2, 3), data.dims[0], Layout(bits, block, width))
    facts = facts_of([data, *call.inputs[2:]])
    return rows_of(call.constant(2).kind, call.operand(1).dims, stored, facts)
