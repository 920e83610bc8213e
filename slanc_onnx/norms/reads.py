"""The surroundings of a norm: reads of its input and of its inner values, marks of earlier runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.graph import FLOATS, SEE_THROUGH, Scope, element_type, op_of
from slanc_onnx.norms.norm import APPLIED_KEY, SCALE_KEY, Norm, Place
from slanc_onnx.reasons import Reason, Unscalable


@dataclass(frozen=True)
class Read:
    """An input of a graphsurgeon node."""

    node: gs.Node
    position: int

    @property
    def tensor(self) -> gs.Tensor:
        """The tensor that the node reads there."""
        return self.node.inputs[self.position]


def with_known_scale(scope: Scope, norm: Norm) -> Norm:
    """The norm with the scale that an earlier run noted on a Div before it or on its last node.

    A norm of integers, or with a note that is no scale, is a broken one.
    """
    odd = next((p.element_type for p in norm.places if p.element_type not in FLOATS), None)
    if odd is not None and norm.skip_reason is None:
        kind = TensorProto.DataType.Name(odd) if odd in TensorProto.DataType.values() else odd
        return replace(norm, skip_reason=Reason(Unscalable.NO_FLOAT, (str(kind),)), broken=True)
    stamps = [scope.proto.node[norm.nodes[-1]]]
    if norm.places:
        node, position, _ = norm.places[0]
        makers = scope.graph.nodes[node].inputs[position].inputs
        if makers and op_of(makers[0]) == "Div" and id(makers[0]) in scope.index:
            stamps.insert(0, scope.proto.node[scope.index[id(makers[0])]])
    for node in stamps:
        notes = [p.value for p in node.metadata_props if p.key == SCALE_KEY]
        found = [_noted(note) for note in notes]
        wrong = [note for note, scale in zip(notes, found, strict=True) if scale is None]
        if wrong:
            why = Reason(Unscalable.NOTE_UNREADABLE, (wrong[0],))
            return replace(norm, skip_reason=why, broken=True)
        # A Div with a note of scale 1, or of how a scale is applied, is the last node of another
        # norm, or this norm has the note as well.
        note = found == [1.0] or any(p.key == APPLIED_KEY for p in node.metadata_props)
        if found and (not note or node is stamps[-1]):
            return replace(norm, scaled_by=found[0])
    return norm


def _noted(note: str) -> float | None:
    """The scale of a note, None where it is none: no number, or not above zero and finite."""
    try:
        scale = float(note)
    except ValueError:
        return None
    return scale if 0 < scale < math.inf else None


def places(scope: Scope, uses: list[Read], like: gs.Tensor) -> tuple[Place, ...]:
    """Inputs of nodes as plain values.

    Args:
        scope: The graph.
        uses: The inputs.
        like: A tensor whose element type counts where the file tells none.
    """
    return tuple(
        Place(scope.index[id(u.node)], u.position, element_type(scope, u.tensor, like))
        for u in uses
    )


def leaks(scope: Scope, nodes: tuple[gs.Node, ...], last: list[gs.Node]) -> Reason | None:
    """Why a norm cannot be scaled if an inner value is read outside of it; else None.

    Args:
        scope: The graph.
        nodes: The norm's nodes.
        last: Nodes of it whose outputs may be read.
    """
    inside = {id(n) for n in (*nodes, *last)}
    outputs = {id(t) for t in scope.graph.outputs}

    def outside(tensor: gs.Tensor) -> tuple[Unscalable, tuple[str, ...]] | None:
        if id(tensor) in outputs:
            return Unscalable.INNER_VALUE_OUTPUT, ()
        for reader in tensor.outputs:
            if id(reader) in inside or op_of(reader) in ("Shape", "Size"):
                continue
            if op_of(reader) not in SEE_THROUGH:
                return Unscalable.INNER_VALUE_READ, (reader.op, reader.name)
            found = outside(reader.outputs[0])
            if found:
                return found
        return None

    for node in nodes:
        if node not in last:
            found = next((f for t in node.outputs if (f := outside(t))), None)
            if found:
                kind, reader = found
                return Reason(kind, (node.outputs[0].name, *reader))
    return None
