"""Deferred divisions: what the product of a row with a weight reaches before it is divided.

(x / root) W = (x W) / root, FlashNorm (arXiv 2407.09577), section 2. The product is stored in the
format of the device, whatever its norms are computed in.
"""

from __future__ import annotations

import math

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import Norm
from slanc_onnx.prove.sets import DEVICE_UNIT
from slanc_onnx.prove.step_bounds import (
    Arithmetic,
    StepFails,
    output_radius,
    rounding_of,
    rounding_to,
    smallest_epsilon,
)
from slanc_onnx.reasons import Unproved, reason

MOST_SCALE_DEFERRED = 2.0**16  # up to which `lost_in_product` holds


def lost_in_product(norm: Norm, width: int, accelerator: Accelerator) -> tuple[float, float]:
    """What rounding takes from a product whose division is deferred, as a share and a number.

    The product of the row with a weight is stored, and so is what the division makes of it. What
    underflow takes from the product grows with the reciprocal root, which is the larger the smaller
    epsilon over the square of the scale is: this holds for scales up to `MOST_SCALE_DEFERRED`.

    Args:
        norm: The norm as it is before scaling.
        width: Elements per row.
        accelerator: The device.
    """
    stored = rounding_to(accelerator.format, accelerator.flush_subnormals)
    inner = Arithmetic(norm, width, accelerator, MOST_SCALE_DEFERRED)
    try:
        least = inner.least_deviation(smallest_epsilon(norm, accelerator, MOST_SCALE_DEFERRED))
    except StepFails:  # of no epsilon, or none that the device keeps
        least = 0.0
    inverse = rounding_of(accelerator, "inverse")(1 / least) if least > 0 else math.inf
    return stored.grow**2 - 1, stored.eta * inverse * stored.grow + stored.eta


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
    if arithmetic.scale > MOST_SCALE_DEFERRED:
        raise StepFails(reason(Unproved.SCALE_TOO_LARGE, MOST_SCALE_DEFERRED))
    stored = rounding_to(device.format, device.flush_subnormals)
    off = column * (1 + (width + 4) * DEVICE_UNIT)
    lost, number = lost_in_product(norm, width, device)
    after = output_radius(norm, width, device, arithmetic.scale) * off * (1 + lost) + number
    for value in (stored(arithmetic.length * off), after):
        if not value <= device.format.largest:
            raise StepFails(reason(Unproved.PRODUCT_OVERFLOWS, value))
