"""Kept: nodes that stay in FP32 where everything else is rounded, as a converter keeps them.

What a kept node gives is FP32 for another one that is kept, and rounded for whoever else reads it:
that is the cast which a converter puts at the boundary. Outputs of the model stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field, replace

import onnx
from onnx import TensorProto

from slanc_onnx.graph import Flow, GraphPath, Tensor, graph_at, read_flow, read_graph
from slanc_onnx.norms import Norm
from slanc_onnx.run import is_float, nodes_of
from slanc_onnx.verify.emulate.device import Device, in_branch
from slanc_onnx.verify.emulate.lost import lost


@dataclass(frozen=True)
class Boundary:
    """Where values leave the kept nodes.

    Attributes:
        rounded: The name of what others read, by the tensor that a kept node makes.
        lost: The tensor, the op that makes it, and the output with the largest number that did not
            fit; only where that is watched.
    """

    rounded: dict[Tensor, str] = field(default_factory=dict)
    lost: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def outputs(self) -> list[str]:
        return [output for _, _, output in self.lost]


def apart_from_kept(
    device: Device, norms: Sequence[Norm], kept: Set[str], watch: bool
) -> tuple[list[Norm], Boundary]:
    """Round what kept nodes give for those who are not kept, in the emitter's model.

    Args:
        device: Rounds; its emitter's model has no norm written out yet.
        norms: Those of the model.
        kept: Names of nodes.
        watch: Whether the model also shows what did not fit.

    Returns:
        The norms no node of which is kept, as they read the model then, and the boundary. The other
        nodes of the others are rounded op by op.
    """
    if not kept:
        return list(norms), Boundary()
    flow = read_flow(read_graph(device.emitter.model))
    whole = [n for n in norms if kept.isdisjoint(names_of(flow, n))]
    boundary = _round_for_readers(device, flow, kept, watch)
    return _read_as_rounded(whole, boundary), boundary


def names_of(flow: Flow, norm: Norm) -> list[str]:
    """The names of the nodes of a norm."""
    return [flow.node(norm.path, index).name for index in nodes_of(flow, norm)]


def _round_for_readers(device: Device, flow: Flow, kept: Collection[str], watch: bool) -> Boundary:
    boundary, emitter = Boundary(), device.emitter
    for path, index in flow.order:
        node = flow.node(path, index)
        if node.name not in kept:
            continue
        for name in filter(None, node.output):
            tensor = Tensor(path, name)
            wide = is_float(flow, tensor, TensorProto.DOUBLE)
            if tensor in flow.constants or not (wide or is_float(flow, tensor)):
                continue
            if not _read_by_others(flow, tensor, kept):
                continue
            shows = watch and emitter.can_show(path)
            emitter.place(path, index)

            given = emitter.from_double(name) if wide else name

            def make(given: str = given, shows: bool = shows) -> list[str]:
                y = device.rounded(given)
                return [y, lost(emitter, given, y, given)] if shows else [y]

            rounded, *size = in_branch(emitter, given, make)
            boundary.rounded[tensor] = emitter.to_double(rounded) if wide else rounded
            if shows:
                shown = emitter.shown(path, size[0])
                boundary.lost.append((name, node.op_type, shown))
    for tensor, rounded in boundary.rounded.items():
        _reconnect(emitter.model, flow, tensor, rounded, kept)
    return boundary


def _read_as_rounded(norms: Sequence[Norm], boundary: Boundary) -> list[Norm]:
    """The norms, which read the rounded tensors."""
    found = {(path, name): rounded for (path, name), rounded in boundary.rounded.items()}

    def seen(path: GraphPath, name: str) -> str:
        outward = (path[:depth] for depth in range(len(path), -1, -1))
        return next((found[p, name] for p in outward if (p, name) in found), name)

    return [replace(norm, input=seen(norm.path, norm.input)) for norm in norms]


def _read_by_others(flow: Flow, tensor: Tensor, kept: Collection[str]) -> bool:
    read = any(flow.node(use.path, use.node).name not in kept for use in flow.uses.get(tensor, []))
    return read or any(_gives(flow, path, tensor) for path in flow.scopes if path)


def _gives(flow: Flow, path: GraphPath, tensor: Tensor) -> bool:
    """Whether the subgraph at a path gives a tensor to the node that holds it."""
    outputs = flow.scopes[path].proto.output
    return any(flow.tensor(path, output.name) == tensor for output in outputs)


def _reconnect(
    model: onnx.ModelProto, flow: Flow, tensor: Tensor, rounded: str, kept: Collection[str]
) -> None:
    """Let those who are not kept read the rounded tensor."""
    for use in flow.uses.get(tensor, []):
        if flow.node(use.path, use.node).name not in kept:
            node = graph_at(model, use.path).node[use.node]
            node.input[use.position] = rounded
    for path in flow.scopes:
        if path and _gives(flow, path, tensor):
            for output in graph_at(model, path).output:
                if output.name == tensor.name:
                    output.name = rounded
