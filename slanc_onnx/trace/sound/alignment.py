"""Whether the tensors that an op combines lie at the same positions.

At sequence length 1 a token's row and its neighbour's are the same expression: `x[:-1] + x[1:]`
reads as `x + x`. So each tensor carries the names of the ops that moved its positions. Where those
names differ, rows that share a part may be rows of different positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slanc_onnx.graph import op_of
from slanc_onnx.ops import MOVES
from slanc_onnx.trace.expression import (
    Convolution,
    Known,
    Mix,
    Mixture,
    Normalised,
    Shares,
    is_ids,
    walk,
)
from slanc_onnx.trace.sound.checks import channel_axes, views_in
from slanc_onnx.trace.values import Const, Value, View
from slanc_onnx.trace.visit import Visit

Moves = frozenset[str]

# Ops that may move positions. Every other op leaves each position where it is, or gives new rows,
# as shares and convolutions do.
_MOVERS = {
    *(op for op, moves in MOVES.items() if moves.shifts),
    "GatherElements",
    "Concat",
    "ConcatFromSequence",
    "Pad",
    "ScatterND",
    "ScatterElements",
    "TopK",
    "SplitToSequence",
    "SequenceAt",
    "Resize",
    "Upsample",
    "MaxPool",
    "LpPool",
    "Einsum",
}


def carries_rows(value: Value) -> bool:
    """Whether a value holds rows of activations, not only ids, shares and constants."""
    kinds = (Known, Shares)
    return any(not isinstance(v.expr, kinds) and not is_ids(v.expr) for v in views_in([value]))


def moves(visit: Visit, output: Value, before: Moves) -> Moves:
    """The names of the ops that moved the positions of an output.

    Args:
        visit: The op.
        output: One of its outputs.
        before: The names for its inputs.
    """
    op = op_of(visit.node)
    source = visit.value(0)
    if op not in _MOVERS or not any(True for _ in views_in(visit.inputs)):
        return before
    if not isinstance(source, View) or not isinstance(output, View):
        return before | {f"{op} {visit.node.outputs[0].name}"}
    name = f"{op} {visit.node.outputs[0].name}"
    channels = {axis - source.ids.ndim for axis in channel_axes(source)}
    match MOVES[op].kind if op in MOVES else op:
        case "turns":
            order = visit.attributes.get("perm") or list(range(source.ids.ndim))[::-1]
            kept = [a for a in order if a - source.ids.ndim not in channels]
            return before if kept == sorted(kept) else before | {name}
        case "inserts":
            return _inserted(visit, source, output, before)
        case "reshapes":
            return before | {f"one {a}" for a in _ones(visit, output)}
        case "slices" | "splits" | "picks":
            return before if _cut_axes(visit, source) <= channels else before | {name}
        case "Concat":
            axis = int(visit.attributes["axis"])
            every = all(isinstance(v, View) and v.shape[axis] > 1 for v in visit.inputs)
            rank = source.ids.ndim
            return before if every and axis % rank - rank in channels else before | {name}
    return before | {name}


def _inserted(visit: Visit, source: View, output: View, before: Moves) -> Moves:
    """As `moves`, for an Unsqueeze or a Squeeze: a Squeeze may undo what an Unsqueeze did.

    An axis in front of all others moves nothing.
    """
    given = visit.array(1) if len(visit.inputs) > 1 else visit.attributes.get("axes")
    if given is None:
        return before | {f"Squeeze {visit.node.outputs[0].name}"}
    wide = max(source.ids.ndim, output.ids.ndim)
    axes = {int(a) % wide for a in np.asarray(given).reshape(-1)}
    names = {f"one {a - wide}" for a in axes if not set(range(a)) <= axes}
    undone = {f"one {a - wide}" for a in axes}
    if output.ids.ndim < source.ids.ndim and names <= before:
        return before - undone
    return before | names


def _ones(visit: Visit, output: View) -> list[int]:
    """Axes of length 1 that a Reshape puts behind others, counted from the end."""
    asked = visit.value(1)
    if not isinstance(asked, Const) or asked.varies:
        return []
    sizes = [int(n) for n in asked.array.reshape(-1)]
    return [
        a - len(sizes) for a, n in enumerate(sizes) if n == 1 and any(m != 1 for m in sizes[:a])
    ]


def _cut_axes(visit: Visit, source: View) -> set[int]:
    """The axes that a Slice, Split or Gather cuts, counted from the end."""
    rank = source.ids.ndim
    if MOVES[op_of(visit.node)].kind != "slices":
        return {int(visit.attributes.get("axis", 0)) % rank - rank}
    given = visit.array(3) if visit.value(3) is not None else visit.attributes.get("axes")
    axes = range(rank) if given is None else np.asarray(given).reshape(-1)
    return {int(a) % rank - rank for a in axes}


def misaligned(inputs: Sequence[Value | None], moved: Sequence[Moves]) -> bool:
    """Whether an op may combine rows of different positions of one tensor.

    Args:
        inputs: The values that it combines.
        moved: For each value the ops that moved its positions, from `moves`.
    """
    pairs = [(v, m) for value, m in zip(inputs, moved, strict=True) for v in views_in([value])]
    for i, (a, first) in enumerate(pairs):
        for b, second in pairs[:i]:
            same = first == second and a.ids.ndim == b.ids.ndim
            if not same and _at_positions(a) & _at_positions(b):
                return True
    return False


def _at_positions(view: View) -> set[int]:
    """Serials of the parts of a view's row that lie at the same position as the row."""
    fresh = (Mix, Mixture, Convolution, Normalised, Shares)
    found = walk(view.expr, lambda e: isinstance(e, fresh))
    return {e.serial for e in found if not isinstance(e, Known) and not is_ids(e)}
