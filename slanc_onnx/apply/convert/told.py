"""What a file tells of the types of its tensors, once they have 16 bits."""

from __future__ import annotations

import onnx

from slanc_onnx.apply.convert.versions import Versions
from slanc_onnx.apply.convert.wiring import OUTPUT, Place, Source, Wiring


def tell_types(i: int, wiring: Wiring, versions: Versions, narrow: int) -> None:
    """Let a body tell the types that its tensors have now.

    Args:
        i: Its number.
        wiring: The tensors of the model, as they were.
        versions: What they are called.
        narrow: The element type of 16 bits.
    """
    proto = wiring.bodies[i].proto
    inputs = [] if isinstance(proto, onnx.FunctionProto) else list(proto.input)
    for info in (*inputs, *proto.value_info):
        source = Source(i, info.name)
        if source in wiring.reads and not versions.own_is_full(source):
            set_element(info.type, narrow, wiring.wide)
    for position in range(len(proto.output)):
        place = Place(i, OUTPUT, position)
        if place not in wiring.read_at:
            continue
        # Outputs of inner bodies and of functions are known by their position.
        name = versions.read(place)
        if isinstance(proto, onnx.FunctionProto):
            proto.output[position] = name
            continue
        proto.output[position].name = name
        if not versions.needs[place]:
            set_element(proto.output[position].type, narrow, wiring.wide)


def set_element(told: onnx.TypeProto, narrow: int, wide: frozenset[int]) -> None:
    """Give a type of floats, or of a sequence of these, other elements."""
    while not told.HasField("tensor_type"):
        if told.HasField("sequence_type"):
            told = told.sequence_type.elem_type
        elif told.HasField("optional_type"):
            told = told.optional_type.elem_type
        else:
            return
    if told.tensor_type.elem_type in wide:
        told.tensor_type.elem_type = narrow
