"""Certificates of a file of 16 bits: proved of the file that was written, not of its original.

Its weights are rounded, and what lies between its norms is of 16 bits: the prover widens what each
op gives by that rounding, and knows nothing of a tensor that may leave the format. What an op
sums inside counts as FP32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import ReadModel, as_computed
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove import Certificate, Proof, certify_at, safe_radius
from slanc_onnx.reasons import Reason, Unproved
from slanc_onnx.scale.decide import premises, with_conditions
from slanc_onnx.scale.scaled_norm import ScaledNorm


def certified_as_written(
    decided: Sequence[ScaledNorm],
    after: ReadModel,
    options: Options,
    progress: Progress = no_progress,
) -> list[ScaledNorm]:
    """The norms, each with what is proved of it in the file that was written.

    Lengths are those of the original's rows: of the file's, times the scale.

    Args:
        decided: The norms with their scales.
        after: The file.
        options: What is asked for, of which accelerator.
        progress: Called with what is being done and the finished share.
    """
    device = options.accelerator
    one_pass = device.variance == "one-pass"
    proved = premises(replace(after, norms=as_computed(after.norms, one_pass)), options, progress)
    found = [_proved(each, proved.get(each.norm.name), device) for each in decided]
    return with_conditions(found, options) if options.certify != "off" else list(decided)


def _proved(decided: ScaledNorm, proof: Proof | None, device: Accelerator) -> ScaledNorm:
    """A norm with the certificate and the safe radius that it has in the file."""
    if proof is None:
        before = decided.certificate
        lost = Reason(Unproved.NOT_AS_WRITTEN)
        gone = None if before is None else replace(before, certified=False, reason=lost)
        return replace(decided, certificate=gone, safe_radius=None)
    scale = decided.divisor
    typical = None if decided.estimate is None else decided.estimate.typical / scale**2
    found = certify_at(proof, 1.0, typical, device)  # its input is divided already
    width = proof.norm.width or found.bound.width or None
    radius = safe_radius(proof.norm, width, 1.0, device, proof.affine)
    return replace(
        decided,
        certificate=_in_rows_of_original(found, scale),
        affine=proof.affine,
        safe_radius=None if radius is None else radius * scale,
    )


def _in_rows_of_original(found: Certificate, scale: float) -> Certificate:
    """A certificate of rows that are divided by a scale, as one of the rows before that."""
    length = found.bound.length
    bound = found.bound if length is None else replace(found.bound, length=length * scale)
    return replace(found, bound=bound, scale=scale)
