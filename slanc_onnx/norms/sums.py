"""Which nodes of a graph sum squares, whatever op does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from slanc_onnx.graph import SEE_THROUGH, Scope, constant_made, op_of
from slanc_onnx.norms.averages import POOLS, PRODUCTS
from slanc_onnx.norms.origins import squared, squared_parts

SQUARING = ("ReduceSumSquare", "ReduceL2", "MeanVarianceNormalization")
BY_POWER = ("LpNormalization", "LpPool", "GlobalLpPool")  # 2 if left out
ADDS = ("Add", "Sum")
SUMS = ("ReduceMean", "ReduceSum", *POOLS, "CumSum", "ReduceLogSum", "Conv", *PRODUCTS)


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
