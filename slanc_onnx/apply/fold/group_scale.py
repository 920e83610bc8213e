"""Choose one power of two for a whole scale group, and find the norms that it does not serve.

All figures are exponents: a group with exponent k is stored divided by 2^k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import Estimate
from slanc_onnx.norms import Norm, lost_limit
from slanc_onnx.scale import ELEMENT_BITS, faintest, least_exponent

FARTHEST = 1000  # an exponent that no estimate reaches
BY_HAND = 1000  # nodes that a scale that is set by hand is worth


@dataclass(frozen=True)
class Window:
    """The exponents that serve one norm, and the one that it prefers.

    Attributes:
        low: Least exponent with which no row overflows, squared or in its plain sum.
        high: Greatest exponent with which no ordinary row underflows.
        best: The exponent that the norm would have by itself.
        nodes: Nodes that scaling the norm by itself inserts.
        least: Least exponent with which the elements of the largest row do not overflow.
        most: Greatest exponent with which the elements of an ordinary row stay normal numbers.
        proved: Least exponent with which the norm keeps its certificate.
        faint: Greatest exponent with which rows far below the typical one keep their squares.
    """

    low: int
    high: int
    best: int
    nodes: int = 1
    least: int = -FARTHEST
    most: int = FARTHEST
    proved: int = -FARTHEST
    faint: int = FARTHEST

    def __contains__(self, exponent: int) -> bool:
        return self.low <= exponent <= self.high

    def held(self, norm: Norm) -> Window:
        """The window without exponents at which a limit of the norm is lost in its type."""
        low = high = self.best
        while low > self.low and not lost_limit(norm, 2.0 ** (low - 1)):
            low -= 1
        while high < self.high and not lost_limit(norm, 2.0 ** (high + 1)):
            high += 1
        return replace(self, low=low, high=high)


ANY = Window(-FARTHEST, FARTHEST, 0, nodes=0)


@dataclass(frozen=True)
class Choice:
    """The exponent of a group.

    Attributes:
        exponent: k of the divisor 2^k.
        outside: Positions of the norms that it does not serve, which keep a Div.
        nodes: Nodes that are inserted in all.
    """

    exponent: int
    outside: tuple[int, ...]
    nodes: int


def window(
    estimate: Estimate,
    width: int,
    best: int,
    accelerator: Accelerator,
    spare: float | None = None,
    epsilon: float = 0.0,
) -> Window:
    """The window of a norm, with the limits of `window.place`; `best` always serves.

    The tensors of the group hold elements up to the length of the largest row, sqrt(upper). An
    eighth of the root mean square of an ordinary row has to stay a normal number in them.

    Args:
        estimate: Sums of squares of the norm's input.
        width: Elements per row.
        best: The exponent that `window.place` chose.
        accelerator: The device whose limits count.
        spare: Bits to overflow that the norm's certificate leaves at `best`; None without one.
        epsilon: Epsilon as it is added to the mean square.
    """
    largest, smallest = accelerator.square_limits(width)
    exact = least_exponent(estimate, accelerator, largest, 0.0, estimate.upper)
    low = math.ceil(exact)
    mean_square = estimate.typical / width
    room = math.log2(mean_square / smallest) / 2 - ELEMENT_BITS / 2
    least = math.ceil(math.log2(math.sqrt(estimate.upper) / accelerator.largest))
    most = math.floor(math.log2(math.sqrt(mean_square) / 8 / accelerator.smallest_normal))
    high = math.floor(room)
    proved = -FARTHEST if spare is None else best - math.floor(spare / 2)
    faint = max(best, faintest(estimate, width, exact, smallest, epsilon))
    return Window(
        min(low, best),
        max(high, best),
        best,
        least=least,
        most=max(least, most),
        proved=proved,
        faint=faint,
    )


def choose(
    windows: Sequence[Window], overhead: Callable[[int], int], floor: int = -FARTHEST
) -> Choice:
    """The exponent of a group.

    No overflow of the group's tensors comes first, because it loses whole rows. Then count, in this
    order: few nodes, no underflow of the tensors, faint rows, certificates, weights that stay as
    they are, and the exponents that the norms prefer.

    Args:
        windows: One per norm of the group.
        overhead: Nodes that an exponent other than 0 inserts where the group begins and ends.
        floor: The least exponent with which the other tensors of the group do not overflow.
    """
    if not windows:
        return Choice(0, (), 0)
    exponent, nodes = choose_for_each(windows, overhead, floor)[-1]
    return Choice(exponent, tuple(i for i, w in enumerate(windows) if exponent not in w), nodes)


def choose_for_each(
    windows: Sequence[Window], overhead: Callable[[int], int], floor: int = -FARTHEST
) -> list[tuple[int, int]]:
    """The exponent and the nodes of `choose` for the first window, the first two, and so on."""
    low, high, best = (_column(windows, name) for name in ("low", "high", "best"))
    bounded = np.array([w is not ANY for w in windows])
    ends = np.stack([low, high, best], axis=1)
    known = bounded[:, None] & (np.abs(ends) < FARTHEST)
    first = np.minimum.accumulate(np.where(known, ends, FARTHEST).min(axis=1))
    last = np.maximum.accumulate(np.where(known, ends, -FARTHEST).max(axis=1))
    last = np.maximum(last, floor)
    candidates = sorted({0, *range(int(first[-1]), int(last[-1]) + 1)}, key=abs)
    k = np.array(candidates)[:, None]  # exponents down, windows to the right
    inside = (low <= k) & (k <= high)
    outside = np.cumsum(np.where(inside, 0, _column(windows, "nodes")), axis=1)
    nodes = outside + np.array([overhead(e) if e else 0 for e in candidates])[:, None]
    least = np.maximum(np.maximum.accumulate(_column(windows, "least")), floor)
    overflow = np.maximum(least - k, 0)
    underflow = np.maximum(k - np.minimum.accumulate(_column(windows, "most")), 0)
    faint = np.cumsum(inside & (k > _column(windows, "faint")), axis=1)
    unproved = np.cumsum(inside & (k < _column(windows, "proved")), axis=1)
    distance = np.cumsum(np.where(inside & bounded, np.abs(k - best), 0), axis=1)
    left = (k == 0) | ((first <= k) & (k <= last))
    for cost in (overflow, nodes, underflow, faint, unproved, k != 0, distance, np.abs(k)):
        here = np.where(left, cost, np.iinfo(np.int64).max)
        left &= here == here.min(axis=0)
    chosen = left.argmax(axis=0)  # the first of those that are left
    return [(candidates[row], int(nodes[row, i])) for i, row in enumerate(chosen)]


def _column(windows: Sequence[Window], name: str) -> NDArray[np.int64]:
    return np.array([getattr(window, name) for window in windows], np.int64)
