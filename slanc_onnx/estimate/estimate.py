"""What is known of the rows at a norm's input: the two figures from which a scale is placed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array

TYPICAL_QUANTILE = 0.05
# `upper` stands for the largest of so many times the rows that were seen: of the largest that was
# at least so much, because rows of random ids can be more alike than those of real inputs, and at
# most so much.
REACH, LEAST_BEYOND, MOST_BEYOND = 10.0, 1.0625, 2.0
TAIL = 0.05


@dataclass(frozen=True)
class Estimate:
    """Predicted sums of squares of a norm's input rows (centred for LayerNorm).

    Attributes:
        typical: An ordinary row, on the low side.
        upper: A row that is not exceeded, even among ten times as many as were seen.
        lowest: The smallest row that was seen; equals `typical` where no rows were.
        by: Where the figures come from: "paper", "weights" or "probe".
        width: Elements of the rows that were seen; None where the figures do not tell.
        largest: The largest row that was seen; None where `upper` is all that is known.
        error: Standard error of the figures, relative to them, where rows were sampled to compute
            an expectation; 0 where that is exact.
        assumes: What was assumed of parts that could not be read; "" where all was read.
    """

    typical: float
    upper: float
    lowest: float
    by: str
    width: int | None = None
    largest: float | None = None
    assumes: str = ""
    error: float = 0.0

    @property
    def seen(self) -> float:
        """The largest row that is known to occur."""
        return self.upper if self.largest is None else self.largest


def from_rows(
    ordinary: Array, extreme: Array, by: str, width: int | None = None
) -> Estimate | None:
    """The estimate that sample rows give; None where no row is finite and above zero.

    Args:
        ordinary: Sums of squares of ordinary rows, any shape: `typical` is their 5 % quantile.
        extreme: Sums of squares of rows that may be larger: `upper` comes from all of both.
        by: Where the rows come from.
        width: Elements per row, where it is known.
    """

    def usable(sums: Array) -> Array:
        flat = np.asarray(sums, dtype=np.float64).reshape(-1)
        return flat[np.isfinite(flat) & (flat > 0)]

    ordinary, extreme = usable(ordinary), usable(extreme)
    if not ordinary.size:
        return None
    both = np.concatenate([ordinary, extreme])
    typical = float(np.quantile(ordinary, TYPICAL_QUANTILE))
    return Estimate(typical, beyond(both), float(both.min()), by, width, float(both.max()))


def beyond(sums: Array) -> float:
    """The largest of `REACH` times as many rows as these, by the tail of these.

    The logarithm of a large row above a threshold is taken to fall off exponentially, with the
    mean excess over the threshold as its scale (Hill 1975, "A simple general approach to inference
    about the tail of a distribution", equation 2.6).

    Args:
        sums: Sums of squares above zero, shape [rows].
    """
    ordered = np.sort(sums)[::-1]
    tail = max(1, min(len(ordered) - 1, max(8, int(TAIL * len(ordered)))))
    if len(ordered) < 2:
        return float(ordered[0]) * MOST_BEYOND
    excess = float(np.mean(np.log(ordered[:tail] / ordered[tail])))
    return float(ordered[0] * min(max(REACH**excess, LEAST_BEYOND), MOST_BEYOND))
