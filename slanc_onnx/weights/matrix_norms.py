"""Norms of matrices that a proof may use: never below the true value, rounding included.

A spectral norm from power iteration is a lower bound and proves nothing, and one from LAPACK is
off either way. Here they only propose a value; a Cholesky factorisation then proves that the value
is not exceeded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array

_UNIT = 2.0**-53
ITERATIONS = 24
FP32_SIZE = 1 << 17  # elements from which a Gram matrix is computed in FP32
# The factors above the proposed value at which the proof is tried, in turn.
MARGINS = (1.01, 1.03)


def spectral_bound(matrix: Array) -> float:
    """An upper bound of the largest singular value, usually within 2 % of it.

    The largest eigenvalue of the smaller Gram matrix G is at most mu if mu I - G has a Cholesky
    factorisation (Rump, "Verification of positive definiteness", BIT 46, 2006, theorem 2.3: where
    the algorithm runs to its end in floating point, the smallest eigenvalue is above
    -(n + 1) u / (1 - (n + 1) u) times the trace). Forming G costs at most k u |M|_F^2, with k the
    length of the products (Higham, "Accuracy and stability of numerical algorithms", 3.5); that of
    large matrices is formed in FP32.

    Args:
        matrix: Shape [rows, columns], any float type.

    Returns:
        The bound; inf where an element is not finite.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    size, products = matrix.shape
    if not matrix.size:
        return 0.0
    largest = float(np.abs(matrix).max())
    if not math.isfinite(largest):
        return math.inf
    if largest == 0.0:
        return 0.0
    unscale = 2.0 ** (math.frexp(largest)[1] - 1)
    matrix = matrix / unscale  # exact; keeps the squares in range
    if size == 1:
        return upward(float(np.linalg.norm(matrix)), products) * unscale
    gram, unit = _gram(matrix)
    slack = 2 * (products + 4) * unit * float(np.trace(gram))
    return upward(math.sqrt(largest_eigenvalue_bound(gram) + slack), 4) * unscale


def _gram(matrix: Array) -> tuple[Array, float]:
    """The matrix times its transpose, FP64, and the unit roundoff of that computation.

    FP32 takes half the time, and its error k u |M|_F^2 is still small beside the largest
    eigenvalue. The elements are at most 2; numbers that underflow are far below that error.
    """
    if matrix.size < FP32_SIZE:
        return matrix @ matrix.T, _UNIT
    narrow = matrix.astype(np.float32)
    return (narrow @ narrow.T).astype(np.float64), 2.0**-24


def largest_eigenvalue_bound(gram: Array) -> float:
    """An upper bound of the largest eigenvalue of a symmetric positive semidefinite matrix.

    Args:
        gram: Shape [n, n], FP64.
    """
    size = len(gram)
    trace = float(np.trace(gram))
    if trace <= 0.0:
        return 0.0
    frobenius = upward(float(np.linalg.norm(gram)), size * size)
    simple = min(upward(trace, size), frobenius)
    for propose in (_by_power_iteration, _by_lapack):
        proposed = propose(gram)
        for tried in (margin * proposed for margin in MARGINS):
            if tried >= simple:
                return simple
            if _is_above(gram, tried):
                return tried + 2 * (size + 2) * _UNIT * (size * tried + trace)
    return simple


def _by_power_iteration(gram: Array) -> float:
    """About the largest eigenvalue, unless the start is almost orthogonal to its eigenvector."""
    size = len(gram)
    vector = gram @ np.full(size, 1 / math.sqrt(size)) + gram[:, int(np.argmax(np.diag(gram)))]
    for _ in range(ITERATIONS):
        length = math.sqrt(vector @ vector)  # as np.linalg.norm, whose checks take longer
        if length == 0.0:
            break
        vector = gram @ (vector / length)
    return max(float(np.linalg.norm(vector)), float(np.diag(gram).max()))


def _by_lapack(gram: Array) -> float:
    """The largest eigenvalue up to rounding, in the time of ten factorisations."""
    try:
        return float(np.linalg.eigvalsh(gram)[-1])
    except np.linalg.LinAlgError:
        return math.inf


def _is_above(gram: Array, value: float) -> bool:
    """Whether a Cholesky factorisation of value I - gram exists."""
    shifted = -gram
    shifted[np.diag_indices(len(gram))] += value
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return True


def about(matrix: Array) -> float:
    """Roughly the largest singular value, for uses in which any positive number is valid.

    The matrix has an element that is not 0, and may be so small that its squares are.
    """
    unscale = 2.0 ** (math.frexp(float(np.abs(matrix).max()))[1] - 1)
    matrix = matrix / unscale
    vector = matrix[int(np.argmax(lengths(matrix, axis=1)))]
    for _ in range(3):
        vector = (matrix @ (vector / np.linalg.norm(vector))) @ matrix
    return math.sqrt(float(np.linalg.norm(vector))) * unscale


@dataclass(frozen=True, eq=False)
class MatrixSizes:
    """Upper bounds of a matrix M that one read of it gives.

    Attributes:
        rows: Lengths of its rows, FP64.
        spectral: The largest singular value, often several times too high.
        frobenius: The Frobenius norm.
        through: s |M| for each of the k rows s >= 0 that were asked for, shape [k, columns].
    """

    rows: Array
    spectral: float
    frobenius: float
    through: Array


def cheap_spectral_bound(matrix: Array) -> float:
    """An upper bound of the largest singular value from one pass, often several times too high.

    It is the smaller of the Frobenius norm and sqrt(|M|_1 |M|_inf), as |M|_2^2 <= |M|_1 |M|_inf
    (Higham, 6.3).
    """
    magnitudes = np.abs(matrix)
    sums = [float(np.sum(magnitudes, axis=axis, dtype=np.float64).max()) for axis in (0, 1)]
    product = math.sqrt(sums[0]) * math.sqrt(sums[1])
    return min(upward(frobenius_norm(matrix), 4), upward(product, sum(matrix.shape)))


def frobenius_norm(matrix: Array) -> float:
    """The Frobenius norm, accumulated in FP64 and rounded up."""
    square = float(np.einsum("ij,ij->", matrix, matrix, dtype=np.float64))
    return upward(math.sqrt(square), matrix.size)


def lengths(matrix: Array, axis: int) -> Array:
    """The L2 norms of rows (axis 1) or columns (axis 0), rounded up, FP64."""
    terms = "ij,ij->j" if axis == 0 else "ij,ij->i"
    if matrix.dtype == np.float32:  # as it is: a table of embeddings is large
        with np.errstate(over="ignore"):
            square = np.einsum(terms, matrix, matrix).astype(np.float64)
        flushed = matrix.shape[axis] * 2.0**-126
        if 2.0**24 * flushed < square.max(initial=0.0) < math.inf:  # FP32 holds its squares
            return np.asarray(np.sqrt(square + flushed) * (1 + (matrix.shape[axis] + 4) * 2.0**-24))
    square = np.einsum(terms, matrix, matrix, dtype=np.float64)
    return np.asarray(np.sqrt(square) * (1 + (matrix.shape[axis] + 4) * _UNIT))


def upward(value: float, operations: int) -> float:
    """A sum of positive numbers that took so many FP64 additions, rounded up to an upper bound.

    A sum of n positive numbers is off by at most (n - 1) u of it (Rump, "Error estimation of
    floating-point summation and dot product", BIT 52, 2012).
    """
    return value * (1 + (operations + 4) * _UNIT)
