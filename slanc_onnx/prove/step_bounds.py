"""Step bounds: the largest magnitude that each step of a norm can give on a device.

They follow the emulated steps one by one (`emulate.py`), rounding included: with u the unit
roundoff, a rounded step gives at most |z| (1 + u) + eta, where eta is the most underflow can cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from slanc_onnx.accelerator import FLOAT32, Accelerator, Format, Step, SumOrder
from slanc_onnx.norms import Norm
from slanc_onnx.prove.affine import Affine
from slanc_onnx.reasons import Reason, Unproved, reason

DIVISION = 1 + 2.0**-23  # x / s in FP32, which is exact where s is a power of two
# A step's operation is done in FP32 first: where it reads FP32, that rounds too.
IN_FP32 = 1 + 2.0**-23
# What adding in FP32 first may add to the rounding of a sum of numbers of different formats.
TWICE_ROUNDED = 2.0**-23
_ADDED: tuple[Step, ...] = ("input", "square")  # the steps whose results are summed
MOST_SCALE = 2.0**40  # up to which `output_radius` holds


class StepFails(Exception):
    """A step may give inf or nan.

    Attributes:
        reason: Which.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Rounding:
    """One rounding to a format: |fl(z)| <= grow |z| + eta, and |z| <= grow (|fl(z)| + eta).

    Attributes:
        grow: 1 + u.
        eta: The most that underflow changes a number by.
        normal: The smallest number that underflow cannot change.
        flushes: Whether every number below `normal` becomes zero.
    """

    grow: float
    eta: float
    normal: float
    flushes: bool

    def __call__(self, value: float) -> float:
        return value * self.grow + self.eta

    def least(self, value: float) -> float:
        """The smallest that a number of at least `value` may become; 0 where it may vanish."""
        if value >= self.normal:
            return max(value * (2 - self.grow), self.normal)
        return 0.0 if self.flushes else max(value - self.eta, 0.0)


def rounding_to(target: Format, flush: bool) -> Rounding:
    """The rounding of results to a format, with or without a flush of subnormals."""
    eta = target.smallest_normal if flush else target.smallest_subnormal / 2
    grow = (1 + target.unit_roundoff) * IN_FP32
    return Rounding(grow, eta, target.smallest_normal, flush)


def rounding_of(accelerator: Accelerator, step: Step) -> Rounding:
    """The rounding of a step's results; the input is rounded as it is stored and as it is read."""
    if step in accelerator.fp32_steps:
        return rounding_to(FLOAT32, False)
    rounding = rounding_to(accelerator.format, accelerator.flush_subnormals)
    if step == "input" and accelerator.input_format is not None:
        stored = rounding_to(accelerator.input_format, accelerator.flush_subnormals)
        grow, eta = stored.grow * rounding.grow, rounding(stored.eta)
        return Rounding(grow, eta, max(stored.normal, rounding.normal), stored.flushes)
    return rounding


def sum_error(accelerator: Accelerator, width: int) -> float:
    """How far a sum of `width` numbers can be off, relative to the sum of their magnitudes.

    Where the result is rounded once more than the adds, that counts as well.
    """
    unit = accelerator.format_of("sum").unit_roundoff * IN_FP32
    if accelerator.sum_format is None:
        own = accelerator.accumulator == FLOAT32 or accelerator.fp32_steps.isdisjoint(_ADDED)
        return _error_of_adds(
            accelerator.sum_order, width, unit if own else unit + TWICE_ROUNDED, own
        )
    narrow = accelerator.sum_format != FLOAT32
    added = accelerator.sum_format.unit_roundoff + (TWICE_ROUNDED if narrow else 0.0)
    return (1 + _error_of_adds(accelerator.sum_order, width, added, own=False)) * (1 + unit) - 1


