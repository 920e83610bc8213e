"""Append ONNX nodes to a copy of a model: the small vocabulary that probing and emulating share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.graph import Array, GraphPath, add_constant, graph_at
from slanc_onnx.norms import Norm, RowAxes
from slanc_onnx.ops import FUSED

PREFIX = "slanc.emit"
END = 2**62  # of a slice that runs to the last element


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

    def from_double(self, x: str) -> str:
        """An FP64 tensor in FP32, with FP32's largest number for what is finite and beyond.

        ONNX Runtime joins a Cast with one in a branch, and then misses what is between.
        """
        largest = np.array(np.finfo(np.float32).max, np.float64)
        within = self.node("Max", x, self.constant(-largest))
        within = self.node("Min", within, self.constant(largest))
        finite = self.node("Less", self.node("Abs", x), self.constant(np.array(np.inf)))
        bounded = self.node("Where", finite, within, x)
        return self.node("Identity", self.to_float(bounded))

    def to_double(self, x: str, output: str = "") -> str:
        return self.node("Cast", x, output=output, to=TensorProto.DOUBLE)

    def sum(self, x: str) -> str:
        """FP32 sum over the last axis, which stays with length 1."""
        if self.opset >= 13:
            return self.node("ReduceSum", x, self.integers(-1), keepdims=1)
        return self.node("ReduceSum", x, axes=[-1], keepdims=1)

    def mean(self, x: str) -> str:
        if self.opset >= 18:
            return self.node("ReduceMean", x, self.integers(-1), keepdims=1)
        return self.node("ReduceMean", x, axes=[-1], keepdims=1)

    def largest(self, x: str) -> str:
        """The largest element of the last axis, which stays with length 1."""
        if self.opset >= 18:
            return self.node("ReduceMax", x, self.integers(-1), keepdims=1)
        return self.node("ReduceMax", x, axes=[-1], keepdims=1)

    def smallest(self, x: str) -> str:
        """The smallest element of the last axis, which stays with length 1."""
        if self.opset >= 18:
            return self.node("ReduceMin", x, self.integers(-1), keepdims=1)
        return self.node("ReduceMin", x, axes=[-1], keepdims=1)

    def pad(self, x: str, pads: Sequence[int]) -> str:
        """A tensor with zeros before and after: how many along each axis, all befores first."""
        if self.opset >= 11:
            return self.node("Pad", x, self.integers(*pads))
        return self.node("Pad", x, pads=list(pads))

    def input_of(self, norm: Norm) -> str:
        """The norm's input in FP32: the sum of its addends, where the op adds them.

        ONNX Runtime joins a Cast with one in a branch, and then misses what is between.
        """
        graph = graph_at(self.model, norm.path)
        addends: list[str] = [norm.input]
        if norm.residual is not None:
            addends = [self._addend(norm, graph.node[p.node], p.position) for p in norm.places]
        wide = norm.element_type == TensorProto.DOUBLE
        single = self.from_double if wide else self.to_float
        total, *rest = [single(addend) for addend in addends]
        for addend in rest:
            total = self.node("Add", total, addend)
        return self.node("Identity", total)

    def _addend(self, norm: Norm, node: NodeProto, position: int) -> str:
        """What an op adds: an input, or the rows of a table that it looks up."""
        form, tensor = FUSED[norm.form], str(node.input[position])
        if not form.indices:
            return tensor
        by = form.indices[form.addends.index(position)]
        if by < len(node.input) and node.input[by]:
            return self.node("Gather", tensor, node.input[by], axis=0)
        last = self.sizes(node.input[0], 1, 2)  # one row per position
        return self.node("Slice", tensor, self.integers(0), last, self.integers(0))

    def length(self, x: str) -> str:
        """The length of the last axis, FP32, shape [1]."""
        return self.to_float(self.sizes(x, -1, END))

    def sizes(self, x: str, start: int, end: int) -> str:
        """A part of a tensor's shape, int64."""
        shape = self.node("Shape", x)
        return self.node("Slice", shape, *(self.integers(n) for n in (start, end, 0)))

    def rows(self, x: str, axes: RowAxes, channels: int | None = None) -> str:
        """The input of a norm with its rows in the last axis; `channels` where those lie last."""
        if axes.last_axis:
            return x
        if axes.groups is not None:
            x = self.channels_first(x, axes, channels)
            return self.node("Reshape", x, self.integers(0, axes.groups, -1))
        if axes.axes == (1,):  # whatever the rank
            flat = self.node("Reshape", x, self.integers(0, 0, -1))
            return self.node("Transpose", flat, perm=[0, 2, 1])
        if axes.rank is not None:
            x = self.node("Transpose", x, perm=axes.permutation(axes.rank))
        before = self.sizes(x, 0, -len(axes.axes))
        shape = self.node("Concat", before, self.integers(-1), axis=0)
        return self.node("Reshape", x, shape)

    def from_rows(self, y: str, x: str, axes: RowAxes) -> str:
        """What `rows` made of a norm without groups, in the shape of `x` again."""
        if axes.last_axis:
            return y
        if axes.axes == (1,):
            y = self.node("Transpose", y, perm=[0, 2, 1])
        if axes.rank is None:
            return self.node("Reshape", y, self.node("Shape", x))
        order = axes.permutation(axes.rank)
        moved = self.node("Shape", self.node("Transpose", x, perm=order))
        back = [order.index(axis) for axis in range(axes.rank)]
        return self.node("Transpose", self.node("Reshape", y, moved), perm=back)

    def channels_first(self, x: str, axes: RowAxes, channels: int | None) -> str:
        """A grouped norm's input as [samples, channels, positions]."""
        if not axes.channels_last:
            return self.node("Reshape", x, self.integers(0, 0, -1))
        flat = self.node("Reshape", x, self.integers(0, -1, int(channels or 0)))
        return self.node("Transpose", flat, perm=[0, 2, 1])

    def from_channels_first(self, y: str, x: str, axes: RowAxes) -> str:
        """What `channels_first` made, in the shape of `x` again."""
        if axes.channels_last:
            y = self.node("Transpose", y, perm=[0, 2, 1])
        return self.node("Reshape", y, self.node("Shape", x))

    def can_show(self, path: GraphPath, loops: bool = True) -> bool:
        """Whether `shown` has a way from the graph at `path` to the main graph's outputs.

        It has none out of a branch inside a loop, which is not taken in every iteration; and where
        `loops` is false, none out of any loop, whose iterations may differ in their sizes.
        """
        graph, in_loop = self.model.graph, False
        for index, name in path:
            node = graph.node[index]
            loop = node.op_type in ("Loop", "Scan")
            if not loop and (node.op_type != "If" or in_loop):
                return False
            in_loop |= loop
            if loop and not loops:
                return False
            graph = next(a.g for a in node.attribute if a.name == name)
        return True

    def shown(self, path: GraphPath, x: str) -> str:
        """The main graph's name of an FP32 tensor from the graph at `path`, where the pen is.

        A tensor in a branch of an If becomes one more output of the If: flat, and empty whenever
        another branch is taken. One in the body of a Loop or Scan becomes one more scan output,
        flat, with a row for each iteration; so it must have the same size in each.
        """
        if not path:
            return x
        *outer, (index, name) = path
        parent = graph_at(self.model, tuple(outer))
        node = parent.node[index]
        flat = self.node("Reshape", x, self.integers(-1))
        result = self.name()
        node.output.append(result)
        for attribute in node.attribute:
            if attribute.type != AttributeProto.GRAPH:
                continue
            output = flat
            if attribute.name != name:
                self.place((*outer, (index, attribute.name)), len(attribute.g.node) - 1)
                nothing = numpy_helper.from_array(np.zeros(0, np.float32))
                output = self.node("Constant", value=nothing)
            info = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
            attribute.g.output.append(info)
        for attribute in node.attribute:
            if node.op_type == "Scan" and attribute.name.startswith("scan_output_"):
                attribute.ints.append(0)
        if not outer:
            return result
        self.place(tuple(outer), index)
        return self.shown(tuple(outer), result)

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
            stack.extend(read_by(makers[name]) if name in makers else ())
    for i in reversed(range(len(graph.node))):
        if needed.isdisjoint(graph.node[i].output):
            del graph.node[i]


def read_by(node: NodeProto) -> Iterator[str]:
    """What a node and its subgraphs read, what they make themselves included."""
    yield from node.input
    for attribute in node.attribute:
        if not attribute.HasField("g"):
            continue
        for inner in attribute.g.node:
            yield from read_by(inner)
        yield from (output.name for output in attribute.g.output)
