"""How far outputs may be off before a validation fails."""

from __future__ import annotations

import math
from typing import NamedTuple

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms import ReadModel

# Of the largest absolute output: scales that are no powers of two round once per element.
FP32_TOLERANCE = 1e-4
# Of the outputs' root mean square: gammas and means that are merged round each weight once.
MERGED_TOLERANCE = 1e-5
# Of the outputs' root mean square. FP16 has 11 bits, a chain of norms adds their errors, and a
# single logit may be off by more.
FP16_TOLERANCE = 0.1
# Of coarser formats: a lost row is off by 1, so a limit near that would find nothing.
LARGEST_TOLERANCE = 0.5
PERPLEXITY_TOLERANCE = 0.01
# A norm rounds so many times between its input and its output, roughly: what noise of one rounding
# does to a model, times that, is what the rounded norms may do to it whatever their scales are.
ROUNDINGS = 4


class Exactness(NamedTuple):
    """How exact a rewriting is in FP32.

    Attributes:
        bits: Whether scales are powers of two and weights lost no bit: FP32 outputs are identical.
        merged: The largest relative error of a weight into which a part of a norm was merged; None
            where nothing was.
        alone: The fold without what was merged, which tells how far rounding moves the outputs.
    """

    bits: bool = True
    merged: float | None = None
    alone: ReadModel | None = None


EXACT, ROUNDED = Exactness(), Exactness(bits=False)


def merged_tolerance(error: float, norms: int) -> float:
    """The relative RMS error of FP32 outputs where so many norms are merged into weights.

    Weights of 32 bits are rounded by 2^-24, and what that does to outputs is 1e-5 at most. Those of
    16 bits are rounded further, and the errors of norms add up as in `rounding_tolerance`.

    Args:
        error: The largest relative error of a merged weight, in the Frobenius norm.
        norms: The number of norms.
    """
    return min(max(MERGED_TOLERANCE, 2 * error * math.sqrt(norms)), FP16_TOLERANCE)


def fp32_tolerance(loss: float, norms: int) -> float:
    """The largest relative error of an FP32 output where scales or weights are not exact.

    Where weights may lose a part of their Frobenius norm, it grows with that as
    `rounding_tolerance` does with the unit roundoff.

    Args:
        loss: The part; 0 where all weights are as they were.
        norms: The number of norms, for that of the weights.
    """
    return min(max(FP32_TOLERANCE, 2 * loss * math.sqrt(norms)), FP16_TOLERANCE)


def rounding_tolerance(accelerator: Accelerator, norms: int) -> float:
    """The relative RMS error of outputs that rounding in so many norms may make.

    Each norm changes its row by up to a unit roundoff u of the coarsest format; independent errors
    add up to the root of their number, and the layers between may double them: 2 u sqrt(norms).
    It is at least `FP16_TOLERANCE`, which is larger for FP16 and up to 10 000 norms, and at most
    `LARGEST_TOLERANCE`.
    """
    expected = 2 * accelerator.coarsest_roundoff * math.sqrt(norms)
    return min(max(FP16_TOLERANCE, expected), LARGEST_TOLERANCE)


def perplexity_tolerance(rounding: float) -> float:
    """How far the perplexity may be off, relative to it, where outputs may be by `rounding`."""
    return PERPLEXITY_TOLERANCE * rounding / FP16_TOLERANCE
