"""Withdraw a certificate that a row contradicts: proofs read graphs, and a reading can be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.certificate import Certificate, Proof, certify_at
from slanc_onnx.reasons import Reason, Unproved

SLACK = 1e-4  # for sums of squares that were measured in FP32
WITHDRAWN = (Unproved.ROW_NOT_FINITE, Unproved.ROW_ABOVE_BOUND, Unproved.ROW_LOST)


def certified_again(
    before: Certificate,
    norm: Norm,
    affine: Affine | None,
    scale: float,
    typical: float | None,
    device: Accelerator,
) -> Certificate:
    """What the bound of a certificate gives at another scale; a withdrawn one stays withdrawn.

    Args:
        before: The certificate.
        norm: Its norm.
        affine: What its row meets at most; None where that is no constant.
        scale: The divisor of the norm's input.
        typical: Sum of squares of an ordinary row before the division, None where it is not known.
        device: The device.
    """
    found = certify_at(Proof(norm, before.bound, affine), scale, typical, device)
    if before.reason is not None and before.reason.kind in WITHDRAWN:
        return replace(found, certified=False, reason=before.reason)
    return found


def held_against(
    certificate: Certificate, sums: Array, seen: Callable[[int], Reason], lost: int = 0
) -> Certificate:
    """The certificate, or a withdrawn one if rows that were seen contradict it.

    One with conditions stays, unless they are on sizes alone that no run here exceeds: whether
    inputs keep to others is not checked here.

    Args:
        certificate: Of a norm.
        sums: Sums of squares of rows of its input, FP32 values, shape [rows]; centred or not, as a
            centred row is no longer than the row.
        seen: Where the row of a number was seen: a reason of the kind `Seen`.
        lost: Rows that are finite in FP32 and were not in the emulation at the norm's scale.
    """
    length = certificate.bound.length
    asked = any(c.kind != "positions" for c in certificate.conditions)
    if not certificate.certified or length is None or asked:
        return certificate
    why = None
    finite = np.isfinite(sums)
    if not finite.all():
        why = Reason(Unproved.ROW_NOT_FINITE, behind=seen(int(np.argmin(finite))))
    elif len(sums) and math.sqrt(float(sums.max())) > length * (1 + SLACK):
        row = int(np.argmax(sums))
        longest = math.sqrt(float(sums[row]))
        why = Reason(Unproved.ROW_ABOVE_BOUND, (longest, length), behind=seen(row))
    elif lost:
        why = Reason(Unproved.ROW_LOST, (lost,))
    return certificate if why is None else replace(certificate, certified=False, reason=why)
