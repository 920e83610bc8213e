"""Inputs: floats that a model is fed with, which a device without FP32 stores like all others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, TensorProto

from slanc_onnx.graph import every_graph
from slanc_onnx.verify.emulate.device import Device
from slanc_onnx.verify.emulate.lost import lost


@dataclass(frozen=True)
class Stored:
    """The graph inputs as a device stores them.

    Attributes:
        rounded: The name of what is read in its place, by the name of an input.
        lost: By the name of an input the output with the largest number that did not fit; only
            where that is watched.
    """

    rounded: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> list[str]:
        """Those of `lost`."""
        return list(self.lost.values())


def store_inputs(device: Device, kept: Collection[str], watch: bool) -> Stored:
    """Round the FP32 and FP64 inputs of the emitter's model for all nodes that are not kept.

    Args:
        device: Rounds; its emitter's model is finished but for what is still pending.
        kept: Names of nodes.
        watch: Whether the model also shows what did not fit.
    """
    emitter, found = device.emitter, Stored()
    emitter.place((), -1)
    wide = float_inputs(emitter.model, TensorProto.DOUBLE)
    for name in (*float_inputs(emitter.model), *wide):
        given = emitter.from_double(name) if name in wide else name
        stored = device.stored(given)
        found.rounded[name] = emitter.to_double(stored) if name in wide else stored
        if watch:
            found.lost[name] = lost(emitter, given, stored, given)
    for graph in every_graph(emitter.model.graph):
        for node in graph.node:
            if node.name not in kept or not node.name:
                _replace(node, found.rounded)
        if graph is not emitter.model.graph:
            for output in graph.output:
                output.name = found.rounded.get(output.name, output.name)
    return found


def float_inputs(model: onnx.ModelProto, kind: int = TensorProto.FLOAT) -> list[str]:
    """The names of the FP32 tensors that have to be fed, or of those of another type, in order."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    return [
        info.name
        for info in model.graph.input
        if info.name not in defaults and info.type.tensor_type.elem_type == kind
    ]


def _replace(node: NodeProto, instead: Mapping[str, str]) -> None:
    """Let a node read other tensors in the place of some."""
    for position, name in enumerate(node.input):
        node.input[position] = instead.get(name, name)
