"""Put the nodes of a model into a model-local function, and leave one call in the graph."""

import onnx
from onnx import helper

DOMAIN = "local"


def wrapped(model: onnx.ModelProto, name: str = "norm") -> onnx.ModelProto:
    """The same model with all its nodes in a function whose inputs are all that they read."""
    graph = model.graph
    made = {output for node in graph.node for output in node.output}
    read = [name for node in graph.node for name in node.input if name and name not in made]
    inputs = list(dict.fromkeys(read))
    outputs = [info.name for info in graph.output]
    function = helper.make_function(
        DOMAIN, name, inputs, outputs, list(graph.node), list(model.opset_import)
    )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.append(helper.make_node(name, inputs, outputs, domain=DOMAIN))
    copy.functions.append(function)
    copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return copy
