"""Binades: how many elements of a weight lie between one power of two and the next.

That tells, for every power of two that might divide the weight, how many elements the type to be
written does not hold in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slanc_onnx.accelerator import Format
from slanc_onnx.graph import Array

CHUNK = 1 << 16  # elements that are looked at at a time, in a processor's cache
_LEAST = -126  # exponent of the smallest normal FP32 number
_MEAN_SQUARE = 7 / 3  # of numbers between 1 and 2 that are as likely as each other


class Faint(NamedTuple):
    """Elements of a weight that a type does not hold in full, though they are not 0.

    Attributes:
        subnormal: How many lose bits.
        zero: How many become 0.
    """

    subnormal: int = 0
    zero: int = 0

    @property
    def elements(self) -> int:
        """How many there are in all."""
        return self.subnormal + self.zero


@dataclass(frozen=True, eq=False)
class Binades:
    """The sizes of a weight's elements.

    Attributes:
        counts: At i, how many elements lie in [2^(i - 126), 2^(i - 125)); int64, 254 of them.
        below: How many are smaller, but for zeros: subnormal in FP32.
    """

    counts: NDArray[np.int64]
    below: int

    def exact_in_float32(self, exponent: int) -> bool:
        """Whether all elements divided by 2^exponent are FP32 numbers."""
        there = np.flatnonzero(self.counts) + _LEAST - exponent
        return not there.size or (not self.below and there[0] >= _LEAST and there[-1] <= 127)

    def faint(self, exponent: int, form: Format) -> Faint:
        """What a format does not hold of the weight divided by 2^exponent.

        A power of two that is half of the smallest number counts as that, and becomes 0.
        """
        normal, kept = _first(form.smallest_normal), _first(form.smallest_subnormal / 2)
        start, end = (_clipped(first + exponent) for first in (kept, normal))
        zero = int(self.counts[:start].sum()) + self.below
        return Faint(int(self.counts[start:end].sum()), zero)

    def overflows(self, exponent: int, form: Format) -> bool:
        """Whether an element divided by 2^exponent may round to infinity."""
        return bool(self.counts[_clipped(_first(form.largest) + exponent) :].any())

    def added(self, exponent: int, form: Format) -> float:
        """The error that dividing by 2^exponent adds to that of writing the weight in a format.

        Frobenius norm over that of the weight, for numbers that are as likely as each other within
        a binade; inf where one may overflow that did not.
        """
        if self.overflows(exponent, form) and exponent < 0:
            return math.inf
        squares = np.exp2(2.0 * (np.arange(self.counts.size) + _LEAST))
        total = float(np.sum(self.counts * squares * _MEAN_SQUARE))
        if not total:
            return 0.0
        now, before = (self._error(k, form, squares) for k in (exponent, 0))
        return math.sqrt(max(now - before, 0.0) / total)

    def _error(self, exponent: int, form: Format, squares: NDArray[np.float64]) -> float:
        """The sum of squares of the errors; a rounding is off by spacing / sqrt(12) on average."""
        normal, kept = _first(form.smallest_normal), _first(form.smallest_subnormal / 2)
        start, end = (_clipped(first + exponent) for first in (kept, normal))
        spacing = 2 * form.unit_roundoff * np.sqrt(squares)
        spacing[:end] = math.ldexp(form.smallest_subnormal, exponent)
        error = spacing**2 / 12
        error[:start] = squares[:start] * _MEAN_SQUARE
        return float(np.sum(self.counts * error))


def fades_somewhere(values: Array, exponent: int, form: Format) -> bool:
    """Whether an element, divided by 2^exponent and written in a format, is off by more than a
    rounding, and by more than undivided."""
    exact = values.astype(np.float64)
    exact = exact[np.isfinite(exact) & (exact != 0)]

    def error(k: int) -> NDArray[np.float64]:
        with np.errstate(over="ignore", under="ignore"):
            written = np.ldexp(exact, -k).astype(np.dtype(form.name)).astype(np.float64)
        return np.asarray(np.abs(np.ldexp(written, k) / exact - 1))

    return bool(np.any(error(exponent) > np.maximum(error(0), form.unit_roundoff)))


def _first(number: float) -> int:
    """The position in `Binades.counts` of the binade of a number."""
    return math.frexp(number)[1] - 1 - _LEAST


def _clipped(position: int) -> int:
    return min(max(position, 0), 127 - _LEAST + 1)


def binades_of(values: Array) -> Binades:
    """The binades of a weight, whose elements are taken as FP32 numbers."""
    counts, zeros, flat = np.zeros(256, np.int64), 0, values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        with np.errstate(over="ignore", under="ignore"):
            part = np.ascontiguousarray(flat[start : start + CHUNK], np.float32)
        found = np.bincount((part.view(np.uint32) >> 23) & 0xFF, minlength=256)
        counts += found
        zeros += part.size - int(np.count_nonzero(part)) if found[0] else 0
    return Binades(counts[1:255], int(counts[0]) - zeros)
