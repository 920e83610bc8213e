"""Certificate: a norm whose FP16 arithmetic no input can drive to inf or nan.

It follows the emulated steps one by one (`emulate.py`) and bounds each, rounding included: with u
the unit roundoff, a rounded step gives at most |z| (1 + u) + eta, where eta is what underflow can
cost. The input is any row within the norm's bound (`bound.py`); what lies between the norms counts
as computed in FP32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.bound import Bound
from slanc_onnx.emulate import held_epsilon
from slanc_onnx.norm import Norm

DIVISION = 1 + 2.0**-23  # x / s in FP32, which is exact where s is a power of two
ROUNDINGS = 8  # more than a norm has steps after its sum


@dataclass(frozen=True)
class Certificate:
    """What is proved of one norm at one scale.

    Attributes:
        certified: No row within the bound gives inf or nan.
        reason: Why it is not certified; "" where it is.
        bound: The bound it holds for.
        overflow_bits: log2 of the largest number over the largest partial sum of squares that any
            row can give; below 0 where one may overflow, None without a bound.
        underflow_bits: log2 of a typical row's mean square over the smallest normal number; None
            where no typical row is known.
    """

    certified: bool
    reason: str
    bound: Bound
    overflow_bits: float | None = None
    underflow_bits: float | None = None


class _Fails(Exception):
    """A step may give inf or nan; the message says which."""


@dataclass(frozen=True)
class _Rounding:
    """One rounding to a format: |fl(z)| <= grow |z| + eta."""

    grow: float
    eta: float

    def __call__(self, value: float) -> float:
        return value * self.grow + self.eta


def _rounding(accelerator: Accelerator, step: str) -> _Rounding:
    if step in accelerator.fp32_steps:
        return _Rounding(1 + 2.0**-24, 0.0)
    source = accelerator.input_format if step == "input" else None
    target = source or accelerator.format
    return _Rounding(1 + target.unit_roundoff, _eta(accelerator, target))


def _eta(accelerator: Accelerator, target: Format) -> float:
    flush = accelerator.flush_subnormals
    return target.smallest_normal if flush else target.smallest_subnormal / 2


def sum_error(accelerator: Accelerator, width: int) -> float:
    """How far a sum of `width` numbers can be off, relative to the sum of their magnitudes.

    One after another: (n - 1) u (Rump, "Error estimation of floating-point summation and dot
    product", BIT 52, 2012). As a tree: (1 + u)^depth - 1 (Higham, "Accuracy and stability of
    numerical algorithms", 4.2). In FP32: its own error, and one rounding of the result.
    """
    unit = accelerator.unit_roundoff
    if accelerator.accumulate == "sequential":
        return (width - 1) * unit
    if accelerator.accumulate == "pairwise":
        return float((1 + unit) ** math.ceil(math.log2(max(width, 2))) - 1)
    return (1 + width * 2.0**-24) * (1 + unit) - 1


def output_radius(norm: Norm, width: int, accelerator: Accelerator) -> float:
    """How long the output of a norm before gamma can be on a device: about sqrt(width).

    Longer by what the mean square can come out too small: the sum of positive numbers by its error,
    each square and the mean by underflow. Epsilon, which is held at the smallest number that is
    kept, makes up for that where it stands inside the root. Outside it does so less.
    """
    unit, eta = accelerator.unit_roundoff, _eta(accelerator, accelerator.format)
    lost = (1 + sum_error(accelerator, width)) * (1 + unit) ** ROUNDINGS
    if norm.one_pass:  # cancellation: only that the largest element is seen is left of the row
        return math.inf
    least = accelerator.smallest_kept
    if norm.epsilon_power == 2:
        floor = max(1.0, 2 * eta / least) if norm.epsilon else 3.0
    else:
        floor = max(3.0, 2 * eta / least**2)
    return math.sqrt(width * lost * floor) + math.sqrt(width) * eta


def certify(
    norm: Norm,
    bound: Bound,
    scale: float,
    accelerator: Accelerator,
    affine: tuple[float, float] = (1.0, 0.0),
) -> Certificate:
    """What a bound proves of a norm that is divided by `scale`.

    Args:
        norm: The norm as it is before scaling.
        bound: Of its input.
        scale: What its input is divided by.
        accelerator: Whose arithmetic it is.
        affine: Largest |gamma| and largest |beta|.
    """
    if bound.length is None or bound.centred is None:
        return Certificate(False, bound.reason, bound)
    width = norm.width or bound.width
    arithmetic = _Arithmetic(norm, width, accelerator)
    try:
        top = arithmetic.sum_of_squares(bound.length / scale, bound.centred / scale)
    except _Fails as reason:
        return Certificate(False, str(reason), bound)
    bits = math.log2(accelerator.largest / top)
    reason = ""
    if bits < 0:
        reason = f"a row within its bound may overflow the sum of squares by {-bits:.1f} bits"
    try:
        arithmetic.after_the_sum(norm.epsilon, scale, bound.length / scale, affine)
    except _Fails as failure:
        reason = reason or str(failure)
    return Certificate(not reason, reason, bound, bits)


class _Arithmetic:
    """The steps of one norm, each as the largest magnitude that it can give."""

    def __init__(self, norm: Norm, width: int, accelerator: Accelerator) -> None:
        self.norm, self.width, self.accelerator = norm, width, accelerator
        self.error = sum_error(accelerator, width)
        self.root = math.sqrt(width)
        self.length = 0.0
        self.mean_error = 0.0

    def step(self, name: str) -> _Rounding:
        return _rounding(self.accelerator, name)

    def fits(self, value: float, what: str, largest: float | None = None) -> None:
        if not value <= (largest or self.accelerator.largest):
            raise _Fails(f"{what} may overflow: up to {value:.3g}")

    def sum_of_squares(self, length: float, centred: float) -> float:
        """The largest partial sum, from the L2 norms of the divided row.

        Raises:
            _Fails: a step before it may overflow.
        """
        source = self.accelerator.input_format or self.accelerator.format
        rounding = self.step("input")
        length *= DIVISION
        self.fits(length, "an element", source.largest)
        moved = (rounding.grow - 1) * length + self.root * rounding.eta
        self.length = length + moved
        squared = self.length
        if self.norm.centred:
            magnitudes = self.root * self.length
            self.fits(magnitudes * (1 + self.error), "the sum of a row")
            self.mean_error = self._mean_error(magnitudes)
        if self.norm.sums_centred:
            away = centred * DIVISION + moved + self.root * self.mean_error
            rounding = self.step("centred")
            squared = min(away, self.length + self.root * self.mean_error) * rounding.grow
            squared += self.root * rounding.eta
        rounding = self.step("square")
        total = squared**2 * rounding.grow + self.width * rounding.eta
        return total * (1 + self.error) * (1 + 2.0**-40)

    def _mean_error(self, magnitudes: float) -> float:
        """Of the mean of a row; adding flushes what comes out subnormal, on devices that do."""
        accelerator, rounding = self.accelerator, self.step("mean")
        lost = self.error * magnitudes
        if accelerator.flush_subnormals:
            lost += self.width * accelerator.smallest_normal
        return rounding(lost / self.width) + (rounding.grow - 1) * magnitudes / self.width

    def after_the_sum(
        self, epsilon: float | None, scale: float, length: float, affine: tuple[float, float]
    ) -> None:
        """Epsilon, the reciprocal root, gamma and beta.

        Raises:
            _Fails: a step may give inf or nan.
        """
        if not epsilon:
            raise _Fails("it has no epsilon: a row of zeros is divided by zero")
        norm, accelerator = self.norm, self.accelerator
        held = held_epsilon(epsilon / scale**norm.epsilon_power, accelerator)
        least = held
        if norm.one_pass:
            below = self._below_zero()
            least = held * (2 - self.step("variance").grow) - below
            if least <= 0:
                raise _Fails(
                    f"the variance E[x^2] - mean^2 may come out as {-below:.3g}, below -epsilon: "
                    "its root is nan"
                )
        deviation = math.sqrt(least) if norm.epsilon_power == 2 else least
        self.fits(1.01 / deviation, "the reciprocal root")
        radius = output_radius(norm, self.width, accelerator)
        if norm.one_pass:
            radius = (self.length + self.root * self.mean_error) * 1.01 / deviation
        self.fits(radius, "an element of the output")
        gamma, beta = affine
        self.fits((radius * gamma * 1.01 + beta) * 1.01, "an element after gamma and beta")

    def _below_zero(self) -> float:
        """How far below zero E[x^2] - mean^2 can come out of a row of this length."""
        square = self.length**2 / self.width
        rounding, mean = self.step("mean_square"), math.sqrt(square)
        lost = (self.error + 4 * (rounding.grow - 1)) * square + 3 * rounding.eta
        of_mean = 2 * mean * self.mean_error + self.mean_error**2
        return (lost + of_mean) * rounding.grow**2 + 2 * rounding.eta


def radii(
    norms: Mapping[str, Norm], accelerator: Accelerator
) -> Callable[[str, int], float]:
    """How long a norm's output can be on the accelerator, by its name and width."""

    def radius(name: str, width: int) -> float:
        return output_radius(norms[name], width, accelerator)

    return radius
