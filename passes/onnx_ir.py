"""SLaNC as a pass on `onnx_ir.Model`, the graph of torch.onnx and onnxscript.

On what PyTorch exports:

    program = torch.onnx.export(module, example, dynamo=True)
    SlancPass()(program.model)
    program.save("model.slanc.onnx")

With other passes, those of onnxscript.optimizer too:

    model = onnx_ir.load("model.onnx")
    onnx_ir.passes.PassManager([onnx_ir.passes.common.InlinePass(), SlancPass()])(model)
    onnx_ir.save(model, "model.slanc.onnx")

`scale_model` is the same as a function, and returns what was decided for every norm.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common
from onnx import TensorProto

from slanc_onnx import Options, ScaledNorm, SlancError
from slanc_onnx.apply import plan_edits, without_scales_of_others
from slanc_onnx.apply.fold import apply_fold, fold
from slanc_onnx.graph import (
    Array,
    Edits,
    GraphPath,
    NewNode,
    NodeAt,
    Tensor,
    stored_tensor,
)
from slanc_onnx.job import decide, protect_and_tell
from slanc_onnx.norms import read_model
from slanc_onnx.run import with_checked_inputs
from slanc_onnx.scale import scales_to_apply


class SlancPass(ir.passes.InPlacePass):
    """Scale the norms of a model, so that they are safe in FP16.

    A norm that an earlier run scaled stays as it is. Functions that hold norms are inlined.
    """

    def __init__(self, options: Options | None = None) -> None:
        """Take the options of the job; those of validation have no effect here."""
        super().__init__()
        self.options = options or Options()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Scale the norms in place; `modified` says whether there was one to scale or to merge."""
        modified, _ = _scaled(model, self.options)
        return ir.passes.PassResult(model, modified=modified)


def scale_model(model: ir.Model, options: Options | None = None) -> list[ScaledNorm]:
    """Scale the norms of a model in place, without validation.

    Args:
        model: The model; only norms, epsilons and new initializers and nodes change, and with
            `Options.apply` "fold" the weights that are divided. Where functions that hold norms
            are inlined, norms inside an attention op written out, scales for another target taken
            out, or parts of norms merged, `model.graph` is a new object.
        options: How. `Options.to` is refused: it makes a file of 16 bits, with slanc_onnx.protect.

    Returns:
        Every norm with its decision. The model was modified if one has the status "scaled", and
        where something is merged.

    Raises:
        SlancError: bad input; the model is unchanged.
    """
    return _scaled(model, options or Options())[1]


def _scaled(model: ir.Model, options: Options) -> tuple[bool, list[ScaledNorm]]:
    """Whether the model was modified, and every norm with its decision."""
    if options.to is not None:
        raise SlancError(
            f"to {options.to!r} is not done on a model of onnx_ir. Save it, and give the file to "
            "slanc-onnx, or the ModelProto to slanc_onnx.protect."
        )
    # Found and decided on a copy; node i of its graphs is node i of the model's.
    proto, folder = ir.to_proto(model), _external_folder(model)
    if options.merge:
        modified, decided = protect_and_tell(proto, options, folder=folder)
        if modified:
            _take_nodes(model, proto, folder)
        return modified, decided
    read = read_model(proto, folder, isolate=options.isolate)
    options = with_checked_inputs(options, read.specs)
    read, _ = without_scales_of_others(read, options.accelerator.stamp)
    decided = decide(read, options)
    folded = None
    if options.apply == "fold":
        folded, decided = fold(read, decided, options)
        edits = folded.edits
    else:
        norms, scales = [d.norm for d in decided], scales_to_apply(decided)
        target, least = options.accelerator.stamp, options.least_epsilon
        edits = plan_edits(read.model, norms, scales, target, least)
    if read.model is not proto and edits:
        _take_nodes(model, read.model, folder)
    editor = _Editor(model, edits)
    if folded is not None:
        tensors = {tensor: stored_tensor(read.model, tensor) for tensor in folded.weights}
        apply_fold(read.model, folded, folder)
        for tensor, divided in tensors.items():
            editor.replace(tensor, divided)
    editor.apply()
    return any(d.status == "scaled" for d in decided), decided


def _take_nodes(model: ir.Model, changed: onnx.ModelProto, folder: Path | None) -> None:
    """Give a model the nodes and functions of a changed copy, with those weights that it has."""
    taken = ir.from_proto(changed)
    if folder is not None:
        ir.external_data.set_base_dir(taken.graph, folder)
    for name, value in taken.graph.initializers.items():
        before = model.graph.initializers.get(name)
        if before is not None and _same(before.const_value, value.const_value):
            value.const_value = before.const_value
    model.graph = taken.graph
    for key in set(model.functions) - set(taken.functions):
        del model.functions[key]


def _same(one: ir.TensorProtocol | None, other: ir.TensorProtocol | None) -> bool:
    """Whether two tensors are the same, bit for bit; what lies in a file is never changed."""
    if one is None or other is None or isinstance(other, ir.ExternalTensor):
        return one is not None
    same = (one.dtype, tuple(one.shape)) == (other.dtype, tuple(other.shape))
    return same and one.tobytes() == other.tobytes()


