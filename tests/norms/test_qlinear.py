"""Norms with a QLinear op between their steps are suspects, but where integers end them."""

import numpy as np
import onnx
import pytest

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.norms import read_model
from slanc_onnx.report.wording import reason_text
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import different, run

TEXT = """
<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
main (float[2, 5, 8] x) => (float[2, 5, 8] y)
<float a = {{0.1}}, float b = {{0.2}}, uint8 z = {{128}}, uint8 none = {{0}}, float eps = {{0.01}},
 uint8 one = {{1}}>
{{ {nodes} }}
"""
MEAN = "ReduceMean<axes = [-1]>"
ROOT = "t = Add(v, eps) s = Sqrt(t)"
REFUSED = {
    "squares": "xi = QuantizeLinear(x, a, z) q = com.microsoft.QLinearMul(xi, a, z, xi, a, z, b, "
    f"none) d = DequantizeLinear(q, b, none) v = {MEAN}(d) {ROOT} y = Div(x, s)",
    "epsilon": f"q = Mul(x, x) v = {MEAN}(q) vi = QuantizeLinear(v, b, none) "
    "ti = com.microsoft.QLinearAdd(vi, b, none, one, a, none, b, none) "
    "t = DequantizeLinear(ti, b, none) s = Sqrt(t) y = Div(x, s)",
    "mean": "q = Mul(x, x) qi = QuantizeLinear(q, b, none) vi = com.microsoft.QLinearReduceMean"
    f"<axes = [-1]>(qi, b, none, b, none) v = DequantizeLinear(vi, b, none) {ROOT} y = Div(x, s)",
    "pool": "q = Mul(x, x) qi = QuantizeLinear(q, b, none) "
    "vi = com.microsoft.QLinearGlobalAveragePool(qi, b, none, b, none) "
    f"v = DequantizeLinear(vi, b, none) {ROOT} y = Div(x, s)",
}


def written(nodes: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.format(nodes=nodes))


@pytest.mark.parametrize("nodes", REFUSED.values(), ids=REFUSED)
def test_a_norm_that_computes_with_integers_is_a_suspect(nodes: str) -> None:
    read = read_model(written(nodes))
    assert read.norms == []
    (suspect,) = read.suspects
    assert len(reason_text(suspect.reason)) > 20


def test_the_last_product_may_be_of_integers() -> None:
    """They stay as they are; only what is made integers of is divided, with its scale."""
    nodes = (
        f"q = Mul(x, x) v = {MEAN}(q) {ROOT} r = Reciprocal(s) ri = QuantizeLinear(r, b, none) "
        "xi = QuantizeLinear(x, a, z) "
        "yi = com.microsoft.QLinearMul(xi, a, z, ri, b, none, a, z) y = DequantizeLinear(yi, a, z)"
    )
    model = written(nodes)
    norm, x = only_norm(model), np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    before = run(model, x=x)
    assert norm.skip_reason is None
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, x=x)) == []


def test_a_mean_of_squares_that_divides_nothing_is_none() -> None:
    read = read_model(written(REFUSED["mean"].replace("y = Div(x, s)", "y = Add(x, s)")))
    assert read.norms == [] and read.suspects == []
