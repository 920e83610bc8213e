"""Round FP32 tensors to a narrower format, with ONNX nodes that even old models may use.

Sessions run these nodes with optimisation off (`run.Session`), so none is folded or fused away.
"""

from __future__ import annotations

import math

from onnx import TensorProto

from slanc_onnx.accelerator import Format
from slanc_onnx.run import Emitter

# Formats that a Cast rounds to, and the opset that lets it: both to nearest, ties to even.
_CASTS = {"float16": (TensorProto.FLOAT16, 1), "bfloat16": (TensorProto.BFLOAT16, 13)}
# Added to a number up to 2^22 and subtracted again, it leaves the nearest integer, ties to even.
_TO_INTEGER = 1.5 * 2.0**23


def round_to(emitter: Emitter, x: str, form: Format, flush_subnormals: bool = False) -> str:
    """An FP32 tensor with every element rounded to nearest, ties to even.

    What is beyond the largest number becomes infinite. Hardware with FP8 E4M3FN, which has no
    infinity, makes nan of it or saturates: either way the row is lost, and it counts as overflown.

    Args:
        emitter: Takes the nodes.
        x: FP32.
        form: With at most 22 bits, or FP32, which leaves everything as it is.
        flush_subnormals: Whether what is rounded to a subnormal number becomes zero.
    """
    if form.name == "float32":
        return x
    cast, since = _CASTS.get(form.name, (None, 0))
    if cast is not None and emitter.opset >= since:
        y = emitter.to_float(emitter.node("Cast", x, to=cast))
    else:
        y = _by_arithmetic(emitter, x, form)
    if flush_subnormals:
        small = emitter.node("Less", emitter.node("Abs", y), emitter.number(form.smallest_normal))
        y = emitter.node("Where", small, emitter.number(0.0), y)
    return y


def _by_arithmetic(emitter: Emitter, x: str, form: Format) -> str:
    """x in units of its binade's spacing, to the nearest integer, and back: exact but for that.

    A Cast to FP8 would need opset 19. A negative zero loses its sign, which no step of a norm sees.
    """
    number, node = emitter.number, emitter.node
    spacing = node("Mul", _binade(emitter, x, form), number(2 * form.unit_roundoff))
    units = node("Div", x, spacing)
    shifted = node("Add", units, number(_TO_INTEGER))
    integers = node("Sub", shifted, number(_TO_INTEGER))
    y = node("Mul", integers, spacing)
    beyond = node("Less", number(form.largest), node("Abs", y))
    return node("Where", beyond, node("Mul", y, number(math.inf)), y)


def _binade(emitter: Emitter, x: str, form: Format) -> str:
    """The power of two at or below |x|, among those that normal numbers of the format have.

    The logarithm may be off by one next to a power of two, which comparing puts right.
    """
    number, node = emitter.number, emitter.node
    size = node("Max", node("Abs", x), number(form.smallest_normal))
    size = node("Min", size, number(form.largest))
    exponent = node("Floor", node("Mul", node("Log", size), number(1 / math.log(2))))
    power = node("Pow", number(2.0), exponent)
    half, twice = node("Mul", power, number(0.5)), node("Mul", power, number(2.0))
    power = node("Where", node("Less", size, power), half, power)
    return node("Where", node("Less", size, twice), power, twice)
