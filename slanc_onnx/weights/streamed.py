"""One read of a matrix for two uses: its product with sample rows, and its sizes for bounds.

The work is cut into units of neighbouring columns. They are independent, so that any
`concurrent.futures.Executor` can take them. A unit converts a block that fits into a processor's
cache, uses it and drops it. The result depends on neither the executor nor its workers.
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

from slanc_onnx.graph import Array
from slanc_onnx.weights.matrix_norms import MatrixSizes, upward
from slanc_onnx.weights.stored import Stored

UNIT, BLOCK = 1 << 23, 1 << 19  # elements
# Where the largest sum of squares of a block lies between these, no square overflows in FP32, and
# none that matters underflows.
_LEAST, _MOST = 2.0**-80, 2.0**120


@dataclass(frozen=True, eq=False)
class Unit:
    """A unit of work: some columns of a matrix M.

    Attributes:
        matrix: The columns.
        rows: Sample rows to multiply with them, [n, rows of M]; None for no product.
        sides: Rows s >= 0 to multiply with |M|, FP64, [k, rows of M]; None for no sizes.
    """

    matrix: Stored
    rows: Array | None
    sides: Array | None


@dataclass(frozen=True, eq=False)
class Done:
    """The result of a unit; all sums are rounded up.

    Attributes:
        product: rows times the columns, [n, columns]; None where it was not asked for.
        squares: The sum of squares of each row of the columns, FP64, [rows of M].
        sums: The sum of magnitudes of each row, likewise.
        tallest: The largest sum of magnitudes of a column.
        through: sides times |M|, FP64, [k, columns].
    """

    product: Array | None
    squares: Array
    sums: Array
    tallest: float
    through: Array


def work(unit: Unit) -> Done:
    """Do the work of one unit."""
    matrix = unit.matrix.opened()
    height, width = matrix.shape
    step = max(16, BLOCK // max(1, height))
    sizes = None if unit.sides is None else _Sizes(unit.sides, height, width, step)
    product = None if unit.rows is None else np.empty((len(unit.rows), width), unit.rows.dtype)
    for start in range(0, width, step):
        stop = min(start + step, width)
        block = matrix.columns(start, stop)
        if unit.rows is not None and product is not None:
            product[:, start:stop] = unit.rows @ block.astype(unit.rows.dtype, copy=False)
        if sizes is not None:
            sizes.add(block, start)
    if sizes is None:
        nothing = np.zeros(0)
        return Done(product, nothing, nothing, 0.0, np.zeros((0, width)))
    return sizes.done(product)


class _Sizes:
    """Sums over the magnitudes of a unit's elements, block by block.

    A sum of n products of positive numbers is off by at most n u of it (Higham, "Accuracy and
    stability of numerical algorithms", 3.1), and by the numbers that underflow. In the end the sums
    are rounded up by as much, with the unit roundoff of FP32 even where FP64 was used.
    """

    def __init__(self, sides: Array, height: int, width: int, step: int) -> None:
        self._height, self._width, self._step = height, width, step
        # Divided by powers of two and rounded up, so that they fit into FP32.
        largest = sides.max(axis=1, initial=0.0)
        self._units = np.array(
            [2.0 ** math.frexp(s)[1] if 0 < s < math.inf else 1.0 for s in largest]
        )
        narrow = (sides / self._units[:, None]).astype(np.float32)
        self._narrow = np.nextafter(narrow, np.float32(np.inf), where=sides > 0, out=narrow)
        self._squares, self._sums = np.zeros(height), np.zeros(height)
        self._least = 0.0  # the most that underflow takes from one addend
        self._columns, self._through = np.zeros(width), np.zeros((len(sides), width))

    def add(self, block: Array, start: int) -> None:
        """Add a block: the columns from `start` on."""
        squares = np.einsum("ij,ij->i", block, block)
        largest = float(squares.max(initial=0.0))
        tall, wide = np.ones(self._height, np.float32), np.ones(block.shape[1], np.float32)
        least = 2.0**-126
        if not _LEAST < largest < _MOST:
            if not block.any():
                return
            block, least = block.astype(np.float64), 2.0**-1022
            squares = np.einsum("ij,ij->i", block, block)
        self._least = max(self._least, least)
        magnitudes = np.abs(block)
        stop = start + block.shape[1]
        self._squares += squares
        self._sums += magnitudes @ wide
        self._columns[start:stop] = tall @ magnitudes
        for i, side in enumerate(self._narrow):  # one vector at a time: BLAS copies for a matrix
            self._through[i, start:stop] = side @ magnitudes

    def done(self, product: Array | None) -> Done:
        """The result of the whole unit."""

        def up(total: Array, addends: int, apart: int) -> Array:
            """Sums rounded up: `addends` at a time were added, `apart` in all."""
            return np.asarray(total * (1 + (addends + 4) * 2.0**-24) + apart * self._least)

        return Done(
            product,
            up(self._squares, self._step, self._width),
            up(self._sums, self._step, self._width),
            float(up(self._columns, self._height, self._height).max(initial=0.0)),
            up(self._through, self._height, self._height) * self._units[:, None],
        )


def read_once(
    matrix: Stored, rows: Array | None, sides: Array | None, executor: Executor | None = None
) -> tuple[Array | None, MatrixSizes | None]:
    """The product of rows with a matrix, [n, out], and the sizes of the matrix, from one read.

    Args:
        matrix: M, of shape [in, out].
        rows: [n, in]; None for no product.
        sides: Rows s >= 0 for `MatrixSizes.through`, FP64, [k, in]; None for no sizes.
        executor: Does the units; None for this thread.
    """
    if executor is None or isinstance(executor, ThreadPoolExecutor):
        matrix = matrix.opened()  # once for all units; another process maps the file itself
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
    """An executor for units: the given one, or threads.

    BLAS keeps to one thread meanwhile: a block is too small to share, and each thread has its own.

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
