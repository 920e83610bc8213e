"""Islands: the nodes that stay in FP32, each with the reason.

FP32 stands for what the file has: a node that computes in FP64 and stays does so in FP64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import NodeProto, TensorProto

from slanc_onnx.apply.convert.whole_numbers import SIZES, whole_numbers
from slanc_onnx.apply.convert.wiring import OUTPUT, At, Place, Source, Wiring
from slanc_onnx.graph import NodeAt
from slanc_onnx.ops import BETWEEN, LIKE_INPUT, STASHING, TYPE_ATTRIBUTES, Body, Formal, runs
from slanc_onnx.reasons import InFp32, Reason

_AS_IS = SIZES | {"Cast"}  # read whatever type there is
_HOLDERS = {"If", "Loop", "Scan", "SequenceMap"}  # their graphs take any type
_SCALING = {"Mul", "Div"}
_WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_INTEGER_PRODUCTS = {"MatMulInteger", "ConvInteger"}


class Islands:
    """Which tensors are FP32 where they are made, and where they are read.

    Args:
        wiring: The tensors of the model.
        narrow: The element type that the others get.
        keep_io_types: Whether inputs and outputs of the model stay FP32.
        kept: Nodes that stay in FP32 whatever their schema allows.
    """

    def __init__(
        self,
        wiring: Wiring,
        narrow: int,
        keep_io_types: bool,
        kept: Mapping[NodeAt, Reason],
    ) -> None:
        self._wiring, self._narrow, self._keep_io = wiring, narrow, keep_io_types
        self.nodes: dict[At, Reason] = {}
        for place, why in kept.items():
            at = wiring.at(place)
            if not wiring.has_bodies(at) and not wiring.is_call(at):
                self.nodes[at] = why
        self._sequences = self._keeps_sequences()
        self._held = self._held_bodies()
        self._whole_numbers()
        self._accumulators()
        self._scales()
        self._inside()

    def in_fp32(self, source: Source) -> bool:
        """Whether a tensor that is no constant is FP32 where it is made."""
        wiring, made = self._wiring, self._wiring.maker(source)
        if self._sequences and wiring.kind(source).contained:
            return True
        if made is None:
            return self._keep_io if source.body == 0 else source.body in self._held
        at, position = made
        if at in self.nodes or self._fixed_output(at, position) is not None:
            return True
        if _chooses(wiring.node(at), self._reads_float(at)):
            return any(self._asks(place) for place in wiring.reads[source])
        return False

    def _asks(self, place: Place) -> bool:
        """Whether a read is of FP32, whatever its tensor is where it is made."""
        return not self._takes_any(place) and self.needs_fp32(place)

    def _takes_any(self, place: Place) -> bool:
        """Whether a read is of whatever type there is."""
        if place.node == OUTPUT or place.at in self.nodes:
            return False
        return self._wiring.node(place.at).op_type in _AS_IS

    def needs_fp32(self, place: Place) -> bool:
        """Whether a read has to be of FP32."""
        if self._sequences and self._wiring.kind(self._wiring.read_at[place]).contained:
            return True
        if place.node == OUTPUT:
            return self._keep_io if place.body == 0 else place.body in self._held
        if place.at in self.nodes:
            return True
        if self._takes_any(place):
            source = self._wiring.read_at[place]
            return not self._wiring.is_constant(source) and self.in_fp32(source)
        return self._fixed_input(place) is not None

    def reading_as_is(self) -> Iterator[At]:
        """The Casts that read FP32 as it is made, such as those to integers."""
        for i, body in enumerate(self._wiring.bodies):
            for index, node in enumerate(body.proto.node):
                at, place = At(i, index), Place(i, index, 0)
                taken = place in self._wiring.read_at and self._takes_any(place)
                if node.op_type == "Cast" and taken and self.needs_fp32(place):
                    yield at

    def listed(self) -> dict[At, Reason]:
        """All nodes that compute in FP32."""
        found = dict(self.nodes)
        for i, body in enumerate(self._wiring.bodies):
            for index, node in enumerate(body.proto.node):
                at = At(i, index)
                why = None if at in found else self._fixed(at)
                if why is not None:
                    found[at] = Reason(why, (node.op_type,))
        return found

    def _fixed(self, at: At) -> InFp32 | None:
        """Why a node's op keeps its result, or all that it reads, in FP32; None if it does not."""
        wiring, node = self._wiring, self._wiring.node(at)
        made = self._fixed_output(at, 0) if node.output else None
        if made is not None:
            return made
        floats = [p for p, name in enumerate(node.output) if wiring.is_float(at.body, name)]
        if any(self._fixed_output(at, position) is None for position in floats):
            return None
        read = [p for p in range(len(node.input)) if Place(*at, p) in wiring.read_at]
        kept = [self._fixed_input(Place(*at, p)) for p in read]
        return kept[0] if kept and None not in kept else None

    def _fixed_output(self, at: At, position: int) -> InFp32 | None:
        """Why a node's op gives an output in FP32 alone."""
        wiring, node = self._wiring, self._wiring.node(at)
        if Source(at.body, node.output[position]) not in wiring.reads or wiring.has_bodies(at):
            return None
        known = wiring.signature(at)
        if known is None:
            return None if wiring.is_call(at) else InFp32.NO_SCHEMA
        if position and node.op_type in STASHING:
            return InFp32.SCHEMA
        return self._of_formal(at, known.output(position))

    def _of_formal(self, at: At, formal: Formal | None) -> InFp32 | None:
        """Why a node's op takes nothing but FP32 in one place."""
        wiring, node = self._wiring, self._wiring.node(at)
        if formal is None:
            return None
        if not formal.takes(self._narrow) or node.op_type == "BitCast":
            return InFp32.SCHEMA
        if _has_floats(node):
            return InFp32.ATTRIBUTE
        opsets, casts = wiring.bodies[at.body].opsets, self._reads_float(at)
        return (
            None if runs(node, opsets, formal.variable, self._narrow, casts) else InFp32.NO_KERNEL
        )

    def _fixed_input(self, place: Place) -> InFp32 | None:
        """Why a node's op reads an input in FP32 alone."""
        wiring = self._wiring
        if wiring.has_bodies(place.at):
            return None
        known = wiring.signature(place.at)
        if known is None:
            return None if wiring.is_call(place.at) else InFp32.NO_SCHEMA
        return self._of_formal(place.at, known.input(place.position))

    def _keeps_sequences(self) -> bool:
        """Whether sequences stay in FP32, with all that reads and makes them: none can be cast.

        They do where an input or output of the model has to, or an op knows no other.
        """
        wiring, main = self._wiring, self._wiring.bodies[0]
        ends = {Source(0, name) for name in (*main.inputs, *main.outputs)}
        touching, keeps = list[At](), False
        for source in (s for s in wiring.reads if wiring.kind(s).contained):
            keeps |= self._keep_io and source in ends
            made = wiring.maker(source)
            if made is not None and not wiring.passes_on(made[0]):
                touching.append(made[0])
                keeps |= self._fixed_output(*made) is not None
            for place in wiring.reads[source]:
                if place.node != OUTPUT and not wiring.passes_on(place.at):
                    touching.append(place.at)
                    keeps |= self._fixed_input(place) is not None
        if keeps:
            self.nodes.update(dict.fromkeys(touching, Reason(InFp32.SEQUENCE)))
        return keeps

    def _held_bodies(self) -> set[int]:
        """The graphs in nodes that keep them in FP32, as no schema tells what these graphs take."""
        bodies, found = self._wiring.bodies, set[int]()
        number = {id(body): i for i, body in enumerate(bodies)}
        for i, body in enumerate(bodies):
            for (index, _), inner in body.inner.items():
                holder = At(i, index)
                op = self._wiring.node(holder).op_type
                kept = holder in self.nodes or op not in _HOLDERS
                if i in found or kept:
                    found.add(number[id(inner)])
                    self.nodes.setdefault(holder, Reason(InFp32.HOLDER, (op,)))
            if i in found:
                for index, node in enumerate(body.proto.node):
                    at = At(i, index)
                    floats = self._wiring.floats_read(at) or self._wiring.floats_made(at)
                    if floats and node.op_type != "Constant":
                        self.nodes.setdefault(at, Reason(InFp32.BETWEEN_OTHERS))
        return found

    def _reads_float(self, at: At) -> bool:
        return bool(self._wiring.floats_read(at))

    def _whole_numbers(self) -> None:
        """Keep what is computed from integers and becomes integers again, or is read in FP32."""
        found = whole_numbers(self._wiring, lambda p: self._fixed_input(p) is not None)
        for source, places in found.items():
            made = self._wiring.maker(source)
            if made is not None:
                self.nodes.setdefault(made[0], Reason(InFp32.WHOLE_NUMBERS))
            for place in places:
                op = self._wiring.node(place.at).op_type
                if op not in _AS_IS and self._fixed_input(place) is None:
                    self.nodes.setdefault(place.at, Reason(InFp32.WHOLE_NUMBERS))

    def _accumulators(self) -> None:
        """Keep integer accumulators until they are multiplied by the scales of their operands."""
        wiring = self._wiring
        for i, body in enumerate(wiring.bodies):
            for index, node in enumerate(body.proto.node):
                if node.op_type == "Cast" and _is_accumulator(body, node):
                    self._until_scaled(At(i, index))

    def _until_scaled(self, at: At) -> None:
        """Keep what multiplies an accumulator, one scale after the other, and what moves it."""
        waiting = [at]
        while waiting:
            here = waiting.pop()
            self.nodes.setdefault(here, Reason(InFp32.ACCUMULATOR))
            for source in self._wiring.floats_made(here):
                for place in self._wiring.reads[source]:
                    op = self._wiring.node(place.at).op_type if place.node != OUTPUT else ""
                    if place.at in self.nodes:
                        continue
                    if op in _SCALING:
                        others = [s for s in self._wiring.floats_read(place.at) if s != source]
                        if all(self._is_scale(other) for other in others):
                            waiting.append(place.at)
                        elif here == at:
                            self.nodes[place.at] = Reason(InFp32.ACCUMULATOR)
                    elif _moves(op):
                        waiting.append(place.at)

    def _is_scale(self, source: Source) -> bool:
        """Whether a tensor is a scale of a quantised one, or a product of such."""
        wiring, made = self._wiring, self._wiring.maker(source)
        if wiring.constant(source) is not None:
            return True
        if made is None:
            return False
        op = wiring.node(made[0]).op_type
        read = wiring.floats_read(made[0])
        if op in _SCALING or _moves(op):
            return bool(read) and all(self._is_scale(one) for one in read)
        return op == "DynamicQuantizeLinear"

    def _scales(self) -> None:
        """Keep what moves and multiplies values in FP32 between nodes that stay.

        A scale or a product of scales may be too small for fewer bits.
        """
        wiring = self._wiring
        found = {
            at
            for i, body in enumerate(wiring.bodies)
            for index, node in enumerate(body.proto.node)
            if (at := At(i, index)) not in self.nodes
            and (node.op_type in _SCALING or _moves(node.op_type))
            and wiring.floats_made(at)
        }
        while apart := {at for at in found if not self._lies_between(at, found)}:
            found -= apart
        self.nodes.update(dict.fromkeys(found, Reason(InFp32.BETWEEN_OTHERS)))

    def _lies_between(self, at: At, others: set[At]) -> bool:
        """Whether all that a node reads and makes is in FP32, where others are."""
        wiring = self._wiring
        read = [s for s in wiring.floats_read(at) if wiring.constant(s) is None]
        makers = [wiring.maker(source) for source in read]
        inner = [made[0] for made in makers if made is not None]
        places = [p for source in wiring.floats_made(at) for p in wiring.reads[source]]
        return (
            bool(inner)
            and all(
                self.in_fp32(s) or (made is not None and made[0] in others)
                for s, made in zip(read, makers, strict=True)
            )
            and bool(places)
            and all(p.node != OUTPUT and (p.at in others or self.needs_fp32(p)) for p in places)
        )

    def _inside(self) -> None:
        """Keep nodes between those that stay: no FP32 value passes through fewer bits there."""
        wiring = self._wiring
        going = True
        while going:
            going = False
            for i, body in enumerate(wiring.bodies):
                for index in range(len(body.proto.node)):
                    at = At(i, index)
                    if at not in self.nodes and self._is_inside(at):
                        self.nodes[at] = Reason(InFp32.BETWEEN_OTHERS)
                        going = True

    def _is_inside(self, at: At) -> bool:
        wiring = self._wiring
        if wiring.has_bodies(at) or wiring.node(at).op_type == "Constant":
            return False
        return bool(wiring.floats_made(at)) and self._lies_between(at, set())


