"""Beside the fold: what a merge does to rounded outputs, held against another rounding's noise.

A merge takes roundings away and moves others, so that the rounded outputs of the merged file are
not those of the fold alone. How much worse they may be the fold itself tells: it is run once more
with every result moved by up to one unit roundoff before it is rounded, with its sums in another
order, and with subnormals kept where the device flushes them. An order alone would not do: sums in
FP32 have none that is seen in 16 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.verify.compare import Runs, compare
from slanc_onnx.verify.perplexity import perplexity
from slanc_onnx.verify.runs import FourRuns


@dataclass(frozen=True)
class BesideFold:
    """How far the merged file is from the fold alone, all RMS and relative to the outputs' RMS.

    Attributes:
        difference: Between the rounded outputs of both.
        noise: Between those of the fold alone and its own, rounded otherwise; nan where that
            cannot be run.
        error: Of the fold alone, rounded, from FP32.
        merged_error: Of the merged file.
        in_fp32: Of the merged file's outputs in FP32, from the original's, as far as it may come of
            merged weights that were rounded; 0 where those of the fold are rounded too.
        roundoff: The unit roundoff of the coarsest format, which is the least noise.
        perplexity: "fold", and "fold_otherwise", where tokens were given.
    """

    difference: float
    noise: float
    error: float
    merged_error: float
    in_fp32: float
    roundoff: float
    perplexity: dict[str, float] | None = None

    @property
    def moves(self) -> float:
        """How far rounding moves outputs: the noise that was measured, one roundoff at least, and
        what weights are rounded by, which are independent of each other."""
        noise = self.noise if math.isfinite(self.noise) else 0.0
        return math.hypot(max(noise, self.roundoff), self.in_fp32)

    @property
    def within(self) -> bool:
        """Whether the merge makes rounded outputs worse by no more than noise.

        They are where they differ by no more than that, and where they are better.
        """
        return self.merged_error <= self.error + self.moves


def beside_fold(runs: FourRuns, device: Accelerator, in_fp32: float) -> BesideFold | None:
    """Hold rounded outputs of a merged file against those of the fold alone.

    Args:
        runs: What both gave, and the original.
        device: Whose arithmetic that is.
        in_fp32: See `BesideFold`.

    Returns:
        None where the fold alone was not run, as nothing is merged.
    """
    alone, otherwise = runs.fold, runs.fold_otherwise
    if alone is None:
        return None

    def far(one: Runs, other: Runs) -> float:
        return compare(one, other, runs.unstable, floats_only=True).rms

    losses = {"fold": alone.losses, "fold_otherwise": otherwise.losses if otherwise else []}
    return BesideFold(
        difference=far(alone, runs.protected),
        noise=math.nan if otherwise is None else far(alone, otherwise),
        error=far(runs.plain, alone),
        merged_error=far(runs.plain, runs.protected),
        in_fp32=in_fp32,
        roundoff=device.coarsest_roundoff,
        perplexity={k: perplexity(v) for k, v in losses.items() if v} or None,
    )
