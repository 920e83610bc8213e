"""Deferred divisions: what the product of a row with a weight reaches before it is divided.

(x / root) W = (x W) / root, FlashNorm (arXiv 2407.09577), section 2. The product is stored in the
format of the device, whatever its norms are computed in, and in the element type of the file.
"""

from __future__ import annotations

import math

from slanc_onnx.accelerator import OF_16_BITS, Accelerator, Format
from slanc_onnx.norms import Norm
from slanc_onnx.prove.sets import DEVICE_UNIT
from slanc_onnx.prove.step_bounds import (
    IN_FP32,
    Arithmetic,
    Rounding,
    StepFails,
    output_radius,
    rounding_of,
    rounding_to,
    smallest_epsilon,
)
from slanc_onnx.reasons import Unproved, reason

MOST_SCALE_DEFERRED = 2.0**16  # up to which `lost_in_product` holds
MOST_ROOT_LOSS = 2.0**-7  # of the root of a row of zeros, in a file of 16 bits


def holds_products(norm: Norm, accelerator: Accelerator) -> Format:
    """The format that products have to fit: of the device, or of the file where that holds less."""
    form = accelerator.format
    return min(form, OF_16_BITS.get(norm.output_type, form), key=lambda each: each.largest)


def root_loss(norm: Norm, scale: float, form: Format, flush: bool) -> float:
    """The largest share of a root that is lost where a file rounds it to 16 bits; 1 for all of it.

    Args:
        norm: The norm, with the epsilon in its root.
        scale: What divides its input beside what already did.
        form: The format.
        flush: Whether subnormal numbers become zero.
    """
    if norm.epsilon_power != 2 or norm.overridable_epsilon is not None:
        return 1.0
    least = math.sqrt(max(norm.epsilon or 0.0, 0.0)) / scale / IN_FP32
    if least >= form.smallest_normal:
        return form.unit_roundoff * IN_FP32
    return 1.0 if flush or not least else min(1.0, form.smallest_subnormal / 2 / least)


def keeps_root(norm: Norm, scale: float, form: Format, accelerator: Accelerator) -> bool:
    """Whether a file may round the root of a norm to 16 bits, which no row makes too small."""
    return root_loss(norm, scale, form, accelerator.flush_subnormals) <= MOST_ROOT_LOSS


def scale_to_come(norm: Norm) -> float:
    """The largest scale that may still be put before a norm."""
    return MOST_SCALE_DEFERRED if norm.scaled_by is None else 1.0


def _stored(norm: Norm, accelerator: Accelerator) -> Rounding:
    """The rounding of a product: the device's, or the file's where that takes more."""
    flush = accelerator.flush_subnormals
    form = OF_16_BITS.get(norm.output_type, accelerator.format)
    here, there = (rounding_to(each, flush) for each in (accelerator.format, form))
    return Rounding(
        max(here.grow, there.grow),
        max(here.eta, there.eta),
        max(here.normal, there.normal),
        here.flushes,
    )


def lost_in_product(
    norm: Norm, width: int, accelerator: Accelerator, scale: float | None = None
) -> tuple[float, float]:
    """What rounding takes from a product whose division is deferred, as a share and a number.

    The product of the row with a weight is stored, and so is what the division makes of it. What
    underflow takes from the product grows with the reciprocal root, which is the larger the smaller
    epsilon over the square of the scale is: this holds for scales up to `MOST_SCALE_DEFERRED`.
    Where the file has products of 16 bits of a norm in FP32 it rounds the root, too.

    Args:
        norm: The norm as it is before scaling.
        width: Elements per row.
        accelerator: The device.
        scale: The divisor of its input; None for any that it may still have.
    """
    stored = _stored(norm, accelerator)
    inner = Arithmetic(norm, width, accelerator, MOST_SCALE_DEFERRED)
    try:
        least = inner.least_deviation(smallest_epsilon(norm, accelerator, MOST_SCALE_DEFERRED))
    except StepFails:  # of no epsilon, or none that the device keeps
        least = 0.0
    inverse = rounding_of(accelerator, "inverse")(1 / least) if least > 0 else math.inf
    grow = stored.grow**2
    form = OF_16_BITS.get(norm.output_type)
    if form is not None and norm.element_type not in OF_16_BITS:
        left = scale_to_come(norm) if scale is None else scale
        kept = 1 - root_loss(norm, left, form, accelerator.flush_subnormals)
        grow, inverse = (x / kept if kept else math.inf for x in (grow, inverse))
    return grow - 1, stored.eta * inverse * stored.grow + stored.eta


def check_product(arithmetic: Arithmetic, column: float) -> None:
    """Check what the row gives with a weight before it is divided, and after.

    Each element is a product with a column, at most the one's length times the other's (Cauchy and
    Schwarz), and n u of that off in FP32 (Higham 3.5).

    Args:
        arithmetic: The norm's steps, of which those up to the sum of squares are bounded.
        column: The greatest L2 norm of a column of the weights.

    Raises:
        StepFails: a product may overflow.
    """
    norm, width, device = arithmetic.norm, arithmetic.width, arithmetic.accelerator
    if arithmetic.scale * (norm.scaled_by or 1.0) > MOST_SCALE_DEFERRED:
        raise StepFails(reason(Unproved.SCALE_TOO_LARGE, MOST_SCALE_DEFERRED))
    stored, largest = _stored(norm, device), holds_products(norm, device).largest
    off = column * (1 + (width + 4) * DEVICE_UNIT)
    lost, number = lost_in_product(norm, width, device, arithmetic.scale)
    after = output_radius(norm, width, device, arithmetic.scale) * off * (1 + lost) + number
    for value in (stored(arithmetic.length * off), after):
        if not value <= largest:
            raise StepFails(reason(Unproved.PRODUCT_OVERFLOWS, value))
