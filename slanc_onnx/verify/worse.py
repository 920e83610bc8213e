"""Never worse: no scale is kept with which more rows overflow than with 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from slanc_onnx.options import Options
from slanc_onnx.reasons import Decision, Reason
from slanc_onnx.scale import ScaledNorm, keeps_epsilon, without_one
from slanc_onnx.verify.validation import Validation


def kept_at_one(
    decided: Sequence[ScaledNorm], written: Sequence[ScaledNorm], validation: Validation | None
) -> list[ScaledNorm] | None:
    """The decisions with 1 where more rows overflow with the scale; None where none does.

    The rows of all sets of inputs that were tried count together.

    Where all of these are at 1 already, they have the scale of their group in a fold: then every
    norm is kept at 1, if more rows overflow in the whole model.

    Args:
        decided: The decisions.
        written: The same as they were carried out, with the scales that folding gave.
        validation: What the rows did then; None where nothing was run.
    """
    if validation is None:
        return None
    more: Counter[str] = Counter()  # rows that overflow with the scale, less those with 1
    in_all = 0  # the same, with the rows that were lost before the norm read them
    for observed in validation.observed_on_each:
        for name, seen in observed.items():
            more[name] += seen.overflowed - seen.arrived - seen.overflowed_before
            in_all += seen.overflowed - seen.overflowed_before
    scales = {n.norm.name: n.scale for n in written if n.status == "scaled" and n.scale}
    by_hand = {d.norm.name for d in decided if d.set_by_hand}
    scales = {name: scale for name, scale in scales.items() if name not in by_hand}
    worse = {name: s for name, s in scales.items() if s != 1 and more[name] > 0}
    by_themselves = any(d.norm.name in worse and d.scale != 1 for d in decided)
    if not by_themselves:
        if not worse or in_all <= 0:
            return None
        worse = scales
    return [_at_one(d, worse[d.norm.name]) if d.norm.name in worse else d for d in decided]


def with_scales_again(
    decided: Sequence[ScaledNorm], validation: Validation | None, options: Options
) -> list[ScaledNorm] | None:
    """The decisions with their scales again where `Options.minimal` put 1, and rows show that it
    does not serve: they overflow with it, or are zeros whose epsilon has to be raised beside a
    scale. None where none do.

    Args:
        decided: The decisions.
        validation: What the rows did; None where nothing was run.
        options: How, epsilons that were raised since included.
    """
    if validation is None or not options.minimal:
        return None
    device = options.accelerator
    needed = {
        name
        for observed in validation.observed_on_each
        for name, seen in observed.items()
        if seen.overflowed > seen.arrived
    }
    if options.epsilon == "representable":
        needed |= {d.norm.name for d in decided if not keeps_epsilon(d.norm, device)}
    again = [without_one(d, device) if d.norm.name in needed else d for d in decided]
    return None if again == list(decided) else again


def _at_one(decided: ScaledNorm, scale: float) -> ScaledNorm:
    """The decision for 1, which no certificate of another scale is for."""
    if decided.status != "scaled" or decided.scale == 1:
        return decided
    why = Reason(Decision.WORSE_THAN_ONE, (scale,))
    certificate = decided.certificate
    if certificate is not None:
        certificate = replace(certificate, certified=False, reason=why, scale=1.0)
    reasons = (*decided.reasons, why)
    return replace(decided, scale=1.0, reasons=reasons, certificate=certificate, certified_with=())
