"""Divide weights, in the model or into the files that the output is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from slanc_onnx.apply.fold.weights import divided
from slanc_onnx.graph import Array, NewData, Pending, Tensor, graph_at, read_tensor, with_tensor


def divide_weights(
    model: onnx.ModelProto,
    exponents: Mapping[Tensor, int],
    folder: Path | None,
    data: NewData | Pending | None = None,
) -> None:
    """Divide weights by powers of two, one at a time.

    Args:
        model: The model; it is changed in place.
        exponents: k of the divisor 2^k, by initializer or output of a Constant node.
        folder: Where the external data lies; these files are not written to.
        data: Where divided tensors go that are not in the model; None to take them into it.
    """
    for graph, names in _by_graph(model, exponents):
        found = {t.name: t for t in graph.initializer if t.name in names}
        for node in graph.node:
            if node.op_type == "Constant":
                found |= {name: with_tensor(node) for name in node.output if name in names}
        for name, exponent in names.items():
            _divide(found[name], exponent, folder, data)


def _by_graph(
    model: onnx.ModelProto, exponents: Mapping[Tensor, int]
) -> list[tuple[onnx.GraphProto, dict[str, int]]]:
    by_path: dict[object, tuple[onnx.GraphProto, dict[str, int]]] = {}
    for tensor, exponent in exponents.items():
        if tensor.path not in by_path:
            by_path[tensor.path] = (graph_at(model, tensor.path), {})
        by_path[tensor.path][1][tensor.name] = exponent
    return list(by_path.values())


def _divide(
    tensor: TensorProto, exponent: int, folder: Path | None, data: NewData | Pending | None
) -> None:
    before = TensorProto()
    before.CopyFrom(tensor)

    def values() -> Array:
        return divided(read_tensor(before, folder), exponent)

    if data is None or not data.put(tensor, values):
        tensor.CopyFrom(numpy_helper.from_array(values(), tensor.name))
