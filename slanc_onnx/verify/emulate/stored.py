"""Stored: what the divisions by a scale read, as a device stores it, before they divide it.

No division behind a tensor heals one that has left the format: not the Div in front of a norm, and
not the node that a fold puts further up, where no weight takes the scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from slanc_onnx.graph import (
    Flow,
    GraphPath,
    NodeAt,
    Tensor,
    Use,
    every_graph,
    graph_at,
    known_op,
    read_flow,
    read_graph,
)
from slanc_onnx.norms import APPLIED_KEY, SCALE_KEY, Norm, notes_of
from slanc_onnx.verify.emulate.device import Device
from slanc_onnx.verify.emulate.everything import MOVES
from slanc_onnx.verify.emulate.lost import Watched, finite, lost


@dataclass(frozen=True)
class _Divided:
    """A node that a fold put in to divide a tensor, where no weight takes the scale.

    Attributes:
        path: The graph that holds it.
        node: Its index.
        element_type: Of the tensor.
    """

    path: GraphPath
    node: int
    element_type: int


class StoredReads:
    """What norms, and divisions by their scales, read of a model, stored as the device stores it.

    Args:
        device: Rounds; it writes with an emitter whose model holds the norms. One that reads them
            in FP32 stores that so.
        model: The same model, as it was.
        norms: The norms, in order; none where all that is read is rounded already.
        loops: Whether what is in loops can be shown.
    """

    def __init__(
        self, device: Device, model: onnx.ModelProto, norms: Sequence[Norm], loops: bool
    ) -> None:
        self._device, self._loops = device, loops
        self._rounds = bool(norms) and "input" not in device.accelerator.fp32_steps
        self._divided = _divided_by_fold(model, norms) if self._rounds else {}

    def before(self, norm: Norm) -> list[Watched]:
        """Round what comes to a norm, and is no step of it; what is watched of that."""
        if not self._rounds:
            return []
        folded = [w for one in self._divided.get(norm.name, ()) for w in self._folded(one, norm)]
        return folded + self._read(norm)

    def _read(self, norm: Norm) -> list[Watched]:
        """Round what a norm reads before a Div divides it.

        What has no Div is rounded with the norm's own steps.
        """
        emitter, graph = self._device.emitter, graph_at(self._device.emitter.model, norm.path)
        reads = [(i, 0) for i in dict.fromkeys(norm.divisions)] or [
            (place.node, place.position) for place in norm.places
        ]
        watched: dict[str, Watched] = {}
        for index, position in reads:
            tensor = graph.node[index].input[position]
            full, rounded = self._stored(norm.path, index, tensor)
            if norm.divisions or norm.deferred:  # a product reads it too
                cast = emitter.node("Cast", rounded, to=norm.element_type)
                graph.node[index].input[position] = cast
            if emitter.can_show(norm.path, self._loops) and tensor not in watched:
                size = emitter.shown(norm.path, lost(emitter, full, rounded, full))
                watched[tensor] = Watched(*_behind_moves(graph, tensor), size, norm.name, "read")
        return list(watched.values())

    def _folded(self, one: _Divided, norm: Norm) -> list[Watched]:
        """Let what a fold divides by a node of its own be infinite where it has left the format.

        Others may read what that node makes too, and in FP32 where norms alone are rounded: so
        what fits stays as it is. For the norm behind it that is the same, since a power of two may
        divide before or after a rounding.
        """
        emitter = self._device.emitter
        graph = graph_at(emitter.model, one.path)
        tensor = graph.node[one.node].input[0]
        full, rounded = self._stored(one.path, one.node, tensor)
        kept = emitter.node("Where", finite(emitter, rounded), full, rounded)
        graph.node[one.node].input[0] = emitter.node("Cast", kept, to=one.element_type)
        if not emitter.can_show(one.path, self._loops):
            return []
        size = emitter.shown(one.path, lost(emitter, full, rounded, full))
        return [Watched(*_behind_moves(graph, tensor), size, norm.name, "divided")]

    def _stored(self, path: GraphPath, index: int, tensor: str) -> tuple[str, str]:
        """A tensor in FP32 right before a node reads it, as it is and as it is stored."""
        self._device.emitter.place(path, index - 1)
        full = self._device.emitter.to_float(tensor)
        return full, self._device.rounded(full)


def _divided_by_fold(model: onnx.ModelProto, norms: Sequence[Norm]) -> dict[str, list[_Divided]]:
    """The nodes that a fold put in to divide activations, by the first norm behind each.

    Nodes behind which none stands are left out, and the Divs that norms know.
    """
    own = {
        graph_at(model, norm.path).node[index].output[0]
        for norm in norms
        for index in (*norm.nodes, *norm.divisions)
    }
    nodes = (node for graph in every_graph(model.graph) for node in graph.node)
    if not any(_noted(node) and node.output[0] not in own for node in nodes):
        return {}  # as in most models, which need no flow then
    flow = read_flow(read_graph(model))
    found: dict[str, list[_Divided]] = {}
    for path, index in _divisions(flow, norms):
        norm = _first_behind(flow, NodeAt(path, index), norms)
        if norm is not None:
            element_type = flow.element_type(flow.reads[Use(path, index, 0)])
            found.setdefault(norm.name, []).append(_Divided(path, index, element_type))
    return found


def _behind_moves(graph: onnx.GraphProto, tensor: str) -> tuple[str, str]:
    """The tensor that an op computes whose values are moved into this one, and the op's type."""
    makers = {name: node for node in graph.node for name in node.output if name}
    for _ in range(len(graph.node)):
        node = makers.get(tensor)
        if node is None or known_op(node) not in (*MOVES, "Cast") or not node.input:
            break
        tensor = node.input[0]
    if tensor in makers:
        return tensor, makers[tensor].op_type
    return tensor, "weight" if any(init.name == tensor for init in graph.initializer) else "input"


