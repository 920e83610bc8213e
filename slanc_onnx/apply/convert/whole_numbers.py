"""Whole numbers: lengths, indices and factors that pass through floats on their way.

FP16 holds whole numbers up to 2048 alone, BF16 up to 256. What becomes integers again stays in FP32
up to there, in branches and loops too; who reads the same floats otherwise has them rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from onnx import NodeProto, TensorProto

from slanc_onnx.apply.convert.wiring import OUTPUT, At, Place, Source, Wiring
from slanc_onnx.graph import FLOATS

SIZES = {"Shape", "Size"}  # ops that read no values


def whole_numbers(
    wiring: Wiring, fixed: Callable[[Place], bool]
) -> Mapping[Source, Sequence[Place]]:
    """The tensors that are computed from integers alone, and become integers or are read in FP32.

    Args:
        wiring: The tensors of the model.
        fixed: Whether a read is of FP32 alone.

    Returns:
        Each with the reads through which it does.
    """
    found: dict[Source, Sequence[Place]] = {}
    for source in reversed(list(_from_integers(wiring))):
        places = [p for p in wiring.reads[source] if _becomes_integers(wiring, p, found, fixed)]
        if places:
            found[source] = places
    return found


def _from_integers(wiring: Wiring) -> dict[Source, None]:
    """The tensors that are computed from integers alone, in the order of the file."""
    found, steady = dict[Source, None](), _steady(wiring)
    for i, body in enumerate(wiring.bodies):
        for index, node in enumerate(body.proto.node):
            at = At(i, index)
            if wiring.has_bodies(at):
                continue
            read = [s for s in wiring.floats_read(at) if s not in steady]
            if _begins(wiring, at, node) or (read and all(s in found for s in read)):
                found.update(dict.fromkeys(wiring.floats_made(at)))
    return found


def _steady(wiring: Wiring) -> set[Source]:
    """The tensors that are constants, or computed from constants alone."""
    bodies = wiring.bodies
    number = {id(body): i for i, body in enumerate(bodies)}
    found = {Source(i, name) for i, body in enumerate(bodies) for name in body.constants}
    for i, body in enumerate(bodies):
        for node in body.proto.node:
            defining = [(body.defining(name), name) for name in node.input if name]
            read = [Source(number[id(b)], name) for b, name in defining if b is not None]
            if read and found.issuperset(read):
                found.update(Source(i, name) for name in node.output)
    return found


def _begins(wiring: Wiring, at: At, node: NodeProto) -> bool:
    """Whether a node makes floats of integers."""
    if node.op_type == "Range":
        return True
    if node.op_type != "Cast" or wiring.floats_read(at):
        return False
    element = wiring.bodies[at.body].kind(node.input[0]).element
    return element not in (*FLOATS, TensorProto.BOOL, TensorProto.UNDEFINED)


def _becomes_integers(
    wiring: Wiring,
    place: Place,
    known: Container[Source],
    fixed: Callable[[Place], bool],
) -> bool:
    """Whether a read gives integers, or floats that are known to become some."""
    if place.node == OUTPUT or wiring.has_bodies(place.at):
        return False
    node = wiring.node(place.at)
    if node.op_type in SIZES:
        return False
    if fixed(place) or any(source in known for source in wiring.floats_made(place.at)):
        return True
    return not any(wiring.is_float(place.body, name) for name in node.output)
