"""The view that matching and tracing walk: graphsurgeon's nodes and tensors, without the weights.

`onnx_graphsurgeon` reads a skeleton of the model (every initializer without its data), so that
reading costs nothing, cannot touch the caller's model, and cannot write. Node `i` of a scope here
is node `i` of the GraphProto it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.load import Array, read_tensor

# (node index, attribute name) for each step from the main graph down to a subgraph.
GraphPath = tuple[tuple[int, str], ...]

# Ops whose output is their first input, as far as values are concerned.
SEE_THROUGH = {"Cast", "CastLike", "Identity", "Dropout"}

# Domains whose ops are known by name; an op of that name elsewhere may do anything.
DOMAINS = {None, "", "ai.onnx", "com.microsoft"}


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph of the model: the main graph, or the body of an If, Loop or Scan."""

    path: GraphPath
    proto: onnx.GraphProto
    graph: gs.Graph
    parent: Scope | None
    folder: Path | None
    initializers: dict[str, TensorProto]
    index: dict[int, int] = field(repr=False)  # id(gs node) -> index in the GraphProto
    overridable: frozenset[str] = frozenset()  # initializers that are graph inputs as well

    def constant(self, tensor: gs.Tensor) -> TensorProto | None:
        """The data behind a tensor that is an initializer or a Constant node's output."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.initializers.get(tensor.name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def read(self, tensor: gs.Tensor) -> Array | None:
        """The values of a constant tensor, None for any other."""
        proto = self.constant(tensor)
        return None if proto is None else read_tensor(proto, self.folder)

    def elements(self, tensor: gs.Tensor) -> list[float] | None:
        """The values of a small constant as a flat list, behind casts and reshapes; else None."""
        proto = self.constant(_behind(tensor))
        if proto is None or math.prod(proto.dims) > 16:
            return None
        values = np.asarray(read_tensor(proto, self.folder)).astype(np.float64)
        return [float(v) for v in values.reshape(-1)]

    def scalar(self, tensor: gs.Tensor) -> float | None:
        """The value of a constant with one element, None for any other tensor."""
        elements = self.elements(tensor)
        return elements[0] if elements is not None and len(elements) == 1 else None

    def overridden(self, tensor: gs.Tensor) -> str | None:
        """The graph input behind a constant that a caller may give another value; else None.

        Since IR version 4 an initializer is the default of the graph input of its name.
        """
        name = _behind(tensor).name
        scope: Scope | None = self
        while scope is not None:
            if name in scope.initializers:
                return name if name in scope.overridable else None
            scope = scope.parent
        return None

    def sorted_nodes(self) -> list[gs.Node]:
        """The scope's nodes in topological order, which a file need not keep."""
        made = {id(t): n for n in self.graph.nodes for t in n.outputs}
        order: list[gs.Node] = []
        state: dict[int, int] = {}
        for root in self.graph.nodes:
            stack = [root]
            while stack:
                node = stack[-1]
                if state.get(id(node)) == 2:
                    stack.pop()
                    continue
                before = [made[id(t)] for t in reads(node) if id(t) in made]
                waiting = [n for n in before if state.get(id(n)) is None]
                if state.get(id(node)) is None and waiting:
                    state[id(node)] = 1
                    stack.extend(waiting)
                    continue
                state[id(node)] = 2
                order.append(node)
                stack.pop()
        return order


def reads(node: gs.Node) -> Iterator[gs.Tensor]:
    """The tensors that a node reads, those that only its subgraphs read included."""
    yield from node.inputs
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            for inner in value.nodes:
                yield from reads(inner)


def op_of(node: gs.Node) -> str:
    """The type of a node whose op is known by name, "" for an op of another domain."""
    return str(node.op) if node.domain in DOMAINS else ""


