"""Rewrite: a Div before each norm and epsilon divided to match, patched into the ModelProto.

Nothing else of the model changes: weights, names, metadata and the order of nodes stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

from slanc_onnx.graph import GraphPath
from slanc_onnx.load import Array
from slanc_onnx.norm import NORM_KEY, SCALE_KEY, Norm, Place


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
    """What scaling changes, in plain values; `apply_edits` says in which order.

    Attributes:
        constants: New rank-0 initializers of the main graph, which every subgraph can read.
        nodes: New nodes; those with the same place in this order.
        inputs: What a node reads from now on, by node and position.
        outputs: What a node's output is called from now on, by node and position.
        epsilons: The epsilon attribute of fused norms.
        stamps: The scale and the norm's name, as metadata on a node, where nothing is inserted.
    """

    constants: dict[str, Array] = field(default_factory=dict)
    nodes: list[NewNode] = field(default_factory=list)
    inputs: dict[tuple[NodeAt, int], str] = field(default_factory=dict)
    outputs: dict[tuple[NodeAt, int], str] = field(default_factory=dict)
    epsilons: dict[NodeAt, float] = field(default_factory=dict)
    stamps: dict[NodeAt, dict[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.stamps)


def apply_scales_in(
    model: onnx.ModelProto, norms: Sequence[Norm], scales: Mapping[str, float]
) -> bool:
    """Scale norms in place.

    Args:
        model: The model in which `norms` were found, unchanged since.
        norms: Its norms.
        scales: The scale by norm name. Norms that are not named stay as they are, and so do those
            with a `skip_reason`.

    Returns:
        Whether the model was modified.
    """
    edits = plan_edits(model, norms, scales)
    apply_edits(model, edits)
    return bool(edits)


def plan_edits(model: onnx.ModelProto, norms: Sequence[Norm], scales: Mapping[str, float]) -> Edits:
    """What `apply_scales_in` does to a model, without doing it."""
    planner = Planner(model)
    for norm in norms:
        if norm.name in scales and norm.skip_reason is None and norm.places:
            planner.scale(norm, scales[norm.name])
    return planner.edits


def apply_edits(model: onnx.ModelProto, edits: Edits) -> None:
    """Carry out edits that were planned for this model."""
    for name, value in edits.constants.items():
        add_constant(model, name, value)
    for (at, position), name in edits.inputs.items():
        node_at(model, at).input[position] = name
    for (at, position), name in edits.outputs.items():
        node_at(model, at).output[position] = name
    for at, epsilon in edits.epsilons.items():
        node = node_at(model, at)
        kept = [a for a in node.attribute if a.name == "epsilon"]
        new = kept[0] if kept else node.attribute.add(name="epsilon", type=AttributeProto.FLOAT)
        new.f = epsilon
    for at, metadata in edits.stamps.items():
        _add_metadata(node_at(model, at), metadata)
    graphs = {new.before.path: graph_at(model, new.before.path) for new in edits.nodes}
    # From the end, so that the positions still to come stay valid.
    for new in sorted(reversed(edits.nodes), key=lambda n: -n.before.node):
        node = helper.make_node(new.op, new.inputs, [new.output], name=new.name)
        _add_metadata(node, new.metadata)
        graphs[new.before.path].node.insert(new.before.node, node)


def _add_metadata(node: onnx.NodeProto, metadata: Mapping[str, str]) -> None:
    for key, text in metadata.items():
        node.metadata_props.add(key=key, value=text)


def add_constant(model: onnx.ModelProto, name: str, value: Array) -> None:
    """One more initializer of the main graph; before IR version 4 those have to be inputs too."""
    tensor = numpy_helper.from_array(value, name)
    model.graph.initializer.append(tensor)
    if model.ir_version < 4:
        info = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)


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


def residual_name(node: onnx.NodeProto, norm: Norm) -> str:
    """The output with the sum of a Skip op's addends, "" where the node has none."""
    there = norm.residual is not None and norm.residual < len(node.output)
    return str(node.output[norm.residual]) if there else ""


def scaled_epsilon(norm: Norm, scale: float) -> float | None:
    """Epsilon as the scaled norm needs it: epsilon / s^2, or epsilon / s outside the root."""
    return None if norm.epsilon is None else norm.epsilon / scale**norm.epsilon_power


