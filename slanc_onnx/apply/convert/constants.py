"""Constants in 16 bits: rounded to nearest, with masks clamped and epsilons kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from slanc_onnx.accelerator import Format
from slanc_onnx.apply.merge import cast
from slanc_onnx.graph import Array

_CHUNK = 1 << 16  # elements that are looked at together, in a processor's cache


@dataclass(frozen=True)
class Limits:
    """What becomes of numbers that a format does not hold.

    Attributes:
        format: The format.
        beyond: The size of what is finite and too large for it.
        least: The size of what would become zero; 0 where it may.
    """

    format: Format
    beyond: float
    least: float = 0.0


@dataclass(frozen=True)
class Counts:
    """What became of the elements of a constant.

    Attributes:
        elements: How many are not zero.
        clipped: How many were too large.
        raised: How many were too small and were kept from becoming zero.
        subnormal: How many are subnormal numbers now, or zero.
        zero: How many became zero.
        largest: The largest of those that were clipped; 0 for none.
        smallest: The smallest of those that were raised; 0 for none.
    """

    elements: int = 0
    clipped: int = 0
    raised: int = 0
    subnormal: int = 0
    zero: int = 0
    largest: float = 0.0
    smallest: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        smallest = [c.smallest for c in (self, other) if c.smallest]
        return Counts(
            self.elements + other.elements,
            self.clipped + other.clipped,
            self.raised + other.raised,
            self.subnormal + other.subnormal,
            self.zero + other.zero,
            max(self.largest, other.largest),
            min(smallest, default=0.0),
        )


def narrowed(values: Array, limits: Limits) -> tuple[Array, Counts]:
    """Values in a format, each rounded once, with what became of them.

    Args:
        values: FP64, FP32 or of 16 bits, any shape.
        limits: The format, and what becomes of what it does not hold.

    Returns:
        The same shape in the format; infinity and nan stay.
    """
    dtype = np.dtype(getattr(ml_dtypes, limits.format.name, limits.format.name))
    result = np.empty(values.shape, dtype)
    flat, out, counts = values.reshape(-1), result.reshape(-1), Counts()
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        wide = flat[part] if flat.dtype == np.float64 else flat[part].astype(np.float32, copy=False)
        counts += _narrow(wide, out[part], limits)
    return result, counts


def _narrow(x: Array, out: Array, limits: Limits) -> Counts:
    """Round a part of a constant into `out`."""
    form = limits.format
    with np.errstate(all="ignore"):
        out[:] = cast(x, out.dtype)
    size, clipped, largest = np.abs(x), 0, 0.0
    if not size.max(initial=0.0) <= form.largest:  # nan too
        over = np.isinf(out) & np.isfinite(x)
        clipped, largest = int(np.count_nonzero(over)), float(size[over].max(initial=0.0))
        out[over] = np.copysign(np.float32(limits.beyond), x[over]).astype(out.dtype)
    raised, smallest = 0, 0.0
    if limits.least:
        small = (size < limits.least) & (size > 0)
        raised = int(np.count_nonzero(small))
        if raised:
            smallest = float(size[small].min())
            out[small] = np.copysign(np.float32(limits.least), x[small]).astype(out.dtype)
    below = size < form.smallest_normal
    faint = int(np.count_nonzero(below))
    zeros = faint - int(np.count_nonzero(x[below])) if faint else 0
    zero = faint - int(np.count_nonzero(out[below])) - zeros if faint else 0
    return Counts(x.size - zeros, clipped, raised, faint - zeros, zero, largest, smallest)


def least_kept(form: Format, flushes: bool) -> float:
    """The least number above zero that a device keeps."""
    return form.smallest_normal if flushes else form.smallest_subnormal


def half_of_largest(form: Format) -> float:
    """What two masks may be without their sum leaving the format."""
    return math.floor(form.largest) / 2
