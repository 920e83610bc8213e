"""SLaNC on a graph of onnx-graphsurgeon, which TensorRT front-ends work on.

    graph = gs.import_onnx(onnx.load("model.onnx"))
    protect(graph)
    onnx.save(gs.export_onnx(graph), "model.slanc.onnx")

Graphsurgeon keeps no metadata of nodes. What an earlier run did is therefore noted behind the name
of the inserted Div, or of the norm's last node where there is none, as in
`first/slanc_Div?slanc.scale=128.0&slanc.target=...`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

from slanc_onnx import Options, ScaledNorm, SlancError
from slanc_onnx.job import protect_and_tell
from slanc_onnx.norms import notes_of, with_notes, without_notes

_IR_VERSION = 11  # that of ONNX Runtime 1.23, the least that we take


def protect(
    graph: gs.Graph, options: Options | None = None, *, folder: Path | None = None
) -> list[ScaledNorm]:
    """Scale the norms of a graph in place, without validation.

    Args:
        graph: The main graph. Only norms, epsilons, new constants and nodes change, and with
            `Options.apply` "fold" the weights that are divided or merged into; nodes and tensors
            that stay are the same objects. Functions that hold norms are inlined.
        options: How. `Options.to` is refused: it makes a file of 16 bits, with slanc_onnx.protect.
        folder: Where external data lies that was not loaded. It is read through memory maps and
            stays as it is; weights in memory are copied once while this runs.

    Returns:
        Every norm with its decision. The graph was modified if one has the status "scaled", and
        where something is merged.

    Raises:
        SlancError: bad input; the graph is unchanged.
    """
    if options is not None and options.to is not None:
        raise SlancError(
            f"to {options.to!r} is not done on a graph of graphsurgeon. Export it, and give the "
            "model to slanc_onnx.protect or the file to slanc-onnx."
        )
    exported = _Exported(graph)
    modified, decided = protect_and_tell(exported.model, options, folder=folder)
    if modified:
        _Merge(graph, exported).merge()
    return decided


def _read_notes(node: NodeProto) -> None:
    """Take the notes out of the name of a node, as its metadata."""
    for key, value in notes_of(node).items():
        node.metadata_props.add(key=key, value=value)
    node.name = without_notes(node.name)


class _Pair(NamedTuple):
    """A node and what it was exported as."""

    node: gs.Node
    proto: NodeProto


class _Exported:
    """A graph as a model, and which object each part of the model was.

    Attributes:
        model: The model. A tensor of which no number changes has its key as its doc string.
        constants: Its constants by key.
        pairs: The nodes of each graph with what they were exported as, in order, by its id.
        owned: The constants of each graph, by its id. The main graph has all that two graphs read.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.constants: dict[str, gs.Constant] = {}
        self.pairs: dict[int, list[_Pair]] = {}
        self.owned: dict[int, list[gs.Constant]] = {}
        with _without_values(graph):
            self.model = gs.export_onnx(graph)
        # Graphsurgeon writes that of the installed onnx, which is newer than what runtimes take.
        self.model.ir_version = min(self.model.ir_version, _IR_VERSION)
        self._share(graph)
        self._pair(graph, self.model.graph)

    def _share(self, graph: gs.Graph) -> None:
        """Let the main graph own what graphsurgeon exports into each subgraph that reads it."""
        graphs = [graph, *graph.subgraphs(recursive=True)]
        readers: dict[int, list[gs.Graph]] = {}
        found: dict[int, gs.Constant] = {}
        for each in graphs:
            for constant in _constants(each):
                found[id(constant)] = constant
                readers.setdefault(id(constant), []).append(each)
        for key, reading in readers.items():
            owner = reading[0] if len(reading) == 1 else graph
            self.owned.setdefault(id(owner), []).append(found[key])

    def _pair(self, graph: gs.Graph, proto: GraphProto) -> None:
        """Note what is what in a graph and its subgraphs, and give the model its weights."""
        self.pairs[id(graph)] = []
        for node, exported in zip(graph.nodes, proto.node, strict=True):
            before = NodeProto()
            before.CopyFrom(exported)
            self.pairs[id(graph)].append(_Pair(node, before))
            _read_notes(exported)
            for attribute in exported.attribute:
                value = node.attrs[attribute.name]
                if attribute.type == AttributeProto.GRAPH:
                    self._pair(value, attribute.g)
                elif attribute.type == AttributeProto.TENSOR and isinstance(value, gs.Constant):
                    self._fill(value, attribute.t)
        del proto.initializer[:]
        for constant in self.owned.get(id(graph), ()):
            self._fill(constant, proto.initializer.add())

    def _fill(self, constant: gs.Constant, tensor: TensorProto) -> None:
        tensor.CopyFrom(OnnxExporter.export_tensor_proto(constant))
        tensor.doc_string = f"slanc.constant.{len(self.constants)}"
        self.constants[tensor.doc_string] = constant

    def kept(self, tensor: TensorProto) -> gs.Constant | None:
        """The constant that a tensor of the model still is; None where its numbers are new."""
        return self.constants.get(tensor.doc_string)