def _external_folder(model: ir.Model) -> Path | None:
    """The folder of the weights that were not loaded; None if there are none."""
    values = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    attributes = (a for node in model.graph.all_nodes() for a in node.attributes.values())
    values += [a.as_tensor() for a in attributes if a.type == ir.AttributeType.TENSOR]
    folders = {str(value.base_dir) for value in values if isinstance(value, ir.ExternalTensor)}
    if len(folders) > 1:
        raise SlancError(
            f"external weights lie in several folders ({', '.join(sorted(folders))}). "
            "Load them first, with onnx_ir.external_data.load_to_model."
        )
    return Path(folders.pop()) if folders else None


class _Editor:
    """Carries out edits on an `ir.Model`, as `slanc_onnx.graph.apply_edits` on a ModelProto."""

    def __init__(self, model: ir.Model, edits: Edits) -> None:
        self.model, self.edits = model, edits
        self.constants = {name: _constant(name, v) for name, v in edits.constants.items()}
        # As they were when the edits were planned, with places by index.
        paths = {at.path for at, _ in (*edits.inputs, *edits.outputs, *edits.attributes)}
        paths |= {at.path for at in edits.stamps} | {new.before.path for new in edits.nodes}
        paths |= {path[:end] for path in paths for end in range(len(path) + 1)}
        self.graphs = {path: _graph_at(model, path) for path in paths}
        self.nodes = {path: list(graph) for path, graph in self.graphs.items()}
        self.values = {path: _values(graph) for path, graph in self.graphs.items()}

    def replace(self, tensor: Tensor, divided: TensorProto) -> None:
        """Give an initializer or a Constant node other numbers."""
        if tensor.path not in self.values:
            self.values[tensor.path] = _values(_graph_at(self.model, tensor.path))
        value = self.values[tensor.path][tensor.name]
        copy = TensorProto()
        copy.CopyFrom(divided)  # the other holds the memory of the whole copy
        numbers, node = ir.serde.deserialize_tensor(copy), value.producer()
        if node is not None:
            node.attributes.clear()
            node.attributes.add(ir.AttrTensor("value", numbers))
        if node is None or value.const_value is not None:
            value.const_value = numbers

    def apply(self) -> None:
        for constant in self.constants.values():
            self.model.graph.register_initializer(constant)
        for (at, position), name in self.edits.outputs.items():
            self.restore(at.path, self.node(at).outputs[position], name)
        for new in self.edits.nodes:
            self.insert(new)
        for (at, position), name in self.edits.inputs.items():
            self.node(at).replace_input_with(position, self.value(at.path, name))
        for (at, attribute), number in self.edits.attributes.items():
            self.node(at).attributes.add(ir.AttrFloat32(attribute, number))
        for at, metadata in self.edits.stamps.items():
            self.node(at).metadata_props.update(metadata)

    def node(self, at: NodeAt) -> ir.Node:
        return self.nodes[at.path][at.node]

    def value(self, path: GraphPath, name: str) -> ir.Value:
        """The value of that name that a graph sees: its own, or one of a graph around it."""
        if name in self.constants:
            return self.constants[name]
        around = (path[:end] for end in range(len(path), -1, -1))
        return next(self.values[p][name] for p in around if name in self.values[p])

    def insert(self, new: NewNode) -> None:
        """Insert a node; its output has the name and type that it needs."""
        path, index = new.before
        tensor, constant = (self.value(path, name) for name in new.inputs)
        output = self.values[path].setdefault(new.output, ir.Value(name=new.output))
        output.type, output.shape = constant.type, tensor.shape
        node = ir.Node(
            "",
            new.op,
            [tensor, constant],
            outputs=[output],
            name=new.name,
            metadata_props=new.metadata,
        )
        if index < len(self.nodes[path]):
            self.graphs[path].insert_before(self.nodes[path][index], node)
        else:
            self.graphs[path].append(node)

    def restore(self, path: GraphPath, inner: ir.Value, name: str) -> None:
        """Rename an output, and let all its readers read one of the old name, to be made of it."""
        assert inner.name is not None
        output = ir.Value(name=inner.name, doc_string=inner.doc_string)
        output.metadata_props.update(inner.metadata_props)
        inner.name = name
        self.values[path] |= {name: inner, str(output.name): output}
        inner.replace_all_uses_with(output, replace_graph_outputs=True)


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values of a graph by name, without those around it."""
    made = (value for node in graph for value in node.outputs)
    values = (*graph.inputs, *graph.initializers.values(), *made)
    return {value.name: value for value in values if value.name}


def _graph_at(model: ir.Model, path: GraphPath) -> ir.Graph:
    graph = model.graph
    for index, name in path:
        graph = list(graph)[index].attributes[name].as_graph()
    return graph


def _constant(name: str, value: Array) -> ir.Value:
    tensor = ir.tensor(value, name=name)
    return ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(value.shape),
        const_value=tensor,
    )
