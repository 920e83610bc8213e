"""The tour: find a norm in a model, scale it, and get the same numbers bit for bit."""

import numpy as np
import onnx

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from tests.oracles.unoptimised import run

# RMSNorm as exporters write it: x / sqrt(mean(x^2) + eps) * gamma.
MODEL = """
<ir_version: 8, opset_import: ["": 17]>
main (float[rows, 4] x) => (float[rows, 4] y)
<float two = {2}, float eps = {1e-6}, float[4] gamma = {1, 0.5, -2, 3}>
{
    square = Pow(x, two)
    mean = ReduceMean<axes = [-1]>(square)
    variance = Add(mean, eps)
    deviation = Sqrt(variance)
    normalised = Div(x, deviation)
    y = Mul(normalised, gamma)
}
"""


def test_a_scaled_norm_computes_the_same_with_smaller_squares() -> None:
    model = onnx.parser.parse_model(MODEL)
    (norm,) = find_norms_in(read_graph(model))
    assert (norm.kind, norm.input, norm.output, norm.gamma) == ("rms", "x", "y", "gamma")
    assert (norm.width, norm.epsilon) == (4, float(np.float32(1e-6)))

    rows = np.array([[300, -4, 50, 6], [1e-3, 0, 2e-4, 0], [0, 0, 0, 0]], np.float32)
    before = run(model, x=rows)["y"]

    apply_scales_in(model, [norm], {norm.name: 64.0})

    assert np.array_equal(before, run(model, x=rows)["y"])
    assert [node.op_type for node in model.graph.node][:2] == ["Div", "Pow"]
    squares = (rows / 64).astype(np.float16) ** 2  # the first row's did not fit: 300^2 > 65504
    assert np.isfinite(squares).all()
