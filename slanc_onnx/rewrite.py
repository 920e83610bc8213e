"""Rewrite: a Div before each norm and epsilon divided to match, patched into the ModelProto.

Nothing else of the model changes: weights, names, metadata and the order of nodes stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, helper, numpy_helper

from slanc_onnx.graph import GraphPath
from slanc_onnx.load import Array
from slanc_onnx.norms import NORM_KEY, SCALE_KEY, Norm, Place

RESIDUAL_OUTPUT = 3  # of the Skip ops: the sum of the addends


def apply_scales_in(
    model: onnx.ModelProto, norms: Sequence[Norm], scales: Mapping[str, float]
) -> bool:
    """Scale norms in place.

    Args:
        model: The model in which `norms` were found, unchanged since.
        norms: Its norms.
        scales: The scale by norm name. Norms that are not named stay as they are.

    Returns:
        Whether the model was modified.
    """
    names = _Names(model)
    edits = []
    for norm in norms:
        scale = scales.get(norm.name)
        if scale is None or not norm.places:
            continue
        graph = graph_at(model, norm.path)
        nodes = {i: graph.node[i] for i in (*norm.nodes, *(p.node for p in norm.places))}
        edits.append((norm, scale, graph, nodes))
    insertions: list[tuple[onnx.GraphProto, int, NodeProto]] = []
    for norm, scale, graph, nodes in edits:
        insertions += [(graph, at, node) for at, node in _scale(norm, scale, nodes, names)]
    # From the end, so that the positions still to come stay valid.
    for graph, at, node in sorted(reversed(insertions), key=lambda item: -item[1]):
        graph.node.insert(at, node)
    return bool(edits)


def graph_at(model: onnx.ModelProto, path: GraphPath) -> onnx.GraphProto:
    """The main graph, or the subgraph at `path`."""
    graph = model.graph
    for index, name in path:
        graph = next(a.g for a in graph.node[index].attribute if a.name == name)
    return graph


class _Names:
    """Gives out unused names and keeps one scalar initializer per value and element type."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.used = set(_names_in(model.graph))
        self.scalars: dict[tuple[float, int], str] = {}

    def unused(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.used:
            count += 1
            name = f"{wanted}_{count}"
        self.used.add(name)
        return name

    def scalar(self, what: str, value: float, element_type: int) -> str:
        """The name of a rank-0 initializer of the main graph, which every subgraph can read."""
        key = (value, element_type)
        if key not in self.scalars:
            name = self.unused(f"slanc.{what}_{value:g}")
            dtype = helper.tensor_dtype_to_np_dtype(element_type)
            self.graph.initializer.append(numpy_helper.from_array(_rounded(value, dtype), name))
            self.scalars[key] = name
        return self.scalars[key]


def _rounded(value: float, dtype: np.dtype[np.generic]) -> Array:
    """The value in the element type, never rounded to zero: 0 * rsqrt(0) is nan."""
    rounded = np.asarray(value).astype(dtype)
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


def _scale(
    norm: Norm, scale: float, nodes: dict[int, NodeProto], names: _Names
) -> Iterator[tuple[int, NodeProto]]:
    """Patch the norm's own nodes; yield the new nodes, each with the index to insert it at."""
    first: dict[str, Place] = {}
    for place in sorted(norm.places):
        first.setdefault(nodes[place.node].input[place.position], place)
    scaled = {tensor: names.unused(f"{tensor}/slanc") for tensor in first}
    for index, position, _ in norm.places:
        nodes[index].input[position] = scaled[nodes[index].input[position]]
    for tensor, place in first.items():
        divisor = names.scalar("scale", scale, place.element_type)
        div = _stamped("Div", [tensor, divisor], scaled[tensor], norm, scale, names)
        yield place.node, div
    _patch_epsilon(norm, scale, nodes, names)

    last = norm.nodes[-1]
    if norm.form.startswith("Skip") and len(nodes[last].output) > RESIDUAL_OUTPUT:
        residual = nodes[last].output[RESIDUAL_OUTPUT]
        if residual:
            inner = names.unused(f"{residual}/slanc")
            divisor = names.scalar("scale", scale, norm.element_type)
            nodes[last].output[RESIDUAL_OUTPUT] = inner
            yield last + 1, _stamped("Mul", [inner, divisor], residual, norm, scale, names)


def _patch_epsilon(norm: Norm, scale: float, nodes: dict[int, NodeProto], names: _Names) -> None:
    epsilon = scaled_epsilon(norm, scale)
    if epsilon is None:
        return
    if norm.epsilon_place is not None:
        index, position, element_type = norm.epsilon_place
        nodes[index].input[position] = names.scalar("epsilon", epsilon, element_type)
        return
    node = nodes[norm.nodes[-1]]
    kept = [a for a in node.attribute if a.name == "epsilon"]
    attribute = kept[0] if kept else node.attribute.add(name="epsilon", type=AttributeProto.FLOAT)
    attribute.f = epsilon


def scaled_epsilon(norm: Norm, scale: float) -> float | None:
    """Epsilon as the scaled norm needs it: epsilon / s^2, or epsilon / s outside the root."""
    return None if norm.epsilon is None else norm.epsilon / scale**norm.epsilon_power


def _stamped(
    op: str, inputs: list[str], output: str, norm: Norm, scale: float, names: _Names
) -> NodeProto:
    name = names.unused(f"{norm.name}/slanc_{op}")
    node = helper.make_node(op, inputs, [output], name=name)
    node.metadata_props.add(key=SCALE_KEY, value=repr(scale))
    node.metadata_props.add(key=NORM_KEY, value=norm.name)
    return node
