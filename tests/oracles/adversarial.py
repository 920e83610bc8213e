"""Rows at the bound of a norm that its arithmetic may lose: spikes, flat rows, heavy tails."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]


def random_rows(rng: np.random.Generator, width: int, length: float, count: int) -> Double:
    """Rows at the bound: of heavy tails, of few elements, and flat with a little noise."""
    kind = rng.integers(0, 4, (count, 1))
    rows = rng.standard_normal((count, width))
    rows = np.where(kind == 1, rows**5, rows)
    kept = rng.random((count, width)) < rng.uniform(0.0, 0.3, (count, 1))
    kept[np.arange(count), rng.integers(0, width, count)] = True
    rows = np.where(kind == 2, rows * kept, rows)
    rows = np.where(kind == 3, np.sign(rows) * rng.uniform(0.8, 1.2, (count, width)), rows)
    rows *= length / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * (1 - 1e-7))


def adversarial_rows(
    rng: np.random.Generator, width: int, length: float, centred: float | None
) -> Double:
    """Rows within a bound, most of them at it.

    Args:
        rng: Of the random ones.
        width: Elements per row.
        length: Their L2 norm at most.
        centred: And after the mean is subtracted; None for an RMSNorm.
    """
    spike, signs = np.eye(width)[0], np.resize([1.0, -1.0], width)
    flat = np.ones(width)
    ramp = np.arange(width) - (width - 1) / 2
    shapes = [
        spike,
        -spike,
        spike[::-1],
        flat,
        signs,
        ramp,
        2.0 ** -np.arange(width),
        np.where(np.arange(width) < width // 2, 1.0, -1.0),
        spike + 1e-3 * signs,
        *rng.standard_normal((4, width)),
        *rng.standard_t(2, (4, width)),
        *rng.uniform(0.9, 1.1, (4, width)),
    ]
    rows = [row / max(float(np.linalg.norm(row)), 1e-30) * length for row in shapes]
    if centred is not None:
        away = [row - row.mean() for row in shapes]
        away = [row / max(float(np.linalg.norm(row)), 1e-30) * centred for row in away]
        mean = math.sqrt(max(length**2 - centred**2, 0.0) / width)
        rows = [row + sign * mean for row in away for sign in (1, -1)]
        rows += [flat * mean * part for part in (1.0, 0.5, 0.1, 1e-3)]
    sizes = [1.0, 0.7, 0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0]
    stacked = np.array([size * row for row in rows for size in sizes])
    shrink = length / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-300)
    return np.asarray(stacked * np.minimum(shrink, 1.0) * (1 - 1e-7))
