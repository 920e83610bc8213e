"""Suspects: what looks like a norm and was not taken for one, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from slanc_onnx.graph import DOMAINS, Bodies, GraphPath, Scope, op_of
from slanc_onnx.norms.constants import scalar_of
from slanc_onnx.norms.origins import squared
from slanc_onnx.ops import (
    BETWEEN,
    ELEMENTWISE,
    FUSED,
    HOLDING,
    HOMOGENEOUS,
    INTERNAL,
    MOVES,
    QUANTISING,
)
from slanc_onnx.reasons import Reason, Untaken, reason

_State = Literal["square", "again", "root", "logarithm", "falling", "divides"]
_STEPS = 16  # nodes between a sum of squares and what its root divides
_TOTALS = ("ReduceMean", "ReduceSum", "GlobalAveragePool", "AveragePool")
# What ops of ONNX Runtime compute of integers and their scales.
_BY_INTEGERS = {f"QLinear{op}": op for op in (*_TOTALS, "Add", "Mul")}
# Ops that divide what they read by the root themselves.
_DIVIDING = ("BatchNormalization", "LpNormalization", "MeanVarianceNormalization")
_WHOLE = ("Round", "Floor", "Ceil")
_PASSED = {*BETWEEN, *HOMOGENEOUS, *_WHOLE, "Clip", "Pow", "Mul", *QUANTISING}
_KEEPING = {*MOVES, *HOMOGENEOUS, "Mul", "Clip"}
_NAMED = re.compile(r"(?i:norm(?!al(?!i)))|(?<![a-z])rms|Rms|RMS")
_KNOWN = {*FUSED, *INTERNAL, "BatchNormalization", "LpNormalization"} | {
    "MeanVarianceNormalization",
    "StringNormalizer",
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


def is_called_norm(op: str, operator: str = "") -> bool:
    """Whether the type of an op, or the PyTorch operator in an op ATen, is the name of a norm."""
    return bool(_NAMED.search(f"{op} {operator}"))


def called_norms(scope: Scope) -> Iterator[tuple[gs.Node, Suspect]]:
    """The ops that are called norms or hold some, and that nobody here can read."""
    for node in scope.sorted_nodes:
        read = scope.is_call(node) or (node.domain in DOMAINS and node.op in _KNOWN)
        other = node.attrs.get("norm", "L2" if node.op != "Normalizer" else "MAX") != "L2"
        if read or other or not node.outputs or scope.fault(node) is not None:
            continue
        if is_called_norm(node.op, str(node.attrs.get("operator", ""))):
            why = reason(Untaken.UNKNOWN_OP, str(node.domain or "ai.onnx"))
            yield node, suspect(scope, node, why)
        elif node.domain == "com.microsoft" and _holds_norms(node):
            yield node, suspect(scope, node, Reason(Untaken.INSIDE))


def _holds_norms(node: gs.Node) -> bool:
    """Whether an op of ONNX Runtime normalises inside, with weights or an attribute for that."""
    by = HOLDING.get(node.op, ())
    if isinstance(by, str):
        return bool(node.attrs.get(by, 0))
    return any(p < len(node.inputs) and bool(node.inputs[p].name) for p in by)


def quantised_sums(scope: Scope, bodies: Bodies) -> Iterator[tuple[gs.Node, Suspect]]:
    """The sums of squares of which a QLinear op makes one half: their integers are no numbers."""
    for node in scope.sorted_nodes:
        op = op_of(node)
        if _BY_INTEGERS.get(op, op) not in _TOTALS or not node.inputs or not node.outputs:
            continue
        by_product = _is_square_of_integers(node.inputs[0])
        squares = by_product or (op not in _TOTALS and squared(scope, node.inputs[0]) is not None)
        if squares and root_divides(bodies, node) is not None:
            yield node, suspect(scope, node, Reason(Untaken.QLINEAR))


def sums_between_graphs(scope: Scope, bodies: Bodies) -> Iterator[tuple[gs.Node, Suspect]]:
    """The sums of squares that another graph makes, and those that a Loop or Scan adds up."""
    for node in scope.sorted_nodes:
        op = op_of(node)
        if not node.inputs or not node.outputs or scope.fault(node) is not None:
            continue
        added = op == "Add" and _is_added_up(scope, bodies, node)
        elsewhere = op in _TOTALS and _is_squared_elsewhere(bodies, node.inputs[0])
        if (added or elsewhere) and root_divides(bodies, node) is not None:
            yield node, suspect(scope, node, Reason(Untaken.IN_ANOTHER_GRAPH))


def _is_squared_elsewhere(bodies: Bodies, tensor: gs.Tensor) -> bool:
    """Whether a tensor is a square that a graph around this one or in it makes."""
    waiting = [tensor]
    seen: set[int] = set()
    while waiting and len(seen) < _STEPS:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if part.inputs and part.inputs[0].inputs and op_of(part.inputs[0]) in _KEEPING:
            waiting.append(part.inputs[0].inputs[0])
        for other in bodies.behind(part):
            owner = bodies.owner(other.inputs[0]) if other.inputs else None
            if owner is not None and squared(owner, other) is not None:
                return True
            waiting.append(other)
    return False


def _is_added_up(scope: Scope, bodies: Bodies, node: gs.Node) -> bool:
    """Whether a body adds squares to what its last run gave."""
    total = node.outputs[0]
    ends = {id(total), *(id(t) for r in total.outputs if op_of(r) == "Identity" for t in r.outputs)}
    for tensor, other in (node.inputs, node.inputs[::-1]):
        carried = any(id(t) in ends for t in bodies.behind(tensor))
        if carried and squared(scope, other) is not None:
            return True
    return False


def _is_square_of_integers(tensor: gs.Tensor) -> bool:
    for _ in range(_STEPS):
        if not tensor.inputs:
            return False
        node = tensor.inputs[0]
        if op_of(node) == "QLinearMul":
            return len(node.inputs) > 3 and node.inputs[0] is node.inputs[3]
        if op_of(node) not in (*QUANTISING, *MOVES):
            return False
        tensor = node.inputs[0]
    return False


def root_divides(bodies: Bodies, total: gs.Node) -> Literal["here", "elsewhere"] | None:
    """Where the root of a sum of squares divides something, or is inverted; None for nowhere.

    A root may be written by logarithms: exp(-0.5 log v). Elsewhere is where the way to the division
    leads through another graph, such as the branch of an If.
    """
    if op_of(total) in _DIVIDING:
        return "here"
    ops: dict[str, _State] = {"ReduceLogSum": "logarithm", "ReduceL2": "root"}
    first, home = ops.get(op_of(total), "square"), bodies.owner(total)
    waiting = [(total.outputs[0], first, 0, False)]
    seen: set[int] = set()
    while waiting:
        tensor, state, steps, left = waiting.pop()
        if steps > _STEPS:
            continue
        for node in tensor.outputs:
            scope = bodies.owner(node)
            if scope is None or id(node) in seen:
                continue
            seen.add(id(node))
            then = _behind(scope, node, tensor, state)
            away = left or scope is not home
            if then == "divides":
                return "elsewhere" if away else "here"
            if then is not None:
                waiting += [(t, then, steps + 1, away) for t in node.outputs]
        waiting += [(t, state, steps + 1, True) for t in bodies.across(tensor)]
    return None


def _squared_again(power: float, state: _State) -> _State:
    """What a power makes of a sum of squares or its root: the sum of those is of another norm."""
    return "again" if state in ("square", "root") and power != 1 else state


def _behind(scope: Scope, node: gs.Node, tensor: gs.Tensor, state: _State) -> _State | None:
    """What a node makes of a sum of squares, its root or its logarithm; None for something else."""
    op, first = _BY_INTEGERS.get(op_of(node), op_of(node)), node.inputs[0] is tensor
    number = None
    if op in ("Pow", "Mul", "Div") and len(node.inputs) == 2:
        number = scalar_of(scope, node.inputs[1 if first else 0])
    if op == "Pow" and number is not None and first:
        return "divides" if number < 0 else "root" if number < 1 else _squared_again(number, state)
    if op == "Mul" and node.inputs[0] is node.inputs[-1]:
        return _squared_again(2, state)
    if state == "root" and (op == "Reciprocal" or (op == "Div" and not first)):
        return "divides"
    if state == "falling" and op == "Exp":
        return "divides"
    if state == "logarithm" and (op == "Neg" or (number is not None and number < 0)):
        return "falling"
    made: dict[str, _State] = {"Sqrt": "root", "Log": "logarithm"}
    if op in made:
        return made[op]
    if (op in ("Div", "Sub") and not first) or (op in _TOTALS and state == "again"):
        return None
    smooth = op in ELEMENTWISE and state in (
        "square",
        "again",
    )  # behind a root: a weight by distance
    return state if op in _PASSED or smooth or op in ("Div", "Sub") else None
