"""Extents: for how long rows a scale holds, where sizes that the file leaves open make them longer.

A norm over positions sums over as many elements as the input has, and the sum grows linearly with
them. So an estimate of rows of n elements tells those of any other number.
"""

from __future__ import annotations

from dataclasses import replace

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import Estimate
from slanc_onnx.prove import safe_radius
from slanc_onnx.scale.scaled_norm import ScaledNorm

_MOST = 2**40  # elements; no row is longer


def most_elements(estimate: Estimate, scale: float, device: Accelerator) -> int:
    """The most elements of a row with which it overflows neither squared nor in its plain sum.

    Args:
        estimate: Sums of rows, of `width` elements at most.
        scale: What the norm's input is divided by.
        device: Whose limits hold.

    Returns:
        The number; 0 where none is known.
    """
    if not estimate.width:
        return 0
    fits, too_many = 0, _MOST
    while too_many - fits > 1:
        elements = (fits + too_many) // 2
        growth = elements / estimate.width
        largest, _ = device.square_limits(elements)
        squares = estimate.upper * growth <= largest * scale**2
        plain = estimate.magnitudes * growth <= device.largest_sum * scale
        fits, too_many = (elements, too_many) if squares and plain else (fits, elements)
    return fits


def with_safe_radius(decided: ScaledNorm, device: Accelerator) -> ScaledNorm:
    """The decision with the radius, and the longest rows, that its scale serves."""
    scale = decided.divisor
    width = decided.norm.width
    if width is None and decided.certificate is not None:  # what the proof knows of all rows
        width = decided.certificate.bound.width or None
    radius = safe_radius(decided.norm, width, scale, device, decided.affine)
    most = None
    if decided.norm.width is None and decided.estimate is not None and decided.status == "scaled":
        most = most_elements(decided.estimate, scale, device) or None
    return replace(decided, safe_radius=radius, most_elements=most)
