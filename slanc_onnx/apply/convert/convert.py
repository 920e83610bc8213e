"""Convert: a model in FP32 becomes one in 16 bits, in place, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.apply.convert.constants import (
    Counts,
    Limits,
    half_of_largest,
    least_kept,
    narrowed,
)
from slanc_onnx.apply.convert.islands import Islands
from slanc_onnx.apply.convert.wiring import OUTPUT, At, Place, Source, Wiring, wire
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import Array, NewData, Pending, all_tensors, read_tensor, unused_name
from slanc_onnx.ops import LIKE_INPUT, TYPE_ATTRIBUTES, Body, read_bodies
from slanc_onnx.reasons import Reason

NARROW = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
FLOAT = TensorProto.FLOAT
Message = TypeVar("Message", NodeProto, onnx.ValueInfoProto)
# Ops that hold values to limits: these are clamped to the largest number, others to half of it.
_LIMITING = {"Clip", "Min", "Max"}
_ADDING = {"Add", "Sub", "Sum", *_LIMITING}  # where a small number keeps another from being zero
_EPSILONS = 8  # elements that a constant with an epsilon has at most


@dataclass(frozen=True)
class InFull:
    """A node that computes in FP32.

    Attributes:
        name: Its name; it gets one where the file has none.
        op: Its type.
        why: Why.
    """

    name: str
    op: str
    why: Reason


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        format: What floats are in now.
        nodes: The nodes that compute in FP32.
        casts: Casts that were inserted, those at inputs and outputs of the model included.
        removed: Casts of the file that had nothing left to do.
        weights: What became of each constant, by name; those of a file of their own, and of large
            inline ones, are there once the model is written.
    """

    format: Format
    nodes: tuple[InFull, ...]
    casts: int
    removed: int
    weights: dict[str, Counts] = field(default_factory=dict)


def convert(
    model: onnx.ModelProto,
    folder: Path | None,
    accelerator: Accelerator,
    *,
    data: NewData | None = None,
    pending: Pending | None = None,
    keep_io_types: bool = True,
    kept: Mapping[str, Reason] | None = None,
) -> Converted:
    """Give a model floats of the accelerator's format, wherever the schemas of its ops take it.

    Args:
        model: The model; it is changed in place.
        folder: Where its external data lies.
        accelerator: Its format, and whether it keeps subnormal numbers.
        data: Where converted tensors go that are not in the model; None to take them into it.
        pending: Holds tensors that a fold changed; with `data`.
        keep_io_types: Whether inputs and outputs of the model stay FP32.
        kept: Nodes of the main graph that stay in FP32 besides, by name, with the reason.

    Raises:
        SlancError: an input or output is a sequence of FP32 tensors, which has no Cast.
    """
    weights = _Weights(folder, data, pending or Pending())
    converted = _Conversion(model, accelerator, weights).run(keep_io_types, kept or {})
    weights.finish(model)
    return converted


@dataclass(frozen=True)
class _Weights:
    """Where the values of tensors come from, and where they go."""

    folder: Path | None
    data: NewData | None
    pending: Pending

    def change(
        self, tensor: TensorProto, element_type: int, work: Callable[[Array], Array]
    ) -> None:
        """Let a tensor have other values; those of a file of their own are made one by one."""
        made = self.pending.give(tensor)
        before = TensorProto()
        before.CopyFrom(tensor)
        read = made or (lambda: read_tensor(before, self.folder))
        if self.data is None or not self.data.put(tensor, lambda: work(read()), element_type):
            after = TensorProto(name=tensor.name, data_type=element_type, dims=before.dims)
            after.raw_data = work(read()).tobytes()
            after.doc_string = before.doc_string
            tensor.CopyFrom(after)

    def finish(self, model: onnx.ModelProto) -> None:
        """Let all that was not changed come along."""
        if self.data is None:
            return
        for tensor in all_tensors(model):
            made = self.pending.give(tensor)
            if made is not None:
                self.data.put(tensor, made)
            else:
                self.data.bring(tensor)


