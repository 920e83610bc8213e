"""Convert: a model in FP32 or FP64 becomes one in 16 bits, in place, weight by weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.apply.convert.constants import (
    Counts,
    Limits,
    half_of_largest,
    least_kept,
    narrowed,
)
from slanc_onnx.apply.convert.idle_casts import drop_idle_casts
from slanc_onnx.apply.convert.islands import Islands
from slanc_onnx.apply.convert.told import set_element, tell_types
from slanc_onnx.apply.convert.turned_products import turn_behind_products
from slanc_onnx.apply.convert.versions import Versions
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.apply.convert.wiring import At, Place, Source, Wiring, wire
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import FLOATS, NodeAt, with_tensor
from slanc_onnx.ops import LIKE_INPUT, TYPE_ATTRIBUTES, read_bodies
from slanc_onnx.reasons import Reason

NARROW: Mapping[str, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
CONVERTED = frozenset(FLOATS)
# Ops that hold values to limits: these are clamped to the largest number, others to half of it.
_LIMITING = {"Clip", "Min", "Max"}
_ADDING = {"Add", "Sub", "Sum", *_LIMITING}  # where a small number keeps another from being zero
_WITH_CASTS = 13  # the first opset whose Cast knows all types
_EPSILONS = 8  # elements that a constant with an epsilon has at most


@dataclass(frozen=True)
class InFull:
    """A node that computes in FP32, or in FP64 where the file has it so.

    Attributes:
        name: Its name; it gets one where the file has none.
        op: Its type.
        why: Why.
        wide: Whether it reads or makes FP64.
        made: The names of its outputs.
    """

    name: str
    op: str
    why: Reason
    wide: bool = False
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        format: What floats are in now.
        nodes: The nodes that compute in FP32 or FP64.
        casts: Casts that were inserted, those at inputs and outputs of the model included.
        removed: Casts of the file that had nothing left to do.
        weights: What became of each constant, by name; those of large ones are there once the
            model is written.
        turned: Transposes that stand behind the product by a weight now; see `turned_products`.
        as_is: The names of Casts that read what such nodes make as it is.
    """

    format: Format
    nodes: tuple[InFull, ...]
    casts: int
    removed: int
    weights: Mapping[str, Counts]
    turned: int = 0
    as_is: frozenset[str] = frozenset()


def convert(
    model: onnx.ModelProto,
    weights: Weights,
    accelerator: Accelerator,
    *,
    keep_io_types: bool = True,
    kept: Mapping[NodeAt, Reason] | None = None,
) -> Converted:
    """Give a model floats of the accelerator's format, wherever the schemas of its ops take it.

    Args:
        model: The model; it is changed in place.
        weights: Where its weights lie, and where they go.
        accelerator: Its format, and whether it keeps subnormal numbers.
        keep_io_types: Whether inputs and outputs of the model stay as they are.
        kept: Nodes that stay in FP32 besides, with the reason.

    Raises:
        SlancError: the opset of the model is older than the format, or the model can be trained.
    """
    if model.training_info:
        raise SlancError(
            "the model has training_info, graphs that train its weights in FP32 and that are not "
            "converted. Take it out first, for example with del model.training_info[:]."
        )
    bodies, narrow = read_bodies(model), NARROW[accelerator.format.name]
    _refuse_old(bodies[0].opsets.get("", _WITH_CASTS), accelerator.format)
    wiring = wire(bodies, CONVERTED - {narrow}, model.ir_version)
    islands = Islands(wiring, narrow, keep_io_types, kept or {})
    versions = Versions(wiring, islands, keep_io_types, accelerator.format.name)
    nodes = tuple(_listed(wiring, islands, versions))
    as_is = frozenset(_named(wiring, at, versions) for at in islands.reading_as_is())
    conversion = _Conversion(wiring, versions, set(islands.nodes), weights, accelerator)
    for i in reversed(range(len(wiring.bodies))):  # inner ones are copied with outer ones
        conversion.body(i)
        tell_types(i, wiring, versions, narrow)
    _import_onnx(model)
    dropped = drop_idle_casts(model, narrow)
    turned = turn_behind_products(model)
    weights.finish(model)
    inserted = conversion.casts.difference(dropped)
    removed = [name for name in dropped if name not in conversion.casts]
    casts, gone = len(inserted), len(removed)
    return Converted(accelerator.format, nodes, casts, gone, weights.counts, turned, as_is)


