"""Wiring: where each tensor of a model is defined, and where it is read."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from onnx import FunctionProto, NodeProto, TensorProto

from slanc_onnx.graph import FLOATS, NodeAt
from slanc_onnx.ops import Body, Held, Signature, signature

OUTPUT = -1  # in place of a node: an output of the body


class Source(NamedTuple):
    """A tensor: the number of the body that defines it, and its name."""

    body: int
    name: str


class At(NamedTuple):
    """A node: the number of its body, and its index there."""

    body: int
    node: int


class Place(NamedTuple):
    """A read: the number of the body, the index of the node or `OUTPUT`, and the position."""

    body: int
    node: int
    position: int

    @property
    def at(self) -> At:
        """The node that reads."""
        return At(self.body, self.node)


@dataclass(frozen=True, eq=False)
class Wiring:
    """The tensors of a model that hold floats of the types that are converted, with their reads.

    Attributes:
        bodies: The graphs and functions of the model, the main graph first.
        wide: The element types that are converted.
        reads: Where each of them is read; of a tensor that nothing reads, [].
        read_at: What is read at a place.
        functions: The functions that are called, by domain, name and overload.
        overridable: The initializers of the main graph that a caller may give another value.
    """

    bodies: Sequence[Body]
    wide: frozenset[int]
    reads: dict[Source, list[Place]]
    read_at: dict[Place, Source]
    functions: Set[tuple[str, str, str]]
    overridable: Set[str] = frozenset()

    def node(self, at: At) -> NodeProto:
        """A node of the model."""
        found: NodeProto = self.bodies[at.body].proto.node[at.node]
        return found

    def at(self, place: NodeAt) -> At:
        """A node of the main graph, or of a graph in it."""
        body = self.bodies[0]
        for step in place.path:
            body = body.inner[step]
        return At(self.bodies.index(body), place.node)

    def signature(self, at: At) -> Signature | None:
        """The signature of a node's op."""
        return signature(self.node(at), self.bodies[at.body].opsets)

    def kind(self, source: Source) -> Held:
        """What a tensor holds."""
        return self.bodies[source.body].kinds[source.name]

    def maker(self, source: Source) -> tuple[At, int] | None:
        """The node that makes a tensor and the position of the output; None for any other."""
        made = self.bodies[source.body].makers.get(source.name)
        return None if made is None else (At(source.body, made[0]), made[1])

    def constant(self, source: Source) -> TensorProto | None:
        """The data of an initializer or a Constant node."""
        return self.bodies[source.body].constants.get(source.name)

    def is_constant(self, source: Source) -> bool:
        """Whether a tensor is a constant that no caller can give another value."""
        given = source.body == 0 and source.name in self.overridable
        return not given and self.constant(source) is not None

    def floats_read(self, at: At) -> list[Source]:
        """The floats that a node reads itself."""
        count = len(self.node(at).input)
        read = (self.read_at.get(Place(*at, position)) for position in range(count))
        return [source for source in read if source is not None]

    def floats_made(self, at: At) -> list[Source]:
        """The floats that a node makes."""
        made = (Source(at.body, name) for name in self.node(at).output if name)
        return [source for source in made if source in self.reads]

    def is_float(self, body: int, name: str) -> bool:
        """Whether a tensor that is read or made in a body holds floats of any type."""
        return self.bodies[body].kind(name).element in FLOATS

    def is_call(self, at: At) -> bool:
        """Whether a node calls a function of the file."""
        node = self.node(at)
        return (node.domain, node.op_type, node.overload) in self.functions

    def passes_on(self, at: At) -> bool:
        """Whether a node gives what it reads to graphs or a function as it is."""
        passes = self.node(at).op_type in ("If", "Loop", "Scan") and self.has_bodies(at)
        return passes or self.is_call(at)

    def has_bodies(self, at: At) -> bool:
        """Whether a node holds graphs."""
        return any(index == at.node for index, _ in self.bodies[at.body].inner)


def wire(bodies: Sequence[Body], wide: frozenset[int], ir_version: int) -> Wiring:
    """The wiring of a model.

    Args:
        bodies: Its graphs and functions, the main graph first.
        wide: The element types that are converted.
        ir_version: Of the file: since 4 an initializer may be an input that has a default.
    """
    number = {id(body): i for i, body in enumerate(bodies)}
    reads: dict[Source, list[Place]] = {
        Source(i, name): []
        for i, body in enumerate(bodies)
        for name, kind in body.kinds.items()
        if kind.element in wide
    }
    read_at: dict[Place, Source] = {}

    def note(i: int, node: int, position: int, name: str) -> None:
        body = bodies[i].defining(name)
        source = None if body is None else Source(number[id(body)], name)
        if source is not None and source in reads:
            place = Place(i, node, position)
            reads[source].append(place)
            read_at[place] = source

    for i, body in enumerate(bodies):
        for index, node in enumerate(body.proto.node):
            for position, name in enumerate(node.input):
                if name:
                    note(i, index, position, name)
        for position, name in enumerate(body.outputs):
            note(i, OUTPUT, position, name)
    called = [b.proto for b in bodies if isinstance(b.proto, FunctionProto)]
    functions = {(f.domain, f.name, f.overload) for f in called}
    overridable = frozenset(bodies[0].inputs if ir_version >= 4 else ())
    return Wiring(bodies, wide, reads, read_at, functions, overridable)
