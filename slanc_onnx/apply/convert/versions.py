"""Versions: a tensor is in FP32, in 16 bits, or in both; one has the name that the file gives.

FP32 stands for what the file has, which may be FP64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto

from slanc_onnx.apply.convert.islands import Islands
from slanc_onnx.apply.convert.wiring import OUTPUT, Place, Source, Wiring
from slanc_onnx.graph import unused_name
from slanc_onnx.ops import MOVES, Body
from slanc_onnx.options import WRITTEN

SUFFIXES = {form: to for to, form in WRITTEN.items()}


class Versions:
    """Which versions of tensors there are, and what they are called; "full" is FP32.

    All is decided before anything changes, as decisions read the nodes.

    Args:
        wiring: The tensors of the model.
        islands: What stays in FP32.
        keep_io_types: Whether inputs and outputs of the model do.
        form: The name of the format.

    Attributes:
        full: Whether a tensor that is no constant is FP32 where it is made.
        needs: Whether a read is of FP32.
    """

    def __init__(self, wiring: Wiring, islands: Islands, keep_io_types: bool, form: str) -> None:
        self._wiring, self._keep_io = wiring, keep_io_types
        self._narrow = SUFFIXES[form]
        self._used = set(_names(wiring.bodies))
        self._named: dict[tuple[Source, bool], str] = {}
        self.full = {source: islands.in_fp32(source) for source in wiring.reads}
        self.needs = {place: islands.needs_fp32(place) for place in wiring.read_at}

    def unused(self, wanted: str) -> str:
        """A name that the model does not have yet."""
        return unused_name(wanted, self._used)

    def suffix(self, source: Source) -> str:
        """What tells a tensor as the file has it from the one in 16 bits."""
        return "fp64" if self._wiring.kind(source).element == TensorProto.DOUBLE else "fp32"

    def own_is_full(self, source: Source) -> bool:
        """Whether the name in the file stays with the FP32 version."""
        if source.body == 0 and source.name in self._wiring.bodies[0].outputs:
            return self._keep_io
        if not self._wiring.is_constant(source):
            return self.full[source]
        return self.wanted(source) == {True}

    def name(self, source: Source, full: bool) -> str:
        """The name of a version."""
        if self.own_is_full(source) == full:
            return source.name
        key = source, full
        if key not in self._named:
            suffix = self.suffix(source) if full else self._narrow
            self._named[key] = self.unused(f"{source.name}/{suffix}")
        return self._named[key]

    def read(self, place: Place) -> str:
        """The name of what is read at a place."""
        return self.name(self._wiring.read_at[place], self.needs[place])

    def wanted(self, source: Source) -> set[bool]:
        """The versions in which a tensor is read."""
        return {self.needs[place] for place in self._wiring.reads[source]}

    def needs_cast(self, source: Source) -> bool:
        """Whether a tensor is also read in the version in which it is not made."""
        if source not in self._wiring.reads or self._wiring.is_constant(source):
            return False
        return (not self.full[source]) in self.wanted(source)

    def readers(self, source: Source) -> set[str]:
        """The types of the ops that read a tensor, also after it is moved."""
        wiring, found, waiting = self._wiring, set[str](), [source]
        for one in waiting:
            for place in wiring.reads.get(one, ()):
                if place.node == OUTPUT:
                    continue
                node = wiring.node(place.at)
                moves = node.op_type in MOVES and place.position == 0
                found |= set() if moves else {node.op_type}
                waiting += wiring.floats_made(place.at) if moves else []
        return found


def _names(bodies: Sequence[Body]) -> Iterator[str]:
    for body in bodies:
        yield from body.kinds
        for node in body.proto.node:
            yield node.name
            yield from node.input
        if isinstance(body.proto, onnx.GraphProto):
            yield from (info.name for info in body.proto.value_info)
