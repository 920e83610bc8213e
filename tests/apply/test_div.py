"""Rewriting: what scaling adds and changes, in every element type, and nothing else."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.scaled import scaled_epsilon
from tests.oracles.proto_diff import differences
from tests.oracles.unoptimised import Values, different, run

RMS = "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) n = Div(x, s)"


def scale_all(model: onnx.ModelProto, scale: float) -> bool:
    norms = find_norms_in(read_graph(model))
    return apply_scales_in(model, norms, {norm.name: scale for norm in norms})


def constants(model: onnx.ModelProto) -> Values:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


TWO_NORMS = """
<ir_version: 8, opset_import: ["": 17]>
main (float[rows, 4] x) => (float[rows, 4] y)
<float eps = {1}, float[4] g = {1, 2, 3, 4}>
{
    q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) [one] n = Div(x, s)
    w = Mul(n, g)
    q2 = Mul(w, w) m2 = ReduceMean<axes = [-1]>(q2) v2 = Add(eps, m2) s2 = Sqrt(v2)
    [two] n2 = Div(w, s2)
    z = Mul(n2, g)
    y = Add(z, eps)
}
"""


def test_an_epsilon_that_others_read_stays() -> None:
    before, model = onnx.parser.parse_model(TWO_NORMS), onnx.parser.parse_model(TWO_NORMS)
    assert apply_scales_in(model, find_norms_in(read_graph(model)), {"two": 8.0})
    assert differences(before, model) == [
        "graph.node[w/slanc]: added",
        "graph.node[q2].input: ['w', 'w'] -> ['w/slanc', 'w/slanc']",
        "graph.node[v2].input: ['eps', 'm2'] -> ['slanc.epsilon_0.015625', 'm2']",
        "graph.node[n2].input: ['w', 's2'] -> ['w/slanc', 's2']",
        "graph.initializer[slanc.scale_8]: added",
        "graph.initializer[slanc.epsilon_0.015625]: added",
    ]


def test_equal_scales_share_one_initializer() -> None:
    model = onnx.parser.parse_model(TWO_NORMS)
    scale_all(model, 4.0)
    assert list(constants(model)) == ["eps", "g", "slanc.scale_4", "slanc.epsilon_0.0625"]
    assert constants(model)["slanc.scale_4"] == 4
    assert constants(model)["slanc.epsilon_0.0625"] == 1 / 16


def test_names_that_are_taken_are_left_alone() -> None:
    model = onnx.parser.parse_model(TWO_NORMS)
    for name in ("slanc.scale_4", "w/slanc"):
        model.graph.initializer.append(numpy_helper.from_array(np.array(7, np.float32), name))
    scale_all(model, 4.0)
    assert constants(model)["slanc.scale_4"] == 7
    assert constants(model)["slanc.scale_4_2"] == 4
    assert "w/slanc_2" in [node.output[0] for node in model.graph.node]


def test_new_initializers_are_inputs_too_before_ir_version_4() -> None:
    text = TWO_NORMS.replace("ir_version: 8", "ir_version: 3").replace('"": 17', '"": 8')
    text = text.replace("float[rows, 4] x)", "float[rows, 4] x, float eps, float[4] g)")
    before, model = onnx.parser.parse_model(text), onnx.parser.parse_model(text)
    onnx.checker.check_model(before, full_check=True)
    scale_all(model, 4.0)
    onnx.checker.check_model(model, full_check=True)
    new = ["slanc.scale_4", "slanc.epsilon_0.0625"]
    assert [info.name for info in model.graph.input] == ["x", "eps", "g", *new]
    x = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    assert different(run(before, x=x), run(model, x=x)) == []


def test_a_model_without_a_named_norm_is_not_modified() -> None:
    before, model = onnx.parser.parse_model(TWO_NORMS), onnx.parser.parse_model(TWO_NORMS)
    assert not apply_scales_in(model, find_norms_in(read_graph(model)), {"three": 2.0})
    assert differences(before, model) == []


def test_new_nodes_carry_the_scale_and_the_norm() -> None:
    model = onnx.parser.parse_model(SKIP)
    scale_all(model, 0.25)
    stamped = {
        node.name: {p.key: p.value for p in node.metadata_props}
        for node in model.graph.node
        if node.metadata_props
    }
    props = {"slanc.scale": "0.25", "slanc.norm": "skip"}
    assert stamped == {
        "skip/slanc_Div": props,
        "skip/slanc_Div_2": props,
        "skip/slanc_Div_3": props,
        "skip/slanc_Mul": props,
    }


SKIP = """
<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
main (float[1, rows, 4] x, float[1, rows, 4] k) => (float[1, rows, 4] y, float[1, rows, 4] sum)
<float[4] g = {1, 2, 3, 4}, float[4] b = {0, 1, 0, 1}, float[4] bias = {5, 6, 7, 8}>
{
    [skip] z, mean, inv, sum = com.microsoft.SkipLayerNormalization(x, k, g, b, bias)
    y = Add(z, sum)
}
"""


def test_the_sum_of_a_skip_op_keeps_its_name_and_value() -> None:
    model = onnx.parser.parse_model(SKIP)
    random = np.random.default_rng(5)
    feeds = {n: random.normal(size=(1, 9, 4)).astype(np.float32) * 300 for n in ("x", "k")}
    before = run(model, **feeds)
    scale_all(model, 64.0)
    assert [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node] == [
        ("Div", ["x", "slanc.scale_64"], ["x/slanc"]),
        ("Div", ["k", "slanc.scale_64"], ["k/slanc"]),
        ("Div", ["bias", "slanc.scale_64"], ["bias/slanc"]),
        (
            "SkipLayerNormalization",
            ["x/slanc", "k/slanc", "g", "b", "bias/slanc"],
            ["z", "mean", "inv", "sum/slanc"],
        ),
        ("Mul", ["sum/slanc", "slanc.scale_64"], ["sum"]),
        ("Add", ["z", "sum"], ["y"]),
    ]
    assert different(before, run(model, **feeds)) == []


def test_an_epsilon_from_a_constant_node_is_replaced_where_the_norm_reads_it() -> None:
    text = f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 4] x) => (float[rows, 4] n) {{
            eps = Constant<value_float = 0.5>() {RMS} }}"""
    before, model = onnx.parser.parse_model(text), onnx.parser.parse_model(text)
    scale_all(model, 2.0)
    assert "graph.node[v].input: ['m', 'eps'] -> ['m', 'slanc.epsilon_0.125']" in (
        differences(before, model)
    )
    assert not any("node[eps]" in line for line in differences(before, model))