class _Merge:
    """Takes what became of a model over into the graph that it was exported from."""

    def __init__(self, graph: gs.Graph, exported: _Exported) -> None:
        self.graph, self.exported = graph, exported

    def merge(self) -> None:
        """Take everything over."""
        model, graph = self.exported.model, self.graph
        left = {(f.domain, f.name) for f in model.functions}
        graph.functions = [f for f in graph.functions if (f.domain or "", f.name) in left]
        told = [(o.domain, o.version) for o in graph.import_domains or ()]
        if told != [(o.domain, o.version) for o in model.opset_import]:
            imports = [onnx.helper.make_opsetid(o.domain, o.version) for o in model.opset_import]
            graph.import_domains = imports
        self._graph(graph, model.graph, {})

    def _graph(self, graph: gs.Graph, proto: GraphProto, outer: dict[str, gs.Tensor]) -> None:
        """Take the nodes and constants of a graph over; `outer` has the tensors around it."""
        pairs = self.exported.pairs[id(graph)]
        own = {t.name: t for t in (*graph.inputs, *graph.outputs)}
        own |= {t.name: t for pair in pairs for t in pair.node.outputs if t.name}
        own |= {t.name: t for t in self.exported.owned.get(id(graph), ())}
        for tensor in proto.initializer:
            if self.exported.kept(tensor) is None:
                if tensor.name in own:
                    own[tensor.name].values = LazyValues(_copied(tensor))
                    own[tensor.name].data_location = None
                else:
                    own[tensor.name] = gs.Constant(tensor.name, LazyValues(_copied(tensor)))
        infos = {info.name: info for info in proto.value_info}
        visible = {**graph.tensors(), **outer, **own}

        def tensors(names: list[str], like: gs.Tensor | None = None) -> list[gs.Tensor]:
            for name in names:
                if name and name not in visible:
                    visible[name] = _variable(name, infos, like)
            return [visible[name] if name else gs.Variable.empty() for name in names]

        found = _matched(pairs, list(proto.node))
        stay = {id(pair.node) for pair in found if pair is not None}
        for gone in (pair.node for pair in pairs if id(pair.node) not in stay):
            gone.inputs.clear()
            gone.outputs.clear()
        nodes = []
        for new, pair in zip(proto.node, found, strict=True):
            node = gs.Node(new.op_type, domain=new.domain or None) if pair is None else pair.node
            inputs = tensors(list(new.input))
            if pair is None or list(pair.proto.input) != list(new.input):
                node.inputs = inputs
            if pair is None or list(pair.proto.output) != list(new.output):
                node.outputs = tensors(list(new.output), _scaled_by(new, inputs))
            node.name = with_notes(new)
            self._attributes(node, new, None if pair is None else pair.proto, visible)
            nodes.append(node)
        graph.nodes[:] = nodes

    def _attributes(
        self, node: gs.Node, new: NodeProto, before: NodeProto | None, visible: dict[str, gs.Tensor]
    ) -> None:
        """Take the attributes over that are not as they were."""
        old = {} if before is None else {a.name: a for a in before.attribute}
        for name in old.keys() - {a.name for a in new.attribute}:
            del node.attrs[name]
        for attribute in new.attribute:
            name, value = attribute.name, node.attrs.get(attribute.name)
            if isinstance(value, gs.Graph):
                self._graph(value, attribute.g, visible)
            elif attribute.type == AttributeProto.TENSOR:
                if value is None or self.exported.kept(attribute.t) is not value:
                    node.attrs[name] = gs.Constant("", LazyValues(_copied(attribute.t)))
            elif name not in old or old[name] != attribute:
                given = OnnxImporter.import_attributes(
                    [attribute], visible, {}, self.graph.opset, self.graph.import_domains
                )
                node.attrs.update(given)


