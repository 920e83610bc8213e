"""Never worse: no scale is kept with which more rows overflow than with 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slanc_onnx.reasons import Decision, Reason
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify.validate import Validation


def kept_at_one(
    decided: Sequence[ScaledNorm], written: Sequence[ScaledNorm], validation: Validation | None
) -> list[ScaledNorm] | None:
    """The decisions with 1 where more rows overflow with the scale; None where none does.

    Where all of these are at 1 already, they have the scale of their group in a fold: then every
    norm is kept at 1, if more rows overflow in the whole model.

    Args:
        decided: The decisions.
        written: The same as they were carried out, with the scales that folding gave.
        validation: What the rows did then; None where nothing was run.
    """
    if validation is None:
        return None
    worse = {}
    for norm in written:
        seen = validation.observed.get(norm.norm.name)
        if seen is None or norm.status != "scaled" or norm.scale is None:
            continue
        if norm.scale != 1 and seen.overflowed - seen.arrived > seen.overflowed_before:
            worse[norm.norm.name] = norm.scale
    by_themselves = any(d.norm.name in worse and d.scale != 1 for d in decided)
    if not by_themselves:
        if not worse or validation.overflowed_after <= validation.overflowed_before:
            return None
        worse = {n.norm.name: n.scale for n in written if n.status == "scaled" and n.scale}
    return [_at_one(d, worse[d.norm.name]) if d.norm.name in worse else d for d in decided]


def _at_one(decided: ScaledNorm, scale: float) -> ScaledNorm:
    """The decision for 1, which no certificate of another scale is for."""
    if decided.status != "scaled" or decided.scale == 1:
        return decided
    why = Reason(Decision.WORSE_THAN_ONE, (scale,))
    certificate = decided.certificate
    if certificate is not None:
        certificate = replace(certificate, certified=False, reason=why)
    reasons = (*decided.reasons, why)
    return replace(decided, scale=1.0, reasons=reasons, certificate=certificate, certified_with=())
