"""Turned products: a Transpose moves behind the MatMul by a weight that it stands before.

ONNX Runtime 1.32's CPU provider fuses a Transpose that moves the batch inwards with a MatMul by an
FP16 weight, and then dies (SIGSEGV). A weight of rank 2 multiplies rows, so that the rows may be
ordered before or after: the same numbers are multiplied and summed either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import NodeProto, TensorProto

from slanc_onnx.graph import every_graph, every_node, unused_name
from slanc_onnx.ops import MOVES, Body, read_bodies

_KEEPING_RANK = ("keeps", "turns", "casts")


def turn_behind_products(model: onnx.ModelProto) -> int:
    """Let each such MatMul read what its Transpose reads, and be transposed.

    Args:
        model: The model, its floats in FP16; it is changed in place.

    Returns:
        How many.
    """
    roots = (model.graph, *model.functions)
    if not any(_moves_batch(node) for root in roots for node in every_node(root.node)):
        return 0
    bodies = read_bodies(model)
    used = {name for body in bodies for name in body.kinds}
    used |= {node.name for body in bodies for node in body.proto.node}
    return sum(_turn(body, used) for body in bodies)


def _turn(body: Body, used: set[str]) -> int:
    found = list(_turned(body))
    nodes = body.proto.node
    for index, turn in reversed(found):
        product, behind = nodes[index], NodeProto()
        result, given = product.output[0], unused_name(f"{product.output[0]}/before", used)
        behind.CopyFrom(turn)
        behind.name = unused_name(f"{result}/Transpose", used)
        behind.input[0], behind.output[0] = given, result
        product.input[0], product.output[0] = turn.input[0], given
        nodes.insert(index + 1, behind)
    unread = {turn.output[0] for _, turn in found} - set(body.outputs) - set(_reads(nodes))
    for index in reversed(range(len(nodes))):
        if not unread.isdisjoint(nodes[index].output):
            del nodes[index]
    for index in reversed(range(len(body.proto.value_info))):
        if body.proto.value_info[index].name in unread:
            del body.proto.value_info[index]
    return len(found)


def _turned(body: Body) -> Iterator[tuple[int, NodeProto]]:
    """The products in question, by index, and a copy of the Transpose that each reads."""
    for index, node in enumerate(body.proto.node):
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
            continue
        made = body.makers.get(node.input[0])
        if made is None or not _moves_batch(body.proto.node[made[0]]):
            continue
        if body.kind(node.input[1]).element == TensorProto.FLOAT16 and _is_matrix(body, node):
            turn = NodeProto()
            turn.CopyFrom(body.proto.node[made[0]])
            yield index, turn


def _is_matrix(body: Body, product: NodeProto) -> bool:
    """Whether a product is by a constant of rank 2, also after it is turned or cast."""
    name, around = product.input[1], body.defining(product.input[1])
    while around is not None and name in around.makers and name not in around.constants:
        maker = around.proto.node[around.makers[name][0]]
        moves = MOVES.get(maker.op_type)
        if moves is None or moves.kind not in _KEEPING_RANK:
            return False
        name, around = maker.input[0], around.defining(maker.input[0])
    weight = None if around is None else around.constants.get(name)
    return weight is not None and len(weight.dims) == 2


def _moves_batch(node: NodeProto) -> bool:
    """Whether a node moves the first axis to before the last, which stays."""
    if node.op_type != "Transpose" or node.domain not in ("", "ai.onnx"):
        return False
    perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    return len(perm) > 2 and perm == [*range(1, len(perm) - 1), 0, len(perm) - 1]


def _reads(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """What nodes read, with those in their graphs and what these give."""
    for node in every_node(nodes):
        yield from node.input
        for attribute in node.attribute:
            for graph in every_graph(attribute.g):
                yield from (info.name for info in graph.output)
