"""Minimal: 1 in place of a scale, wherever 1 is safe on the evidence that the scale has.

1 needs no node, and no weight that is divided. It is safe where it lies between the ends of the
window, `scale/window.py`. No row overflows that `Estimate.upper` allows for. And where 1 divides by
more than the scale does, the mean square of the faintest row that was seen is a normal number, or
epsilon outweighs it: then squares that become subnormal lose half of the smallest subnormal number
each, which is no more of their sum than one rounding. A device that turns them into zero gets
`ELEMENT_BITS` on top, as in the window. Nor is an epsilon lost that the target keeps beside the
scale.
"""

from __future__ import annotations

from dataclasses import replace

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import Norm
from slanc_onnx.options import Options
from slanc_onnx.prove import certified_again
from slanc_onnx.reasons import Decision, Reason
from slanc_onnx.scale.extents import with_safe_radius
from slanc_onnx.scale.scaled_norm import ScaledNorm
from slanc_onnx.scale.window import ELEMENT_BITS, least_exponent


def with_one(decided: ScaledNorm, options: Options) -> ScaledNorm:
    """The decision for 1 where that is safe, with the certificate that it has there.

    A scale that is set by hand stays, and where certificates are required one that 1 would lose.
    """
    scale, device = decided.scale, options.accelerator
    if decided.status != "scaled" or scale is None or scale == 1 or decided.set_by_hand:
        return decided
    if not is_safe(decided, device):
        return decided
    raised = options.epsilon == "representable"  # beside a scale
    if not keeps_epsilon(decided.norm, device) and (
        raised or keeps_epsilon(decided.norm, device, scale)
    ):
        return decided
    estimate = decided.estimate
    by = "" if estimate is None else estimate.by
    found = _at(decided, 1.0, device, Reason(Decision.ONE_IS_SAFE, (scale, by)))
    if "certified" in options.require and _is_certified(decided) and not _is_certified(found):
        return decided
    return found


def without_one(decided: ScaledNorm, device: Accelerator) -> ScaledNorm:
    """The decision with the scale that it had before `with_one`, if it had one."""
    instead = instead_of_one(decided)
    return decided if instead is None else with_safe_radius(_at(decided, instead, device), device)


def instead_of_one(decided: ScaledNorm) -> float | None:
    """The scale in whose place a norm has 1; None where it does not have it by `with_one`."""
    facts = [r.facts for r in decided.reasons if r.kind is Decision.ONE_IS_SAFE]
    return float(str(facts[0][0])) if facts else None


def is_safe(decided: ScaledNorm, device: Accelerator) -> bool:
    """Whether 1 serves all rows that the estimate of a norm knows of, as its scale does."""
    norm, estimate, scale = decided.norm, decided.estimate, decided.scale
    width = norm.width or (None if estimate is None else estimate.width)
    if estimate is None or width is None or scale is None:
        return False
    largest, smallest = device.square_limits(width)
    epsilon = norm.joined_epsilon
    if norm.kind == "l2":  # no mean: epsilon joins the sum, which has to stay normal itself
        smallest, epsilon = smallest / width, epsilon / width
    if least_exponent(estimate, device, largest, width * epsilon, estimate.upper) > 0:
        return False
    if scale > 1:
        return True  # a smaller divisor leaves more room below
    bits = ELEMENT_BITS if device.flush_subnormals else 0.0
    return max(estimate.lowest / width, epsilon) >= smallest * 2**bits


def keeps_epsilon(norm: Norm, device: Accelerator, scale: float = 1.0) -> bool:
    """Whether the device keeps the epsilon of a norm beside a scale."""
    power = norm.epsilon_power
    return not device.rounds_away((norm.epsilon or 0.0) / scale**power, power)


def _at(decided: ScaledNorm, scale: float, device: Accelerator, *why: Reason) -> ScaledNorm:
    """The decision at another scale, with the certificate that its premises give there."""
    before, estimate = decided.certificate, decided.estimate
    dropped = (Decision.ONE_IS_BEST, Decision.ONE_IS_SAFE)
    kept = tuple(reason for reason in decided.reasons if reason.kind not in dropped)
    found = replace(decided, scale=scale, reasons=(*why, *kept))
    if before is None:
        return found
    typical = None if estimate is None else estimate.typical
    again = certified_again(before, decided.norm, before.affine, scale, typical, device)
    return replace(found, certificate=again)


def _is_certified(decided: ScaledNorm) -> bool:
    return decided.certificate is not None and decided.certificate.certified
