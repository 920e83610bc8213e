"""Which nodes of a graph sum squares, whatever op does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from slanc_onnx.graph import SEE_THROUGH, Array, Scope, constant_made, op_of
from slanc_onnx.norms.constants import small_value, stored_value
from slanc_onnx.norms.origins import squared, squared_parts

SQUARING = ("ReduceSumSquare", "ReduceL2", "MeanVarianceNormalization")
BY_POWER = ("LpNormalization", "LpPool", "GlobalLpPool")  # 2 if left out
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "Einsum")  # that may add up what they multiply
ADDS = ("Add", "Sum")
_POOLS = ("GlobalAveragePool", "AveragePool")
SUMS = ("ReduceMean", "ReduceSum", *_POOLS, "CumSum", "ReduceLogSum", "Conv", *PRODUCTS)


def candidates(scope: Scope, order: Sequence[gs.Node]) -> Iterator[tuple[gs.Node, gs.Tensor]]:
    """Every node that sums squares, with the tensor that is squared."""
    for node in order:
        op = op_of(node)
        if not node.inputs or not node.outputs:
            continue
        if op in SQUARING or _squares_inside(node):
            yield node, node.inputs[0]
        elif op in ADDS and (whole := squared_parts(scope, node)) is not None:
            more = [reader for reader in node.outputs[0].outputs if op_of(reader) in ADDS]
            if not any(squared_parts(scope, reader) is not None for reader in more):
                yield node, whole
        elif op in SUMS:
            data = summed(scope, node)
            if len(data) == 2 and _behind(data[0]) is _behind(data[1]):
                yield node, data[0]
            elif len(data) == 1 and (inner := squared(scope, data[0])) is not None:
                yield node, inner


def summed(scope: Scope, node: gs.Node) -> list[gs.Tensor]:
    """The tensors whose elements, or products of elements, a node adds up; no constants."""
    op = op_of(node)
    read = node.inputs if op in PRODUCTS else node.inputs[: 2 if op == "Conv" else 1]
    return [t for t in read if t.name and not constant_made(scope, t)]


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


def _squares_inside(node: gs.Node) -> bool:
    """Whether an op's attributes make it one that sums squares."""
    if op_of(node) == "BatchNormalization":
        return bool(node.attrs.get("training_mode"))
    return op_of(node) in BY_POWER and int(node.attrs.get("p", 2)) == 2


def _behind(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor behind casts and changes of shape."""
    through = {*SEE_THROUGH, "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand"}
    while tensor.inputs and op_of(tensor.inputs[0]) in through:
        tensor = tensor.inputs[0].inputs[0]
    return tensor