def _error_of_adds(order: SumOrder, width: int, unit: float, own: bool) -> float:
    """What the adds of a sum can be off by, each by `unit`, relative to the magnitudes.

    One after another, or in any order in FP32: (n - 1) u (Rump, "Error estimation of floating-point
    summation and dot product", BIT 52, 2012), and n u where the addends are of another format, so
    that adding the first to zero rounds it too. As a tree: (1 + u)^depth - 1 (Higham, "Accuracy and
    stability of numerical algorithms", 4.2).

    Args:
        order: Of the adds.
        width: Number of addends.
        unit: Unit roundoff of an add.
        own: Whether every addend is a number of the accumulator's format.
    """
    if order == "pairwise":
        return float((1 + unit) ** math.ceil(math.log2(max(width, 2))) - 1)
    return (width - 1 if own and order == "sequential" else width) * unit


def lost_in_sum(accelerator: Accelerator, width: int, addend: Step, signed: bool) -> float:
    """The most that underflow takes from a sum.

    A sum of numbers of its own format loses nothing: below the smallest normal number it is exact.
    But where subnormals are flushed, numbers of different signs may cancel to one. A narrow
    accumulator of another format may lose something at each add, which the next ones round.

    Args:
        accelerator: The device.
        width: Number of addends.
        addend: The step whose results are added.
        signed: Whether they may have different signs.
    """
    kept_as = ("sum" in accelerator.fp32_steps, addend in accelerator.fp32_steps)
    lost = width * rounding_of(accelerator, "sum").eta
    if kept_as[0] == kept_as[1] and not (signed and accelerator.flush_subnormals):
        lost = 0.0
    if accelerator.sum_format not in (None, FLOAT32):
        added = rounding_to(accelerator.accumulator, accelerator.flush_subnormals)
        lost += width * added.eta * (1 + sum_error(accelerator, width))
    return lost


def smallest_epsilon(norm: Norm, accelerator: Accelerator, scale: float | None) -> float:
    """The smallest epsilon that the device may add, at a scale or at all scales.

    A step in FP32 adds epsilon as it is; any other holds it at the smallest number that is kept.
    """
    joins: Step = "variance" if norm.epsilon_power == 2 else "deviation"
    divided = (norm.epsilon or 0.0) / (scale or MOST_SCALE) ** norm.epsilon_power
    if joins in accelerator.fp32_steps:
        return divided / IN_FP32
    return accelerator.smallest_kept if scale is None else accelerator.held_epsilon(divided)


def output_radius(
    norm: Norm, width: int, accelerator: Accelerator, scale: float | None = None
) -> float:
    """How long the output of a norm before gamma can be on a device: about sqrt(width).

    It is longer where the mean square comes out too small: the sum by its error, each square and
    the mean by underflow. Epsilon makes up for that where it stands inside the root and is held at
    the smallest number that is kept. Elsewhere it does so less.

    Args:
        norm: The norm as it is before scaling.
        width: Elements per row.
        accelerator: The device.
        scale: The divisor of the input; None for all scales up to `MOST_SCALE`.
    """
    if norm.one_pass or width < 1:  # cancellation may take all of the variance
        return math.inf

    def rounding(step: Step) -> Rounding:
        return rounding_of(accelerator, step)

    grow = math.prod(rounding(step).grow for step in ("square", "mean_square", "variance"))
    grow *= (rounding("deviation").grow ** 2 * rounding("inverse").grow) ** 2
    under = rounding("square").eta + rounding("mean_square").eta
    under += lost_in_sum(accelerator, width, "square", signed=False) / width
    least = smallest_epsilon(norm, accelerator, scale)
    in_fp32 = "mean_square" in accelerator.fp32_steps
    if not norm.epsilon or norm.epsilon < 0:
        smallest = FLOAT32.smallest_subnormal if in_fp32 else accelerator.smallest_kept
        floor = 1 + under / smallest
    elif norm.epsilon_power == 2:
        floor = max(1.0, under / least)
    else:
        vanished = rounding("deviation").eta if in_fp32 else 0.0
        floor = max(1.0, (math.sqrt(under) + vanished) / least) ** 2
    lost = (1 + sum_error(accelerator, width)) * grow * floor
    doubled = 2.0 ** len(_rounded_below_normal(norm, accelerator))
    return math.sqrt(width) * rounding("normalised")(math.sqrt(lost) * doubled)


