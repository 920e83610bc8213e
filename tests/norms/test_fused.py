"""Ops that add before they normalise, that hide their input, or that are one half of a norm."""

import numpy as np
import onnx
import pytest

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.report.wording import reason_text
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import Values, different, run
from tests.spellings.spelling import HEADER, D

SKIP = {
    "layer, three inputs": "y = com.microsoft.SkipLayerNormalization(x, k, g)",
    "layer, beta": "y = com.microsoft.SkipLayerNormalization<epsilon: float = 1e-5>(x, k, g, b)",
    "layer, bias": "y = com.microsoft.SkipLayerNormalization(x, k, g, b, bias)",
    "layer, sum": "y, _, _, sum = com.microsoft.SkipLayerNormalization(x, k, g, b)",
    "layer, sum and bias": "y, _, _, sum = com.microsoft.SkipLayerNormalization(x, k, g, b, bias)",
    "layer, four outputs": "y, t, u, sum = com.microsoft.SkipLayerNormalization(x, k, g, b)",
    "layer, x twice": "y, _, _, sum = com.microsoft.SkipLayerNormalization(x, x, g, b)",
    "rms": "y = com.microsoft.SkipSimplifiedLayerNormalization(x, k, g)",
    "rms, bias": "y = com.microsoft.SkipSimplifiedLayerNormalization(x, k, g, bias)",
    "rms, sum": "y, _, _, sum = com.microsoft.SkipSimplifiedLayerNormalization(x, k, g)",
    "rms, sum and bias": "y, _, _, sum = com.microsoft.SkipSimplifiedLayerNormalization"
    "<epsilon: float = 1e-5>(x, k, g, bias)",
    "rms, four outputs": "y, t, u, sum = com.microsoft.SkipSimplifiedLayerNormalization(x, k, g)",
}


def skip_model(nodes: str) -> onnx.ModelProto:
    """The text with x and k as inputs; an output called _ is absent, sum is a graph output."""
    text = HEADER.format(opset=17, nodes=nodes)
    text = text.replace("8] x)", "8] x, float[2, rows, 8] k)")
    text = text.replace("<float[8] g", "<float[8] bias = {9, 8, 7, 6, 5, 4, 3, 2}, float[8] g")
    if "sum" in nodes:
        text = text.replace("8] y)", "8] y, float[2, rows, 8] sum)")
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.output[:] = ["" if name == "_" else name for name in node.output]
    return model


def wide_inputs() -> Values:
    """Two addends with rows from 1e-7 to 1e4."""
    random = np.random.default_rng(1)
    size = 10.0 ** random.uniform(-7, 4, (2, 256, 1))
    return {
        name: (random.normal(size=(2, 256, D)) * size).astype(np.float32) for name in ("x", "k")
    }


@pytest.mark.parametrize("title", SKIP)
def test_a_skip_op_divides_every_addend(title: str) -> None:
    model = skip_model(SKIP[title])
    norm = only_norm(model)
    assert norm.kind == title.split(",")[0]
    assert norm.gamma == "g"
    assert norm.beta == ("b" if ", b)" in SKIP[title] or ", b, " in SKIP[title] else None)
    read = [model.graph.node[place.node].input[place.position] for place in norm.places]
    skip = "x" if "twice" in title else "k"
    assert read == ["x", skip, *(["bias"] if "bias" in title else [])]
    assert norm.epsilon == pytest.approx(1e-5 if "epsilon" in SKIP[title] else 1e-12, rel=1e-7)


@pytest.mark.parametrize("scale", [0.25, 64.0])
@pytest.mark.parametrize("title", SKIP)
def test_a_scaled_skip_op_changes_no_bit_of_its_outputs(title: str, scale: float) -> None:
    model, feeds = skip_model(SKIP[title]), wide_inputs()
    before = run(model, **feeds)
    norm = only_norm(model)
    assert apply_scales_in(model, [norm], {norm.name: scale})
    onnx.checker.check_model(model)
    assert different(before, run(model, **feeds)) == []
    assert only_norm(model).scaled_by == scale


def test_the_norm_after_a_skip_op_may_read_its_sum() -> None:
    model = skip_model(
        "z, _, _, sum = com.microsoft.SkipSimplifiedLayerNormalization(x, k, g) "
        "w = LayerNormalization(sum, g, b) y = Add(w, z)"
    )
    before = run(model, **wide_inputs())
    norms = find_norms_in(read_graph(model))
    assert [norm.name for norm in norms] == ["z", "w"]
    apply_scales_in(model, norms, {norm.name: 16.0 for norm in norms})
    onnx.checker.check_model(model)  # the nodes are still sorted
    assert different(before, run(model, **wide_inputs())) == []


def test_centring_that_others_read_stays_outside_the_norm() -> None:
    model = onnx.parser.parse_model(
        HEADER.format(
            opset=23,
            nodes="mu = ReduceMean(x, last) c = Sub(x, mu) n = RMSNormalization(c, g) "
            "y = Add(n, c)",
        )
    )
    norm = only_norm(model)
    assert (norm.kind, norm.input, norm.skip_reason) == ("layer", "c", None)
    assert [place[:2] for place in norm.places] == [(2, 0)]
    before = run(model, x=wide_inputs()["x"])
    apply_scales_in(model, [norm], {norm.name: 64.0})
    assert different(before, run(model, x=wide_inputs()["x"])) == []


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("n, mean = LayerNormalization(x, g) y = Add(n, mean)", "its mean is also read by Add"),
        ("n, mean, inv = LayerNormalization(x, g) y = Mul(n, inv)", "its inverse deviation is"),
        ("z, y = LayerNormalization(x, g)", "its mean is a graph output"),
        ("z, mean, y = LayerNormalization(x, g)", "its inverse deviation is a graph output"),
    ],
)
def test_a_norm_that_scaling_would_change_says_why(nodes: str, reason: str) -> None:
    text = HEADER.format(opset=17, nodes=nodes)
    text = text.replace("<float[8] g", "<float[3, 8] g2, float[8] g")
    skip_reason = only_norm(onnx.parser.parse_model(text)).skip_reason
    assert skip_reason is not None
    assert reason in reason_text(skip_reason)


def test_a_quantised_embedding_norm_has_no_input_to_divide() -> None:
    names = "ids, segments, w, p, s, g, b, , ws, ps, ss, gs, bs, wz, pz, sz, gz, bz"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        main (int32[1, 2] ids, int32[1, 2] segments, uint8[9, 4] w, uint8[9, 4] p, uint8[9, 4] s,
              uint8[4] g, uint8[4] b, float ws, float ps, float ss, float gs, float bs,
              uint8 wz, uint8 pz, uint8 sz, uint8 gz, uint8 bz) => (float[1, 2, 4] y)
        {{ y, mask = com.microsoft.QEmbedLayerNormalization<epsilon: float = 1e-12>({names}) }}""")
    norm = only_norm(model)
    assert norm.skip_reason is not None
    assert "no input tensor to divide" in reason_text(norm.skip_reason)
    assert not apply_scales_in(model, [norm], {norm.name: 4.0})
    assert [node.op_type for node in model.graph.node] == ["QEmbedLayerNormalization"]