class _Conversion:
    def __init__(
        self,
        model: onnx.ModelProto,
        accelerator: Accelerator,
        weights: _Weights,
    ) -> None:
        self._model, self._weights = model, weights
        self._form = accelerator.format
        self._narrow = NARROW[self._form.name]
        self._least = least_kept(self._form, accelerator.flush_subnormals)
        self._bodies = read_bodies(model)
        self._wiring: Wiring = wire(self._bodies)
        self._used = set(_names(self._bodies))
        self._versions: dict[tuple[Source, bool], str] = {}
        self._gone: dict[Source, Source] = {}
        self._casts = 0
        self._counts: dict[str, Counts] = {}

    def run(self, keep_io_types: bool, kept: Mapping[str, Reason]) -> Converted:
        """Convert; see `convert`."""
        self._keep_io = keep_io_types
        self._refuse_containers(keep_io_types)
        self._islands = Islands(self._wiring, self._narrow, keep_io_types, kept)
        nodes = self._listed()
        # All is decided before anything changes, as decisions read the nodes.
        self._full = {s: self._islands.in_fp32(s) for s in self._wiring.reads}
        self._needs = {p: self._islands.needs_fp32(p) for p in self._wiring.read_at}
        removed = self._find_idle_casts()
        for i, body in reversed(list(enumerate(self._bodies))):  # inner ones are copied with outer
            self._constants(i, body)
            self._body(i, body)
            self._infos(i, body)
        return Converted(self._form, nodes, self._casts, removed, self._counts)

    def _listed(self) -> tuple[InFull, ...]:
        found = self._islands.listed()
        made = []
        for at in sorted(found):
            node = self._wiring.node(at)
            if not node.name:
                node.name = unused_name(next(filter(None, node.output), node.op_type), self._used)
            made.append(InFull(node.name, node.op_type, found[at]))
        return tuple(made)

    def _refuse_containers(self, keep_io_types: bool) -> None:
        main = self._bodies[0]
        for name in (*main.inputs, *main.outputs):
            source = Source(0, name)
            if keep_io_types and source in self._wiring.reads and self._wiring.kind(source).contained:
                raise SlancError(
                    f"{name!r} is a sequence of FP32 tensors, for which there is no Cast. Give "
                    "--no-keep-io-types."
                )

    # -- names -------------------------------------------------------------------------------

    def _own_is_full(self, source: Source) -> bool:
        """Whether the name of a tensor stays with its FP32 version."""
        if source.body == 0 and source.name in self._bodies[0].outputs:
            return self._keep_io
        constant = self._wiring.constant(source)
        if constant is None or self._is_overridable(source):
            return self._full[source]
        reads = self._wiring.reads[source]
        return bool(reads) and all(self._needs[p] for p in reads)

    def _is_overridable(self, source: Source) -> bool:
        """Whether a caller may give a constant another value."""
        later = self._model.ir_version >= 4
        return later and source.body == 0 and source.name in self._bodies[0].inputs

    def _version(self, source: Source, full: bool) -> str:
        """The name of a tensor in FP32, or in fewer bits."""
        if source in self._gone and not full:
            return self._version(self._gone[source], full)
        if self._own_is_full(source) == full:
            return source.name
        key = source, full
        if key not in self._versions:
            suffix = "fp32" if full else {"float16": "fp16", "bfloat16": "bf16"}[self._form.name]
            self._versions[key] = unused_name(f"{source.name}/{suffix}", self._used)
        return self._versions[key]

    def _wanted(self, source: Source) -> set[bool]:
        """In which of both a tensor is read: True for FP32."""
        wanted = {self._needs[p] for p in self._wiring.reads[source]}
        for gone, origin in self._gone.items():
            if origin == source:
                wanted |= self._wanted(gone)
        return wanted

    # -- casts of the file -------------------------------------------------------------------

    def _find_idle_casts(self) -> int:
        """Find casts between types that are one now; those who read them read what they read."""
        for i, body in enumerate(self._bodies):
            for index, node in enumerate(body.proto.node):
                if node.op_type == "Cast" and self._is_idle(At(i, index), node):
                    source = self._wiring.read_at[Place(i, index, 0)]
                    self._gone[Source(i, node.output[0])] = source
        return len(self._gone)

    def _is_idle(self, at: At, node: NodeProto) -> bool:
        made = Source(at.body, node.output[0])
        read = self._wiring.read_at.get(Place(*at, 0))
        body = self._bodies[at.body]
        if read is None or made not in self._wiring.reads or node.output[0] in body.outputs:
            return False
        return not self._full[made] and not (
            self._wiring.constant(read) is None and self._full[read]
        )

    # -- constants ---------------------------------------------------------------------------

    def _constants(self, i: int, body: Body) -> None:
        proto = body.proto
        for tensor in list(getattr(proto, "initializer", ())):
            source = Source(i, tensor.name)
            if source not in self._wiring.reads or self._is_overridable(source):
                continue
            wanted = self._wanted(source) or {False}
            if wanted == {True, False}:
                twin = proto.initializer.add()  # type: ignore[union-attr]
                twin.CopyFrom(tensor)
                twin.name = self._version(source, not self._own_is_full(source))
                self._narrow_tensor(source, tensor if not self._own_is_full(source) else twin)
            elif wanted == {False}:
                self._narrow_tensor(source, tensor)
                tensor.name = self._version(source, False)

    def _narrow_tensor(self, source: Source, tensor: TensorProto) -> None:
        limits, name = self._limits(source, tensor), source.name

        def work(values: Array) -> Array:
            found, self._counts[name] = narrowed(values, limits)
            return found

        self._weights.change(tensor, self._narrow, work)

    def _limits(self, source: Source, tensor: TensorProto) -> Limits:
        """What becomes of what the format does not hold, by who reads the constant."""
        ops = {
            self._wiring.node(p.at).op_type
            for p in self._wiring.reads[source]
            if p.node != OUTPUT
        }
        limiting = bool(ops) and ops <= _LIMITING
        small = _count(tensor) <= _EPSILONS and bool(ops & _ADDING)
        beyond = self._form.largest if limiting else half_of_largest(self._form)
        return Limits(self._form, beyond, self._least if small else 0.0)

    # -- nodes -------------------------------------------------------------------------------

    def _body(self, i: int, body: Body) -> None:
        proto, made = body.proto, list[NodeProto]()
        for name in (*body.inputs, *_sparse(proto)):
            made += self._cast(Source(i, name))
        for index, node in enumerate(proto.node):
            at = At(i, index)
            made_here = Source(i, node.output[0]) if node.output else None
            if made_here is not None and made_here in self._gone:
                continue
            if node.op_type == "Constant" and made_here in self._wiring.reads:
                made += self._constant_nodes(made_here, node)
                continue
            if at not in self._islands.nodes:
                self._attributes(at, node)
            for position, name in enumerate(node.input):
                place = Place(i, index, position)
                if name and place in self._wiring.read_at:
                    node.input[position] = self._read_version(place)
            after: list[NodeProto] = []
            for position, name in enumerate(node.output):
                source = Source(i, name)
                if name and source in self._wiring.reads:
                    node.output[position] = self._version(source, self._full[source])
                    after += self._cast(source)
            made += [node, *after]
        kept = [_copy(node) for node in made]
        del proto.node[:]
        proto.node.extend(kept)

    def _read_version(self, place: Place) -> str:
        return self._version(self._wiring.read_at[place], self._needs[place])

    def _cast(self, source: Source) -> Iterator[NodeProto]:
        """The Cast to the other type, where that is read."""
        if source not in self._wiring.reads or not self._is_cast(source):
            return
        full = self._full[source]
        if not full in {not wanted for wanted in self._wanted(source)}:
            return
        given, name = self._version(source, full), self._version(source, not full)
        self._casts += 1
        to = self._narrow if full else FLOAT
        label = unused_name(f"{source.name}/Cast", self._used)
        yield helper.make_node("Cast", [given], [name], name=label, to=to)

    def _is_cast(self, source: Source) -> bool:
        """Whether the other type of a tensor is made by a Cast: it is no constant."""
        return self._wiring.constant(source) is None or self._is_overridable(source)

    def _constant_nodes(self, source: Source, node: NodeProto) -> Iterator[NodeProto]:
        wanted = self._wanted(source) or {False}
        for full in sorted(wanted):
            twin = _copy(node)
            twin.output[0] = self._version(source, full)
            if len(wanted) == 2 and twin.output[0] != source.name:
                twin.name = unused_name(f"{node.name or source.name}/{len(wanted)}", self._used)
            if not full:
                tensor = _value(twin)
                self._narrow_tensor(source, tensor)
            yield twin

    def _attributes(self, at: At, node: NodeProto) -> None:
        """Let a node make fewer bits where an attribute says what it makes."""
        made = Source(at.body, node.output[0]) if node.output else None
        if made is None or made not in self._wiring.reads or self._full[made]:
            self._clamp(node)
            return
        if node.op_type == "ConstantOfShape":
            _fill(node, self._narrow, self._form)
        elif node.op_type in TYPE_ATTRIBUTES or node.op_type in LIKE_INPUT:
            name = (*TYPE_ATTRIBUTES.get(node.op_type, ()), LIKE_INPUT.get(node.op_type))[0]
            found = [a for a in node.attribute if a.name == name]
            if found:
                found[0].i = self._narrow
            elif node.op_type in TYPE_ATTRIBUTES:
                node.attribute.append(helper.make_attribute(str(name), self._narrow))
        for attribute in node.attribute:
            if attribute.name == "output_dtype" and attribute.i == FLOAT:
                attribute.i = self._narrow
        self._clamp(node)

    def _clamp(self, node: NodeProto) -> None:
        """Clamp the attribute of an attention that is added where the mask is set."""
        for attribute in node.attribute:
            if attribute.name == "mask_filter_value" and abs(attribute.f) > self._form.largest:
                name = f"{node.name or node.output[0]}.{attribute.name}"
                self._counts[name] = Counts(1, clipped=1, largest=abs(attribute.f))
                attribute.f = -half_of_largest(self._form)

    # -- what the file tells of types --------------------------------------------------------

    def _infos(self, i: int, body: Body) -> None:
        proto = body.proto
        if isinstance(proto, onnx.FunctionProto):
            self._rename_outputs(i, body)
            del proto.value_info[:]
            return
        if i:
            self._rename_outputs(i, body)
        for info in (*proto.input, *proto.output, *proto.value_info):
            source = Source(i, info.name)
            if source in self._wiring.reads and not self._own_is_full(source):
                _set_element(info.type, self._narrow)
        known = [info for info in proto.value_info if Source(i, info.name) not in self._gone]
        if len(known) < len(proto.value_info):
            copies = [_copy(info) for info in known]
            del proto.value_info[:]
            proto.value_info.extend(copies)

    def _rename_outputs(self, i: int, body: Body) -> None:
        """Outputs of bodies are known by their position, so their names may change."""
        for position in range(len(body.proto.output)):
            place = Place(i, OUTPUT, position)
            if place not in self._wiring.read_at:
                continue
            name = self._read_version(place)
            if isinstance(body.proto, onnx.FunctionProto):
                body.proto.output[position] = name
                continue
            body.proto.output[position].name = name
            if not self._needs[place]:
                _set_element(body.proto.output[position].type, self._narrow)


