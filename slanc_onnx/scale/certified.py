"""Take a scale that is also certified, where one keeps typical rows from underflow."""

from __future__ import annotations

import math

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import Estimate
from slanc_onnx.prove import Certificate, Proof, certify_at
from slanc_onnx.scale.window import ELEMENT_BITS


def certified_scale(
    proof: Proof, placed: float, estimate: Estimate, device: Accelerator
) -> tuple[float, Certificate]:
    """The scale that was placed, or the next power of two above it that certifies the norm.

    None is taken that brings the smallest row that was seen within `ELEMENT_BITS` of underflow:
    there the certified window counts as empty, and the estimate decides.

    Args:
        proof: What is known of the norm.
        placed: The scale that its estimate gives, a power of two.
        estimate: Sums of squares of its input.
        device: Whose arithmetic it is.
    """
    scale, certificate = placed, certify_at(proof, placed, estimate.typical, device)
    first = certificate
    spare = math.log2(estimate.typical / estimate.lowest) + ELEMENT_BITS
    while not certificate.certified:
        scale *= 2
        certificate = certify_at(proof, scale, estimate.typical, device)
        bits = certificate.underflow_bits
        if bits is None or bits < spare:
            return placed, first
    return scale, certificate
