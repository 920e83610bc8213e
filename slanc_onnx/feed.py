"""Feeds: what the user says of the values of one graph input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slanc_onnx.errors import SlancError, no_file
from slanc_onnx.graph import Array

_AT_ONCE = 2**20  # elements that are drawn: they are doubles at first
SPECS = "range(LO,HI), ids(LO,HI), normal(MEAN,STD) or FILE.npy"


@dataclass(frozen=True)
class Range:
    """Every element lies in [low, high]; whole numbers for an input that holds such."""

    low: float
    high: float

    @property
    def limits(self) -> tuple[float, float] | None:
        """Least and largest element; None where nothing is said of them."""
        return self.low, self.high

    def draw(self, rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Uniform values."""
        if self.low == self.high:
            return np.full(tuple(shape), self.low, dtype)
        if dtype.kind in "iub":
            low, high = math.ceil(self.low), math.floor(self.high)
            return rng.integers(low, high, tuple(shape), endpoint=True).astype(dtype)

        def some(count: int) -> Array:
            return rng.uniform(self.low, self.high, count)

        return _drawn(some, shape, dtype)

    def __str__(self) -> str:
        return f"range({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Ids:
    """Every element is a whole number from `low` to `high` - 1."""

    low: int
    high: int

    @property
    def limits(self) -> tuple[float, float] | None:
        """Least and largest element."""
        return float(self.low), float(self.high - 1)

    def draw(self, rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Uniform ids."""
        return rng.integers(self.low, self.high, tuple(shape)).astype(dtype)

    def __str__(self) -> str:
        return f"ids({self.low}, {self.high})"


@dataclass(frozen=True)
class Normal:
    """Elements are normally distributed. No element is the largest, so nothing is proved by it."""

    mean: float
    std: float

    @property
    def limits(self) -> tuple[float, float] | None:
        """None: there are none."""
        return None

    def draw(self, rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Normal values."""

        def some(count: int) -> Array:
            return self.mean + self.std * rng.standard_normal(count)

        return _drawn(some, shape, dtype)

    def __str__(self) -> str:
        return f"normal({self.mean:g}, {self.std:g})"


@dataclass(frozen=True, eq=False)
class Values:
    """The elements themselves, which are a sample: they limit no other one."""

    array: Array
    file: str = ""

    @property
    def limits(self) -> tuple[float, float] | None:
        """None: other data may be larger."""
        return None

    def draw(self, rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Elements of it, chosen at random; whole rows of it where their length fits."""
        flat: Array = self.array.reshape(-1)
        if shape and shape[-1] in self.array.shape and flat.size:
            axis = max(a for a, n in enumerate(self.array.shape) if n == shape[-1])
            flat = np.moveaxis(self.array, axis, -1).reshape(-1, shape[-1])
            shape = shape[:-1]
        if not len(flat):
            return np.zeros(tuple(shape), dtype)
        return np.asarray(flat[rng.integers(0, len(flat), tuple(shape))]).astype(dtype)

    def __str__(self) -> str:
        return self.file or "values"


Feed = Range | Ids | Normal | Values
UNIT = Normal(0.0, 1.0)  # of floats of which nothing is said


def _drawn(some: Callable[[int], Array], shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Values drawn bit by bit."""
    values = np.empty(math.prod(shape), dtype)
    for start in range(0, values.size, _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        part[:] = some(part.size).astype(dtype)
    return values.reshape(tuple(shape))


def read_feed(text: str) -> Feed:
    """The feed that a SPEC names.

    Raises:
        SlancError: it is none, its numbers make no sense, or the file is no array.
    """
    kind, opened, rest = text.partition("(")
    made = {"range": _range, "ids": _ids, "normal": _normal}.get(kind.strip())
    if made is None or not opened or not rest.rstrip().endswith(")"):
        return _read_values(text)
    try:
        first, second = (float(number) for number in rest.rstrip()[:-1].split(","))
    except ValueError:
        raise SlancError(f"{text}: is not {SPECS}.") from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise SlancError(f"{text}: its numbers must be finite.")
    return made(text, first, second)


def _range(text: str, low: float, high: float) -> Feed:
    if not (low <= high and math.isfinite(high - low)):
        raise SlancError(f"{text}: is no range. Give the least number first.")
    return Range(low, high)


def _ids(text: str, low: float, high: float) -> Feed:
    if low != int(low) or high != int(high) or not low < high:
        raise SlancError(f"{text}: ids are whole numbers from the first to below the second.")
    return Ids(int(low), int(high))


def _normal(text: str, mean: float, std: float) -> Feed:
    if std < 0:
        raise SlancError(f"{text}: a standard deviation is not below 0.")
    return Normal(mean, std)


def _read_values(text: str) -> Feed:
    path = Path(text)
    if path.suffix != ".npy":
        raise SlancError(f"{text}: is not {SPECS}.")
    if not path.is_file():
        raise no_file(text, path, ".npy")
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except Exception as error:  # NumPy raises whatever its parsers do
        raise SlancError(f"{text}: not an .npy file. Write one with numpy.save.") from error
    if not isinstance(array, np.ndarray):
        raise SlancError(f"{text}: not an .npy file. Write one with numpy.save.")
    return Values(array, text)
