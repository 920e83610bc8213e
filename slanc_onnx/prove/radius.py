"""The safe radius of a norm: the length up to which no row gives inf or nan inside it.

It follows from the step bounds alone: no trace and no weights but gamma and beta.
"""

from __future__ import annotations

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import Norm
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import certify

# log2 of the lengths that are tried, and how close the radius comes to the largest that holds.
_LEAST, _MOST, _CLOSE = -160.0, 160.0, 2.0**-10


def safe_radius(
    norm: Norm,
    width: int | None,
    scale: float,
    device: Accelerator,
    affine: Affine | None,
) -> float | None:
    """The L2 norm R of an input row up to which every row is safe; None where no row is.

    A row of length R or less, whose elements the format of the input holds, gives neither inf nor
    nan in any step of the norm.

    Args:
        norm: The norm as it is before scaling, or with the scale of an earlier run.
        width: Elements per row; None where that is not known, and then no R is.
        scale: The divisor of its input.
        device: Whose arithmetic it is.
        affine: What the row meets at most; None where that is no constant: no R then.
    """
    if not width or affine is None or norm.overridable_epsilon is not None:
        return None

    def holds(power: float) -> bool:
        return certify(norm, Bound(2.0**power, width=width), scale, device, affine).certified

    low, high = _LEAST, _MOST
    if not holds(low):
        return None
    while high - low > _CLOSE:  # what holds for a length holds for every shorter one
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return float(2.0**low)
