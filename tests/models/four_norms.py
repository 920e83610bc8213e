"""A model with a norm of each status: scaled, unchanged, skipped, and scaled in a branch."""

import numpy as np
import onnx
from onnx import numpy_helper

TEXT = """
<
    ir_version: 10, opset_import: ["": 17], producer_name: "exporter", doc_string: "four norms",
    metadata_props: ["author": "someone"]
>
main (int64[1, rows] ids, bool deep) => (float[1, rows, 32] y, float[1, rows, 1] deviation)
<float eps = {1e-5}, float half = {0.5}>
{
    h = Gather(table, ids)
    [hot] a = LayerNormalization<axis = -1, epsilon = 1e-5>(h, gamma)
    halved = Mul(a, half)
    [mild] b = LayerNormalization<axis = -1, epsilon = 1e-5>(halved, gamma)
    q = Mul(h, h)
    m = ReduceMean<axes = [-1]>(q)
    v = Add(m, eps)
    deviation = Sqrt(v)
    [plain] n = Div(h, deviation)
    c = If (deep) <
        then_branch = deeper () => (float[1, rows, 32] o) {
            [inner] o = LayerNormalization<axis = -1>(h, gamma)
        },
        else_branch = as_it_is () => (float[1, rows, 32] o) { o = Identity(a) }
    >
    bn = Add(b, n)
    y = Add(bn, c)
}
"""
ROWS = 50


def four_norms(leaky: bool = True) -> onnx.ModelProto:
    """The model, with rows of about 1000: 32 squares of that are 488 times the largest FP16 number.

    Args:
        leaky: Whether the deviation of the norm "plain" is an output, so that it must not change
            and its rows still overflow. Without it validation passes.
    """
    model = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(3)
    table = (random.normal(size=(ROWS, 32)) * 1000).astype(np.float32)
    gamma = random.uniform(0.5, 1.5, 32).astype(np.float32)
    for name, value in (("table", table), ("gamma", gamma)):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    if not leaky:
        del model.graph.output[1]
    return model