class Planner:
    """Collects edits; gives out unused names and one constant per value and element type."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.edits = Edits()
        self._model = model
        self._used = set(_names_in(model.graph))
        self._scalars: dict[tuple[float, int], str] = {}

    def scale(self, norm: Norm, scale: float) -> None:
        """A Div before each read of the input, and epsilon divided to match.

        The scale 1 leaves only a note, so that the next run knows that it was decided.
        """
        if scale == 1.0:
            at = NodeAt(norm.path, norm.nodes[-1])
            self.edits.stamps[at] = {SCALE_KEY: repr(scale), NORM_KEY: norm.name}
            return
        first: dict[str, Place] = {}
        reads: dict[Place, str] = {}
        for place in sorted(norm.places):
            reads[place] = node_at(self._model, NodeAt(norm.path, place.node)).input[place.position]
            first.setdefault(reads[place], place)
        scaled = {tensor: self.unused(f"{tensor}/slanc") for tensor in first}
        for place in norm.places:
            self.edits.inputs[NodeAt(norm.path, place.node), place.position] = scaled[reads[place]]
        for tensor, place in first.items():
            divisor = self.scalar("scale", scale, place.element_type)
            self._insert(place.node, "Div", (tensor, divisor), scaled[tensor], norm, scale)
        self.epsilon(norm, scale)
        self._residual(norm, scale)

    def epsilon(self, norm: Norm, scale: float) -> None:
        """Epsilon divided to match the scale."""
        epsilon = scaled_epsilon(norm, scale)
        if epsilon is None or (norm.form == "decomposed" and norm.epsilon_place is None):
            return  # it has none
        if norm.epsilon_place is None:
            self.edits.epsilons[NodeAt(norm.path, norm.nodes[-1])] = epsilon
            return
        index, position, element_type = norm.epsilon_place
        if norm.overridable_epsilon is not None:
            self._divided_epsilon(norm, scale)
            return
        constant = self.scalar("epsilon", epsilon, element_type)
        self.edits.inputs[NodeAt(norm.path, index), position] = constant

    def _divided_epsilon(self, norm: Norm, scale: float) -> None:
        """An epsilon that a caller may override is divided when the model runs."""
        assert norm.epsilon_place is not None
        index, position, element_type = norm.epsilon_place
        tensor = node_at(self._model, NodeAt(norm.path, index)).input[position]
        divisor = self.scalar("scale", scale**norm.epsilon_power, element_type)
        divided = self.unused(f"{tensor}/slanc")
        self.edits.inputs[NodeAt(norm.path, index), position] = divided
        self._insert(index, "Div", (tensor, divisor), divided, norm, scale)

    def _residual(self, norm: Norm, scale: float) -> None:
        """The sum of addends that a Skip op gives out keeps its name and value."""
        at = NodeAt(norm.path, norm.nodes[-1])
        residual = residual_name(node_at(self._model, at), norm)
        if residual and norm.residual is not None:
            inner = self.unused(f"{residual}/slanc")
            factor = self.scalar("scale", scale, norm.element_type)
            self.edits.outputs[at, norm.residual] = inner
            self._insert(at.node + 1, "Mul", (inner, factor), residual, norm, scale)

    def _insert(
        self, before: int, op: str, inputs: tuple[str, str], output: str, norm: Norm, scale: float
    ) -> None:
        name = self.unused(f"{norm.name}/slanc_{op}")
        metadata = {SCALE_KEY: repr(scale), NORM_KEY: norm.name}
        at = NodeAt(norm.path, before)
        self.edits.nodes.append(NewNode(at, op, inputs, output, name, metadata))

    def unused(self, wanted: str) -> str:
        """A name that nothing in the model has yet: the wanted one, or one that begins with it."""
        name, count = wanted, 1
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._used.add(name)
        return name

    def scalar(self, what: str, value: float, element_type: int) -> str:
        """The initializer with that value, one per value and element type."""
        key = (value, element_type)
        if key not in self._scalars:
            self._scalars[key] = self.unused(f"slanc.{what}_{value:g}")
            dtype = helper.tensor_dtype_to_np_dtype(element_type)
            self.edits.constants[self._scalars[key]] = rounded(value, dtype)
        return self._scalars[key]


def rounded(value: float, dtype: np.dtype[np.generic]) -> Array:
    """The value in the element type, but not zero, as 0 * rsqrt(0) is nan, and not infinite."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(value).astype(dtype)
    if np.isinf(rounded):
        rounded = np.nextafter(rounded, np.zeros((), dtype))
    if value > 0 and rounded.astype(np.float64) == 0:
        rounded = np.nextafter(np.zeros((), dtype), np.ones((), dtype))
    return np.asarray(rounded)


def _names_in(graph: onnx.GraphProto) -> Iterator[str]:
    for info in (*graph.input, *graph.initializer):
        yield info.name
    for node in graph.node:
        yield node.name
        yield from node.output
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _names_in(attribute.g)
