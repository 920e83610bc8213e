"""The surroundings of a norm: reads of its input and of its inner values, marks of earlier runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.graph import FLOATS, SEE_THROUGH, Scope, element_type, op_of, reads_value
from slanc_onnx.norms.constants import scalar_of
from slanc_onnx.norms.norm import Norm, Place
from slanc_onnx.norms.notes import APPLIED_KEY, SCALE_KEY, notes_of
from slanc_onnx.reasons import Reason, Unscalable

_KEEPING = ("QuantizeLinear", "DynamicQuantizeLinear")  # their integers are the same at any scale


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
    divisions, divisor = _divisions(scope, norm)
    norm = replace(norm, divisions=divisions, divisor=divisor)
    stamps = [scope.proto.node[norm.nodes[-1]]]
    if norm.places:
        node, position, _ = norm.places[0]
        makers = scope.graph.nodes[node].inputs[position].inputs
        if makers and op_of(makers[0]) == "Div" and id(makers[0]) in scope.index:
            stamps.insert(0, scope.proto.node[scope.index[id(makers[0])]])
    for node in stamps:
        notes = notes_of(node)
        if SCALE_KEY not in notes:
            continue
        scale = _noted(notes[SCALE_KEY])
        if scale is None:
            why = Reason(Unscalable.NOTE_UNREADABLE, (notes[SCALE_KEY],))
            return replace(norm, skip_reason=why, broken=True)
        # A Div with a note of scale 1, or of how a scale is applied, is the last node of another
        # norm, or this norm has the note as well.
        note = scale == 1.0 or APPLIED_KEY in notes
        if not note or node is stamps[-1]:
            return replace(norm, scaled_by=scale)
    return norm


def _divisions(scope: Scope, norm: Norm) -> tuple[tuple[int, ...], float | None]:
    """The Divs by one number before all reads of a norm's input, and that number.

    There are none where one of the reads has none. The number is a power of two, or an earlier
    run noted it.
    """
    found: list[int] = []
    divisors: set[float | None] = set()
    for node, position, _ in norm.places:
        makers = scope.graph.nodes[node].inputs[position].inputs
        if not makers or op_of(makers[0]) != "Div" or id(makers[0]) not in scope.index:
            return (), None
        divisors.add(scalar_of(scope, makers[0].inputs[1]))
        found.append(scope.index[id(makers[0])])
    divisor = divisors.pop() if len(divisors) == 1 else None
    if divisor is None or not 0 < divisor < math.inf:
        return (), None
    noted = all(SCALE_KEY in notes_of(scope.proto.node[i]) for i in found)
    return (tuple(found), divisor) if noted or math.frexp(divisor)[0] == 0.5 else ((), None)


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


def leaks(
    scope: Scope, nodes: Sequence[gs.Node], last: Sequence[gs.Node], exits: Sequence[gs.Tensor]
) -> Reason | None:
    """Why a norm cannot be scaled if an inner value is read outside of it; else None.

    Args:
        scope: The graph.
        nodes: The norm's nodes.
        last: Further nodes that may read them.
        exits: Values of it that may be read.
    """
    inside = {id(n) for n in (*nodes, *last)}
    outputs = {id(t) for t in scope.graph.outputs}

    def outside(tensor: gs.Tensor) -> tuple[Unscalable, tuple[str, ...]] | None:
        if id(tensor) in outputs:
            return Unscalable.INNER_VALUE_OUTPUT, ()
        for reader in tensor.outputs:
            positions = (p for p, read in enumerate(reader.inputs) if read is tensor)
            if id(reader) in inside or not any(reads_value(reader, p) for p in positions):
                continue
            if op_of(reader) not in SEE_THROUGH:
                return Unscalable.INNER_VALUE_READ, (reader.op, reader.name)
            found = outside(reader.outputs[0])
            if found:
                return found
        return None

    for node in nodes:
        kept = node.outputs[:1] if op_of(node) in _KEEPING else ()
        for tensor in node.outputs:
            read = not any(tensor is t for t in (*exits, *kept))
            found = outside(tensor) if read else None
            if found:
                kind, reader = found
                return Reason(kind, (tensor.name, *reader))
    return None
