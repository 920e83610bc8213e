"""What to do next, after a verdict that is not good enough to ship on."""

from __future__ import annotations

from slanc_onnx.reasons import OFF, Failure, Next, Reason
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.verify import Validation

_LEAVES = {
    Failure.LEFT_FORMAT,
    Failure.BECOMES_NOT_FINITE,
    Failure.ROWS_LEFT_FORMAT,
    Failure.INPUT_LEFT_FORMAT,
    Failure.ROWS_OVERFLOW,
}


def next_step(outcome: Outcome) -> Reason | None:
    """What to do next where the validation did not pass; None where its failures say that."""
    validation = outcome.validation
    if validation is None or validation.passed or outcome.healed:
        return None
    if outcome.heals is not None:
        return Reason(outcome.heals)
    if validation.adds_masks:
        return Reason(Next.MASKS, (validation.format,))
    kinds = {reason.kind for reason in validation.failures}
    if kinds == {Failure.OTHER_SHAPE}:
        return Reason(Next.MEASURE)
    if kinds <= OFF and not _all_told(validation):
        return Reason(Next.OWN_INPUTS)
    searched = outcome.fp32_nodes is not None or outcome.not_searched is not None
    may_be_kept = bool(kinds & _LEAVES) or kinds <= OFF
    return Reason(Next.FP32_NODES) if may_be_kept and not searched else None


def _all_told(validation: Validation) -> bool:
    """Whether the user told all inputs that the verdict is of."""
    fed = validation.trials[0].fed if validation.trials else ()
    return all(one.by in ("given", "said") for one in fed)