def _names(bodies: list[Body]) -> Iterator[str]:
    for body in bodies:
        yield from body.kinds
        for node in body.proto.node:
            yield node.name
            yield from node.input


def _sparse(proto: onnx.GraphProto | onnx.FunctionProto) -> list[str]:
    return [s.values.name for s in getattr(proto, "sparse_initializer", ())]


def _count(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _copy(message: Message) -> Message:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin


def _value(node: NodeProto) -> TensorProto:
    """The tensor of a Constant node; numbers are turned into one in place."""
    attribute = node.attribute[0]
    if attribute.name != "value":
        number = helper.get_attribute_value(attribute)
        shape = [len(number)] if attribute.name == "value_floats" else []
        tensor = helper.make_tensor("", FLOAT, shape, number if shape else [number])
        attribute.CopyFrom(helper.make_attribute("value", tensor))
    value: TensorProto = attribute.t
    return value


def _fill(node: NodeProto, narrow: int, form: Format) -> None:
    """Let a ConstantOfShape fill with a number of fewer bits."""
    given = [a for a in node.attribute if a.name == "value"]
    before = numpy_helper.to_array(given[0].t) if given else [0.0]
    values, _ = narrowed(helper.np.asarray(before, "float32"), Limits(form, half_of_largest(form)))
    tensor = TensorProto(data_type=narrow, dims=[1], raw_data=values.tobytes())
    kept = [a for a in node.attribute if a.name != "value"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("value", tensor)])


def _set_element(told: onnx.TypeProto, narrow: int) -> None:
    """Give a type that is written in a file other elements."""
    while not told.HasField("tensor_type"):
        if told.HasField("sequence_type"):
            told = told.sequence_type.elem_type
        elif told.HasField("optional_type"):
            told = told.optional_type.elem_type
        else:
            return
    if told.tensor_type.elem_type == FLOAT:
        told.tensor_type.elem_type = narrow


__all__ = ["AttributeProto", "Converted", "InFull", "convert"]