@pytest.mark.parametrize(
    ("name", "dtype", "epsilon", "scale", "expected"),
    [
        ("float", np.float32, 1e-5, 4.0, float(np.float32(1e-5)) / 16),
        ("float", np.float32, 1e-40, 2.0**10, 2.0**-149),
        ("float16", np.float16, 2.0**-10, 16.0, 2.0**-18),
        ("float16", np.float16, 1e-5, 0.25, 168 * 2.0**-20),  # FP16 holds 1e-5 as 168 * 2^-24
        ("float16", np.float16, 1e-5, 1024.0, 2.0**-24),
        ("float16", np.float16, 0.0, 1024.0, 0.0),
        ("double", np.float64, 1e-12, 64.0, 1e-12 / 4096),
        ("bfloat16", ml_dtypes.bfloat16, 2.0**-10, 64.0, 2.0**-22),
        ("bfloat16", ml_dtypes.bfloat16, 2.0**-130, 64.0, 2.0**-133),
        ("float16", np.float16, 1.0, 2.0**-10, 65504.0),
        ("bfloat16", ml_dtypes.bfloat16, 2.0**100, 2.0**-20, 255 * 2.0**120),
        ("float", np.float32, 2.0**100, 2.0**-20, float(np.finfo(np.float32).max)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_scale_and_epsilon_have_the_type_of_the_norm_and_are_neither_zero_nor_infinite(
    name: str, dtype: type[np.generic], epsilon: float, scale: float, expected: float
) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main ({name}[rows, 4] x) => ({name}[rows, 4] n) {{ {RMS} }}""")
    model.graph.initializer.append(numpy_helper.from_array(np.array(epsilon, dtype), "eps"))
    assert scale_all(model, scale)
    onnx.checker.check_model(model, full_check=True)
    _, divisor, added = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    assert divisor.dtype == added.dtype == np.dtype(dtype)
    assert (divisor.shape, added.shape) == ((), ())
    assert float(divisor.astype(np.float64)) == scale
    assert float(added.astype(np.float64)) == expected


def test_an_fp16_input_that_is_squared_in_fp32_gets_one_division_in_each_type() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float16[rows, 4] x) => (float16[rows, 4] y) <float eps = {1e-5}>
        {
            f = Cast<to = 1>(x) q = Mul(f, f) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps)
            s = Sqrt(v) i = Reciprocal(s) r = Cast<to = 10>(i) y = Mul(x, r)
        }""")
    scale_all(model, 64.0)
    onnx.checker.check_model(model, full_check=True)
    _, *added = constants(model).values()
    assert sorted((str(value.dtype), float(value)) for value in added) == [
        ("float16", 64.0),
        ("float32", float(np.float32(1e-5)) / 4096),
        ("float32", 64.0),
    ]


IDENTITY = {
    "layer": (2, "y = LayerNormalization<epsilon = 1e-5>(x, g)"),
    "rms": (2, f"{RMS} y = Mul(n, g)"),
    "epsilon outside the root": (
        1,
        "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) r = Sqrt(m) s = Add(r, eps) y = Div(x, s)",
    ),
}
magnitudes = st.floats(2.0**-30, 2.0**30, width=32)


@pytest.mark.parametrize("title", IDENTITY)
@settings(max_examples=30, deadline=None)
@given(
    x=arrays(np.float32, (2, 5), elements=magnitudes | magnitudes.map(lambda v: -v) | st.just(0.0)),
    exponent=st.integers(-15, 15),
)
@example(x=np.zeros((2, 5), np.float32), exponent=15)
def test_a_power_of_two_is_exact(title: str, x: NDArray[np.float32], exponent: int) -> None:
    power, nodes = IDENTITY[title]
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 5] x) => (float[rows, 5] y)
        <float eps = {{1e-5}}, float[5] g = {{1, -2, 3, -4, 5}}> {{ {nodes} }}""")
    before = run(model, x=x)
    (norm,) = find_norms_in(read_graph(model))
    scale = 2.0**exponent
    assert scaled_epsilon(norm, scale) == float(np.float32(1e-5)) / scale**power
    scale_all(model, scale)
    assert different(before, run(model, x=x)) == []
