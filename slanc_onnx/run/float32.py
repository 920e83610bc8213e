"""The same model with every FP16 and BF16 tensor in FP32, to run and compare it.

"The same function" is a statement about exact arithmetic, which FP32 stands for here. ONNX
Runtime's CPU provider does not run FP16 graphs as written: it computes most ops in FP32 and rounds
where two kernels meet, so that one more node anywhere changes the rounding elsewhere. And it has
hardly any kernel for BF16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import every_graph, float32_bytes, read_tensor
from slanc_onnx.norms import Norm, ReadModel, as_computed
from slanc_onnx.run.opset import raised

HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Larger weights stay as they are, with a Cast behind them: a message may not exceed 2 GiB.
LARGEST_INLINE, INLINE_IN_SEGMENTS = 1 << 24, 1 << 16
MOST_AT_ONCE = 1 << 32  # bytes in FP32; larger models are run in segments
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}


def too_large_at_once(model: onnx.ModelProto) -> bool:
    """Whether a model is run in segments."""
    return float32_bytes(model) > MOST_AT_ONCE


def as_float32(model: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """A copy in FP32, of opset 10 at least; the model itself where it is that already.

    Node `i` of a graph stays node `i`: new nodes stand at the end, where ONNX allows no reader to
    stand before its maker, but ONNX Runtime sorts them. A run may feed
    FP16 inputs: `Session` gives each input the type that it is declared with.

    Args:
        model: The model; it is not changed.
        folder: Where its external data lies, if it has any.

    Raises:
        CannotRun: its opset cannot be raised.
    """
    model = raised(model)
    if not holds_16_bits(model):
        return model
    inline = INLINE_IN_SEGMENTS if too_large_at_once(model) else LARGEST_INLINE
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in list(_graphs(copy)):
        _convert_graph(graph, folder, graph is not copy.graph, inline)
        _convert_nodes(graph.node, folder)
    for function in copy.functions:
        _convert_nodes(function.node, folder)
    return copy


def holds_16_bits(model: onnx.ModelProto) -> bool:
    """Whether a tensor of a model is in FP16 or BF16, as far as the file tells types."""
    return any(_is_half(graph) for graph in _graphs(model))


def read_in_float32(
    read: ReadModel, accelerator: Accelerator
) -> tuple[onnx.ModelProto, list[Norm]]:
    """A model in FP32, as `as_float32` makes it, and its norms as an accelerator computes them."""
    norms = as_computed(read.norms, accelerator.variance == "one-pass")
    return as_float32(read.model, read.folder), norms_in_float32(norms)


def norms_in_float32(norms: Sequence[Norm]) -> list[Norm]:
    """The norms of a model as they are in its FP32 copy."""

    def of(element_type: int) -> int:
        return int(TensorProto.FLOAT) if element_type in HALF else element_type

    return [
        replace(
            norm,
            element_type=of(norm.element_type),
            output_type=of(norm.output_type),
            places=tuple(p._replace(element_type=of(p.element_type)) for p in norm.places),
        )
        for norm in norms
    ]


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and all subgraphs, those of functions included."""
    for body in (model.graph, *model.functions):
        yield from every_graph(body)


def _is_half(graph: onnx.GraphProto) -> bool:
    infos = (*graph.input, *graph.output)
    return (
        any(tensor.data_type in HALF for tensor in graph.initializer)
        or any(info.type.tensor_type.elem_type in HALF for info in infos)
        or any(
            (a.name in _TYPE_ATTRIBUTES and a.i in HALF) or a.t.data_type in HALF
            for node in graph.node
            for a in node.attribute
        )
    )


def _convert_graph(
    graph: onnx.GraphProto, folder: Path | None, inside: bool, largest_inline: int
) -> None:
    inputs = {info.name for info in graph.input}
    del graph.value_info[:]
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in HALF:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    large = []
    for tensor in graph.initializer:
        if tensor.data_type not in HALF:
            continue
        stays = inside or tensor.name in inputs  # a Cast at the end is for the main graph only
        if stays or math.prod(tensor.dims) <= largest_inline:
            _convert_tensor(tensor, folder)
        else:
            large.append(tensor)
    for tensor in large:
        name, tensor.name = tensor.name, f"{tensor.name}/half"
        graph.node.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))


def _convert_tensor(tensor: TensorProto, folder: Path | None) -> None:
    values = read_tensor(tensor, folder).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _convert_nodes(nodes: Sequence[NodeProto], folder: Path | None) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in HALF:
                attribute.i = TensorProto.FLOAT
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALF:
                _convert_tensor(attribute.t, folder)