def _matched(pairs: list[_Pair], nodes: list[NodeProto]) -> list[_Pair | None]:
    """The node that each node of the model was: of its op, with its first output or its name."""
    by_output = {_first_output(pair.proto): pair for pair in pairs}
    names = Counter(without_notes(pair.proto.name) for pair in pairs)
    by_name = {without_notes(pair.proto.name): pair for pair in pairs}
    found: list[_Pair | None] = []
    taken: set[int] = set()
    for node in nodes:
        pair = by_output.get(_first_output(node))
        if pair is None or not _same_op(pair.proto, node):
            pair = by_name[node.name] if node.name and names[node.name] == 1 else None
        if pair is not None and (id(pair) in taken or not _same_op(pair.proto, node)):
            pair = None
        taken.add(id(pair))
        found.append(pair)
    return found


def _same_op(one: NodeProto, other: NodeProto) -> bool:
    return (one.domain, one.op_type) == (other.domain, other.op_type)


def _first_output(node: NodeProto) -> str:
    return next(filter(None, node.output), "")


def _scaled_by(node: NodeProto, inputs: list[gs.Tensor]) -> gs.Tensor | None:
    """The tensor whose type and shape a new node's output has, where that is known: a scale's."""
    by_scale = len(node.input) == 2 and node.input[1].startswith("slanc.scale")
    return inputs[0] if by_scale and node.op_type in ("Div", "Mul") else None


def _variable(
    name: str, infos: dict[str, onnx.ValueInfoProto], like: gs.Tensor | None
) -> gs.Variable:
    if name in infos:
        return OnnxImporter.import_tensor(infos[name])
    return gs.Variable(name) if like is None else gs.Variable(name, like.dtype, like.shape)


def _copied(tensor: TensorProto) -> TensorProto:
    """A tensor in memory of its own, which does not keep the model's."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("doc_string")
    return copy


def _constants(graph: gs.Graph) -> list[gs.Constant]:
    """The constants that the nodes of a graph read, without sparse ones."""
    found = graph.tensors().values()
    return [t for t in found if isinstance(t, gs.Constant) and not _is_sparse(t)]


def _is_sparse(constant: gs.Constant) -> bool:
    return isinstance(constant._values, SparseValues)


@contextmanager
def _without_values(graph: gs.Graph) -> Iterator[None]:
    """For a while, the constants of a graph without their numbers, so that none is copied."""
    values = {}
    for each in (graph, *graph.subgraphs(recursive=True)):
        attributes = (value for node in each.nodes for value in node.attrs.values())
        held = [v for v in attributes if isinstance(v, gs.Constant) and not _is_sparse(v)]
        for constant in (*_constants(each), *held):
            values[id(constant)] = constant, constant._values
    try:
        for constant, _ in values.values():
            constant.values = LazyValues(_described(constant))
        yield
    finally:
        for constant, held in values.values():
            constant.values = held


def _described(constant: gs.Constant) -> TensorProto:
    """A tensor of the same type and shape without numbers."""
    if isinstance(constant._values, LazyValues):
        tensor = constant._values.tensor
        return TensorProto(name=constant.name, data_type=tensor.data_type, dims=tensor.dims)
    kind = dtype_to_onnx(getattr(constant, "export_dtype", constant.dtype))  # older ones have none
    return TensorProto(name=constant.name, data_type=kind, dims=constant.shape)
