"""Facts that a file tells of a tensor: no more of its shape than the file says."""

import pytest
from onnx import parser

from slanc_onnx.graph.facts import dims, last_dim
from slanc_onnx.graph.scope import read_graph

# Title -> nodes from x [2, 3] and unknown u to y, the dimensions of y, its last dimension.
TOLD: dict[str, tuple[str, tuple[int, ...] | None, int | None]] = {
    "a cast": ("y = Cast<to = 10>(x)", (2, 3), 3),
    "a sum with a number": ("y = Add(x, number)", (2, 3), 3),
    "a sum with a row": ("y = Add(row, x)", (2, 3), 3),
    "a sum that is longer than both": ("y = Add(row, column)", (2, 3), 3),
    "a sum with what is unknown": ("y = Add(u, row)", None, 3),
    "a sum with a single number and what is unknown": ("y = Add(u, single)", None, None),
    "what is unknown times a row": ("y = Mul(u, row)", None, 3),
    "what is unknown times a matrix": ("y = MatMul(u, x)", None, 3),
    "what is unknown times a turned matrix": ("y = Gemm<transB = 1>(u, x)", None, 2),
    "a matrix times what is unknown": ("y = MatMul(x, u)", None, None),
    "a fused norm": ("y = SimplifiedLayerNormalization(x, row)", (2, 3), 3),
    "a cast of such a sum": ("z = Add(u, row) y = Cast<to = 10>(z)", None, 3),
    "a sum of such a sum with a matrix": ("z = Add(u, row) y = Add(x, z)", None, 3),
    "integers and their scale": ("y = DequantizeLinear(whole, scales)", (4, 3), 3),
    "integers that are unknown": ("y = DequantizeLinear(some, scales)", None, None),
    "what is unknown": ("y = Neg(u)", None, None),
}


@pytest.mark.parametrize("title", TOLD)
def test_dimensions_are_those_that_the_file_tells(title: str) -> None:
    nodes, wanted, last = TOLD[title]
    model = parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 17, "unknown" : 1]>
        g (float[2, 3] x) => (float out)
        <float number = {{1}}, float[1] single = {{1}}, float[3] row = {{1, 2, 3}},
         float[2, 1] column = {{1, 2}}, float[3] scales = {{1, 1, 1}},
         int8[4, 3] whole = {{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}}>
        {{ u = unknown.Op(x) some = unknown.Integers(x) {nodes} out = unknown.End(y) }}""")
    (scope,) = read_graph(model)
    y = next(t for node in scope.graph.nodes for t in node.outputs if t.name == "y")
    assert dims(scope, y) == wanted
    assert last_dim(scope, y) == last
