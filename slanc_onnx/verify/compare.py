"""Compare: what two models gave on the same inputs, bit by bit and in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.verify.left import Left


@dataclass(frozen=True)
class Runs:
    """What one model gave on all inputs.

    Attributes:
        outputs: Of the first runs.
        rows: By norm name, a number per row: its sum of squares, or the rounded mean square.
        losses: Per run, where tokens were given.
        arrived: Likewise, 1 for each row that was not finite before the norm read it.
        left: What left the format, in the order of the model.
    """

    outputs: list[dict[str, Array]]
    rows: dict[str, Array]
    losses: list[float]
    arrived: dict[str, Array] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)


@dataclass(frozen=True)
class Reshaped:
    """An output that has another shape than in FP32.

    Attributes:
        output: Its name.
        before: Its shape in FP32.
        after: The other one.
    """

    output: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def facts(self) -> tuple[str, str, str]:
        """What a `Reason` holds of it."""
        return self.output, str(list(self.before)), str(list(self.after))


@dataclass(frozen=True)
class Difference:
    """How far outputs are off; those of another shape, `reshaped`, make all numbers inf."""

    identical: bool
    absolute: float
    relative: float
    rms: float
    reshaped: Reshaped | None = None

    def and_also(self, other: Difference) -> Difference:
        """The larger of two differences."""
        return Difference(
            self.identical and other.identical,
            max(self.absolute, other.absolute),
            max(self.relative, other.relative),
            max(self.rms, other.rms),
            self.reshaped or other.reshaped,
        )


def compare(
    reference: Runs, other: Runs, without: Sequence[str], floats_only: bool = False
) -> Difference:
    """The largest differences over all outputs of all kept runs; inf where one is not finite.

    `floats_only` passes over ids, indices and masks: rounding may flip one of those at any time. Of
    outputs among which there are no floats it takes the share of elements that differ.
    """
    identical, worst, reshaped = True, np.zeros(3), None
    # Of outputs of another shape more runs may be kept.
    for expected, actual in zip(reference.outputs, other.outputs, strict=False):
        names = [name for name in expected if name not in without]
        floats = [name for name in names if _is_float(expected[name])]
        for name in (floats or names) if floats_only else names:
            a, b = expected[name], actual[name]
            if same_bits(a, b):
                continue
            identical, found = False, np.full(3, math.inf)
            if a.shape != b.shape:
                reshaped = reshaped or Reshaped(name, a.shape, b.shape)
            elif _is_float(a):
                found = _errors(a, b)
            elif floats_only:
                found = np.full(3, np.mean(a != b))
            worst = np.maximum(worst, found)
    absolute, relative, rms = map(float, worst)
    return Difference(identical, absolute, relative, rms, reshaped)


def least_cosine(reference: Runs, other: Runs, without: Sequence[str]) -> float:
    """The least cosine between rows of float outputs, along their last axis, that both gave.

    Rows of zeros, and rows that are not finite in the reference, have none; 1 where no row has one.
    A row that is not finite in the other has nan.
    """
    found = [1.0]
    for expected, actual in zip(reference.outputs, other.outputs, strict=False):
        for name, a in expected.items():
            if name in without or not _is_float(a) or not a.ndim or a.shape != actual[name].shape:
                continue
            found += _cosines(a, actual[name])
    return float(np.min(found))


def _cosines(a: Array, b: Array) -> Iterator[float]:
    """The least cosine of some rows at a time."""
    rows_a, rows_b = (v.reshape(-1, v.shape[-1]) for v in (a, b))
    step = max(1, (1 << 22) // max(1, a.shape[-1]))
    for start in range(0, len(rows_a), step):
        x, y = (v[start : start + step].astype(np.float64) for v in (rows_a, rows_b))
        size = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        told = np.isfinite(x).all(axis=1) & (size != 0)
        if told.any():
            yield float(((x * y).sum(axis=1)[told] / size[told]).min())


def all_zero(found: Runs, without: Sequence[str]) -> bool:
    """Whether no output holds a finite number other than 0: then none tells right from wrong."""
    return not any(
        (np.isfinite(value) & (value != 0)).any() if value.dtype.kind in "fiub" else value.size
        for run in found.outputs
        for name, value in run.items()
        if name not in without
    )


def _is_float(values: Array) -> bool:
    return values.dtype.kind in "fV"


def _errors(a: Array, b: Array) -> Array:
    """Largest absolute error, the same relative to the largest value, and relative RMS error.

    What is not finite in `a`, the original's, cannot be held against the other.
    """
    largest_error = largest = square_error = square = 0.0
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for start in range(0, flat_a.size, 1 << 22):  # FP64 copies of a part at a time
        x, y = (v[start : start + (1 << 22)].astype(np.float64) for v in (flat_a, flat_b))
        x, y = x[np.isfinite(x)], y[np.isfinite(x)]
        if not np.isfinite(y).all():
            return np.full(3, math.inf)
        error = np.abs(x - y)
        largest_error = max(largest_error, float(error.max(initial=0.0)))
        largest = max(largest, float(np.abs(x).max(initial=0.0)))
        square_error += float(np.sum(error * error))
        square += float(np.sum(x * x))
    if square == 0:
        return np.array([largest_error, *([math.inf if largest_error else 0.0] * 2)])
    return np.array([largest_error, largest_error / largest, math.sqrt(square_error / square)])


def same_bits(a: Array, b: Array) -> bool:
    if a.dtype.kind == "O" or b.dtype.kind == "O":  # strings
        return bool(np.array_equal(a, b))
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    bytes_of_a, bytes_of_b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return bool(np.array_equal(bytes_of_a, bytes_of_b))
