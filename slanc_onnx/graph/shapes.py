"""The shapes of tensors for given shapes of the inputs, as onnx infers them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import onnx

from slanc_onnx.graph.apart import apart
from slanc_onnx.graph.checked import DOMAINS, MOST_ELEMENTS
from slanc_onnx.graph.load import every_node
from slanc_onnx.graph.scope import FAULTY, Scope
from slanc_onnx.graph.stand_ins import Functions, inferred

# Ops that take off an end of their input: at length 1 more than there is.
_SHRINKS = {"Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "Pad", "Tile"} | {
    "AveragePool",
    "LpPool",
    "MaxPool",
}
_MAKES, _MOST_WRITTEN = ("Range", "Concat"), 2**16  # numbers of a vector


def concrete_shapes(
    main: Scope, inputs: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """The inferred shapes of tensors, by name, for given shapes of the inputs.

    Args:
        main: The main graph.
        inputs: Shapes by input name.
    """
    if main.skeleton is None:
        return {}
    model = onnx.ModelProto()
    model.CopyFrom(main.skeleton)
    del model.graph.value_info[:]
    _hide_long_values(model, main)
    for info in model.graph.input:
        if info.name in inputs:
            dims = info.type.tensor_type.shape.dim
            del dims[:]
            dims.extend(
                onnx.TensorShapeProto.Dimension(dim_value=size) for size in inputs[info.name]
            )
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        _hide_less_than_nothing(model, main.functions)
        told = apart(partial(_with_shapes, model, main.functions), main.apart)
    except Exception:  # as in `read_graph`
        return {}
    found = {}
    for info in onnx.ModelProto.FromString(told).graph.value_info:
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shape = tuple(int(d.dim_value) for d in dims)
            if min(shape, default=0) >= 0 and math.prod(shape) <= MOST_ELEMENTS:
                found[info.name] = shape
    return found


def _with_shapes(model: onnx.ModelProto, functions: Functions) -> bytes:
    whole: bytes = inferred(model, functions, data_prop=True).SerializeToString()
    return whole


def _hide_long_values(model: onnx.ModelProto, main: Scope) -> None:
    """Hide the ops that make long vectors: onnx would write out each of their numbers."""
    for node, view in zip(model.graph.node, main.graph.nodes, strict=True):
        size = (view.outputs[0].shape or [0])[0] if view.op in _MAKES and view.outputs else 0
        if isinstance(size, int) and size > _MOST_WRITTEN:
            node.domain = FAULTY


def _hide_less_than_nothing(model: onnx.ModelProto, functions: Functions) -> None:
    """Hide the ops whose outputs have sizes below zero here: a Slice of those ends the process."""
    nodes = list(every_node(model.graph.node))
    slices = [node for node in nodes if node.op_type == "Slice" and node.domain in DOMAINS]
    if not slices or not any(node.op_type in _SHRINKS for node in nodes):
        return
    domains = [node.domain for node in slices]
    for node in slices:
        node.domain = FAULTY
    known = inferred(model, functions, data_prop=True).graph.value_info
    for node, domain in zip(slices, domains, strict=True):
        node.domain = domain
    below = {
        info.name
        for info in known
        if any(dim.dim_value < 0 for dim in info.type.tensor_type.shape.dim)
    }
    for node in nodes:
        if below.intersection(node.output):
            node.domain = FAULTY
