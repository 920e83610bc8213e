"""What rounding took out of a format: the largest number of a tensor that became infinite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slanc_onnx.run import Emitter

# What a tensor that left the format is to a norm. One that no norm has to do with was made, too.
What = Literal["made", "read", "rows", "product", "divided"]


@dataclass(frozen=True)
class Watched:
    """A tensor of which a model shows whether it left the format.

    Attributes:
        tensor: Its name.
        op: The op that makes it, or the form of a norm.
        output: The output with the largest number that left the format, 0 where none did; for
            rows that with their mean squares.
        norm: The name of the norm that it belongs to; "" for none.
        what: Of that norm, the "rows", what it has "made", what it has "read", the "product" of
            its row with a weight, before that is divided, or what a fold has "divided" before it.
    """

    tensor: str
    op: str
    output: str
    norm: str = ""
    what: What = "made"


def lost(emitter: Emitter, given: str, y: str, size: str) -> str:
    """The largest |size|, [1], where rounding made an element of y infinite; 0 for none.

    What was infinite before, like a mask, or nan, was not lost here.

    Args:
        emitter: Takes the nodes.
        given: What was rounded, FP32.
        y: The same, rounded.
        size: What is told of it: `given` itself, or the sums inside the op that made it.
    """
    gone = emitter.node("And", finite(emitter, given), emitter.node("Not", finite(emitter, y)))
    if size == given:
        return _largest_where(emitter, gone, size)
    some = _largest(emitter, emitter.to_float(gone))
    least = emitter.node("Max", _largest(emitter, emitter.node("Abs", size)), some)
    return emitter.node("Mul", some, least)


def finite(emitter: Emitter, x: str) -> str:
    """Which elements of an FP32 tensor are neither infinite nor nan."""
    return emitter.node("Less", emitter.node("Abs", x), emitter.number(math.inf))


def largest_finite(emitter: Emitter, x: str) -> str:
    """The largest finite |x|, [1]; 0 where there is none."""
    return _largest_where(emitter, finite(emitter, x), x)


def _largest_where(emitter: Emitter, chosen: str, x: str) -> str:
    """The largest |x| of the chosen elements, [1]; 0 where there is none."""
    zero = emitter.number(0.0)
    return _largest(emitter, emitter.node("Where", chosen, emitter.node("Abs", x), zero))


def _largest(emitter: Emitter, x: str) -> str:
    """The largest of all elements that are at least 0, [1]; 0 where there is none."""
    flat = emitter.node("Reshape", x, emitter.integers(-1))
    zero = emitter.constant(np.zeros(1, np.float32))
    return emitter.largest(emitter.node("Concat", flat, zero, axis=0))
