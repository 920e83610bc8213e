"""One norm as a report shows it: its decision, with what was predicted, proved and seen of it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.fold import Fold
from slanc_onnx.apply.merge import MergedNorm
from slanc_onnx.graph import Array
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Audit, FirstRow, Observed, Validation

_LAYER = re.compile(r"(?:layers?|blocks?|h|stages?)[./_](\d+)")
_NONE = np.zeros(0)


@dataclass(frozen=True)
class Spread:
    """Least, median and largest sum of squares."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class NormRow:
    """One norm of the page. Sums of squares are those of rows before the division unless said.

    Attributes:
        number: Its place in the network, from 1.
        layer: The layer's number as the name has it; None without.
        decided: Its decision.
        before: What its rows sum to; predicted where it was not run, None where nothing is known.
        after: The same in the rewritten model.
        rows_before: Every row that was seen, above zero and finite; empty where it was not run.
        rows_after: The same in the rewritten model.
        typical: The predicted ordinary row; None without an estimate.
        upper: The predicted largest row; None without an estimate.
        bound: The largest row that any input can give; None where that is not proved to fit.
        overflow: Sums above this overflow; None where the width is not known.
        normal: Sums below this have a mean square that is subnormal.
        subnormal: Sums below this have a mean square of zero.
        lost_before: Rows that overflowed in the original.
        lost_after: Rows that overflow in the rewritten model.
        underflowed: Rows whose mean square became zero there.
        audit: What its rows did on the user's own data; None where that was not asked for.
        applied: Where the scale of this run went: "fold", "div", or None.
        seen: What its rows did in the validation; None where it was not run.
        first: The longest row that a token alone gives; None where that was not run.
        merged: What was merged of it into weights; None where nobody asked.
    """

    number: int
    layer: int | None
    decided: ScaledNorm
    before: Spread | None
    after: Spread | None
    rows_before: Array
    rows_after: Array
    typical: float | None
    upper: float | None
    bound: float | None
    overflow: float | None
    normal: float | None
    subnormal: float | None
    lost_before: int
    lost_after: int
    underflowed: int
    audit: Audit | None = None
    applied: str | None = None
    seen: Observed | None = None
    first: FirstRow | None = None
    merged: MergedNorm | None = None

    @property
    def name(self) -> str:
        return self.decided.norm.name

    @property
    def factor(self) -> float:
        """What the sums of squares are divided by in the rewritten model."""
        return self.decided.divisor**2

    @property
    def first_within(self) -> bool:
        """Whether every token alone is known to stay within the safe radius."""
        return self.first is not None and self.first.within(self.decided.safe_radius)

    @property
    def overflow_bits(self) -> float | None:
        """log2 of the overflow limit over the largest row after scaling."""
        if self.after is None or self.overflow is None or not self.after.high > 0:
            return None
        return math.log2(self.overflow / self.after.high)

    @property
    def underflow_bits(self) -> float | None:
        """log2 of the median row after scaling over the sum that gives a normal mean square."""
        if self.after is None or self.normal is None or not self.after.middle > 0:
            return None
        return math.log2(self.after.middle / self.normal)

    @property
    def overflows_before(self) -> bool:
        """Whether rows overflowed in the original, or would if the prediction holds."""
        if len(self.rows_before):
            return self.lost_before > 0
        return bool(self.overflow and self.before and self.before.high > self.overflow)

    @property
    def overflows_after(self) -> bool:
        """The same in the rewritten model."""
        if len(self.rows_before):
            return self.lost_after > 0
        return bool(self.overflow and self.after and self.after.high > self.overflow)


def norm_rows(
    norms: Sequence[ScaledNorm],
    device: Accelerator,
    validation: Validation | None,
    fold: Fold | None,
    audits: Sequence[Audit],
) -> list[NormRow]:
    """The rows of a report, one per norm in topological order.

    Args:
        norms: The decisions.
        device: Whose limits count.
        validation: What was seen of the norms; None where nothing was run.
        fold: Which scales were folded; None without folding.
        audits: What the norms' rows did on the user's own data.
    """
    seen = {} if validation is None else validation.observed
    by_name = {audit.name: audit for audit in audits}
    return [
        replace(
            _row(number, decided, seen.get(decided.norm.name), device),
            applied=_applied(decided, fold),
            audit=by_name.get(decided.norm.name),
        )
        for number, decided in enumerate(norms, 1)
    ]


def _applied(scaled: ScaledNorm, fold: Fold | None) -> str | None:
    """ "fold" or "div" for a norm that this run scaled. Without folding a scale of 1 needs neither;
    in a group it is the group's, or takes a node that keeps the norm out of it."""
    if scaled.status != "scaled" or scaled.scale is None:
        return None
    if fold is not None:
        return fold.applied.get(scaled.norm.name)
    return None if scaled.scale == 1.0 else "div"


def _row(number: int, decided: ScaledNorm, seen: Observed | None, device: Accelerator) -> NormRow:
    norm, estimate, certificate = decided.norm, decided.estimate, decided.certificate
    factor = decided.divisor**2
    rows_before, rows_after = _NONE, _NONE
    before = after = None
    if seen is not None:
        rows_before, rows_after = _usable(seen.sum_of_squares), _usable(seen.scaled)
        before, after = _spread(rows_before), _spread(rows_after)
    elif estimate is not None:
        before = Spread(estimate.lowest, estimate.typical, estimate.upper)
        after = Spread(*(v / factor for v in (before.low, before.middle, before.high)))
    width = norm.width or (estimate.width if estimate else None)
    overflow = normal = subnormal = None
    if width:
        overflow, least = device.square_limits(width)
        normal = width * least
        subnormal = normal * device.smallest_subnormal / device.smallest_normal
    proved = certificate is not None and certificate.certified
    length = certificate.bound.length if certificate is not None else None
    layer = _LAYER.search(norm.name)
    return NormRow(
        number=number,
        layer=int(layer.group(1)) if layer else None,
        decided=decided,
        before=before,
        after=after,
        rows_before=rows_before,
        rows_after=rows_after,
        typical=estimate.typical if estimate else None,
        upper=estimate.upper if estimate else None,
        bound=length**2 if proved and length is not None else None,
        overflow=overflow,
        normal=normal,
        subnormal=subnormal,
        lost_before=seen.overflowed_before if seen else 0,
        lost_after=seen.overflowed if seen else 0,
        underflowed=seen.underflowed if seen else 0,
        seen=seen,
    )


def _usable(sums: Array) -> Array:
    return sums[np.isfinite(sums) & (sums > 0)]


def _spread(sums: Array) -> Spread | None:
    if not len(sums):
        return None
    return Spread(float(sums.min()), float(np.median(sums)), float(sums.max()))