def _noted(node: NodeProto) -> bool:
    """Whether a run noted on a product or a quotient how it applied a scale.

    Such a node was put in, or is the last one of a norm.
    """
    return known_op(node) in ("Mul", "Div") and not notes_of(node).keys().isdisjoint(
        {APPLIED_KEY, SCALE_KEY}
    )


def _divisions(flow: Flow, norms: Sequence[Norm]) -> Iterator[tuple[GraphPath, int]]:
    """The nodes that were put in to divide an activation, but the Divs that norms know.

    One that multiplies again what was divided is among them: it reads in that format too, and its
    factor may lie in another file.
    """
    known = {(norm.path, index) for norm in norms for index in (*norm.nodes, *norm.divisions)}
    for path, index in flow.order:
        node = flow.node(path, index)
        if not _noted(node) or (path, index) in known or Use(path, index, 0) not in flow.reads:
            continue
        factor = flow.data.get(flow.reads.get(Use(path, index, 1), Tensor((), "")))
        activation = flow.reads[Use(path, index, 0)] not in flow.constants
        if activation and factor is not None and not factor.dims:
            yield path, index


def _first_behind(flow: Flow, at: NodeAt, norms: Sequence[Norm]) -> Norm | None:
    """The first of the norms that read what a node makes, not through another of them."""
    inside = {(n.path, i): place for place, n in enumerate(norms) for i in n.nodes}
    waiting, seen, reached = [at], {at}, set[int]()
    while waiting:
        at = waiting.pop()
        if at in inside:
            reached.add(inside[at])
            continue
        fresh = set(_readers(flow, at)) - seen
        waiting += fresh
        seen |= fresh
    return norms[min(reached)] if reached else None


def _readers(flow: Flow, at: NodeAt) -> Iterator[NodeAt]:
    """The nodes that read what a node makes; in and out of a body its node and all that it gets."""
    path, index = at
    made = [Tensor(path, name) for name in flow.node(path, index).output if name]
    for inner, scope in flow.scopes.items():
        if inner and (inner[:-1], inner[-1][0]) == at:
            made += [Tensor(inner, info.name) for info in scope.proto.input]
    for tensor in made:
        yield from (NodeAt(use.path, use.node) for use in flow.uses.get(tensor, ()))
    for path, scope in flow.scopes.items():
        ends = {flow.tensor(path, info.name) for info in scope.proto.output} if path else set()
        if not ends.isdisjoint(made):
            yield NodeAt(path[:-1], path[-1][0])
