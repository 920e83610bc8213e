"""The hardware whose norm arithmetic is protected and emulated, as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from slanc_onnx.errors import SlancError

# Of the adds of a sum; "any" is an order that nobody tells, which only an FP32 sum may have.
SumOrder = Literal["sequential", "pairwise", "any"]
Variance = Literal["two-pass", "one-pass"]
# The results that a device may round, in the order in which a norm has them.
Step = Literal[
    "input",
    "mean",
    "centred",
    "square",
    "sum",
    "mean_square",
    "variance",
    "deviation",
    "inverse",
    "normalised",
    "affine",
]
STEPS: tuple[Step, ...] = get_args(Step)

# What `Format.named` takes, in words for people.
FORMATS: Mapping[str, str] = MappingProxyType(
    {
        "float16": "FP16",
        "bfloat16": "BF16",
        "float32": "FP32",
        "float8_e4m3fn": "FP8 E4M3FN",
        "float8_e4m3": "FP8 E4M3 (IEEE)",
        "float8_e4m3fnuz": "FP8 E4M3FNUZ",
        "float8_e5m2": "FP8 E5M2",
        "float8_e5m2fnuz": "FP8 E5M2FNUZ",
    }
)


@dataclass(frozen=True)
class Format:
    """A binary floating-point format, as far as rounding to it goes.

    Attributes:
        name: As NumPy and ml_dtypes call it.
        largest: Largest finite number.
        smallest_normal: Smallest normal number.
        smallest_subnormal: Smallest positive number.
        unit_roundoff: Half the distance from 1 to the next number; what rounding to nearest may
            change a normal number by, relative to it.
    """

    name: str
    largest: float
    smallest_normal: float
    smallest_subnormal: float
    unit_roundoff: float

    @staticmethod
    def named(name: str) -> Format:
        """A format with the limits that ml_dtypes gives.

        Raises:
            SlancError: `name` is none of `FORMATS`.
        """
        if name not in FORMATS:
            raise SlancError(f"format {name!r} is not known. Known are: {', '.join(FORMATS)}.")
        limits = ml_dtypes.finfo(np.dtype(name))  # type: ignore[no-untyped-call]
        return Format(
            name,
            largest=float(limits.max),
            smallest_normal=float(limits.smallest_normal),
            smallest_subnormal=float(limits.smallest_subnormal),
            unit_roundoff=float(limits.eps) / 2,
        )

    def nearest(self, value: float) -> float:
        """A number of 0 or more, rounded to nearest, ties to even, but never to infinity."""
        if value >= self.largest:
            return self.largest
        binade = max(math.frexp(value)[1] - 1, math.frexp(self.smallest_normal)[1] - 1)
        spacing = math.ldexp(2 * self.unit_roundoff, binade)
        return round(value / spacing) * spacing

    def holds(self, size: float) -> bool:
        """Whether a number of 0 or more is finite when it is rounded to nearest, ties to even."""
        spacing = math.ldexp(2 * self.unit_roundoff, math.frexp(self.largest)[1] - 1)
        return round(size / spacing) * spacing <= self.largest

    def rounded(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Finite numbers within the format, rounded to nearest, ties to even, once."""
        if self.name in ("float16", "float32"):  # NumPy's own, a tenth of the time
            return values.astype(self.name).astype(np.float32)
        smallest = math.frexp(self.smallest_normal)[1] - 1
        binade = np.maximum(np.frexp(values)[1] - 1, smallest)
        spacing = np.ldexp(2 * self.unit_roundoff, binade)
        return np.asarray(np.rint(values / spacing) * spacing, np.float32)

    def __str__(self) -> str:
        return FORMATS.get(self.name, self.name)


FLOAT16 = Format.named("float16")
FLOAT32 = Format.named("float32")
OF_16_BITS: Mapping[int, Format] = MappingProxyType(  # by element type
    {TensorProto.FLOAT16: FLOAT16, TensorProto.BFLOAT16: Format.named("bfloat16")}
)

