"""Place a scale between overflow and underflow (design: a balanced window, a power of two).

no overflow:   s^2 >= upper   / largest
no underflow:  s^2 <= typical / (d * smallest normal), the mean square staying a normal number

The input's own format limits its elements in the same terms: none is larger than the root of its
row's sum of squares, so s^2 >= upper / largest^2; and s^2 <= typical / (d * smallest normal^2)
keeps the root mean square a normal number. For an input in the format of the sums neither binds,
as squares leave a format before their elements do.

A LayerNorm's squares are centred, but its mean is the quotient of a plain sum of the elements,
whose parts are at most the sum of their magnitudes: s >= magnitudes / largest. That binds where the
mean is far beyond the spread, or rows have more elements than the largest number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import Estimate
from slanc_onnx.reasons import Decision, Reason

# The mean square's room above the smallest normal number with which the squares of elements down
# to an eighth of the root mean square stay normal; the rest holds 0.05 % of a Gaussian row's sum.
ELEMENT_BITS = 6.0
# What rows far below the typical one may not take away.
OVERFLOW_BITS = 2.0


@dataclass(frozen=True)
class Placement:
    """A scale and how well it serves.

    Attributes:
        scale: A power of two.
        note: What is lost where the limits cross; else None.
    """

    scale: float
    note: Reason | None = None


def place(
    estimate: Estimate,
    width: int,
    accelerator: Accelerator,
    epsilon: float = 0.0,
    averaged: bool = True,
) -> Placement:
    """The power of two in the geometric middle of the window of `estimate`, or below it.

    The window's lower end is the typical row's, or that of a row that epsilon outweighs: what is
    fainter gives the same whatever underflows.

    Two things pull below the middle. A mean square at the smallest normal number still loses the
    squares of all elements below the root mean square, so underflow has the first claim on
    `ELEMENT_BITS` of a narrow window; what `upper` allows for beyond the largest row that was seen
    gives way to it. And rows far below the typical one (a first token's, say)
    are kept too, down to those that epsilon outweighs, as long as `OVERFLOW_BITS` remain.

    A scale below 1 raises epsilon, which is divided by s^2 as well: it counts like a row whose mean
    square it is. Where it outweighs even the largest row, underflow is no concern, because then
    the mean squares hardly matter beside it.

    Where the window is empty no scale serves every row. Then the typical row stays just above
    underflow, because it stands for nearly all rows, and the note says what is lost. But no scale
    below 1 is taken with which a row overflows that was seen: 1 would serve that row.

    Args:
        estimate: Sums of squares of the norm's input.
        width: Elements per row.
        accelerator: Whose limits bound the window.
        epsilon: The norm's, as it joins the mean square; 0 for none.
        averaged: Whether the sum of squares is divided by the width. Where not, epsilon joins the
            sum, which has to stay normal itself.
    """
    largest, smallest = accelerator.square_limits(width)
    if not averaged:
        smallest, epsilon = smallest / width, epsilon / width
    least = partial(least_exponent, estimate, accelerator, largest, width * epsilon)
    seen, low = least(estimate.seen), least(estimate.upper)
    high = math.log2(max(estimate.typical, width * epsilon) / (width * smallest)) / 2
    if width * epsilon >= estimate.typical:
        high = max(high, low)
    if high - low < ELEMENT_BITS / 2:
        low = min(low, max(seen, high - ELEMENT_BITS / 2))
    if low <= high:
        above = min(max(high - low - ELEMENT_BITS / 2, 0.0), (high - low) / 2)
        exponent = max(round(low + above), math.ceil(low))
        exponent = min(exponent, faintest(estimate, width, low, smallest, epsilon))
    else:
        exponent = math.floor(high)
        if estimate.largest is not None:
            exponent = max(exponent, min(0, math.ceil(seen)))
    note = None
    outweighed = width * epsilon >= estimate.typical and exponent >= low
    if low > high and not outweighed:
        sums = (largest * 4.0**exponent, estimate.upper, estimate.typical)
        note = Reason(Decision.ROWS_LOST, sums)
    return Placement(2.0**exponent, note)


def least_exponent(
    estimate: Estimate, accelerator: Accelerator, largest: float, epsilon: float, squares: float
) -> float:
    """The least exponent with which a row overflows neither squared nor in its plain sum.

    Args:
        estimate: Of such rows; the sum of magnitudes grows as the root of `squares` does.
        accelerator: Whose limits bound the window.
        largest: The largest sum of squares.
        epsilon: The norm's, as it joins the sum of squares; 0 for none.
        squares: The row's sum of squares.
    """
    least = math.log2(max(squares, epsilon) / largest) / 2
    if not estimate.magnitudes:
        return least
    growth = math.log2(squares / estimate.seen) / 2
    return max(least, math.log2(estimate.magnitudes / accelerator.largest_sum) + growth)


def faintest(estimate: Estimate, width: int, low: float, smallest: float, epsilon: float) -> int:
    """The greatest exponent with which rows far below the typical one keep their squares.

    Args:
        estimate: Sums of squares of the norm's input.
        width: Elements per row.
        low: The least exponent with which no row overflows; this one leaves `OVERFLOW_BITS`.
        smallest: The smallest mean square that the device has room for.
        epsilon: The norm's, as it joins the mean square: fainter rows do not matter beside it.
    """
    least = max(estimate.lowest / width, epsilon)
    kept = math.floor((math.log2(least / smallest) - ELEMENT_BITS) / 2)
    return max(kept, math.ceil(low + OVERFLOW_BITS / 2))
