"""Suspects: what looks like a norm and was not taken for one, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from slanc_onnx.graph import DOMAINS, GraphPath, Scope, op_of
from slanc_onnx.norms.constants import scalar_of
from slanc_onnx.ops import MOVES, QUANTISING
from slanc_onnx.reasons import Reason, Untaken, reason

_STEPS = 16  # nodes between a sum of squares and what its root divides
_PASSED = {*MOVES, "Add", "Max", "Clip", "Relu", "Pow", "ReduceMean", "ReduceSum", "Mul"} | {
    *QUANTISING,
}


@dataclass(frozen=True)
class Suspect:
    """What looks like a norm and was not taken for one.

    Attributes:
        name: The node's name, or its output where that is empty.
        op: Its type.
        path: The graph that holds it.
        node: The node's index there.
        reason: Why it was not taken.
    """

    name: str
    op: str
    path: GraphPath
    node: int
    reason: Reason


def suspect(scope: Scope, node: gs.Node, why: Reason) -> Suspect:
    """A node as a suspect."""
    name, index = node.name or node.outputs[0].name, scope.index[id(node)]
    return Suspect(name, str(node.op), scope.path, index, why)


def of_other_domains(scope: Scope) -> Iterator[tuple[gs.Node, Suspect]]:
    """The ops of other domains that are called norms."""
    for node in scope.sorted_nodes:
        called = node.domain not in DOMAINS and "norm" in node.op.lower()
        if called and node.outputs and scope.fault(node) is None:
            why = reason(Untaken.UNKNOWN_DOMAIN, str(node.domain))
            yield node, suspect(scope, node, why)


def root_divides(scope: Scope, total: gs.Node) -> bool:
    """Whether the root of a sum of squares divides something, or is inverted."""
    waiting = [(total.outputs[0], op_of(total) == "ReduceL2", 0)]
    seen: set[int] = set()
    while waiting:
        tensor, rooted, steps = waiting.pop()
        for node in tensor.outputs:
            if id(node) not in scope.index or id(node) in seen or steps > _STEPS:
                continue
            seen.add(id(node))
            op, first = op_of(node), node.inputs[0] is tensor
            power = scalar_of(scope, node.inputs[1]) if op == "Pow" else None
            below = rooted and (op == "Reciprocal" or (op == "Div" and not first))
            if below or (power is not None and power < 0):
                return True
            half = op == "Sqrt" or (power is not None and power < 1)
            if half or op in _PASSED or (op in ("Div", "Sub") and first):
                waiting += [(t, rooted or half, steps + 1) for t in node.outputs[:1]]
    return False
