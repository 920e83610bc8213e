"""A norm as any device of `Accelerator` computes it: NumPy and ml_dtypes, one operation at a time.

Rows are arrays [rows, width]. Operands are numbers of a narrow format held in FP32, where one
operation followed by one rounding is the operation in that format.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator, Step
from slanc_onnx.norms.norm import Norm

Single = NDArray[np.float32]
Double = NDArray[np.float64]


@dataclass(frozen=True)
class Computed:
    """What became of some rows.

    Attributes:
        normalised: Before gamma.
        bad: The first step that was inf or nan in any row, by row; "" where all were finite.
    """

    normalised: Single
    bad: list[str]


class StepwiseNorm:
    """One norm at one scale on one device, with one gamma and beta for all channels."""

    def __init__(
        self, norm: Norm, device: Accelerator, scale: float, gamma: float = 1.0, beta: float = 0.0
    ) -> None:
        self.norm, self.device, self.scale = norm, device, scale
        self.gamma, self.beta = gamma, beta
        self.bad: list[str] = []

    def cast(self, name: str, values: Single) -> Single:
        """To nearest, ties to even; subnormals to zero where the device does that."""
        rounded = values.astype(np.dtype(name)).astype(np.float32)
        if self.device.flush_subnormals and name != "float32":
            smallest = float(ml_dtypes.finfo(name).smallest_normal)  # type: ignore[no-untyped-call]
            rounded = np.where(np.abs(rounded) < smallest, np.float32(0), rounded)
        return np.asarray(rounded, np.float32)

    def round(self, step: Step, values: Single) -> Single:
        assert values.dtype == np.float32
        narrow = step not in self.device.fp32_steps
        return self.finite(step, self.cast(self.device.format.name, values) if narrow else values)

    def finite(self, step: Step, rounded: Single) -> Single:
        """The same numbers; rows that are not finite are noted."""
        for i in np.flatnonzero(~np.isfinite(rounded).all(axis=1)):
            self.bad[i] = self.bad[i] or step
        return rounded

    def add(self, values: Single) -> Single:
        """What an add gave, in the accumulator's format."""
        if self.device.sum_format is None:
            return self.round("sum", values)
        return self.finite("sum", self.cast(self.device.sum_format.name, values))

    def total(self, values: Single) -> Single:
        """Over the row, in the device's order; [rows, 1]."""
        if self.device.sum_order == "any":
            return self.round("sum", values.sum(axis=1, keepdims=True, dtype=np.float32))
        if self.device.sum_order == "sequential":
            running = np.zeros((len(values), 1), np.float32)
            for column in values.T:
                running = self.add(running + column[:, None])
            values = running
        while values.shape[1] > 1:
            half = values.shape[1] // 2
            added = self.add(values[:, :half] + values[:, half : 2 * half])
            values = np.concatenate([added, values[:, 2 * half :]], axis=1)
        return values if self.device.sum_format is None else self.round("sum", values)

    def epsilon(self, step: Step) -> np.float32:
        epsilon = float(self.norm.epsilon or 0.0) / self.scale**self.norm.epsilon_power
        if step in self.device.fp32_steps or epsilon <= 0:
            return np.float32(epsilon)
        limits = ml_dtypes.finfo(self.device.format.name)  # type: ignore[no-untyped-call]
        flushed = self.device.flush_subnormals
        least = limits.smallest_normal if flushed else limits.smallest_subnormal
        held = np.float64(min(epsilon, float(limits.max))).astype(limits.dtype)
        return np.float32(max(float(held), float(least)))

    @np.errstate(all="ignore")
    def __call__(self, rows: Double) -> Computed:
        norm, device = self.norm, self.device
        self.bad = [""] * len(rows)
        x = rows.astype(np.float32) / np.float32(self.scale)
        if device.input_format is not None and "input" not in device.fp32_steps:
            x = self.cast(device.input_format.name, x)
        x = self.round("input", x)
        width = np.float32(rows.shape[1])
        centred, mean = x, np.zeros((len(x), 1), np.float32)
        if norm.centred:
            mean = self.round("mean", self.total(x) / width)
            centred = self.round("centred", x - mean)
        squared = x if norm.one_pass else centred
        squares = self.round("square", squared * squared)
        count = width - np.float32(1) if norm.unbiased else width
        mean_square = self.round("mean_square", self.total(squares) / count)
        if norm.one_pass:
            square_of_mean = self.round("square", mean * mean)
            mean_square = self.round("mean_square", mean_square - square_of_mean)
        if norm.epsilon_power == 2:
            variance = self.round("variance", mean_square + self.epsilon("variance"))
            deviation = self.round("deviation", np.sqrt(variance))
        else:
            root = self.round("deviation", np.sqrt(mean_square))
            deviation = self.round("deviation", root + self.epsilon("deviation"))
        inverse = self.round("inverse", np.float32(1) / deviation)
        y = self.round("normalised", centred * inverse)
        one = np.ones((len(x), 1), np.float32)
        scaled = self.round("affine", y * self.round("affine", one * np.float32(self.gamma)))
        self.round("affine", scaled + self.round("affine", one * np.float32(self.beta)))
        return Computed(y, self.bad)
