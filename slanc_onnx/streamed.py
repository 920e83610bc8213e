"""One read of a matrix: its product with sample rows, and the sizes that bounds are made of.

A matrix is worked on in units of neighbouring columns, which do not depend on each other: any
`concurrent.futures.Executor` can take them. A unit converts a block that fits into a processor's
cache, uses it and drops it. What comes out depends on neither the executor nor its workers.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from threadpoolctl import ThreadpoolController

from slanc_onnx.load import Array
from slanc_onnx.matrix_norms import MatrixSizes, upward
from slanc_onnx.stored import Stored

UNIT, BLOCK = 1 << 23, 1 << 19  # elements
# Where a block's largest element lies between these, squares of FP32 neither overflow, nor do those
# that matter underflow.
_LEAST, _MOST = 2.0**-40, 2.0**60


@dataclass(frozen=True, eq=False)
class Unit:
    """Work on some columns of a matrix M.

    Attributes:
        matrix: Those columns.
        rows: To be multiplied with them, [n, rows of M], or None.
        sides: Numbers s >= 0 to be multiplied with |M|, FP64, [k, rows of M], or None where no
            sizes are asked for.
    """

    matrix: Stored
    rows: Array | None
    sides: Array | None


@dataclass(frozen=True, eq=False)
class Done:
    """What came out of a unit; sums and squares are rounded up.

    Attributes:
        product: [n, columns].
        squares: Of each row of the matrix the sum of squares, and
        sums: that of magnitudes, FP64.
        tallest: The largest sum of magnitudes of a column.
        through: sides times |M|, FP64, [k, columns].
    """

    product: Array | None
    squares: Array
    sums: Array
    tallest: float
    through: Array


def work(unit: Unit) -> Done:
    """Do one unit."""
    matrix = unit.matrix.opened()
    height, width = matrix.shape
    step = max(16, BLOCK // max(1, height))
    counted = height if unit.sides is not None else 0
    squares, sums = np.zeros(counted), np.zeros(counted)
    through = np.zeros((0 if unit.sides is None else len(unit.sides), width))
    product = None if unit.rows is None else np.empty((len(unit.rows), width), unit.rows.dtype)
    tallest = 0.0
    for start in range(0, width, step):
        stop = min(start + step, width)
        block = matrix.columns(start, stop)
        if unit.rows is not None and product is not None:
            product[:, start:stop] = unit.rows @ block.astype(unit.rows.dtype, copy=False)
        if unit.sides is not None:
            found = _sizes(block, unit.sides)
            squares, sums = squares + found[0], sums + found[1]
            tallest = max(tallest, found[2]) if tallest == tallest else tallest
            through[:, start:stop] = found[3]
    return Done(product, squares, sums, tallest, through)


def _sizes(block: Array, sides: Array) -> tuple[Array, Array, float, Array]:
    """Of rows the squares and sums, the tallest column, and `sides` times magnitudes, rounded up.

    A sum of n products of positive numbers is off by at most n u of it (Higham, "Accuracy and
    stability of numerical algorithms", 3.1), and by what underflows.
    """
    magnitudes = np.abs(block)
    largest = float(magnitudes.max(initial=0.0))
    if largest != 0.0 and not _LEAST < largest < _MOST:
        magnitudes = magnitudes.astype(np.float64)
    limits = np.finfo(magnitudes.dtype)
    height, width = magnitudes.shape

    least = float(limits.tiny) if largest > 0 else 0.0  # nan counts

    def up(total: Array, addends: int) -> Array:
        grown = total.astype(np.float64) * (1 + (addends + 4) * float(limits.epsneg))
        return np.asarray(grown + addends * least)

    # Divided by powers of two and rounded up, so that they fit into FP32.
    units = np.array([2.0 ** math.frexp(s)[1] if 0 < s < math.inf else 1.0
                      for s in sides.max(axis=1, initial=0.0)])  # fmt: skip
    narrow = (sides / units[:, None]).astype(magnitudes.dtype)
    narrow = np.nextafter(narrow, np.inf, where=sides > 0, out=narrow)
    ones = np.ones((1, height), magnitudes.dtype)
    columns = np.concatenate([ones, narrow]) @ magnitudes
    squares = up(np.einsum("ij,ij->i", magnitudes, magnitudes), width)
    sums = up(magnitudes @ np.ones(width, magnitudes.dtype), width)
    tallest = float(up(columns[0], height).max(initial=0.0))
    return squares, sums, tallest, up(columns[1:], height) * units[:, None]


def read_once(
    matrix: Stored, rows: Array | None, sides: Array | None, executor: Executor | None = None
) -> tuple[Array | None, MatrixSizes | None]:
    """rows times a matrix, and the matrix's sizes.

    Args:
        matrix: M, of shape [in, out].
        rows: [n, in], or None where no product is asked for.
        sides: FP64, [k, in]; None where no sizes are asked for.
        executor: What does the work; None for this thread.
    """
    height, width = matrix.shape
    step = max(16, UNIT // max(1, height))
    starts = range(0, width, step)
    units = [Unit(matrix.part(start, min(start + step, width)), rows, sides) for start in starts]
    parts = list(_mapped(units, executor if len(starts) > 1 else None))
    product = None
    if rows is not None:
        product = np.concatenate([p.product for p in parts if p.product is not None], axis=1)
    return product, None if sides is None else _joined(parts)


def _mapped(units: Sequence[Unit], executor: Executor | None) -> Iterator[Done]:
    return map(work, units) if executor is None else executor.map(work, units)


def _joined(parts: Sequence[Done]) -> MatrixSizes:
    squares = np.sum([p.squares for p in parts], axis=0)
    sums = np.sum([p.sums for p in parts], axis=0)
    rounded = 1 + (len(parts) + 8) * 2.0**-53
    frobenius = upward(math.sqrt(float(squares.sum())), len(squares)) * rounded
    tallest = max(p.tallest for p in parts)
    product = math.sqrt(tallest) * math.sqrt(float(sums.max(initial=0.0))) * rounded**2
    return MatrixSizes(
        rows=np.sqrt(squares) * rounded,
        spectral=min(frobenius, product),
        frobenius=frobenius,
        through=np.concatenate([p.through for p in parts], axis=1),
    )


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def workers(given: Executor | None = None, jobs: int | None = None) -> Iterator[Executor]:
    """What takes units: the given executor, or threads.

    BLAS keeps to one thread here: a block is too small to share, and the threads have one each.

    Args:
        given: An executor of the caller's, which stays open.
        jobs: How many threads; None for one on every processor of this process.
    """
    with _blas().limit(limits=1, user_api="blas"):
        if given is not None:
            yield given
            return
        with ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as threads:
            yield threads
