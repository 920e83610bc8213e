"""The estimate of a norm's input rows: two figures from which a scale is placed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.reasons import Reason

TYPICAL_QUANTILE = 0.05
# `upper` stands for the largest of REACH times as many rows as were seen. It is at least
# LEAST_BEYOND times the largest that was seen, because rows of random ids can be more alike than
# those of real inputs, and at most MOST_BEYOND times.
REACH, LEAST_BEYOND, MOST_BEYOND = 10.0, 1.0625, 2.0
TAIL = 0.05


# Where figures come from.
By = Literal["paper", "weights", "probe", "calibrated"]


@dataclass(frozen=True)
class Estimate:
    """Predicted sums of squares of a norm's input rows (centred for LayerNorm).

    Attributes:
        typical: An ordinary row, on the low side.
        upper: The largest row expected among ten times as many as were seen.
        lowest: The smallest row that was seen; `typical` where none was.
        by: The source of the figures: "paper", "weights", "probe" or "calibrated".
        width: Elements per row of the rows that were seen; None where that is not known.
        largest: The largest row that was seen; None where none was.
        error: Relative standard error of the figures, where an expectation was computed from
            samples; 0 where it is exact.
        magnitudes: The largest sum of magnitudes of a row that was seen, for a norm that subtracts
            the mean; 0 where there is none.
        assumes: The assumption about parts that could not be read; None where all was read.
        wider: The same of the rows of all sizes that inputs may have of which nothing is said; None
            where all is said.
        any_size: Whether it is the wider one.
    """

    typical: float
    upper: float
    lowest: float
    by: By
    width: int | None = None
    largest: float | None = None
    assumes: Reason | None = None
    error: float = 0.0
    magnitudes: float = 0.0
    wider: Estimate | None = None
    any_size: bool = False

    @property
    def seen(self) -> float:
        """The largest row that was seen; `upper` where none was."""
        return self.upper if self.largest is None else self.largest


def from_rows(
    ordinary: Array,
    extreme: Array,
    by: By,
    width: int | None = None,
    magnitudes: Array | None = None,
) -> Estimate | None:
    """The estimate that sample rows give; None where no row is finite and above zero.

    Args:
        ordinary: Sums of squares of ordinary rows, any shape; `typical` is their 5 % quantile.
        extreme: Sums of squares of rows that may be larger; `upper` comes from both.
        by: The source of the rows, for `Estimate.by`.
        width: Elements per row, where it is known.
        magnitudes: Sums of magnitudes of the rows; None where the mean is not subtracted.
    """

    def usable(sums: Array) -> Array:
        flat = np.asarray(sums, dtype=np.float64).reshape(-1)
        return flat[np.isfinite(flat) & (flat > 0)]

    ordinary, extreme = usable(ordinary), usable(extreme)
    if not ordinary.size:
        return None
    both = np.concatenate([ordinary, extreme])
    typical = float(np.quantile(ordinary, TYPICAL_QUANTILE))
    return Estimate(
        typical,
        beyond(both),
        float(both.min()),
        by,
        width,
        float(both.max()),
        magnitudes=0.0 if magnitudes is None else float(usable(magnitudes).max(initial=0.0)),
    )


def beyond(sums: Array) -> float:
    """The expected largest of `REACH` times as many rows, extrapolated from the tail of these.

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
