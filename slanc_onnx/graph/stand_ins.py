"""Shape inference past fused ops that onnx does not know, by ops whose outputs are like theirs."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import AttributeProto, NodeProto

from slanc_onnx.graph.contrib import CONTRIB
from slanc_onnx.graph.load import every_graph

_FUSED_IN = ("", "ai.onnx", "com.microsoft")

Functions = Collection[tuple[str, str]]  # domain and name of those of a model


def stand_ins(node: NodeProto, functions: Functions) -> list[NodeProto]:
    """The ops of onnx that tell of a fused op's outputs, one for each; none for any other op.

    Args:
        node: A node.
        functions: The functions of its model, whose calls may do anything.
    """
    if node.domain not in _FUSED_IN or (node.domain, node.op_type) in functions:
        return []
    known = CONTRIB.get(node.op_type)
    if known is None or known.stand_in is None:
        return []
    if node.domain != "com.microsoft" and onnx.defs.has(node.op_type):
        return []  # onnx follows it itself
    like = known.stand_in
    read = [node.input[place] for place in like.inputs if place < len(node.input)]
    if len(read) < len(like.inputs) or not all(read):
        return []
    made = [node.output[place] for place in like.outputs if place < len(node.output)]
    return [onnx.helper.make_node(like.op, read, [name]) for name in made if name]


def inferred(
    model: onnx.ModelProto, functions: Functions, *, data_prop: bool = False
) -> onnx.ModelProto:
    """A model with the types and shapes that onnx infers, past fused ops too.

    Args:
        model: The model.
        functions: The functions that its nodes call, if it is given without them.
        data_prop: Whether shapes that the graph computes are followed.
    """
    standing = onnx.ModelProto()
    standing.CopyFrom(model)
    replaced = False
    for graph in reversed(list(every_graph(standing.graph))):  # inner ones first
        made = [(node, stand_ins(node, functions)) for node in graph.node]
        if not any(instead for _, instead in made):
            continue
        replaced = True
        nodes = [one for node, instead in made for one in instead or [node]]
        del graph.node[:]
        graph.node.extend(nodes)
    found: onnx.ModelProto = onnx.shape_inference.infer_shapes(standing, data_prop=data_prop)
    if replaced:
        _put_back(model.graph, found.graph, functions)
    return found


def _put_back(graph: onnx.GraphProto, found: onnx.GraphProto, functions: Functions) -> None:
    """Let an inferred graph have the nodes again that others stood for."""
    nodes, at = list[NodeProto](), 0
    for node in graph.node:
        standing = len(stand_ins(node, functions))
        nodes.append(node if standing else found.node[at])
        if not standing:
            inner = {a.name: a.g for a in node.attribute if a.type == AttributeProto.GRAPH}
            for attribute in found.node[at].attribute:
                if attribute.type == AttributeProto.GRAPH:
                    _put_back(inner[attribute.name], attribute.g, functions)
        at += standing or 1
    del found.node[:]
    found.node.extend(nodes)
