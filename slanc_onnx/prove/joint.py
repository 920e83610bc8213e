"""The joint bound of a gated MLP, y = D (s * (G x) * (U x)), where a norm reads nothing else.

Taking G x and U x as independent rows gives away that both come from one row x. Element i of their
product is z_i = <A_i, x x^T> with A_i the symmetric part of g_i u_i^T, so that D z is a linear map
of x x^T, whose Frobenius norm is |x|^2. With s = middle + half * t and |t| <= 1,

    |y| <= |middle| sqrt(lmax(D K D^T)) + half |D / w| sqrt(lmax(w K w)),    for |x| <= 1

with K_ij = <A_i, A_j> = ((GG^T)(UU^T) + (GU^T)(UG^T)) / 2, elementwise, and any weights w > 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove.sets import DEVICE_SLACK, DEVICE_UNIT, SLACK, Ellipsoids
from slanc_onnx.weights import largest_eigenvalue_bound, lengths, spectral_bound

MOST_NEURONS = 1 << 12  # of which K has the square
STEPS, ITERATIONS = 12, 20  # of the search for weights, which any result will do for
_UNIT = 2.0**-53
_SMALL_OPS = 8  # elementwise ones on the device between the products


@dataclass(frozen=True, eq=False)
class GatedMlp:
    """A gated MLP without biases.

    Attributes:
        gate: G, FP64, shape [channels, neurons].
        up: U, of the same shape.
        down: D, FP64, shape [neurons, out].
        factor: The least and the largest s: 0 and 1 for SiLU, GELU and ReLU, where
            activation(t) = s t.
    """

    gate: Array
    up: Array
    down: Array
    factor: tuple[float, float]


def joint_bound(mlp: GatedMlp, within: Ellipsoids) -> float:
    """An upper bound of the L2 norm of the MLP's output, rounding on the device included.

    Args:
        mlp: The weights.
        within: The set of the rows x.
    """
    low, high = mlp.factor
    middle, half = (low + high) / 2, (high - low) / 2
    largest = max(abs(low), abs(high))
    inner = _Inner(mlp, within)
    linear = math.sqrt(inner.of_outputs()) if middle else 0.0
    free = inner.of_neurons() if half else 0.0
    exact = abs(middle) * linear + half * free
    return (exact + largest * inner.device()) * SLACK


class _Inner:
    """K of an MLP whose x is F^T u with |u| <= 1, and what its rounding may change.

    Elements of K, computed or exact, are at most n_i n_j, with n_i = |F g_i| |F u_i| or more.
    """

    def __init__(self, mlp: GatedMlp, within: Ellipsoids) -> None:
        self.mlp = mlp
        self.down = mlp.down.T
        factor = factor_of(within)
        size = float(np.linalg.norm(factor)) if factor.ndim > 1 else float(factor.max(initial=0.0))
        gate, up = (_through(factor, matrix) for matrix in (mlp.gate, mlp.up))
        self.sizes = lengths(mlp.gate, axis=0) * lengths(mlp.up, axis=0) * (size * SLACK) ** 2
        self.reach = np.multiply(
            *(_magnitudes(matrix, factor, within) for matrix in (mlp.gate, mlp.up))
        )
        across = gate.T @ up
        self.inner = ((gate.T @ gate) * (up.T @ up) + across * across.T) / 2
        self.inner = (self.inner + self.inner.T) / 2
        # Of the products with F, of those of g and u, and what is done with these.
        self.share = (6 * (len(mlp.gate) + len(gate)) + 32) * _UNIT

    def of_outputs(self) -> float:
        """An upper bound of lmax(D K D^T)."""
        mixed = self.down @ self.inner @ self.down.T
        summed = float(np.linalg.norm(np.abs(self.down) @ self.sizes)) ** 2
        rounding = (self.share + (2 * len(self.inner) + 8) * _UNIT) * summed
        return largest_eigenvalue_bound((mixed + mixed.T) / 2) + rounding * SLACK

    def of_neurons(self) -> float:
        """An upper bound of |D / w| sqrt(lmax(w K w)) for good weights w."""
        weights = self._weights()
        weighted = self.inner * np.outer(weights, weights)
        rounding = (self.share + 8 * _UNIT) * float(np.linalg.norm(weights * self.sizes)) ** 2
        within = largest_eigenvalue_bound(weighted) + rounding * SLACK
        return spectral_bound(self.down / weights) * math.sqrt(within)

    def device(self) -> float:
        """How far the output in FP32 can be from the exact one, for |s| <= 1.

        Each of the products G x, U x, D h is off by its length in units, times the sum of
        magnitudes (Higham 3.5).
        """
        rows, neurons = self.mlp.gate.shape
        share = (2 * rows + neurons + 4) * DEVICE_UNIT * SLACK * DEVICE_SLACK
        share += _SMALL_OPS * (DEVICE_SLACK - 1)
        longest = float(np.linalg.norm(np.abs(self.down) @ self.reach))
        return float(share * longest * (1 + share) ** 2)

    def _weights(self) -> Array:
        """Weights that make the product small: where both factors lean on the same neurons."""
        own = np.sqrt(np.maximum(np.diag(self.inner), 0.0))
        weights = np.sqrt(_above_zero(lengths(self.down, axis=0)) / _above_zero(own))
        best, least = weights, math.inf
        for _ in range(STEPS):
            outer, by_outer = _top(self._outer(weights), len(weights))
            inner, by_inner = _top(self._inner(weights), len(weights))
            if outer * inner < least:
                least, best = outer * inner, weights
            share = by_outer**2 - by_inner**2
            weights = weights * np.exp(share / max(float(np.abs(share).max()), 2.0**-500) / 2)
        return best

    def _outer(self, weights: Array) -> Callable[[Array], Array]:
        return lambda v: np.asarray((self.down.T @ (self.down @ (v / weights))) / weights)

    def _inner(self, weights: Array) -> Callable[[Array], Array]:
        return lambda v: np.asarray(weights * (self.inner @ (weights * v)))


def _above_zero(sizes: Array) -> Array:
    return np.asarray(np.maximum(sizes, 2.0**-40 * float(sizes.max(initial=0.0)) + 2.0**-400))


def factor_of(within: Ellipsoids) -> Array:
    """F with {F^T u, |u| <= 1} around the set: a diagonal [channels], or a matrix [any, channels].

    As in `sum_of_ellipsoids`: with the sizes t_i of the terms and S their sum, the stacked
    N_i sqrt(S / t_i).
    """
    terms = list(within.terms)
    if within.slack:
        terms.append(np.full(within.channels, within.slack))
    sizes = [float(np.linalg.norm(t)) if t.ndim > 1 else float(np.abs(t).max()) for t in terms]
    kept = [(t, size) for t, size in zip(terms, sizes, strict=True) if size > 0]
    whole = sum(size for _, size in kept) * SLACK
    scaled = [t * math.sqrt(whole / size) for t, size in kept]
    diagonals = [t for t in scaled if t.ndim == 1]
    matrices = [t for t in scaled if t.ndim > 1]
    diagonal = np.sqrt(np.sum([t**2 for t in diagonals], axis=0)) if diagonals else None
    if not matrices:
        return np.zeros(within.channels) if diagonal is None else diagonal * SLACK
    if diagonal is not None:
        matrices.append(np.diag(diagonal))
    return np.concatenate(matrices) * SLACK


def _through(factor: Array, matrix: Array) -> Array:
    return factor[:, None] * matrix if factor.ndim == 1 else factor @ matrix


def _magnitudes(matrix: Array, factor: Array, within: Ellipsoids) -> Array:
    """Upper bounds of sum_j |m_ji| |x_j| for each column i of a matrix."""
    if factor.ndim == 1:
        return lengths(factor[:, None] * matrix, axis=0) * SLACK
    by_element = (within.each @ np.abs(matrix)) * SLACK
    return np.minimum(by_element, lengths(matrix, axis=0) * within.length() * SLACK)


def _top(apply: Callable[[Array], Array], size: int) -> tuple[float, Array]:
    """About the largest eigenvalue of a map and its eigenvector, by power iteration."""
    vector = np.full(size, 1 / math.sqrt(size))
    length = 0.0
    for _ in range(ITERATIONS):
        image = apply(vector)
        length = float(np.linalg.norm(image))
        if not length > 0:
            return 0.0, vector
        vector = image / length
    return length, vector
