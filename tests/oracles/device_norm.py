"""A norm as any target computes it, row by row in NumPy's float32, rounded by ml_dtypes' casts."""

import math

import numpy as np
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator, Step
from slanc_onnx.ops.fused import Kind

Row = NDArray[np.float32]


def cast(x: Row, name: str, flush: bool) -> Row:
    """x in the format of that name, and back; what a format without infinity cannot hold is inf."""
    with np.errstate(all="ignore"):
        y = np.asarray(x, np.float32).astype(np.dtype(name)).astype(np.float32)
    y = np.where(~np.isfinite(y) & ~np.isnan(x), np.copysign(np.float32(np.inf), x), y)
    smallest = {"float16": 2.0**-14, "float8_e4m3fn": 2.0**-6, "float8_e5m2": 2.0**-14}
    below = smallest.get(name, 2.0**-126)
    return np.asarray(np.where(np.abs(y) < below, 0, y) if flush else y, np.float32)


class DeviceNorm:
    """One norm on one device, with the epsilon as the model has it."""

    def __init__(self, device: Accelerator, kind: Kind, epsilon: float) -> None:
        self.device, self.kind, self.epsilon = device, kind, np.float32(epsilon)

    def keep(self, step: Step, x: Row) -> Row:
        if step in self.device.fp32_steps:
            return np.asarray(x, np.float32)
        return cast(x, self.device.format.name, self.device.flush_subnormals)

    def add(self, one: Row, other: Row) -> Row:
        """One add of a sum, in the accumulator's format."""
        total, own = np.asarray(one + other, np.float32), self.device.sum_format
        if own is None:
            return self.keep("sum", total)
        flushes = self.device.flush_subnormals and own.name != "float32"
        return cast(total, own.name, flushes)

    def total(self, x: Row) -> Row:
        if self.device.sum_order == "any":
            exact = math.fsum(x) if np.isfinite(x).all() else float(x.sum())
            return self.keep("sum", np.array(exact, np.float32))
        if self.device.sum_order == "sequential":
            total = np.array(0, np.float32)
            for value in x:
                total = self.add(total, value)
        else:
            while x.size > 1:
                half = x.size // 2
                pairs = self.add(x[:half], x[half : 2 * half])
                x = np.concatenate([pairs, x[2 * half :]])
            total = np.asarray(x[0], np.float32)
        return total if self.device.sum_format is None else self.keep("sum", total)

    def row(self, values: Row, gamma: Row, beta: Row | None) -> tuple[Row, float]:
        """The output for one row, and its mean square."""
        keep, device = self.keep, self.device
        with np.errstate(all="ignore"):
            x = values
            if device.input_format and "input" not in device.fp32_steps:
                x = cast(x, device.input_format.name, device.flush_subnormals)
            x = keep("input", x)
            width, centred, mean = np.float32(x.size), x, np.array(0, np.float32)
            if self.kind == "layer":
                mean = keep("mean", self.total(x) / width)
                centred = keep("centred", x - mean)
            one_pass = self.kind == "layer" and device.variance == "one-pass"
            squared = x if one_pass else centred
            mean_square = keep("mean_square", self.total(keep("square", squared**2)) / width)
            if one_pass:
                mean_square = keep("mean_square", mean_square - keep("square", mean * mean))
            variance = keep("variance", mean_square + keep("variance", np.asarray(self.epsilon)))
            deviation = keep("deviation", np.sqrt(variance))
            inverse = keep("inverse", np.float32(1) / deviation)
            y = keep("normalised", centred * inverse)
            y = keep("affine", y * keep("affine", gamma))
            if beta is not None:
                y = keep("affine", y + keep("affine", beta))
        return y, float(mean_square)
