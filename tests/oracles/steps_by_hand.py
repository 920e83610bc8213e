"""What each step of a norm can give at most, from the theorems that `step_bounds.py` names.

Formats are given in numbers, and the steps one after the other as a list, in NumPy's FP64.
"""

import math
from typing import Literal, NamedTuple

from slanc_onnx.accelerator import Accelerator, Step
from slanc_onnx.norms.norm import Norm

# Largest, smallest normal and smallest subnormal number, unit roundoff.
FACTS = {
    "float16": (65504.0, 2.0**-14, 2.0**-24, 2.0**-11),
    "bfloat16": (2.0**128 - 2.0**120, 2.0**-126, 2.0**-133, 2.0**-8),
    "float32": (2.0**128 - 2.0**104, 2.0**-126, 2.0**-149, 2.0**-24),
    "float8_e4m3fn": (448.0, 2.0**-6, 2.0**-9, 2.0**-4),
    "float8_e5m2": (57344.0, 2.0**-14, 2.0**-16, 2.0**-3),
}
ONCE = 1 + 2.0**-23  # an operation in FP32
MOST = 2.0**40


class Passed(NamedTuple):
    """A magnitude that a step's format has to hold."""

    what: str
    size: float
    step: Step | Literal["stored"]


class ByHand:
    """One norm on one device at one scale."""

    def __init__(self, norm: Norm, width: int, device: Accelerator, scale: float | None) -> None:
        self.norm, self.n, self.device, self.scale = norm, width, device, scale

    def facts(self, step: Step) -> tuple[float, float, float, float]:
        return FACTS["float32" if step in self.device.fp32_steps else self.device.format.name]

    def largest(self, step: Step) -> float:
        return self.facts(step)[0]

    def grow(self, step: Step) -> float:
        stored = self.device.input_format if step == "input" else None
        once = (1 + self.facts(step)[3]) * ONCE
        if stored is None or step in self.device.fp32_steps:
            return once
        return once * (1 + FACTS[stored.name][3]) * ONCE

    def eta(self, step: Step) -> float:
        def of(facts: tuple[float, float, float, float], flush: bool) -> float:
            return facts[1] if flush else facts[2] / 2

        narrow = step not in self.device.fp32_steps
        lost = of(self.facts(step), self.device.flush_subnormals and narrow)
        stored = self.device.input_format if step == "input" and narrow else None
        if stored is None:
            return lost
        first = of(FACTS[stored.name], self.device.flush_subnormals)
        return first * (1 + self.facts(step)[3]) * ONCE + lost

    def sum_error(self) -> float:
        unit = self.facts("sum")[3] * ONCE
        depth = math.ceil(math.log2(self.n)) if self.n > 1 else 1
        if self.device.accumulate == "fp32":
            return (1 + self.n * 2.0**-24) * (1 + unit) - 1
        in_fp32 = self.device.fp32_steps
        mixed = "sum" not in in_fp32 and not in_fp32.isdisjoint(("input", "square"))
        unit += 2.0**-23 if mixed else 0.0  # FP32 addends: each add rounds twice, the first too
        adds = self.n - 1 + mixed
        return adds * unit if self.device.accumulate == "sequential" else (1 + unit) ** depth - 1

    def underflow(self, addend: Step, signed: bool) -> float:
        in_fp32 = self.device.fp32_steps
        alike = (addend in in_fp32) == ("sum" in in_fp32)
        cancels = signed and self.device.flush_subnormals
        return 0.0 if alike and not cancels else self.n * self.eta("sum")

    def epsilon(self) -> float:
        step: Step = "variance" if self.norm.epsilon_power == 2 else "deviation"
        own = (self.norm.epsilon or 0.0) / (self.scale or MOST) ** self.norm.epsilon_power
        if step in self.device.fp32_steps:
            return own / ONCE
        least = FACTS[self.device.format.name][1 if self.device.flush_subnormals else 2]
        return least if self.scale is None else self.device.held_epsilon(own)

    def radius(self) -> float:
        """The longest output before gamma."""
        if self.norm.one_pass:
            return math.inf
        n, in_fp32 = self.n, self.device.fp32_steps
        grow = self.grow("square") * self.grow("mean_square") * self.grow("variance")
        grow *= self.grow("deviation") ** 4 * self.grow("inverse") ** 2
        under = self.eta("square") + self.eta("mean_square") + self.underflow("square", False) / n
        kept = FACTS[self.device.format.name][1 if self.device.flush_subnormals else 2]
        if not self.norm.epsilon or self.norm.epsilon < 0:
            floor = 1 + under / (2.0**-149 if "mean_square" in in_fp32 else kept)
        elif self.norm.epsilon_power == 2:
            floor = max(1.0, under / self.epsilon())
        else:
            gone = self.eta("deviation") if "mean_square" in in_fp32 else 0.0
            floor = max(1.0, (math.sqrt(under) + gone) / self.epsilon()) ** 2
        halved = sum(s not in in_fp32 for s in ("variance", "deviation", "inverse"))
        if halved == 3 and "mean_square" not in in_fp32:
            halved = int(self.norm.epsilon_power == 1)
        longest = math.sqrt((1 + self.sum_error()) * grow * floor) * 2.0**halved
        return math.sqrt(n) * (longest * self.grow("normalised") + self.eta("normalised"))

    def before_the_squares(self, length: float) -> list[Passed]:
        """Sets `row`, the length of the row as it is read, and `away`, that without its mean."""
        n, root, given = self.n, math.sqrt(self.n), length / self.device_scale * ONCE
        passed, element, stored = [], given, self.device.input_format
        if stored is not None and "input" not in self.device.fp32_steps:
            most, _, least, unit = FACTS[stored.name]
            if given > most:
                return [Passed("an element", given, "stored")]
            element = min(given * (1 + unit) * ONCE + least / 2, most)
        passed.append(Passed("an element", element, "input"))
        self.row = given * self.grow("input") + root * self.eta("input")
        self.away = self.row
        self.mean_error = 0.0
        if not self.norm.centred:
            return passed
        sizes, error = root * self.row, self.sum_error()
        lost = error * sizes + self.underflow("input", True)
        grow = self.grow("mean")
        self.mean_error = lost / n * grow + self.eta("mean") + (grow - 1) * sizes / n
        mean = self.row / root + self.mean_error
        away = self.row + root * self.mean_error
        self.away = away * self.grow("centred") + root * self.eta("centred")
        passed += [
            Passed("the sum of a row", sizes * (1 + error), "sum"),
            Passed("the mean of a row", mean, "mean"),
            Passed("an element without the mean", away, "centred"),
        ]
        if self.norm.one_pass:
            passed.append(Passed("the square of the mean", mean**2, "square"))
        return passed

    @property
    def device_scale(self) -> float:
        return self.scale or 1.0

    def sums(self) -> tuple[float, float]:
        """The largest sum of squares and the largest mean square."""
        squared = self.row if self.norm.one_pass else self.away
        total = squared**2 * self.grow("square") + self.n * self.eta("square")
        total = (total + self.underflow("square", False)) * (1 + self.sum_error())
        count = self.n - self.norm.unbiased
        return total, total / count * self.grow("mean_square") + self.eta("mean_square")

    def overflow_bits(self) -> float:
        count = self.n - self.norm.unbiased
        rooms = [self.largest("sum"), self.largest("square"), self.largest("mean_square") * count]
        return math.log2(min(rooms) / self.sums()[0])

    def below_zero(self) -> float:
        """How far below zero E[x^2] - mean^2 may come out."""
        n, mean_square = self.n, self.row**2 / self.n
        up = self.grow("square") - 1 + self.sum_error() + self.grow("mean_square") - 1
        lost = up * mean_square + self.eta("square") + self.eta("mean_square")
        lost += self.underflow("square", False) / n
        mean = self.row / math.sqrt(n) + self.mean_error
        lost += mean**2 * self.grow("square") - mean_square + self.eta("square")
        return lost * self.grow("mean_square") + self.eta("mean_square")

    def least(self, step: Step, value: float) -> float:
        """The smallest that a step may make of a number of at least `value`."""
        normal = self.facts(step)[1]
        if value >= normal:
            return max(value * (2 - self.grow(step)), normal)
        flushes = self.device.flush_subnormals and step not in self.device.fp32_steps
        return 0.0 if flushes else max(value - self.eta(step), 0.0)

    def least_deviation(self) -> float | str:
        """The smallest deviation with epsilon, or why there is none."""
        epsilon, below = self.epsilon(), self.below_zero() if self.norm.one_pass else 0.0
        told = f"E[x^2] - mean^2 may come out as {-below:.3g}"
        if self.norm.epsilon_power == 1:
            if below:
                return f"{told} under the root: that is nan"
            return epsilon / self.grow("deviation") if self.in_fp32("deviation") else epsilon
        if epsilon <= below:
            return f"{told}, below -epsilon: its root is nan"
        least = self.least("variance", epsilon - below) if below else epsilon
        return self.least("deviation", math.sqrt(least) / ONCE)

    def in_fp32(self, step: Step) -> bool:
        return step in self.device.fp32_steps

    def after_the_sum(self, gamma: float, beta: float) -> list[Passed] | str:
        """The magnitudes in their order, or why there is a nan."""
        epsilon, (_, mean_square) = self.epsilon(), self.sums()
        grow, eta = self.grow("deviation"), self.eta("deviation")
        root = math.sqrt(mean_square) * grow + eta
        if self.norm.epsilon_power == 2:
            added = mean_square + epsilon * ONCE
            root = math.sqrt(added * self.grow("variance") + self.eta("variance"))
            passed = [Passed("the variance with epsilon", added, "variance")]
        else:
            passed = [Passed("the deviation", root + epsilon * ONCE, "deviation")]
        passed.append(Passed("the deviation", root, "deviation"))
        least = self.least_deviation()
        if isinstance(least, str):
            return self.failure(passed) or least
        inverse = 1 / least if least else math.inf
        passed.append(Passed("the reciprocal root", inverse, "inverse"))
        longest = self.radius()
        if self.norm.one_pass:
            longest = self.away * (inverse * self.grow("inverse") + self.eta("inverse"))
        passed.append(Passed("an element of the output", longest, "normalised"))
        longest = longest * self.grow("normalised") + self.eta("normalised")
        grow, eta = self.grow("affine"), self.eta("affine")
        passed += [Passed("gamma and beta", number, "affine") for number in (gamma, beta)]
        last = (longest * (gamma * grow + eta)) * grow + eta + (beta * grow + eta)
        return [*passed, Passed("gamma and beta", last, "affine")]

    def failure(self, passed: list[Passed]) -> str:
        """The first magnitude that its format does not hold, in words."""
        for what, size, step in passed:
            if step == "stored" or not size <= self.largest(step):
                return f"{what} may overflow: up to {size:.3g}"
        return ""

    def reason(self, length: float, gamma: float, beta: float) -> str:
        """Why the norm is not certified; "" where it is."""
        early = self.before_the_squares(length)
        if why := self.failure(early):
            return why
        if self.n <= self.norm.unbiased:
            return "it divides the sum of squares of one element by zero"
        bits = self.overflow_bits()
        if bits < 0:
            return f"a row within its bound may overflow the sum of squares by {-bits:.1f} bits"
        if not self.norm.epsilon or self.norm.epsilon < 0:
            return "it has no epsilon: a row of zeros is divided by zero"
        if self.device_scale > MOST:
            return f"its scale is above {MOST:.3g}"
        after = self.after_the_sum(gamma, beta)
        return after if isinstance(after, str) else self.failure(after)
