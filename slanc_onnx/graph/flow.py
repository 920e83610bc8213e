"""Flow: the nodes that make and read each tensor, over all graphs of a model, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import onnx
from onnx import AttributeProto, TensorProto

from slanc_onnx.graph.checked import DOMAINS, GraphPath
from slanc_onnx.graph.facts import told_type
from slanc_onnx.graph.scope import Scope

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}

SHAPES = ("Shape", "Size")  # ops that read no value


class Tensor(NamedTuple):
    """A tensor: the graph that defines it, and its name."""

    path: GraphPath
    name: str


class Use(NamedTuple):
    """A read of a tensor: the graph and the index of the node, and the position of its input."""

    path: GraphPath
    node: int
    position: int


@dataclass(frozen=True, eq=False)
class Flow:
    """The tensors of a model.

    Attributes:
        scopes: The graphs, by path.
        order: Every node as (path, index), in topological order within its graph.
        makers: The node and the position of its output that make a tensor.
        uses: Every read of a tensor, those in subgraphs included; a shape is no read.
        reads: The tensor of every read.
        constants: Tensors computed from constants and shapes alone, initializers included.
        data: The initializers and the values of Constant nodes.
        pinned: Runtime tensors whose value has to stay: graph outputs, and what a subgraph reads.
        overridable: Initializers that a caller may give another value.
        types: The element types that the file tells.
    """

    scopes: dict[GraphPath, Scope]
    order: tuple[tuple[GraphPath, int], ...]
    makers: dict[Tensor, tuple[GraphPath, int, int]]
    uses: dict[Tensor, list[Use]]
    reads: dict[Use, Tensor]
    constants: frozenset[Tensor]
    data: dict[Tensor, TensorProto]
    pinned: frozenset[Tensor]
    overridable: frozenset[Tensor]
    types: dict[Tensor, int]

    def node(self, path: GraphPath, index: int) -> onnx.NodeProto:
        """A node as the file has it."""
        node: onnx.NodeProto = self.scopes[path].proto.node[index]
        return node

    def op(self, path: GraphPath, index: int) -> str:
        """The type of a node whose op is known by name and whose rules it keeps; "" for others."""
        return "" if index in self.scopes[path].faults else known_op(self.node(path, index))

    def read(self, use: Use) -> Tensor | None:
        """The tensor of a read, None where the node leaves that input out."""
        return self.reads.get(use)

    def tensor(self, path: GraphPath, name: str) -> Tensor:
        """The tensor of that name as a graph sees it: its own, or one of the graphs around it."""
        for depth in range(len(path), -1, -1):
            found = Tensor(path[:depth], name)
            if found in self.makers or found in self.data or found in self.types:
                return found
        return Tensor(path, name)

    def element_type(self, tensor: Tensor) -> int:
        """The element type; where the file tells none, that of an input of the tensor's maker."""
        for _ in range(1000):
            if tensor in self.data:
                return self.data[tensor].data_type
            known = self.types.get(tensor, 0)
            if known or tensor not in self.makers:
                return known or TensorProto.FLOAT
            path, index, _ = self.makers[tensor]
            node = self.node(path, index)
            to = next((a.i for a in node.attribute if a.name == "to"), 0)
            if node.op_type == "Cast" and to:
                return int(to)
            read = [self.tensor(path, name) for name in node.input if name]
            floats = [t for t in read if t in self.data and self.data[t].data_type in FLOATS]
            if floats or not read:
                return self.data[floats[0]].data_type if floats else TensorProto.FLOAT
            tensor = read[0]
        return TensorProto.FLOAT


def known_op(node: onnx.NodeProto) -> str:
    """The type of a node whose op is known by name, "" for an op of another domain."""
    return str(node.op_type) if node.domain in DOMAINS else ""


def read_flow(scopes: Sequence[Scope]) -> Flow:
    """The flow of a model whose graphs are given, outer ones first."""
    return _with_reads(_with_makers(scopes))


def _with_makers(scopes: Sequence[Scope]) -> Flow:
    """The flow without its reads: the makers of tensors, and the facts that the file tells."""
    makers: dict[Tensor, tuple[GraphPath, int, int]] = {}
    data, types = {}, {}
    overridable: set[Tensor] = set()
    order: list[tuple[GraphPath, int]] = []
    for scope in scopes:
        path = scope.path
        data.update({Tensor(path, n): value for n, value in scope.initializers.items()})
        for info in scope.proto.input:
            types[Tensor(path, info.name)] = info.type.tensor_type.elem_type
        overridable.update(Tensor(path, name) for name in scope.overridable)
        order.extend((path, scope.index[id(node)]) for node in scope.sorted_nodes)
        for index, node in enumerate(scope.proto.node):
            for position, name in enumerate(node.output):
                if name:
                    makers[Tensor(path, name)] = (path, index, position)
        for name, tensor in scope.tensors.items():
            here = Tensor(path, name)
            told = told_type(tensor)
            if told is not None and (here in makers or here in types):
                types[here] = told
    return Flow(
        scopes={scope.path: scope for scope in scopes},
        order=tuple(order),
        makers=makers,
        uses={},
        reads={},
        constants=frozenset(data),
        data=data,
        pinned=frozenset(),
        overridable=frozenset(overridable),
        types=types,
    )


def _with_reads(flow: Flow) -> Flow:
    """The flow with its reads, and with the constants and pinned tensors that follow from them."""
    uses: dict[Tensor, list[Use]] = {}
    reads: dict[Use, Tensor] = {}
    pinned: set[Tensor] = set()
    constants = set(flow.constants)
    for path, index in flow.order:
        node = flow.node(path, index)
        read = []
        for position, name in enumerate(node.input):
            if name:
                tensor = flow.tensor(path, name)
                read.append(tensor)
                reads[Use(path, index, position)] = tensor
                if known_op(node) not in SHAPES:
                    uses.setdefault(tensor, []).append(Use(path, index, position))
                if tensor.path != path:
                    pinned.add(tensor)
        inner = any(a.type == AttributeProto.GRAPH for a in node.attribute)
        fixed = read and not inner and all(t in constants for t in read)
        if fixed or known_op(node) in SHAPES:
            constants.update(Tensor(path, name) for name in node.output if name)
    for scope in flow.scopes.values():
        pinned.update(flow.tensor(scope.path, output.name) for output in scope.proto.output)
    return replace(
        flow, uses=uses, reads=reads, constants=frozenset(constants), pinned=frozenset(pinned)
    )


def runtime_inputs(flow: Flow, path: GraphPath, index: int) -> Iterator[int]:
    """The positions at which a node reads what is computed from the inputs of the model."""
    for position in range(len(flow.node(path, index).input)):
        tensor = flow.read(Use(path, index, position))
        if tensor is not None and tensor not in flow.constants:
            yield position
