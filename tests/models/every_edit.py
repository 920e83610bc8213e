"""A model that asks for every kind of edit."""

import numpy as np
import onnx
from onnx import numpy_helper

# Every kind of edit: an epsilon attribute and an epsilon input, a Skip op whose sum of addends is
# read, is a graph output and goes on into a branch, and a norm inside that branch.
EVERY_EDIT = """
<
    ir_version: 10, opset_import: ["": 17, "com.microsoft": 1], producer_name: "exporter",
    doc_string: "a model", metadata_props: ["author": "someone"]
>
main (int64[1, rows] ids, bool deep)
    => (float[1, rows, 4] y, float[1, rows, 4] sum, float[1, rows, 4] z)
<
    float[4] g = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1}, float[4] bias = {500, 6, 7, -800},
    float eps = {1e-5}, float[1, rows, 4] h
>
{
    h = Gather(table, ids)
    [first] a = LayerNormalization<axis = -1, epsilon = 1e-5>(h, g, b)
    [second] z, mean, inv, sum = com.microsoft.SkipLayerNormalization(h, a, g, b, bias)
    q = Mul(sum, sum)
    m = ReduceMean<axes = [-1]>(q)
    v = Add(m, eps)
    s = Sqrt(v)
    [third] n = Div(sum, s)
    [choice] c = If (deep) <
        then_branch = deeper () => (float[1, rows, 4] o) {
            [fourth] o = LayerNormalization<axis = -1>(sum, g)
        },
        else_branch = as_it_is () => (float[1, rows, 4] o) { o = Identity(sum) }
    >
    y = Add(c, n)
}
"""
IDS = np.array([[0, 3, 5, 2, 7]])


def every_edit() -> onnx.ModelProto:
    model = onnx.parser.parse_model(EVERY_EDIT)
    table = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32) * 3000
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    for node in model.graph.node:
        node.doc_string = f"makes {node.output[0]}"
    return model
