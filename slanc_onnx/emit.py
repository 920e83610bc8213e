"""Append ONNX nodes to a copy of a model: the small vocabulary that probing and emulating share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.graph import GraphPath
from slanc_onnx.load import Array
from slanc_onnx.norms import Norm
from slanc_onnx.rewrite import add_constant, graph_at

PREFIX = "slanc.emit"


class Emitter:
    """Copies a model, collects new nodes and constants for it, and puts them in place at the end.

    Names are unique because nothing else starts with `PREFIX`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        versions = {o.domain: o.version for o in model.opset_import}
        self.opset = versions.get("", versions.get("ai.onnx", 1))
        self._count = 0
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
        self._pending: list[tuple[onnx.GraphProto, int, NodeProto]] = []
        self._at: tuple[onnx.GraphProto, int] = (self.model.graph, 0)
        self._sink: list[NodeProto] | None = None

    def place(self, path: GraphPath, index: int) -> None:
        """Let the nodes to come stand right after node `index` of the graph at `path`."""
        self._at = (graph_at(self.model, path), index)

    @contextmanager
    def body(self, nodes: list[NodeProto]) -> Iterator[None]:
        """Collect the nodes made inside into a subgraph's list."""
        outer, self._sink = self._sink, nodes
        yield
        self._sink = outer

    def name(self) -> str:
        self._count += 1
        return f"{PREFIX}.{self._count}"

    def constant(self, value: Array) -> str:
        key = (value.tobytes(), str(value.dtype), value.shape)
        if key not in self._constants:
            self._constants[key] = self.name()
            add_constant(self.model, self._constants[key], value)
        return self._constants[key]

    def number(self, value: float) -> str:
        """A rank-0 FP32 constant."""
        return self.constant(np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def node(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """One more node with one output; its name is returned."""
        node = helper.make_node(op, inputs, [output or self.name()], **attributes)
        self.add(node)
        return str(node.output[0])

    def add(self, node: NodeProto) -> None:
        """One more node, made by the caller."""
        if self._sink is not None:
            self._sink.append(node)
        else:
            self._pending.append((*self._at, node))

    def to_float(self, x: str) -> str:
        return self.node("Cast", x, to=TensorProto.FLOAT)

    def sum(self, x: str) -> str:
        """FP32 sum over the last axis, which stays with length 1."""
        if self.opset >= 13:
            return self.node("ReduceSum", x, self.integers(-1), keepdims=1)
        return self.node("ReduceSum", x, axes=[-1], keepdims=1)

    def mean(self, x: str) -> str:
        if self.opset >= 18:
            return self.node("ReduceMean", x, self.integers(-1), keepdims=1)
        return self.node("ReduceMean", x, axes=[-1], keepdims=1)

    def input_of(self, norm: Norm) -> str:
        """The norm's input in FP32: for a Skip op, the sum of its addends."""
        graph = graph_at(self.model, norm.path)
        addends: list[str] = [norm.input]
        if norm.form.startswith("Skip"):
            addends = [graph.node[p.node].input[p.position] for p in norm.places]
        total, *rest = [self.to_float(addend) for addend in addends]
        for addend in rest:
            total = self.node("Add", total, addend)
        return total

    def can_show(self, path: GraphPath) -> bool:
        """Whether `shown` has a way from the graph at `path` to the main graph's outputs.

        It has none from the body of a loop, nor from a subgraph of a subgraph.
        """
        return not path or (len(path) == 1 and self.model.graph.node[path[0][0]].op_type == "If")

    def shown(self, path: GraphPath, x: str) -> str:
        """The main graph's name of an FP32 tensor from the graph at `path`, where the pen is.

        A tensor in a branch of an If becomes one more output of the If: flat, and empty whenever
        another branch is taken.
        """
        if not path:
            return x
        ((index, branch),) = path
        node = self.model.graph.node[index]
        node.output.append(self.name())
        flat = self.node("Reshape", x, self.integers(-1))
        for attribute in node.attribute:
            if attribute.name != branch:
                self.place(((index, attribute.name),), len(attribute.g.node) - 1)
                nothing = numpy_helper.from_array(np.zeros(0, np.float32))
                output = self.node("Constant", value=nothing)
            else:
                output = flat
            info = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
            attribute.g.output.append(info)
        return str(node.output[-1])

    def finish(self, outputs: Sequence[str] = (), keep_outputs: bool = True) -> None:
        """Insert the nodes, add graph outputs, and drop what no output needs any more."""
        graph = self.model.graph
        # From the end, so that the positions still to come stay valid.
        for target, index, node in sorted(reversed(self._pending), key=lambda p: -p[1]):
            target.node.insert(index + 1, node)
        self._pending.clear()
        if not keep_outputs:
            del graph.output[:]
        for name in outputs:
            graph.output.add(name=name).type.tensor_type.elem_type = TensorProto.FLOAT
        drop_dead_nodes(graph)


def drop_dead_nodes(graph: onnx.GraphProto) -> None:
    """Remove the main graph's nodes that no output depends on."""
    makers = {name: node for node in graph.node for name in node.output if name}
    stack = [output.name for output in graph.output]
    needed: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(_reads(makers[name]) if name in makers else ())
    for i in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[i].output):
            del graph.node[i]


def _reads(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
        yield from (output.name for output in attribute.g.output)
