"""The hardware whose norm arithmetic is protected and emulated, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Accumulate = Literal["sequential", "pairwise", "fp32"]
Variance = Literal["two-pass", "one-pass"]

_HALF = np.finfo(np.float16)


@dataclass(frozen=True)
class Accelerator:
    """How a device computes a norm whose every step is rounded to FP16.

    Attributes:
        accumulate: Order and width of the sums over a row: one running FP16 sum, a binary tree of
            FP16 adds, or an FP32 sum that is rounded once.
        flush_subnormals: Whether every result below `smallest_normal` becomes zero.
        variance: LayerNorm's variance, from centred values in a second pass or as E[x^2] - mean^2.
        largest: Largest finite number of the format.
        smallest_normal: Smallest normal number of the format.
        smallest_subnormal: Smallest positive number of the format.
    """

    accumulate: Accumulate = "sequential"
    flush_subnormals: bool = False
    variance: Variance = "two-pass"
    largest: float = float(_HALF.max)
    smallest_normal: float = float(_HALF.smallest_normal)
    smallest_subnormal: float = float(_HALF.smallest_subnormal)

    @property
    def smallest_kept(self) -> float:
        """Smallest positive number that survives a rounding on this device."""
        return self.smallest_normal if self.flush_subnormals else self.smallest_subnormal

    def __str__(self) -> str:
        kept = "flushed" if self.flush_subnormals else "kept"
        return f"FP16, {self.accumulate} sums, subnormals {kept}, {self.variance} variance"
