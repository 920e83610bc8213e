"""Beside the fold: what a merge does to rounded outputs, held against another rounding's noise.

A merge takes roundings away and moves others, so that the rounded outputs of the merged file are
not those of the fold alone. How much worse they may be the fold itself tells: it is run once more
with every result moved by up to one unit roundoff before it is rounded, with its sums in another
order, and with subnormals kept where the device flushes them. An order alone would not do: sums in
FP32 have none that is seen in 16 bits.

One run is one draw of that noise. Where outputs have few degrees of freedom, such as one embedding
of length 1 per text, in which all errors point one way, a draw may be a tenth of what is usual, and
so may be the error of the fold. A merge that is one rounding more among those of the fold has an
error that is no more likely than theirs to be the largest. So where one draw says that it is worse
the fold is rounded in more ways, and the merge is worse where its error is above all of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run import Feeds
from slanc_onnx.verify.compare import Runs, compare
from slanc_onnx.verify.perplexity import perplexity
from slanc_onnx.verify.runs import FourRuns, in_further_ways
from slanc_onnx.verify.tolerance import rounding_tolerance


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
        ways: Errors from FP32 of the fold alone, rounded otherwise in as many ways; empty where
            `noise` is enough to tell.
        perplexity: "fold", and "fold_otherwise", where tokens were given.
    """

    difference: float
    noise: float
    error: float
    merged_error: float
    in_fp32: float
    roundoff: float
    ways: tuple[float, ...] = ()
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

        They are where they differ by no more than that, where they are better, and where the fold
        alone is as far from FP32 in one of the ways to round it.
        """
        return self.merged_error <= max(self.error + self.moves, self.furthest)

    @property
    def furthest(self) -> float:
        """The largest error of the fold alone of all ways to round it, with that of weights.

        A way in which it is not finite allows a merge nothing.
        """
        return math.hypot(max(filter(math.isfinite, self.ways), default=0.0), self.in_fp32)


def beside_fold(
    fold: ReadModel | None,
    runs: FourRuns,
    options: Options,
    feeds: Sequence[Feeds],
    in_fp32: float,
) -> BesideFold | None:
    """Hold rounded outputs of a merged file against those of the fold alone.

    Args:
        fold: The fold alone; None where nothing is merged.
        runs: What it gave, the merged file and the original.
        options: The accelerator, and what is emulated of it.
        feeds: Inputs by name, one dict per run.
        in_fp32: See `BesideFold`.

    Returns:
        None where nothing is merged.
    """
    alone, otherwise = runs.fold, runs.fold_otherwise
    if fold is None or alone is None:
        return None

    def far(one: Runs, other: Runs) -> float:
        return compare(one, other, runs.unstable, floats_only=True).rms

    losses = {"fold": alone.losses, "fold_otherwise": otherwise.losses if otherwise else []}
    found = BesideFold(
        difference=far(alone, runs.protected),
        noise=math.nan if otherwise is None else far(alone, otherwise),
        error=far(runs.plain, alone),
        merged_error=far(runs.plain, runs.protected),
        in_fp32=in_fp32,
        roundoff=options.accelerator.coarsest_roundoff,
        perplexity={k: perplexity(v) for k, v in losses.items() if v} or None,
    )
    allowed = rounding_tolerance(options.accelerator, len(fold.norms))
    if found.within or not found.merged_error <= allowed:  # beyond that it fails by itself
        return found
    given = feeds[: len(runs.plain.outputs)]
    further = [far(runs.plain, one) for one in in_further_ways(fold, options, given)]
    first = [] if otherwise is None else [far(runs.plain, otherwise)]
    return replace(found, ways=(*first, *further))
