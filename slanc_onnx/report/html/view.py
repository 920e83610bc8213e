"""What the HTML report shows, as plain values: from decisions and a validation to one view."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array
from slanc_onnx.report.as_json import certified
from slanc_onnx.report.fold import fold_line
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.terminal import final_line
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Audit, Observed

_LAYER = re.compile(r"(?:layers?|blocks?|h|stages?)[./_](\d+)")
_NONE = np.zeros(0)


@dataclass(frozen=True)
class Spread:
    """Least, median and largest sum of squares."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class NormView:
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
        certified: "yes", "no", or "if ..."; "" where it was not asked for.
        overflow: Sums above this overflow; None where the width is not known.
        normal: Sums below this have a mean square that is subnormal.
        subnormal: Sums below this have a mean square of zero.
        lost_before: Rows that overflowed in the original.
        lost_after: Rows that overflow in the rewritten model.
        underflowed: Rows whose mean square became zero there.
        audit: What its rows did on the user's own data; None where that was not asked for.
        applied: Where its scale went, as in the report.
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
    certified: str
    overflow: float | None
    normal: float | None
    subnormal: float | None
    lost_before: int
    lost_after: int
    underflowed: int
    audit: Audit | None = None
    applied: str | None = None

    @property
    def name(self) -> str:
        return self.decided.norm.name

    @property
    def factor(self) -> float:
        """What the sums of squares are divided by in the rewritten model."""
        fresh = self.decided.status == "scaled" and self.decided.scale is not None
        return float(self.decided.scale or 1.0) ** 2 if fresh else 1.0

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


@dataclass(frozen=True)
class PageView:
    """The page.

    Attributes:
        model: The input file.
        output: The written file.
        sentence: The verdict in a sentence.
        line: The last line of the command line's output; "" where it says that nothing was done.
        passed: None where nothing was validated.
        seen: Whether rows are observed, not predicted.
        accelerator: Whose arithmetic it is.
        norms: In topological order.
        perplexity: As in the validation; None without tokens.
        notes: What was folded, and the notes of the outcome.
    """

    model: str
    output: str
    sentence: str
    line: str
    passed: bool | None
    seen: bool
    accelerator: Accelerator
    norms: list[NormView]
    perplexity: dict[str, float] | None
    notes: list[str]


def page_view(outcome: Outcome) -> PageView:
    """What the page of an outcome shows."""
    validation, device = outcome.validation, outcome.accelerator
    observed = {} if validation is None else validation.observed
    audits = {audit.name: audit for audit in outcome.audits}
    norms = [
        replace(
            _norm(number, decided, observed.get(decided.norm.name), device, audits),
            applied=outcome.report["norms"][number - 1]["applied"],
        )
        for number, decided in enumerate(outcome.norms, 1)
    ]
    fold = outcome.fold
    folded = [] if fold is None else [fold_line(len(norms), fold), *fold.notes]
    passed = None if validation is None and not outcome.not_validated else outcome.passed
    return PageView(
        model=str(outcome.source),
        output=str(outcome.output),
        sentence=_sentence(norms, str(device.format), bool(observed)),
        line=final_line(outcome) if norms else "",
        passed=passed,
        seen=bool(observed),
        accelerator=device,
        norms=norms,
        perplexity=None if validation is None else validation.perplexity,
        notes=[*folded, *outcome.notes],
    )


def _norm(
    number: int,
    decided: ScaledNorm,
    seen: Observed | None,
    device: Accelerator,
    audits: Mapping[str, Audit],
) -> NormView:
    norm, estimate, certificate = decided.norm, decided.estimate, decided.certificate
    fresh = decided.status == "scaled" and decided.scale is not None
    factor = float(decided.scale or 1.0) ** 2 if fresh else 1.0
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
    words = "" if certificate is None else certified(certificate)
    layer = _LAYER.search(norm.name)
    return NormView(
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
        certified=words if isinstance(words, str) else "yes" if words else "no",
        overflow=overflow,
        normal=normal,
        subnormal=subnormal,
        lost_before=seen.overflowed_before if seen else 0,
        lost_after=seen.overflowed if seen else 0,
        underflowed=seen.underflowed if seen else 0,
        audit=audits.get(norm.name),
    )


def _usable(sums: Array) -> Array:
    return sums[np.isfinite(sums) & (sums > 0)]


def _spread(sums: Array) -> Spread | None:
    if not len(sums):
        return None
    return Spread(float(sums.min()), float(np.median(sums)), float(sums.max()))


def _sentence(norms: Sequence[NormView], form: str, seen: bool) -> str:
    """Which norms would have overflowed, whether one does now, and what was left out."""
    if not norms:
        return "No norm was found, so nothing was written."
    before = [n for n in norms if n.overflows_before]
    after = [n for n in norms if n.overflows_after]
    skipped = sum(n.decided.status == "skipped" for n in norms)
    rows = sum(n.lost_before for n in norms)
    if not seen:
        parts = [
            f"Not run, so this is a prediction: {len(before)} of {len(norms)} norms can overflow "
            f"{form} as exported, {_none(len(after))} with the scales."
        ]
    elif not before and not after:
        parts = [f"None of the {len(norms)} norms overflowed {form} on these inputs, then or now."]
    else:
        now = f"{len(after)} STILL OVERFLOW{'S' * (len(after) == 1)}" if after else "none overflows"
        parts = [
            f"As exported, {len(before)} of {len(norms)} norms overflowed {form} and lost "
            f"{rows:,} rows. With the scales {now}."
        ]
    if skipped:
        parts.append(f"{skipped} norm{'s were' if skipped > 1 else ' was'} skipped, see the table.")
    return " ".join(parts)


def _none(count: int) -> str:
    return str(count) if count else "none"