def _chooses(node: NodeProto, reads_float: bool) -> bool:
    """Whether a node may make FP32 or fewer bits, whatever it reads."""
    if node.op_type == "Cast":
        return True
    return (
        node.op_type in TYPE_ATTRIBUTES
        or node.op_type == "ConstantOfShape"
        or (node.op_type in LIKE_INPUT and not reads_float)
    )


def _has_floats(node: NodeProto) -> bool:
    """Whether an attribute is a tensor of floats, and so gives the type of what the node reads."""
    if node.op_type in ("Constant", "ConstantOfShape"):
        return False
    return any(a.t.data_type in _WIDE for a in node.attribute if a.HasField("t"))


def _is_accumulator(body: Body, node: NodeProto) -> bool:
    """Whether a node reads an integer accumulator, also after it is moved or added to."""
    waiting, seen = [node.input[0]], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in body.makers:
            continue
        seen.add(name)
        maker = body.proto.node[body.makers[name][0]]
        if maker.op_type in _INTEGER_PRODUCTS:
            return True
        if _moves(maker.op_type):
            waiting.append(maker.input[0])
        elif maker.op_type in ("Add", "Sub"):
            waiting.extend(maker.input)
    return False


def _moves(op: str) -> bool:
    """Whether an op gives elements that it reads, as they are."""
    return op in BETWEEN and BETWEEN[op].exact
