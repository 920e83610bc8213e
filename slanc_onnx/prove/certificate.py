"""Certificate: a norm whose FP16 arithmetic no input can drive to inf or nan.

Every step is bounded, rounding included (`step_bounds.py`). The input is any row within the norm's
bound (`bound.py`); what lies between the norms counts as computed in FP32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import Norm
from slanc_onnx.prove.affine import PLAIN, Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.deferred import check_product
from slanc_onnx.prove.step_bounds import Arithmetic, StepFails
from slanc_onnx.reasons import Reason, Unproved, reason


@dataclass(frozen=True)
class Certificate:
    """The result of a proof for one norm at one scale.

    Attributes:
        certified: Whether it is proved that no row within the bound gives inf or nan.
        reason: Why the norm is not certified; None where it is.
        bound: The bound of the norm's input.
        overflow_bits: log2 of the largest number over the largest partial sum of squares that any
            row can give; below 0 where one may overflow, None without a bound.
        underflow_bits: log2 of a typical row's mean square over the smallest normal number; None
            where no typical row is known.
        affine: What its row meets at most; None where that is no constant.
        conditions: All that it asks, that of the norms that its bound leans on included.
        epsilon_at_least: What it asks of the device where epsilon / s^2, rounded, is none that it
            keeps: to add no less than this. None where the file's epsilon is kept.
        scale: The divisor of the norm's input for which all this holds.
    """

    certified: bool
    reason: Reason | None
    bound: Bound
    overflow_bits: float | None = None
    underflow_bits: float | None = None
    affine: Affine | None = PLAIN
    conditions: tuple[Condition, ...] = ()
    epsilon_at_least: float | None = None
    scale: float = 1.0

    @property
    def conditional(self) -> bool:
        """Whether it holds on conditions only."""
        return self.certified and bool(self.conditions)


@dataclass(frozen=True)
class Proof:
    """The premises of a norm's certificate, at whatever scale.

    Attributes:
        norm: The norm.
        bound: The bound of its input.
        affine: What its row meets at most; None where that is no constant.
        misread: Whether its ops may be something else than this norm, so that no row of it is safe.
    """

    norm: Norm
    bound: Bound
    affine: Affine | None
    misread: bool = False


def certify(
    norm: Norm,
    bound: Bound,
    scale: float,
    accelerator: Accelerator,
    affine: Affine = PLAIN,
) -> Certificate:
    """The certificate that a bound gives a norm at a scale.

    Args:
        norm: The norm as it is before scaling.
        bound: The bound of its input.
        scale: The divisor of its input.
        accelerator: The device.
        affine: What the row meets at most.
    """
    if bound.length is None:
        return Certificate(False, bound.reason, bound, affine=affine)
    if not norm.has_row_steps:
        kind = Unproved.L2_NORMALISATION if norm.kind == "l2" else Unproved.OTHER_STEPS
        return Certificate(False, Reason(kind), bound, affine=affine)
    if norm.other_steps:
        return Certificate(False, Reason(Unproved.ANOTHER_SPELLING), bound, affine=affine)
    if norm.overridable_epsilon is not None:
        given = Reason(Unproved.MAY_BE_GIVEN, (norm.overridable_epsilon,))
        return Certificate(False, given, bound, affine=affine)
    arithmetic = Arithmetic(norm, norm.width or bound.width, accelerator, scale)
    try:
        bits = arithmetic.overflow_bits(bound.length)
    except StepFails as failure:
        return Certificate(False, failure.reason, bound, affine=affine)
    found = reason(Unproved.SUM_OVERFLOWS, -bits) if bits < 0 else None
    try:
        arithmetic.after_the_sum(affine)
        if norm.deferred:
            check_product(arithmetic, affine.product)
    except StepFails as failure:
        found = found or failure.reason
    divided = (norm.epsilon or 0.0) / scale**norm.epsilon_power
    away = accelerator.rounds_away(divided, norm.epsilon_power)
    least = accelerator.least_epsilon(norm.epsilon_power) if away else None
    return Certificate(found is None, found, bound, bits, None, affine, bound.conditions, least)


def certify_at(
    proof: Proof, scale: float, typical: float | None, device: Accelerator
) -> Certificate:
    """As `certify`, with the margin of a typical row to underflow.

    Args:
        proof: The premises.
        scale: The divisor of the norm's input.
        typical: Sum of squares of an ordinary row before the division, None where it is not known.
        device: The device.
    """
    if proof.affine is None:
        unknown = proof.bound.reason or Reason(Unproved.AFFINE_NOT_CONSTANT)
        return Certificate(False, unknown, proof.bound, affine=None, scale=scale)
    found = certify(proof.norm, proof.bound, scale, device, proof.affine)
    certificate = replace(found, scale=scale)
    width = proof.norm.width or proof.bound.width
    if not width or typical is None or not typical > 0:
        return certificate
    least = width * device.square_limits(width)[1]
    return replace(certificate, underflow_bits=math.log2(typical / (least * scale**2)))
