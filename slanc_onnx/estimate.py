"""What is known of the rows at a norm's input: the two figures from which a scale is placed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slanc_onnx.load import Array

TYPICAL_QUANTILE = 0.05


@dataclass(frozen=True)
class Estimate:
    """Predicted sums of squares of a norm's input rows (centred for LayerNorm).

    Attributes:
        typical: An ordinary row, on the low side.
        upper: A row that is not exceeded.
        lowest: The smallest row that was seen; equals `typical` where no rows were.
        by: Where the figures come from: "paper", "weights" or "probe".
    """

    typical: float
    upper: float
    lowest: float
    by: str


def from_rows(ordinary: Array, extreme: Array, by: str) -> Estimate | None:
    """The estimate that sample rows give; None where no row is finite and above zero.

    Args:
        ordinary: Sums of squares of ordinary rows, any shape: `typical` is their 5 % quantile.
        extreme: Sums of squares of rows that may be larger: `upper` is the largest of both.
        by: Where the rows come from.
    """

    def usable(sums: Array) -> Array:
        flat = np.asarray(sums, dtype=np.float64).reshape(-1)
        return flat[np.isfinite(flat) & (flat > 0)]

    ordinary, extreme = usable(ordinary), usable(extreme)
    if not ordinary.size:
        return None
    upper = float(max(ordinary.max(), extreme.max(initial=0.0)))
    lowest = float(min(ordinary.min(), extreme.min(initial=math.inf)))
    return Estimate(float(np.quantile(ordinary, TYPICAL_QUANTILE)), upper, lowest, by)
