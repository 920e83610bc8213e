"""Angles: what the input of each Cos and Sin is computed from, up to integers and constants.

A walk back from the angles ends at constants and at integers; these are the positions. It goes
through float ops alone, so an integer tensor is a source whatever makes it: a graph input, a Range,
a sum over a mask. What an op reads as sizes (the shape of a Reshape or an Expand) is no source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import AttributeProto

from slanc_onnx.apply.convert.integers import TELLING, whole_range
from slanc_onnx.graph import (
    FLOATS,
    Flow,
    NodeAt,
    Tensor,
    Use,
    every_node,
    read_flow,
    read_graph,
)
from slanc_onnx.norms import inline_functions_with
from slanc_onnx.ops import MOVES
from slanc_onnx.reasons import Reason, Untabled, reason

CIRCULAR = ("Cos", "Sin")

# Ops that give each element of the output from one element of each input; no activation, of which
# a Cos would be one of features.
_ELEMENTWISE = frozenset(
    (
        *("Abs", "Clip", "Exp", "Log", "Neg", "Pow", "Reciprocal", "Sqrt"),
        *(op for op, moves in MOVES.items() if moves.kind in ("keeps", "drops", "casts")),
        *("Add", "Ceil", "Div", "Floor", "Max", "Min", "Mod", "Mul", "Round", "Sign", "Sub", "Sum"),
        "Where",
    )
)
_BY_SIZES = ("reshapes", "turns", "inserts", "repeats", "slices", "splits")
# Ops that move elements, with the position of the first input that they read as sizes or axes.
_MOVING = {
    **{op: 1 for op, moves in MOVES.items() if moves.kind in _BY_SIZES},
    "Concat": 99,
    "ConstantOfShape": 0,
}
# Those that give elements of what they read, and no others.
_PICKING = (_MOVING.keys() - {"ConstantOfShape"}) | {"Cast", "Gather", "Identity"}
# Products in which an outer product of positions and frequencies may be written.
_PRODUCTS = frozenset(("Einsum", "Gemm", "MatMul"))
_BY_POSITION = _ELEMENTWISE | TELLING | _MOVING.keys() | _PRODUCTS
# Ops that stand before angles where the frequencies depend on the length, or positions on a mask.
_BY_LENGTH = frozenset(("CumSum", "Gather", "If", "Range", "ReduceMax", "ReduceMin", "Resize"))


@dataclass
class Angles:
    """What the angles of one Cos or Sin are computed from.

    Attributes:
        at: The Cos or Sin.
        tensor: The angles.
        nodes: The float ops before it, and itself.
        integers: Where the walk ended: integers, and a Range of floats that could be one of them.
        inputs: Graph inputs of floats that it reads.
        strange: The first op that does not work position by position.
        picked: Whether they are elements of constants, picked by sizes or indices.
        features: Whether it is a function of features, like a periodic activation.
    """

    at: NodeAt
    tensor: Tensor
    nodes: list[NodeAt] = field(default_factory=list)
    integers: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    strange: Reason | None = None
    picked: bool = True
    features: bool = False

    @property
    def why_not(self) -> Reason | None:
        """Why there can be no table, as far as the ops tell."""
        if self.inputs:
            return reason(Untabled.FLOAT_INPUT, self.inputs[0].name)
        return self.strange


@dataclass(frozen=True, eq=False)
class Circular:
    """The Cos and Sin of a model.

    Attributes:
        flow: Of the model; None where it has none of them.
        angles: What each is computed from, in the order of the file.
        inlined: The functions of the model that held some, and are inlined.
    """

    flow: Flow | None
    angles: tuple[Angles, ...]
    inlined: tuple[str, ...]


def read_circular(model: onnx.ModelProto, folder: Path | None) -> Circular:
    """The Cos and Sin of a model, whose functions that hold some are inlined in place.

    Args:
        model: The model.
        folder: Where its external data lies, if it has any.

    Raises:
        SlancError: a function cannot be inlined.
    """
    inlined = tuple(inline_functions_with(model, CIRCULAR))
    if not any(node.op_type in CIRCULAR for node in every_node(model.graph.node)):
        return Circular(None, (), inlined)
    flow = read_flow(read_graph(model, folder))
    angles = sorted(_find_angles(flow), key=lambda angles: angles.at)
    return Circular(flow, tuple(angles), inlined)


def _find_angles(flow: Flow) -> Iterator[Angles]:
    for path, index in flow.order:
        angles = flow.read(Use(path, index, 0)) if flow.op(path, index) in CIRCULAR else None
        if angles is not None:
            at = NodeAt(path, index)
            yield _walked(flow, Angles(at, angles, [at]))


def _walked(flow: Flow, angles: Angles) -> Angles:
    seen: set[Tensor] = set()
    waiting = [angles.tensor]
    looked_up = False
    while waiting and not angles.features:
        tensor = waiting.pop()
        if tensor in seen or is_fixed(flow, tensor):
            continue
        seen.add(tensor)
        floats = flow.element_type(tensor) in FLOATS
        if tensor not in flow.makers:
            (angles.inputs if floats else angles.integers).append(tensor)
            angles.features |= floats and tensor.path != ()
            continue
        at = NodeAt(*flow.makers[tensor][:2])
        op = flow.op(*at)
        counts = op == "Range" and whole_range(flow, at)
        if counts or not (floats or op in TELLING):
            angles.integers.append(tensor)
            continue
        if at not in angles.nodes:
            angles.nodes.append(at)
        angles.picked &= op in _PICKING
        if op == "Gather" and _looks_up(flow, at):
            looked_up = True
            continue
        if op not in _BY_POSITION:
            angles.strange = angles.strange or Reason(Untabled.NOT_BY_POSITION).at(op, tensor.name)
            angles.features |= op not in _BY_LENGTH
        waiting += _reads(flow, at, values_at(flow, at))
    angles.picked &= not angles.integers and not angles.inputs
    angles.features |= looked_up and not angles.picked
    angles.nodes.sort()
    return angles


def values_at(flow: Flow, at: NodeAt) -> range:
    """The positions of the inputs whose elements, and not sizes or indices, a node reads."""
    node = flow.node(*at)
    if node.op_type == "Gather" and _looks_up(flow, at):
        return range(1)
    return range(min(_MOVING.get(node.op_type, 99), len(node.input)))


def kept_nodes(flow: Flow, angles: Angles) -> list[NodeAt]:
    """The float ops before angles that have no table, with those that compute their constants."""
    nodes = set(angles.nodes)
    waiting = list(nodes)
    while waiting:
        at = waiting.pop()
        for read in _reads(flow, at):
            maker = NodeAt(*flow.makers[read][:2]) if read in flow.makers else at
            if maker not in nodes and is_fixed(flow, read):
                nodes.add(maker)
                waiting.append(maker)
    return [at for at in nodes if _has_floats(flow, at)]


def _has_floats(flow: Flow, at: NodeAt) -> bool:
    given = (Tensor(at.path, name) for name in flow.node(*at).output)
    return any(flow.element_type(tensor) in FLOATS for tensor in (*_reads(flow, at), *given))


def _reads(flow: Flow, at: NodeAt, places: range | None = None) -> Iterator[Tensor]:
    """The tensors that a node reads, at some positions or all, and those that its bodies give."""
    node = flow.node(*at)
    for place in range(len(node.input)) if places is None else places:
        tensor = flow.read(Use(*at, place))
        if tensor is not None:
            yield tensor
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            inside = (*at.path, (at.node, attribute.name))
            yield from (flow.tensor(inside, info.name) for info in attribute.g.output)


def _looks_up(flow: Flow, at: NodeAt) -> bool:
    """Whether a Gather is one of rows of a constant, like those of an embedding."""
    data = flow.read(Use(at.path, at.node, 0))
    return data is not None and is_fixed(flow, data)


def is_fixed(flow: Flow, tensor: Tensor) -> bool:
    """Whether a tensor is computed from constants alone, sizes of inputs excluded."""
    if tensor not in flow.constants:
        return False
    seen: set[Tensor] = set()
    waiting = [tensor]
    while waiting:
        tensor = waiting.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in flow.overridable or (tensor not in flow.makers and tensor not in flow.data):
            return False
        if tensor in flow.data:
            continue
        path, index, _ = flow.makers[tensor]
        node = flow.node(path, index)
        inner = any(a.type == AttributeProto.GRAPH for a in node.attribute)
        if inner or not flow.op(path, index) or node.op_type.startswith("Random"):
            return False
        uses = (Use(path, index, position) for position in range(len(node.input)))
        waiting += [read for read in map(flow.read, uses) if read is not None]
    return True