# Sums by a short name: the order of the adds and the format of the accumulator (None: the device's
# own). What the command line and a target file take; a line here is all that another one needs.
ACCUMULATE: Mapping[str, tuple[SumOrder, Format | None]] = MappingProxyType(
    {
        "sequential": ("sequential", None),
        "pairwise": ("pairwise", None),
        "fp32": ("any", FLOAT32),
    }
)


@dataclass(frozen=True)
class Accelerator:
    """How a device computes a norm, and which of its results are rounded to a narrow format.

    Attributes:
        sum_order: Order of the sums over a row: one running sum, a binary tree of adds, or any.
        flush_subnormals: Whether every rounded result below its format's smallest normal number
            becomes zero.
        variance: LayerNorm's variance, from centred values in a second pass or as E[x^2] - mean^2.
        format: What each step and each sum is rounded to.
        input_format: What a norm's (scaled) input is rounded to before it is converted to
            `format`; None where that is `format` itself.
        fp32_steps: Steps whose results stay in FP32. "sum" is what a sum gives, and every add of it
            where `sum_format` does not say otherwise; a step that a norm has more than one
            operation for keeps all of them: "square" the squares and the square of the mean,
            "deviation" the root and an epsilon added to it, "affine" gamma, beta and what they and
            SiLU give.
        sum_format: The accumulator's, which each add is rounded to; the whole sum then is rounded
            to `format`, once. None where the accumulator is in the format of what a sum gives.
        name: Of the target, for people; no part of what is computed.

    Raises:
        SlancError: an order that is not known, or any order without an FP32 accumulator: what
            a narrower one gives depends on it.
    """

    sum_order: SumOrder = "sequential"
    flush_subnormals: bool = False
    variance: Variance = "two-pass"
    format: Format = FLOAT16
    input_format: Format | None = None
    fp32_steps: frozenset[Step] = frozenset()
    sum_format: Format | None = None
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        orders = get_args(SumOrder)
        if self.sum_order not in orders:
            raise SlancError(
                f"sum_order {self.sum_order!r} is not known. Known are: {', '.join(orders)}."
            )
        if self.sum_order == "any" and self.sum_format != FLOAT32:
            raise SlancError(
                'sums in any order need an FP32 accumulator: give sum_format = "float32", or the '
                "order."
            )

    def summing(self, accumulate: str) -> Accelerator:
        """The same device with the sums of `ACCUMULATE` that have this name."""
        order, form = ACCUMULATE[accumulate]
        return replace(self, sum_order=order, sum_format=form)

    @property
    def accumulate(self) -> str:
        """The name in `ACCUMULATE` of its sums; where they have none, of sums in their order."""
        named = [name for name, (order, _) in ACCUMULATE.items() if order == self.sum_order]
        sums = (self.sum_order, self.sum_format)
        return next((name for name in named if ACCUMULATE[name] == sums), named[0])

    @property
    def sums(self) -> str:
        """How it sums, in words."""
        named = (self.sum_order, self.sum_format) == ACCUMULATE[self.accumulate]
        return self.accumulate if named else f"{self.accumulate} {self.accumulator}"

    @property
    def accumulator(self) -> Format:
        """The format that each add of a sum is rounded to."""
        return self.sum_format or self.format_of("sum")

    @property
    def largest(self) -> float:
        """Largest finite number of `format`."""
        return self.format.largest

    @property
    def smallest_normal(self) -> float:
        """Smallest normal number of `format`."""
        return self.format.smallest_normal

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number of `format`, where subnormals are kept."""
        return self.format.smallest_subnormal

    @property
    def smallest_kept(self) -> float:
        """Smallest positive number that survives a rounding to `format` on this device."""
        return self.smallest_normal if self.flush_subnormals else self.smallest_subnormal

    @property
    def unit_roundoff(self) -> float:
        """Of `format`."""
        return self.format.unit_roundoff

    @property
    def coarsest_roundoff(self) -> float:
        """The unit roundoff of the coarsest format that a norm's numbers pass."""
        formats = (self.accumulator, *map(self.format_of, STEPS))
        return max(form.unit_roundoff for form in formats)

    def format_of(self, step: Step) -> Format:
        """The narrowest format that the results of a step have to pass."""
        if step in self.fp32_steps:
            return FLOAT32
        return self.input_format or self.format if step == "input" else self.format

    def square_limits(self, width: int) -> tuple[float, float]:
        """The largest sum of squares and the smallest mean square that the device has room for.

        Each step that holds squares has its own format: a square is at most the sum, and so is the
        mean square times the width.

        Args:
            width: Elements per row.
        """
        held, square = self.format_of("input"), self.format_of("square")
        mean, added = self.format_of("mean_square"), self.accumulator
        largest = min(square.largest, self.largest_sum, width * mean.largest, held.largest**2)
        smallest = max(square.smallest_normal, mean.smallest_normal, held.smallest_normal**2)
        return largest, max(smallest, added.smallest_normal / width)

    @property
    def largest_sum(self) -> float:
        """The largest sum that the accumulator holds, and what it is stored as too."""
        return min(self.accumulator.largest, self.format_of("sum").largest)

    def held_epsilon(self, epsilon: float) -> float:
        """Epsilon in the device's format; one that would vanish stays at the smallest number kept.

        The file holds epsilon / s^2 exactly, so that FP32 stays bit-identical. A device that stores
        it in its own format must not let it become zero, or a row of zeros divides zero by zero.
        Nor does one that is too large become infinite.
        """
        if epsilon <= 0:
            return 0.0
        rounded = self.format.nearest(epsilon)
        return rounded if rounded >= self.smallest_kept else self.smallest_kept

    def rounds_away(self, epsilon: float, power: int) -> bool:
        """Whether an epsilon that is stored as a constant, rounded to nearest, is not kept.

        Args:
            epsilon: As it is added to the mean square, or to its root.
            power: 2 for the mean square, 1 for the root.
        """
        least = self.least_epsilon(power)
        return 0 < epsilon < least and self.format.nearest(epsilon) < least

    def least_epsilon(self, power: int) -> float:
        """The smallest epsilon with which a row of zeros stays finite; 0 where that is in FP32.

        It is no number that becomes zero, and one added to the root has a reciprocal.
        """
        step: Step = "variance" if power == 2 else "deviation"
        if step in self.fp32_steps:
            return 0.0
        if power == 2 or "inverse" in self.fp32_steps:
            return self.smallest_kept
        return max(self.smallest_kept, 2.0 ** math.ceil(-math.log2(self.largest)))

    @property
    def stamp(self) -> str:
        """What it computes, in words, whatever the target is called; noted beside each scale."""
        return str(replace(self, name=""))

    @property
    def steps_in_fp32(self) -> list[Step]:
        """`fp32_steps` in the order in which a norm has them."""
        return [step for step in STEPS if step in self.fp32_steps]

    def as_dict(self) -> dict[str, object]:
        """The fields as plain values, for a report; but for None, also what a target file takes."""
        return {
            "name": self.name,
            "accumulate": self.accumulate,
            "sum_order": self.sum_order,
            "sum_format": self.sum_format.name if self.sum_format else None,
            "flush_subnormals": self.flush_subnormals,
            "variance": self.variance,
            "format": self.format.name,
            "input_format": self.input_format.name if self.input_format else None,
            "fp32_steps": self.steps_in_fp32,
        }

    def __str__(self) -> str:
        kept = "flushed" if self.flush_subnormals else "kept"
        parts = [f"{self.format}, {self.sums} sums, subnormals {kept}, {self.variance} variance"]
        if self.input_format:
            parts.append(f"inputs {self.input_format}")
        if self.fp32_steps:
            parts.append(f"left in FP32: {' '.join(self.steps_in_fp32)}")
        text = ", ".join(parts)
        return f"{self.name}: {text}" if self.name else text
