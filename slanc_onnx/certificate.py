"""Certificate: a norm whose FP16 arithmetic no input can drive to inf or nan.

It follows the emulated steps one by one (`emulate.py`) and bounds each, rounding included: with u
the unit roundoff, a rounded step gives at most |z| (1 + u) + eta, where eta is what underflow can
cost. The input is any row within the norm's bound (`bound.py`); what lies between the norms counts
as computed in FP32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from slanc_onnx.accelerator import FLOAT32, Accelerator, Format, Step
from slanc_onnx.bound import Bound, Bounds
from slanc_onnx.emulate import held_epsilon
from slanc_onnx.estimate import Estimate
from slanc_onnx.expression import Weight
from slanc_onnx.norm import Norm
from slanc_onnx.progress import Progress
from slanc_onnx.trace import Trace
from slanc_onnx.values import Const, Value
from slanc_onnx.window import ELEMENT_BITS, limits

DIVISION = 1 + 2.0**-23  # x / s in FP32, which is exact where s is a power of two


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


@dataclass(frozen=True)
class Proof:
    """What a certificate of a norm rests on.

    Attributes:
        norm: The norm.
        bound: Of its input.
        affine: Largest |gamma| and largest |beta|; None where one is no constant.
    """

    norm: Norm
    bound: Bound
    affine: tuple[float, float] | None


class _Fails(Exception):
    """A step may give inf or nan; the message says which."""


@dataclass(frozen=True)
class _Rounding:
    """One rounding to a format: |fl(z)| <= grow |z| + eta."""

    grow: float
    eta: float

    def __call__(self, value: float) -> float:
        return value * self.grow + self.eta


def _rounding(accelerator: Accelerator, step: Step) -> _Rounding:
    if step in accelerator.fp32_steps:
        return _rounding_to(FLOAT32, False)
    rounding = _rounding_to(accelerator.format, accelerator.flush_subnormals)
    if step == "input" and accelerator.input_format is not None:  # as it is stored, then as read
        stored = _rounding_to(accelerator.input_format, accelerator.flush_subnormals)
        return _Rounding(stored.grow * rounding.grow, rounding(stored.eta))
    return rounding


def _rounding_to(target: Format, flush: bool) -> _Rounding:
    eta = target.smallest_normal if flush else target.smallest_subnormal / 2
    return _Rounding(1 + target.unit_roundoff, eta)


def sum_error(accelerator: Accelerator, width: int) -> float:
    """How far a sum of `width` numbers can be off, relative to the sum of their magnitudes.

    One after another: (n - 1) u (Rump, "Error estimation of floating-point summation and dot
    product", BIT 52, 2012). As a tree: (1 + u)^depth - 1 (Higham, "Accuracy and stability of
    numerical algorithms", 4.2). In FP32: its own error, and one rounding of the result.
    """
    unit = accelerator.format_of("sum").unit_roundoff
    if accelerator.accumulate == "sequential":
        return (width - 1) * unit
    if accelerator.accumulate == "pairwise":
        return float((1 + unit) ** math.ceil(math.log2(max(width, 2))) - 1)
    return (1 + width * FLOAT32.unit_roundoff) * (1 + unit) - 1


def output_radius(norm: Norm, width: int, accelerator: Accelerator) -> float:
    """How long the output of a norm before gamma can be on a device: about sqrt(width).

    Longer by what the mean square can come out too small: the sum of positive numbers by its error,
    each square and the mean by underflow. Epsilon, which is held at the smallest number that is
    kept, makes up for that where it stands inside the root. Outside it does so less.
    """
    if norm.one_pass:  # cancellation may take all of the variance
        return math.inf
    steps: tuple[Step, ...] = ("square", "mean_square", "variance", "deviation", "inverse")
    grow = math.prod(_rounding(accelerator, step).grow for step in steps)
    lost = (1 + sum_error(accelerator, width)) * grow**2
    under = _rounding(accelerator, "square").eta + _rounding(accelerator, "mean_square").eta
    least = accelerator.smallest_kept
    if not norm.epsilon:
        floor = 3.0
    else:
        floor = max(1.0, under / (least if norm.epsilon_power == 2 else least**2))
    last = _rounding(accelerator, "normalised")
    return math.sqrt(width) * last(math.sqrt(lost * floor))


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
    if bound.length is None:
        return Certificate(False, bound.reason, bound)
    arithmetic = _Arithmetic(norm, norm.width or bound.width, accelerator)
    try:
        bits = arithmetic.overflow_bits(bound.length / scale)
    except _Fails as failure:
        return Certificate(False, str(failure), bound)
    reason = ""
    if bits < 0:
        reason = f"a row within its bound may overflow the sum of squares by {-bits:.1f} bits"
    try:
        arithmetic.after_the_sum(scale, affine)
    except _Fails as failure:
        reason = reason or str(failure)
    return Certificate(not reason, reason, bound, bits)


def certify_at(
    proof: Proof, scale: float, typical: float | None, device: Accelerator
) -> Certificate:
    """As `certify`, with the margin of a typical row to underflow.

    Args:
        proof: What is known of the norm.
        scale: What its input is divided by.
        typical: Sum of squares of an ordinary row before the division, None where it is not known.
        device: Whose arithmetic it is.
    """
    if proof.affine is None:
        return Certificate(False, "its gamma or beta is no constant", proof.bound)
    certificate = certify(proof.norm, proof.bound, scale, device, proof.affine)
    width = proof.norm.width or proof.bound.width
    if not width or typical is None or not typical > 0:
        return certificate
    least = width * limits(device, width)[1]
    return replace(certificate, underflow_bits=math.log2(typical / (least * scale**2)))


def certified_scale(
    proof: Proof, placed: float, estimate: Estimate, device: Accelerator
) -> tuple[float, Certificate]:
    """The scale that was placed, or the next power of two above it that certifies the norm.

    None is taken that brings the smallest row that was seen within `ELEMENT_BITS` of underflow:
    there the certified window counts as empty, and the estimate decides.

    Args:
        proof: What is known of the norm.
        placed: The scale that its estimate gives, a power of two.
        estimate: Sums of squares of its input.
        device: Whose arithmetic it is.
    """
    scale, certificate = placed, certify_at(proof, placed, estimate.typical, device)
    first = certificate
    spare = math.log2(estimate.typical / estimate.lowest) + ELEMENT_BITS
    while not certificate.certified:
        scale *= 2
        certificate = certify_at(proof, scale, estimate.typical, device)
        bits = certificate.underflow_bits
        if bits is None or bits < spare:
            return placed, first
    return scale, certificate


def bounds_for(
    traced: Trace,
    norms: Sequence[Norm],
    device: Accelerator,
    ranges: Mapping[str, tuple[float, float]],
    exact: bool,
    executor: Executor | None = None,
) -> Bounds:
    """The bounds of norms whose outputs are as long as a device makes them; see `Bounds`."""
    by_name = {norm.name: norm for norm in norms}

    def radius(name: str, width: int) -> float:
        return output_radius(by_name[name], width, device)

    return Bounds(traced, norms, radius, ranges, exact, executor)


def proofs(
    bounds: Bounds, traced: Trace, norms: Sequence[Norm], progress: Progress
) -> dict[str, Proof]:
    """What is known of each norm, by its name."""
    found = bounds.all(progress)
    return {
        norm.name: Proof(norm, found[norm.name], _affine(traced.affine.get(norm.name)))
        for norm in norms
    }


def _affine(values: tuple[Value | None, Value | None] | None) -> tuple[float, float] | None:
    """Largest |gamma| and |beta|; None where one is no constant."""
    largest = []
    for value, absent in zip(values or (None, None), (1.0, 0.0), strict=True):
        if isinstance(value, (Const, Weight)):
            array = value.array if isinstance(value, Const) else value.read()
            largest.append(float(np.abs(array.astype(np.float64)).max(initial=0.0)))
        elif value is None:
            largest.append(absent)
        else:
            return None
    return largest[0], largest[1]


class _Arithmetic:
    """The steps of one norm, each as the largest magnitude that it can give."""

    def __init__(self, norm: Norm, width: int, accelerator: Accelerator) -> None:
        self.norm, self.width, self.accelerator = norm, width, accelerator
        self.error = sum_error(accelerator, width)
        self.root = math.sqrt(width)
        self.length = 0.0
        self.mean_error = 0.0

    def rounding(self, step: Step) -> _Rounding:
        return _rounding(self.accelerator, step)

    def fits(self, value: float, what: str, step: Step) -> None:
        if not value <= self.accelerator.format_of(step).largest:
            raise _Fails(f"{what} may overflow: up to {value:.3g}")

    def overflow_bits(self, length: float) -> float:
        """Room above the largest partial sum of squares, from the L2 norm of the divided row.

        Raises:
            _Fails: a step before the squares may overflow.
        """
        rounding = self.rounding("input")
        length *= DIVISION
        self.fits(length, "an element", "input")
        moved = (rounding.grow - 1) * length + self.root * rounding.eta
        self.length = length + moved
        squared = self.length
        if self.norm.centred:
            magnitudes = self.root * self.length
            self.fits(magnitudes * (1 + self.error), "the sum of a row", "sum")
            self.mean_error = self._mean_error(magnitudes)
        if self.norm.sums_centred:
            rounding = self.rounding("centred")
            squared = (self.length + self.root * self.mean_error) * rounding.grow
            squared += self.root * rounding.eta
        rounding = self.rounding("square")
        total = (squared**2 * rounding.grow + self.width * rounding.eta) * (1 + self.error)
        room = min(
            self.accelerator.format_of("sum").largest,
            self.accelerator.format_of("square").largest,
            self.accelerator.format_of("mean_square").largest * (self.width - self.norm.unbiased),
        )
        return math.log2(room / total) - 2.0**-30

    def _mean_error(self, magnitudes: float) -> float:
        """Of the mean of a row; adding flushes what comes out subnormal, on devices that do."""
        rounding, adds = self.rounding("mean"), self.rounding("sum")
        lost = self.error * magnitudes
        if self.accelerator.flush_subnormals:  # without flushing, sums of subnormals are exact
            lost += self.width * adds.eta
        return rounding(lost / self.width) + (rounding.grow - 1) * magnitudes / self.width

    def after_the_sum(self, scale: float, affine: tuple[float, float]) -> None:
        """Epsilon, the reciprocal root, gamma and beta.

        Raises:
            _Fails: a step may give inf or nan.
        """
        norm, accelerator = self.norm, self.accelerator
        if not norm.epsilon:
            raise _Fails("it has no epsilon: a row of zeros is divided by zero")
        joins: Step = "variance" if norm.epsilon_power == 2 else "deviation"
        least = norm.epsilon / scale**norm.epsilon_power
        if joins not in accelerator.fp32_steps:
            least = held_epsilon(least, accelerator)
        if norm.one_pass:
            below = self._below_zero()
            least = least * (2 - self.rounding(joins).grow) - below
            if least <= 0:
                raise _Fails(
                    f"E[x^2] - mean^2 may come out as {-below:.3g}, below -epsilon: its root is nan"
                )
        root = math.sqrt(least) if norm.epsilon_power == 2 else least
        inverse = 1 / (root * (2 - self.rounding("deviation").grow) ** 2)
        self.fits(inverse, "the reciprocal root", "inverse")
        radius = output_radius(norm, self.width, accelerator)
        if norm.one_pass:
            grow = self.rounding("inverse").grow * self.rounding("normalised").grow
            radius = (self.length + self.root * self.mean_error) * inverse * grow
        self.fits(radius, "an element of the output", "normalised")
        gamma, beta = affine
        grow = self.rounding("affine").grow
        self.fits((radius * gamma * grow**2 + beta * grow) * grow, "gamma and beta", "affine")

    def _below_zero(self) -> float:
        """How far below zero E[x^2] - mean^2 can come out of a row of this length."""
        square = self.length**2 / self.width
        rounding, mean = self.rounding("mean_square"), math.sqrt(square)
        lost = (self.error + 4 * (rounding.grow - 1)) * square + 3 * rounding.eta
        of_mean = 2 * mean * self.mean_error + self.mean_error**2
        return (lost + of_mean) * rounding.grow**2 + 2 * rounding.eta
