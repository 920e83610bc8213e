"""Suspects: what looks like a norm and was not taken for one, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from slanc_onnx.graph import DOMAINS, GraphPath, Scope, op_of
from slanc_onnx.norms.constants import scalar_of
from slanc_onnx.ops import MOVES
from slanc_onnx.reasons import Reason, Untaken, reason

_State = Literal["square", "root", "logarithm", "falling", "divides"]
_STEPS = 16  # nodes between a sum of squares and what its root divides
_PASSED = {*MOVES, "Add", "Max", "Clip", "Relu", "Pow", "ReduceMean", "ReduceSum", "Mul"} | {
    "QuantizeLinear",
    "DequantizeLinear",
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
    """Whether the root of a sum of squares divides something, or is inverted.

    A root may be written by logarithms: exp(-0.5 log v).
    """
    first: _State = "root" if op_of(total) == "ReduceL2" else "square"
    waiting = [(total.outputs[0], first, 0)]
    seen: set[int] = set()
    while waiting:
        tensor, state, steps = waiting.pop()
        for node in tensor.outputs:
            if id(node) not in scope.index or id(node) in seen or steps > _STEPS:
                continue
            seen.add(id(node))
            then = _behind(scope, node, tensor, state)
            if then == "divides":
                return True
            if then is not None:
                waiting += [(t, then, steps + 1) for t in node.outputs[:1]]
    return False


def _behind(scope: Scope, node: gs.Node, tensor: gs.Tensor, state: _State) -> _State | None:
    """What a node makes of a sum of squares, its root or its logarithm; None for something else."""
    op, first = op_of(node), node.inputs[0] is tensor
    number = None
    if op in ("Pow", "Mul", "Div") and len(node.inputs) == 2:
        number = scalar_of(scope, node.inputs[1 if first else 0])
    if op == "Pow" and number is not None and first:
        return "divides" if number < 0 else "root" if number < 1 else state
    if state == "root" and (op == "Reciprocal" or (op == "Div" and not first)):
        return "divides"
    if state == "falling" and op == "Exp":
        return "divides"
    if state == "logarithm" and (op == "Neg" or (number is not None and number < 0)):
        return "falling"
    made: dict[str, _State] = {"Sqrt": "root", "Log": "logarithm"}
    if op in made:
        return made[op]
    return state if op in _PASSED or (op in ("Div", "Sub") and first) else None