def see_through(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor behind casts and identities."""
    while tensor.inputs and op_of(tensor.inputs[0]) in SEE_THROUGH:
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _behind(tensor: gs.Tensor) -> gs.Tensor:
    """The tensor behind casts and changes of shape."""
    while tensor.inputs and op_of(tensor.inputs[0]) in (*SEE_THROUGH, "Reshape", "Unsqueeze"):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def read_graph(model: onnx.ModelProto, folder: Path | None = None) -> list[Scope]:
    """The scopes of a model, the main graph first.

    Args:
        model: The model; it is not changed and its weights are not read.
        folder: Where its external data lies, if it has any.

    Raises:
        SlancError: graphsurgeon cannot read the model.
    """
    skeleton = _skeleton(model)
    try:
        skeleton = onnx.shape_inference.infer_shapes(skeleton)
    except Exception:  # Shapes are a convenience: a model the checker dislikes is read without.
        skeleton = _skeleton(model)
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.ERROR
    try:
        root = gs.import_onnx(skeleton)
    except Exception as error:
        raise SlancError(
            f"the graph cannot be read ({type(error).__name__}: {error}). "
            "Check the file with onnx.checker and export it again."
        ) from error
    inputs = {info.name for info in model.graph.input} if model.ir_version >= 4 else set()
    return list(_scopes((), model.graph, root, None, folder, frozenset(inputs)))


def _scopes(
    path: GraphPath,
    proto: onnx.GraphProto,
    graph: gs.Graph,
    parent: Scope | None,
    folder: Path | None,
    inputs: frozenset[str] = frozenset(),
) -> Iterator[Scope]:
    initializers = {tensor.name: tensor for tensor in proto.initializer}
    overridable = inputs.intersection(initializers)
    for node in proto.node:
        if node.op_type == "Constant" and node.output:
            value = _constant_value(node)
            if value is not None:
                initializers[node.output[0]] = value
    index = {id(node): i for i, node in enumerate(graph.nodes)}
    scope = Scope(path, proto, graph, parent, folder, initializers, index, overridable)
    yield scope
    for i, (node, view) in enumerate(zip(proto.node, graph.nodes, strict=True)):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = (*path, (i, attribute.name))
                body = view.attrs[attribute.name]
                yield from _scopes(inner, attribute.g, body, scope, folder)


def _constant_value(node: onnx.NodeProto) -> TensorProto | None:
    attribute = node.attribute[0] if node.attribute else None
    if attribute is None:
        return None
    if attribute.name == "value":
        value: TensorProto = attribute.t
        return value
    if attribute.name in ("value_float", "value_floats"):
        values = np.array(attribute.floats or attribute.f, dtype=np.float32)
        return onnx.numpy_helper.from_array(values)
    if attribute.name in ("value_int", "value_ints"):
        whole = np.array(attribute.ints or attribute.i, dtype=np.int64)
        return onnx.numpy_helper.from_array(whole)
    return None


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model without functions and without the data of its initializers."""
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    _copy_graph(model.graph, copy.graph)
    return copy


def _copy_graph(graph: onnx.GraphProto, copy: onnx.GraphProto) -> None:
    copy.name = graph.name
    for name in ("input", "output", "value_info"):
        getattr(copy, name).extend(getattr(graph, name))
    for tensor in graph.initializer:
        bare = copy.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if np.prod(tensor.dims) <= 64 and tensor.data_location != TensorProto.EXTERNAL:
            bare.CopyFrom(tensor)  # axes and shapes, which shape inference reads
    for node in graph.node:
        twin = copy.node.add(
            op_type=node.op_type,
            domain=node.domain,
            name=node.name,
            input=node.input,
            output=node.output,
        )
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = twin.attribute.add(name=attribute.name, type=AttributeProto.GRAPH)
                _copy_graph(attribute.g, inner.g)
            elif attribute.type == AttributeProto.TENSOR and np.prod(attribute.t.dims) > 64:
                bare = twin.attribute.add(name=attribute.name, type=AttributeProto.TENSOR).t
                bare.data_type = attribute.t.data_type
                bare.dims.extend(attribute.t.dims)
            elif attribute.type in _READABLE and attribute.s.isascii():
                twin.attribute.add().CopyFrom(attribute)


# Other kinds of attributes (strings of any bytes, sparse tensors, types) matter to no rule here
# and can make graphsurgeon fail.
_READABLE = {
    AttributeProto.FLOAT,
    AttributeProto.INT,
    AttributeProto.STRING,
    AttributeProto.FLOATS,
    AttributeProto.INTS,
    AttributeProto.TENSOR,
}
