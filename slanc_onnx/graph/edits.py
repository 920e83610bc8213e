"""Edits of a model, as plain values, and how they are patched into the ModelProto."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from slanc_onnx.graph.checked import GraphPath
from slanc_onnx.graph.flow import Tensor
from slanc_onnx.graph.load import Array, every_node, names_read, with_tensor


class NodeAt(NamedTuple):
    """A node of the model as it was found: its graph and its index there."""

    path: GraphPath
    node: int


class NewNode(NamedTuple):
    """A Div or Mul of a tensor and a constant, to be inserted before the node now at `before`."""

    before: NodeAt
    op: str
    inputs: tuple[str, str]
    output: str
    name: str
    metadata: dict[str, str]


@dataclass
class Edits:
    """The changes that scaling makes to a model, as plain values.

    Attributes:
        constants: New initializers of the main graph by name; every subgraph can read them.
        nodes: New nodes; those before the same node keep this order.
        inputs: The new name of the tensor that a node reads, by node and input position.
        outputs: The new name of a tensor that a node makes, by node and output position.
        attributes: New values of attributes, by node and name: epsilons, and limits.
        stamps: Metadata for a node that stays: the scale and the norm's name.
    """

    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[NewNode] = field(default_factory=list)
    inputs: dict[tuple[NodeAt, int], str] = field(default_factory=dict)
    outputs: dict[tuple[NodeAt, int], str] = field(default_factory=dict)
    attributes: dict[tuple[NodeAt, str], float] = field(default_factory=dict)
    stamps: dict[NodeAt, dict[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.stamps)


def apply_edits(model: onnx.ModelProto, edits: Edits) -> None:
    """Carry out edits in place, on the model that they were planned for."""
    for name, value in edits.constants.items():
        add_constant(model, name, value)
    before = {node_at(model, at).input[position] for at, position in edits.inputs}
    for (at, position), name in edits.inputs.items():
        node_at(model, at).input[position] = name
    for (at, position), name in edits.outputs.items():
        node_at(model, at).output[position] = name
    for (at, name), number in edits.attributes.items():
        node = node_at(model, at)
        kept = [a for a in node.attribute if a.name == name]
        new = kept[0] if kept else node.attribute.add(name=name, type=AttributeProto.FLOAT)
        new.f = number
    for at, metadata in edits.stamps.items():
        _add_metadata(node_at(model, at), metadata)
    graphs = {new.before.path: graph_at(model, new.before.path) for new in edits.nodes}
    # From the end, so that the positions still to come stay valid.
    for new in sorted(reversed(edits.nodes), key=lambda n: -n.before.node):
        node = helper.make_node(new.op, new.inputs, [new.output], name=new.name)
        _add_metadata(node, new.metadata)
        graphs[new.before.path].node.insert(new.before.node, node)
    drop_own_constants(model, before)


def drop_own_constants(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Drop constants that an edit added, of these names, that nothing reads any more."""
    own = {name for name in names if name.startswith("slanc.")}
    if own:
        read = names_read(model)
        for held in (model.graph.initializer, model.graph.input):  # the same as `add_constant`
            for one in [one for one in held if one.name in own - read]:
                held.remove(one)


def unused_name(wanted: str, used: set[str]) -> str:
    """A name that is not used yet, and is from here on: the wanted one, or one that begins so."""
    name, count = wanted, 1
    while name in used:
        count += 1
        name = f"{wanted}_{count}"
    used.add(name)
    return name


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node without a name that of its first output, which is what a norm is called then.

    Where another node has that name, it is one that begins so.
    """
    used = {node.name for node in every_node(model.graph.node)}
    for node in every_node(model.graph.node):
        if not node.name:
            node.name = unused_name(next(filter(None, node.output), node.op_type), used)


def _add_metadata(node: onnx.NodeProto, metadata: Mapping[str, str]) -> None:
    for key, text in metadata.items():
        node.metadata_props.add(key=key, value=text)


def add_constant(model: onnx.ModelProto, name: str, value: Array) -> None:
    """Add an initializer to the main graph; before IR version 4 it has to be an input as well."""
    tensor = numpy_helper.from_array(value, name)
    model.graph.initializer.append(tensor)
    if model.ir_version < 4:
        info = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)


def stored_tensor(model: onnx.ModelProto, tensor: Tensor) -> TensorProto:
    """The tensor of an initializer or of a Constant node."""
    graph = graph_at(model, tensor.path)
    stored: list[TensorProto] = [t for t in graph.initializer if t.name == tensor.name]
    if stored:
        return stored[0]
    return next(with_tensor(node) for node in graph.node if tensor.name in node.output)


def graph_at(model: onnx.ModelProto, path: GraphPath) -> onnx.GraphProto:
    """The main graph, or the subgraph at `path`."""
    graph = model.graph
    for index, name in path:
        graph = next(a.g for a in graph.node[index].attribute if a.name == name)
    return graph


def node_at(model: onnx.ModelProto, at: NodeAt) -> onnx.NodeProto:
    """A node of the main graph or of a subgraph."""
    node: onnx.NodeProto = graph_at(model, at.path).node[at.node]
    return node