def _rounded_below_normal(norm: Norm, accelerator: Accelerator) -> list[Step]:
    """Steps whose result may be subnormal, and so off by a factor of up to 2.

    If all are in one format, the root of a number that is kept is normal, and so is its inverse.
    The exception is an epsilon outside the root.
    """
    steps: tuple[Step, ...] = ("variance", "deviation", "inverse")
    narrow = [step for step in steps if step not in accelerator.fp32_steps]
    if len(narrow) < len(steps) or "mean_square" in accelerator.fp32_steps:
        return narrow
    return ["inverse"] if norm.epsilon_power == 1 else []


class Arithmetic:
    """The steps of one norm at one scale, each as the largest magnitude that it can give.

    Args:
        norm: The norm as it is before scaling.
        width: Elements per row.
        accelerator: The device.
        scale: The divisor of the input.
    """

    def __init__(self, norm: Norm, width: int, accelerator: Accelerator, scale: float) -> None:
        self.norm, self.width, self.accelerator, self.scale = norm, width, accelerator, scale
        self.error = sum_error(accelerator, width)
        self.root = math.sqrt(width)
        self.length = 0.0
        self.mean_error = 0.0
        self.away = 0.0
        self.mean_square = 0.0

    def rounding(self, step: Step) -> Rounding:
        """The rounding of a step's results."""
        return rounding_of(self.accelerator, step)

    def fits(self, value: float, step: Step) -> None:
        """Check that a magnitude fits into the format of a step.

        Raises:
            StepFails: it may overflow.
        """
        device = self.accelerator
        largest = (FLOAT32 if step in device.fp32_steps else device.format).largest
        if step == "sum":
            largest = device.largest_sum
        if not value <= largest:
            raise StepFails(reason(Unproved.STEP_OVERFLOWS, step, value))

    def overflow_bits(self, length: float) -> float:
        """log2 of the largest number over the largest partial sum of squares.

        Args:
            length: Upper bound of the row's L2 norm before the division.

        Raises:
            StepFails: a step before the squares may overflow.
        """
        self._input(length / self.scale * DIVISION)
        squared = self._centred() if self.norm.centred else self.length
        if self.width <= self.norm.unbiased:
            raise StepFails(reason(Unproved.ONE_ELEMENT))
        square = self.rounding("square")
        total = squared**2 * square.grow + self.width * square.eta
        total += lost_in_sum(self.accelerator, self.width, "square", signed=False)
        total *= 1 + self.error
        count = self.width - self.norm.unbiased
        self.mean_square = self.rounding("mean_square")(total / count)
        room = min(
            self.accelerator.largest_sum,
            self.accelerator.format_of("square").largest,
            self.accelerator.format_of("mean_square").largest * count,
        )
        return math.log2(room / total) - 2.0**-30

    def _input(self, length: float) -> None:
        """Set the length of the row as the device reads it."""
        device, rounding = self.accelerator, self.rounding("input")
        element = length
        if device.input_format is not None and "input" not in device.fp32_steps:
            if not length <= device.input_format.largest:
                raise StepFails(reason(Unproved.STEP_OVERFLOWS, "input", length))
            stored = rounding_to(device.input_format, False)
            element = min(stored(length), device.input_format.largest)
        self.fits(element, "input")
        self.length = length * rounding.grow + self.root * rounding.eta

    def _centred(self) -> float:
        """Check the mean and its subtraction; returns the L2 norm of the row that is squared."""
        magnitudes = self.root * self.length
        self.fits(magnitudes * (1 + self.error), "sum")
        mean = self.rounding("mean")
        lost = self.error * magnitudes
        lost += lost_in_sum(self.accelerator, self.width, "input", signed=True)
        self.mean_error = mean(lost / self.width) + (mean.grow - 1) * magnitudes / self.width
        largest_mean = self.length / self.root + self.mean_error
        self.fits(largest_mean, "mean")
        away = self.length + self.root * self.mean_error
        self.fits(away, "centred")
        rounding = self.rounding("centred")
        self.away = away * rounding.grow + self.root * rounding.eta
        if not self.norm.one_pass:
            return self.away
        self.fits(largest_mean**2, "square")
        return self.length

    def after_the_sum(self, affine: Affine) -> None:
        """Check the steps after the mean square: epsilon, the reciprocal root, gamma and beta.

        Raises:
            StepFails: a step may give inf or nan.
        """
        norm = self.norm
        if not norm.epsilon or norm.epsilon < 0:
            raise StepFails(reason(Unproved.NO_EPSILON))
        if self.scale > MOST_SCALE:
            raise StepFails(reason(Unproved.SCALE_TOO_LARGE, MOST_SCALE))
        epsilon = smallest_epsilon(norm, self.accelerator, self.scale)
        deviation = self.rounding("deviation")
        root = deviation(math.sqrt(self.mean_square))
        if norm.epsilon_power == 2:
            self.fits(self.mean_square + epsilon * IN_FP32, "variance")
            variance = self.rounding("variance")(self.mean_square + epsilon * IN_FP32)
            root = math.sqrt(variance)
        else:
            self.fits(root + epsilon * IN_FP32, "deviation")
        self.fits(root, "deviation")
        least = self.least_deviation(epsilon)
        inverse = 1 / least if least > 0 else math.inf
        self.fits(inverse, "inverse")
        radius = output_radius(norm, self.width, self.accelerator, self.scale)
        if norm.one_pass:
            radius = self.away * self.rounding("inverse")(inverse)
        self.fits(radius, "normalised")
        radius = self.rounding("normalised")(radius)
        rounding = self.rounding("affine")
        for constant in (affine.gamma, affine.beta):  # stored before a row meets it
            self.fits(constant, "affine")
        gamma, beta = rounding(affine.gamma), rounding(affine.beta)
        self.fits(rounding(radius * gamma) + beta, "affine")

    def least_deviation(self, epsilon: float) -> float:
        """The smallest value of the deviation with epsilon; 0 where it may vanish.

        Raises:
            StepFails: the root may be of a negative number.
        """
        deviation = self.rounding("deviation")
        below = self._below_zero() if self.norm.one_pass else 0.0
        if self.norm.epsilon_power == 1:
            if below:
                raise StepFails(reason(Unproved.NEGATIVE_UNDER_ROOT, -below))
            return (
                epsilon / deviation.grow if "deviation" in self.accelerator.fp32_steps else epsilon
            )
        if epsilon <= below:
            raise StepFails(reason(Unproved.BELOW_EPSILON, -below))
        # Adding what is not negative to a number that is held leaves at least that number.
        least = self.rounding("variance").least(epsilon - below) if below else epsilon
        return deviation.least(math.sqrt(least) / IN_FP32)

    def _below_zero(self) -> float:
        """How far below zero E[x^2] - mean^2 can come out for a row of this length."""
        device, width = self.accelerator, self.width
        square, mean_square = self.rounding("square"), self.rounding("mean_square")
        exact = self.length**2 / width
        lost = (square.grow - 1 + self.error + mean_square.grow - 1) * exact
        lost += square.eta + mean_square.eta + lost_in_sum(device, width, "square", False) / width
        mean = math.sqrt(exact)
        added = (mean + self.mean_error) ** 2 * square.grow - exact + square.eta
        return (lost + added) * mean_square.grow + mean_square.eta