def _refuse_old(opset: int, form: Format) -> None:
    if form.name == "bfloat16" and opset < _WITH_CASTS:
        raise SlancError(
            f"opset {opset} knows no BF16. Bring the model to opset {_WITH_CASTS} or later first, "
            "for example with onnx.version_converter."
        )


def _import_onnx(model: onnx.ModelProto) -> None:
    """Let a model and functions that know no ops of ONNX know Cast."""
    for imports in (model.opset_import, *(f.opset_import for f in model.functions)):
        if not any(each.domain in ("", "ai.onnx") for each in imports):
            imports.add(domain="", version=_WITH_CASTS)


def _listed(wiring: Wiring, islands: Islands, versions: Versions) -> Iterator[InFull]:
    for at, why in sorted(islands.listed().items(), key=lambda found: found[0]):
        name, node = _named(wiring, at, versions), wiring.node(at)
        floats = (*wiring.floats_read(at), *wiring.floats_made(at))
        wide = any(wiring.kind(source).element == TensorProto.DOUBLE for source in floats)
        yield InFull(name, node.op_type, why, wide, tuple(filter(None, node.output)))


def _named(wiring: Wiring, at: At, versions: Versions) -> str:
    """The name of a node, which gets one where the file has none."""
    node = wiring.node(at)
    if not node.name:
        node.name = versions.unused(next(filter(None, node.output), node.op_type))
    return node.name


class _Conversion:
    """Rewrites bodies, the inner ones first."""

    def __init__(
        self,
        wiring: Wiring,
        versions: Versions,
        full: set[At],
        weights: Weights,
        accelerator: Accelerator,
    ) -> None:
        self._wiring, self._versions, self._full = wiring, versions, full
        self._weights, self._form = weights, accelerator.format
        self._narrow = NARROW[self._form.name]
        self._least = least_kept(self._form, accelerator.flush_subnormals)
        self.casts = set[str]()  # names

    def body(self, i: int) -> None:
        """Rewrite a body."""
        body, made = self._wiring.bodies[i], list[NodeProto]()
        if isinstance(body.proto, onnx.GraphProto):
            self._initializers(i, body.proto)
        for name in body.inputs:
            made += self._cast(Source(i, name))
        for index, node in enumerate(body.proto.node):
            made += self._rewritten(At(i, index), node)
        copies = [_copy(node) for node in made]
        del body.proto.node[:]
        body.proto.node.extend(copies)

    def _rewritten(self, at: At, node: NodeProto) -> Iterator[NodeProto]:
        """What stands in the place of a node."""
        versions, reads = self._versions, self._wiring.reads
        first = Source(at.body, node.output[0]) if node.output else None
        if node.op_type == "Constant" and first is not None and first in reads:
            yield from self._constants(first, node)
            return
        if at not in self._full:
            self._attributes(node, first is not None and first in reads, first)
        for position in range(len(node.input)):
            place = Place(*at, position)
            if place in self._wiring.read_at:
                node.input[position] = versions.read(place)
        made = [Source(at.body, name) for name in node.output]
        for position, source in enumerate(made):
            if source in reads:
                node.output[position] = versions.name(source, versions.full[source])
        yield node
        for source in made:
            yield from self._cast(source)

    def _cast(self, source: Source) -> Iterator[NodeProto]:
        """The Cast to the version in which a tensor is not made, where that is read."""
        versions = self._versions
        if not versions.needs_cast(source):
            return
        full = versions.full[source]
        given, made = versions.name(source, full), versions.name(source, not full)
        to = self._narrow if full else self._wiring.kind(source).element
        label = versions.unused(f"{source.name}/Cast")
        self.casts.add(label)
        yield helper.make_node("Cast", [given], [made], name=label, to=to)

    # Constants

    def _initializers(self, i: int, graph: onnx.GraphProto) -> None:
        for tensor in list(graph.initializer):
            source = Source(i, tensor.name)
            twin = graph.initializer.add() if len(self._wanted(source)) == 2 else None
            self._initializer(source, tensor, twin)
        for sparse in list(graph.sparse_initializer):
            source, twin = Source(i, sparse.values.name), None
            if len(self._wanted(source)) == 2:
                graph.sparse_initializer.add().CopyFrom(sparse)
                twin = graph.sparse_initializer[-1].values
            self._initializer(source, sparse.values, twin)

    def _wanted(self, source: Source) -> set[bool]:
        """The versions in which an initializer is there."""
        if source not in self._wiring.reads:
            return {True}
        if not self._wiring.is_constant(source):  # a default: of the type that it is given
            return {self._versions.full[source]}
        return self._versions.wanted(source) or {False}

    def _initializer(self, source: Source, tensor: TensorProto, twin: TensorProto | None) -> None:
        """Round an initializer; a twin becomes it as it was."""
        if self._wanted(source) == {True}:
            return
        if twin is not None:
            graph, own = self._wiring.bodies[source.body].proto, tensor.name
            twin.CopyFrom(tensor)
            twin.name = self._versions.name(source, True)
            tensor.name = self._versions.name(source, False)
            for info in [info for info in graph.input if info.name == own]:  # before IR 4
                graph.input.add().CopyFrom(info)
                graph.input[-1].name = tensor.name if twin.name == own else twin.name
                if twin.name == own:
                    set_element(graph.input[-1].type, self._narrow, self._wiring.wide)
        self._narrow_tensor(source, tensor)

    def _constants(self, source: Source, node: NodeProto) -> Iterator[NodeProto]:
        """A Constant node in each of the versions in which it is read."""
        wanted = self._versions.wanted(source) or {False}
        for full in sorted(wanted):
            twin = _copy(node)
            twin.output[0] = self._versions.name(source, full)
            if full and len(wanted) == 2 and node.name:
                twin.name = self._versions.unused(f"{node.name}/{self._versions.suffix(source)}")
            if not full:
                self._narrow_tensor(source, _value(twin))
            yield twin

    def _narrow_tensor(self, source: Source, tensor: TensorProto) -> None:
        """Round a constant; what the format does not hold depends on who reads it."""
        ops = self._versions.readers(source)
        limiting = bool(ops) and ops <= _LIMITING
        beyond = self._form.largest if limiting else half_of_largest(self._form)
        small = int(np.prod(tensor.dims)) <= _EPSILONS and bool(ops & _ADDING)
        limits = Limits(self._form, beyond, self._least if small else 0.0)
        self._weights.narrow(tensor, source.name, limits, self._narrow)

    # Attributes

    def _attributes(self, node: NodeProto, floats: bool, first: Source | None) -> None:
        """Let a node make 16 bits where an attribute says what it makes."""
        self._clamp(node)
        if floats and node.op_type == "Optional":
            for attribute in node.attribute:
                set_element(attribute.tp, self._narrow, self._wiring.wide)
        if not floats or first is None or self._versions.full[first]:
            return
        if node.op_type == "ConstantOfShape":
            _fill(node, self._narrow, self._form)
            return
        if node.op_type in TYPE_ATTRIBUTES:
            _set_type(node, TYPE_ATTRIBUTES[node.op_type][0], self._narrow, add=True)
        elif node.op_type in LIKE_INPUT:
            _set_type(node, "dtype", self._narrow)
        _set_type(node, "output_dtype", self._narrow)

    def _clamp(self, node: NodeProto) -> None:
        """Clamp what an attention adds where the mask is set."""
        for attribute in node.attribute:
            if attribute.name == "mask_filter_value" and abs(attribute.f) > self._form.largest:
                name = f"{node.name or node.output[0]}.{attribute.name}"
                self._weights.counts[name] = Counts(1, clipped=1, largest=abs(attribute.f))
                attribute.f = -half_of_largest(self._form)


