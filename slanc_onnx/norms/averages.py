"""Means: the ops that add up a tensor's elements, each times the same number.

A product does where its constant is such a matrix, of one number beside zeros. One with weights
does not: x + x W is no row less its mean.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from slanc_onnx.graph import Array, Scope, constant_made, op_of
from slanc_onnx.norms.constants import small_value, stored_value

PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "Einsum")  # that may add up what they multiply
WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose", "FusedMatMul")
POOLS = ("GlobalAveragePool", "AveragePool")


def multiplies(node: gs.Node) -> bool:
    """Whether an op adds up products of what it reads: a mean where `averages` says so."""
    return op_of(node) in (*WEIGHTED, *PRODUCTS)


def averages(scope: Scope, node: gs.Node) -> bool:
    """Whether the constants of a product add up elements, each times the same number."""
    constants = matrices(scope, node)
    return bool(constants) and all(_is_uniform(scope, tensor) for tensor in constants)


def adds_all(scope: Scope, node: gs.Node) -> bool:
    """Whether a product leaves out no element that it adds up, as an averaging matrix may."""
    return averages(scope, node) and all(elements(scope, t).all() for t in matrices(scope, node))


def matrices(scope: Scope, node: gs.Node) -> list[gs.Tensor]:
    """The constants by which a product multiplies."""
    factors = node.inputs if op_of(node) == "Einsum" else node.inputs[:2]
    return [t for t in factors if t.name and constant_made(scope, t)]


def _is_uniform(scope: Scope, tensor: gs.Tensor) -> bool:
    """Whether the elements of a constant are 0 or one other number."""
    for most in (64, None):  # weights differ soon
        values = elements(scope, tensor, most)
        if len(np.unique(values[values != 0])) > 1:
            return False
    return bool(values.any())


def elements(scope: Scope, tensor: gs.Tensor, most: int | None = None) -> Array:
    """The first elements of a constant of numbers, or all; none where they are not known."""
    found = stored_value(scope, tensor)
    found = small_value(scope, tensor) if found is None else found
    if found is None or found.dtype.kind not in "fiuV":
        return np.empty(0)
    return np.asarray(found.reshape(-1)[:most], np.float64)
