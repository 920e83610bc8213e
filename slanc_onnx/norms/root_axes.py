"""Over which axes the ops of a norm add up."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from slanc_onnx.graph import MOST_AXES, Scope, constant_made, dims, op_of
from slanc_onnx.norms.constants import rank_of, small_value, stored_value
from slanc_onnx.norms.row_axes import RowAxes, row_axes


@dataclass(frozen=True)
class Axes:
    """Axes as the file has them, of a tensor of some rank."""

    axes: frozenset[int]
    rank: int | None

    def __or__(self, other: Axes) -> Axes:
        return Axes(self.axes | other.axes, self.rank if self.rank == other.rank else None)

    @property
    def rows(self) -> RowAxes | None:
        """The rows that lie along them; None where only a rank that is not known could tell."""
        return row_axes(sorted(self.axes), self.rank) if self.axes else None


def axes_of(scope: Scope, node: gs.Node) -> Axes | None:
    """The axes of a node that adds up, of its input; None where they are not known."""
    op = op_of(node)
    source = next((t for t in node.inputs if not constant_made(scope, t)), node.inputs[0])
    rank = rank_of(scope, source)
    if op == "Einsum":
        return Axes(frozenset([-1]), None) if _is_inner_product(node) else None
    if op == "MatMul":
        return _of_product(scope, node)
    if op == "Conv":
        kernel = dims(scope, node.inputs[1])
        single = kernel is not None and set(kernel[2:]) == {1} and node.attrs.get("group", 1) == 1
        return Axes(frozenset([1]), rank) if single else None
    if op in ("GlobalAveragePool", "AveragePool"):
        if rank is None or op != "GlobalAveragePool":
            return None
        return Axes(frozenset(range(2, rank)), rank)
    found = node.attrs.get("axes")
    if op == "LpNormalization":
        found = [node.attrs.get("axis", -1)]
    if op == "MeanVarianceNormalization" and found is None:
        found = [0, 2, 3]
    if found is None and len(node.inputs) > 1 and node.inputs[1].name:
        value = small_value(scope, node.inputs[1])
        if value is None:
            return None
        found = [int(v) for v in value.reshape(-1)]
    if not found:
        whole = rank is not None and not node.attrs.get("noop_with_empty_axes", 0)
        return Axes(frozenset(range(rank or 0)), rank) if whole else None
    most = MOST_AXES if rank is None else rank  # a scalar has none
    if not all(-most <= axis < most for axis in found):
        return None
    if rank is not None:
        found = [int(axis) % rank for axis in found]
    return Axes(frozenset(int(axis) for axis in found), rank)


def _is_inner_product(node: gs.Node) -> bool:
    """Whether an Einsum sums the product of its two inputs over their last axis."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    return re.fullmatch(r"([a-zA-Z]*)([a-zA-Z]),\1\2->\1", equation) is not None


def _of_product(scope: Scope, node: gs.Node) -> Axes | None:
    """The last axis, for a row times itself as a column or times a column of equal numbers."""
    constants = [constant_made(scope, t) for t in node.inputs]
    if constants == [False, True]:
        shape, values = dims(scope, node.inputs[1]), stored_value(scope, node.inputs[1])
        full = values is not None and shape is not None and len(shape) == 2 and values.min() != 0
        return Axes(frozenset([-1]), None) if full else None
    if any(constants):
        return None
    made = [t.inputs[0] if t.inputs else None for t in node.inputs]
    ops = [None if n is None else op_of(n) for n in made]
    if ops == ["Unsqueeze", "Unsqueeze"]:
        axes = [
            n.attrs.get("axes") or (small_value(scope, n.inputs[1]) if len(n.inputs) > 1 else None)
            for n in made
            if n is not None
        ]
        told = [None if a is None else [int(v) for v in a] for a in axes]
        if told != [[-2], [-1]]:
            return None
        rank = rank_of(scope, node.inputs[0].inputs[0].inputs[0])
        return Axes(frozenset([-1 if rank is None else rank - 1]), rank)
    return None