def _copy(node: NodeProto) -> NodeProto:
    twin = NodeProto()
    twin.CopyFrom(node)
    return twin


def _value(node: NodeProto) -> TensorProto:
    """The values of a Constant node; numbers are turned into a tensor in place."""
    attribute = node.attribute[0]
    if attribute.HasField("sparse_tensor"):
        values: TensorProto = attribute.sparse_tensor.values
        return values
    return with_tensor(node)


def _set_type(node: NodeProto, name: str, narrow: int, add: bool = False) -> None:
    """Let an attribute say the new type where it says another, or says nothing and has to."""
    found = [a for a in node.attribute if a.name == name]
    if not found and add:
        node.attribute.append(helper.make_attribute(name, narrow))
    elif found and found[0].i in CONVERTED:
        found[0].i = narrow


def _fill(node: NodeProto, narrow: int, form: Format) -> None:
    """Let a ConstantOfShape fill with a number of 16 bits."""
    given = [a for a in node.attribute if a.name == "value"]
    before = numpy_helper.to_array(given[0].t) if given else np.zeros(1, np.float32)
    values, _ = narrowed(before, Limits(form, half_of_largest(form)))
    tensor = TensorProto(data_type=narrow, dims=[1], raw_data=values.tobytes())
    kept = [a for a in node.attribute if a.name != "value"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("value", tensor)])
