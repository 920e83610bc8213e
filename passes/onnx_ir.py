"""SLaNC as a pass on `onnx_ir.Model`, the graph of torch.onnx and onnxscript.

On what PyTorch exports:

    program = torch.onnx.export(module, example, dynamo=True)
    SlancPass()(program.model)
    program.save("model.slanc.onnx")

With other passes:

    model = onnx_ir.load("model.onnx")
    onnx_ir.passes.PassManager([onnx_ir.passes.common.InlinePass(), SlancPass()])(model)
    onnx_ir.save(model, "model.slanc.onnx")

`scale_model` is the same as a function, and returns what was decided for every norm.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common

from slanc_onnx import Options, ScaledNorm, SlancError, compute_scales
from slanc_onnx.apply import plan_edits
from slanc_onnx.graph import Array, Edits, GraphPath, NewNode, NodeAt
from slanc_onnx.norms import inline_norm_functions
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
        """Scale the norms in place; `modified` says whether there was one to scale."""
        decided = scale_model(model, self.options)
        return ir.passes.PassResult(model, modified=any(d.status == "scaled" for d in decided))


def scale_model(model: ir.Model, options: Options | None = None) -> list[ScaledNorm]:
    """Scale the norms of a model in place, without validation.

    Args:
        model: The model; only norms, epsilons and new initializers and nodes change.
        options: How.

    Returns:
        Every norm with its decision. The model was modified if one has the status "scaled".

    Raises:
        SlancError: bad input; the model is unchanged.
    """
    options = options or Options()
    if options.apply != "div":
        raise SlancError("this pass inserts Divs; fold scales with slanc_onnx.protect instead.")
    # Found and decided on a copy; node i of its graphs is node i of the model's.
    proto, folder = ir.to_proto(model), _external_folder(model)
    _, functions = inline_norm_functions(proto, folder)
    if functions:
        ir.passes.common.InlinePass(lambda function: function.name in functions)(model)
        proto = ir.to_proto(model)
    decided = compute_scales(proto, options, folder=folder)
    norms = [d.norm for d in decided]
    scales, target = scales_to_apply(decided), options.accelerator.stamp
    edits = plan_edits(proto, norms, scales, target, options.least_epsilon)
    _Editor(model, edits).apply()
    return decided


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
        self.edits = edits
        self.constants = {name: _constant(name, v) for name, v in edits.constants.items()}
        self.scaled: dict[str, ir.Value] = {}  # outputs of the new Divs, by name
        # As they were when the edits were planned, with places by index.
        paths = {at.path for at, _ in (*edits.inputs, *edits.outputs, *edits.attributes)}
        paths |= {at.path for at in edits.stamps}
        self.graphs = {path: _graph_at(model, path) for path in paths}
        self.nodes = {path: list(graph) for path, graph in self.graphs.items()}
        for constant in self.constants.values():
            model.graph.register_initializer(constant)

    def apply(self) -> None:
        reads = {name: place for place, name in self.edits.inputs.items()}
        outputs = {name: place for place, name in self.edits.outputs.items()}
        for new in self.edits.nodes:
            if new.op == "Div":
                at, position = reads[new.output]
                tensor = self.node(at).inputs[position]
                assert tensor is not None
                self.scaled[new.output] = self.insert(new, tensor)
            else:
                at, position = outputs[new.inputs[0]]
                self.restore(new, self.node(at).outputs[position])
        for (at, position), name in self.edits.inputs.items():
            value = self.scaled[name] if name in self.scaled else self.constants[name]
            self.node(at).replace_input_with(position, value)
        for (at, attribute), number in self.edits.attributes.items():
            self.node(at).attributes.add(ir.AttrFloat32(attribute, number))
        for at, metadata in self.edits.stamps.items():
            self.node(at).metadata_props.update(metadata)

    def node(self, at: NodeAt) -> ir.Node:
        return self.nodes[at.path][at.node]

    def insert(self, new: NewNode, tensor: ir.Value) -> ir.Value:
        """Insert a node that reads `tensor`; its output has the name and type that it needs."""
        constant = self.constants[new.inputs[1]]
        output = ir.Value(name=new.output, type=constant.type, shape=tensor.shape)
        node = ir.Node(
            "",
            new.op,
            [tensor, constant],
            outputs=[output],
            name=new.name,
            metadata_props=new.metadata,
        )
        path, index = new.before
        if index < len(self.nodes[path]):
            self.graphs[path].insert_before(self.nodes[path][index], node)
        else:
            self.graphs[path].append(node)
        return output

    def restore(self, new: NewNode, inner: ir.Value) -> None:
        """Multiply an output by its scale again, and let all its readers read that."""
        inner.name = new.inputs[0]
        output = self.insert(new, inner)
        output.doc_string = inner.doc_string
        output.metadata_props.update(inner.metadata_props)
        node = output.producer()
        assert node is not None
        inner.replace_all_uses_with(output, replace_graph_outputs=True)
        node.replace_input_with(0, inner)


def _graph_at(model: ir.Model, path: GraphPath) -> ir.Graph:
    graph = model.graph
    for index, name in path:
        graph = list(graph)[index].attributes[name].as_graph()
    return graph


def _constant(name: str, value: Array) -> ir.Value:
    tensor = ir.tensor(value, name=name)
    return ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(()), const_value=tensor
    )
