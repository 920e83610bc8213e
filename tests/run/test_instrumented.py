"""Sums of squares read off a run, and what the runtime says when it cannot run."""

import numpy as np
import onnx
import pytest

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.run.emit import Emitter
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Session
from tests.oracles.unoptimised import run

MODEL = """
<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
main (float[2, rows, 5] x, float[2, rows, 5] k, bool c) => (float[2, rows, 5] y)
<float[5] g = {{1, 2, 3, 4, 5}}>
{{
    [layer] a = LayerNormalization(x, g)
    [skip] b = com.microsoft.SkipSimplifiedLayerNormalization(a, k, g)
    [simple] d = SimplifiedLayerNormalization<axis = -1>(b, g)
    y = If (c) <
        then_branch = t () => (float[2, rows, 5] o) {{ [inner] o = LayerNormalization(d, g) }},
        else_branch = e () => (float[2, rows, 5] p) {{ p = Identity(d) }}
    >
    dead = Exp(y)
}}
"""


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("keep_outputs", [True, False])
def test_sums_of_squares_are_those_of_the_norms_inputs(opset: int, keep_outputs: bool) -> None:
    model = onnx.parser.parse_model(MODEL.format(opset=opset))
    before = model.SerializeToString()
    instrumented = instrument(model, find_norms_in(read_graph(model)), keep_outputs)
    assert model.SerializeToString() == before
    assert sorted(instrumented.sums) == ["inner", "layer", "simple", "skip"]

    for tensor in ("a", "b"):
        instrumented.model.graph.output.add(name=tensor).type.tensor_type.elem_type = 1
    random = np.random.default_rng(8)
    x, k = (random.normal(size=(2, 7, 5)).astype(np.float32) * 100 for _ in range(2))
    values = Session(instrumented.model, None).run({"x": x, "k": k, "c": np.array(True)})

    centred = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    truth = {
        "layer": centred,
        "skip": values["a"].astype(np.float64) + k,
        "simple": values["b"].astype(np.float64),
    }
    for name, rows in truth.items():
        sums = values[instrumented.sums[name]]
        np.testing.assert_allclose(sums, (rows**2).sum(-1, keepdims=True), rtol=1e-5)
    assert ("y" in values) == keep_outputs
    assert "Exp" not in {node.op_type for node in instrumented.model.graph.node}


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("keep_outputs", [True, False])
def test_a_norm_in_a_branch_has_rows_when_the_branch_is_taken(
    opset: int, keep_outputs: bool
) -> None:
    model = onnx.parser.parse_model(MODEL.format(opset=opset))
    instrumented = instrument(model, find_norms_in(read_graph(model)), keep_outputs)
    instrumented.model.graph.output.add(name="d").type.tensor_type.elem_type = 1
    session = Session(instrumented.model, None)
    feeds = {name: np.random.default_rng(9).normal(size=(2, 7, 5)) for name in ("x", "k")}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    values = session.run({**feeds, "c": np.array(True)})
    centred = values["d"] - values["d"].mean(-1, keepdims=True)
    truth = (centred.astype(np.float64) ** 2).sum(-1).reshape(-1)
    np.testing.assert_allclose(values[instrumented.sums["inner"]], truth, rtol=1e-5)
    values = session.run({**feeds, "c": np.array(False)})
    assert values[instrumented.sums["inner"]].shape == (0,)


def test_a_norm_in_a_loop_has_rows_for_each_iteration() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[2, 5] x) => (float[2, 5] y) <int64 n = {3}, float[5] g = {1, 2, 3, 4, 5}>
        {
            y = Loop (n, , x) <
                body = b (int64 i, bool go, float[2, 5] s) => (bool on, float[2, 5] t) {
                    on = Identity(go)
                    [inner] t = LayerNormalization(s, g)
                }
            >
        }""")
    norms = find_norms_in(read_graph(model))
    assert [norm.name for norm in norms] == ["inner"]
    observed = instrument(model, norms)
    x = np.random.default_rng(3).normal(size=(2, 5)).astype(np.float32)
    found = run(observed.model, x=x)[observed.sums["inner"]]
    rows, expected = x.astype(np.float64), []
    for _ in range(3):
        centred = rows - rows.mean(axis=1, keepdims=True)
        expected.append((centred**2).sum(axis=1))
        deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        rows = centred / deviation * np.arange(1, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_layer_norm_in_one_pass_sums_the_squares_of_the_input_as_it_is() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 64] x) => (float[rows, 64] y) <float eps = {1e-5}>
        {
            mu = ReduceMean<axes = [-1]>(x) q = Mul(x, x) e = ReduceMean<axes = [-1]>(q)
            w = Mul(mu, mu) m = Sub(e, w) v = Add(m, eps) s = Sqrt(v) c = Sub(x, mu) y = Div(c, s)
        }""")
    (norm,) = find_norms_in(read_graph(model))
    assert (norm.kind, norm.one_pass) == ("layer", True)
    instrumented = instrument(model, [norm])
    x = np.random.default_rng(4).normal(300, 2, (6, 64)).astype(np.float32)
    values = Session(instrumented.model, None).run({"x": x})
    sums = values[instrumented.sums[norm.name]]
    np.testing.assert_allclose(sums, (x.astype(np.float64) ** 2).sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    "imports", ['"": 18, "ai.onnx": 1', '"ai.onnx": 1, "": 18', '"ai.onnx": 18', '"": 18']
)
def test_the_opset_is_that_of_the_empty_domain_where_both_are_imported(imports: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: [{imports}]>
        m (float[N] x) => (float[N] y) {{ y = Neg(x) }}""")
    assert Emitter(model).opset == 18


def test_new_constants_are_inputs_before_ir_version_4() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 3, opset_import: ["": 8]>
        main (float[2, 5] x, float eps) => (float[2, 5] y) <float eps = {1}>
        {
            q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) y = Div(x, s)
        }""")
    instrumented = instrument(model, find_norms_in(read_graph(model)))
    graph = instrumented.model.graph
    assert {c.name for c in graph.initializer} <= {i.name for i in graph.input}
    values = Session(instrumented.model, None).run({"x": np.ones((2, 5), np.float32)})
    assert [values[name].tolist() for name in instrumented.sums.values()] == [[[5], [5]]]


def test_a_session_names_its_outputs_and_takes_what_it_needs() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> m (float[N] x) => (float[N] y) { y = Neg(x) }'
    session = Session(onnx.parser.parse_model(text), None)
    x = np.ones(3, np.float32)
    assert session.outputs == ["y"]
    assert np.array_equal(session.run({"x": x, "not an input": x})["y"], -x)
    assert np.array_equal(session.run({"x": x.astype(np.float64)})["y"], -x)
    with pytest.raises(CannotRun, match="cannot run the model"):
        session.run({"x": x.astype(np.int64)})


def test_a_model_that_the_runtime_does_not_take_is_named() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> m (float[N] x) => (float[N] y) { y = No(x) }'
    with pytest.raises(CannotRun, match="cannot load the model"):
        Session(onnx.parser.parse_model(text), None)


def test_outputs_that_are_no_tensors_are_left_out() -> None:
    text = """<ir_version: 10, opset_import: ["": 17]>
        main (float[2, 3] x, float[3] z) => (float[2, 3] y, seq(float) parts)
        { y = Neg(x) parts = SequenceConstruct(x, z) }"""
    feeds = {"x": np.ones((2, 3), np.float32), "z": np.ones(3, np.float32)}
    assert list(Session(onnx.parser.parse_model(text), None).run(feeds)) == ["y"]
