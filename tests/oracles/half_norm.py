"""A norm as an FP16 device computes it, in a Python loop over NumPy's float16 scalars.

NumPy rounds every operation on two float16 scalars to float16, subnormals kept.
"""

import math
from collections.abc import Sequence

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.ops.fused import Kind

Half = np.float16
SUMS = ("sequential", "pairwise", "fp32")  # the ways of summing that this computes, by name


class HalfNorm:
    """One norm on one device.

    Args:
        device: Order of the sums, subnormals, one or two passes.
        kind: "layer" or "rms".
        epsilon: As the model has it.
        power: 1 for an epsilon outside the root.
        unbiased: Whether the mean square divides by one less than the width.
    """

    def __init__(
        self,
        device: Accelerator,
        kind: Kind,
        epsilon: float,
        power: int = 2,
        unbiased: bool = False,
    ) -> None:
        self.device, self.kind, self.power, self.unbiased = device, kind, power, unbiased
        smallest = Half(2.0**-14 if device.flush_subnormals else 2.0**-24)
        self.epsilon = max(Half(epsilon), smallest)

    def keep(self, value: Half) -> Half:
        """A result as the device stores it."""
        assert value.dtype == np.float16
        return Half(0) if self.device.flush_subnormals and abs(value) < Half(2.0**-14) else value

    def total(self, values: Sequence[Half]) -> Half:
        if self.device.sum_order == "any":
            if not all(map(math.isfinite, values)):
                return Half(sum(map(float, values)))
            return self.keep(Half(math.fsum(values)))
        if self.device.sum_order == "sequential":
            total = Half(0)
            for value in values:
                total = self.keep(total + value)
            return total
        row = list(values)
        while len(row) > 1:
            half = len(row) // 2
            pairs = zip(row[:half], row[half : 2 * half], strict=True)
            row = [self.keep(one + other) for one, other in pairs] + row[2 * half :]
        return row[0]

    def row(
        self, values: Sequence[float], gamma: Sequence[float], beta: Sequence[float] = ()
    ) -> tuple[list[float], float]:
        """The output for one row, and its mean square."""
        keep = self.keep
        with np.errstate(all="ignore"):
            x = [keep(Half(value)) for value in values]
            width, centred, mean = Half(len(x)), x, Half(0)
            if self.kind == "layer":
                mean = keep(self.total(x) / width)
                centred = [keep(value - mean) for value in x]
            one_pass = self.kind == "layer" and self.device.variance == "one-pass"
            squares = [keep(value * value) for value in (x if one_pass else centred)]
            count = width - Half(1) if self.unbiased else width
            mean_square = keep(self.total(squares) / count)
            if one_pass:
                mean_square = keep(mean_square - keep(mean * mean))
            if self.power == 2:
                deviation = keep(np.sqrt(keep(mean_square + self.epsilon)))
            else:
                deviation = keep(keep(np.sqrt(mean_square)) + self.epsilon)
            inverse = keep(Half(1) / deviation)
            y = [keep(value * inverse) for value in centred]
            y = [keep(v * keep(Half(g))) for v, g in zip(y, gamma or [1] * len(y), strict=True)]
            y = [keep(v + keep(Half(b))) for v, b in zip(y, beta or [0] * len(y), strict=True)]
        return [float(value) for value in y], float(mean_square)
