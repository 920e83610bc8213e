"""Norms inside model-local functions: their calls are inlined, and nothing else is."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import apply_scales, compute_scales, find_norms, protect_file
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.load import load_model
from slanc_onnx.norms.functions import inline_norm_functions
from slanc_onnx.reasons import Note, Reason
from tests.oracles.proto_diff import differences
from tests.oracles.unoptimised import different, run

FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "local": 1, "unused": 3], producer_name: "exporter",
 metadata_props: ["author": "someone"]>
main (float[2, 8] x, bool c) => (float[2, 8] y)
<float[8] g = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{ {calls} }}
<domain: "local", opset_import: ["": 17, "local": 1]>
written_out (x) => (y) {{
    two = Constant<value_float = 2.0>() eps = Constant<value_float = 1e-5>()
    q = Pow(x, two) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v) y = Div(x, s) }}
<domain: "local", opset_import: ["": 17, "local": 1]>
fused <epsilon: float> (x, g) => (y) {{
    y = LayerNormalization<axis = -1, epsilon: float = @epsilon>(x, g) }}
<domain: "local", opset_import: ["": 17, "local": 1]>
outer (x, g) => (y) {{ h = local.fused<epsilon = 1e-3>(x, g) y = local.twice(h) }}
<domain: "local", opset_import: ["": 17, "local": 1]>
twice (x) => (y) {{ y = Add(x, x) }}
<domain: "local", opset_import: ["": 17, "local": 1]>
no_norm (x) => (y) {{ m = ReduceMean<axes = [-1]>(x) a = Abs(m) s = Sqrt(a) y = Mul(x, s) }}
"""
BRANCH = """
    y = If (c) <then_branch = t () => (float[2, 8] o) { o = local.written_out(x) },
                else_branch = e () => (float[2, 8] p) { p = Exp(x) }>
"""
# What is called: the functions that are inlined, and the norms that are found then.
CALLS = {
    "no function": ("y = Exp(x)", [], 0),
    "one without a norm": ("y = local.twice(x)", [], 0),
    "one that only looks like it": ("y = local.no_norm(x)", [], 0),
    "one of both": ("z = local.no_norm(x) y = local.written_out(z)", ["written_out"], 1),
    "once": ("y = local.written_out(x)", ["written_out"], 1),
    "from two places": ("z = local.written_out(x) y = local.written_out(z)", ["written_out"], 2),
    # A function that is not called, but calls one of these, goes too: its call would be dangling.
    "with its epsilon": ("y = local.fused<epsilon = 1e-2>(x, g)", ["fused", "outer"], 1),
    "inside another": ("z = local.twice(x) y = local.outer(z, g)", ["fused", "outer"], 1),
    "in a branch": (BRANCH, ["written_out"], 1),
}
each_call = pytest.mark.parametrize(("calls", "functions", "norms"), CALLS.values(), ids=CALLS)


def model_of(calls: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(FUNCTIONS.format(calls=calls))


@each_call
def test_the_functions_that_hold_norms_are_inlined(
    calls: str, functions: list[str], norms: int
) -> None:
    model = model_of(calls)
    before = model.SerializeToString()
    inlined, names = inline_norm_functions(model)
    assert sorted(names) == functions
    assert (inlined is model) == (not functions)
    assert model.SerializeToString() == before
    assert len(find_norms(model)) == norms
    assert {f.name for f in inlined.functions} == {f.name for f in model.functions} - {*functions}


@each_call
def test_the_scaled_model_computes_the_same(calls: str, functions: list[str], norms: int) -> None:
    model = model_of(calls)
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32) * 1e3}
    feeds["c"] = np.array(True)
    expected = run(model, **feeds)
    changed = apply_scales(model, compute_scales(model))
    assert changed == bool(norms)
    assert different(expected, run(model, **feeds)) == []


def test_epsilon_is_that_of_the_call() -> None:
    found = find_norms(model_of(CALLS["with its epsilon"][0]))
    assert [norm.epsilon for norm in found] == [pytest.approx(1e-2)]
    found = find_norms(model_of(CALLS["inside another"][0]))
    assert [norm.epsilon for norm in found] == [pytest.approx(1e-3)]


def test_nothing_but_the_calls_changes() -> None:
    model = model_of(CALLS["one of both"][0])
    model.graph.doc_string = "a graph"
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("z", 1, [2, 8]))
    model.graph.node[0].metadata_props.add(key="from", value="layer 0")
    inlined, _ = inline_norm_functions(model)
    found = [text for text in differences(model, inlined) if "graph.node[" not in text]
    assert found == ["functions[written_out]: removed"]
    assert inlined.graph.node[0] == model.graph.node[0]


def test_a_function_that_stands_for_a_fused_op_stays_and_is_the_norm() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        main (float[2, 8] x, float[2, 8] k) => (float[2, 8] y) <float[8] g = {1,1,1,1,1,1,1,1}>
        { y = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(x, k, g) }
        <domain: "com.microsoft", opset_import: ["": 17]>
        SkipLayerNormalization <epsilon> (x, k, g) => (y)
        { s = Add(x, k) y = LayerNormalization(s, g) }""")
    inlined, names = inline_norm_functions(model)
    assert (inlined is model, names) == (True, [])
    assert [norm.form for norm in find_norms(model)] == ["SkipLayerNormalization"]


def test_a_file_with_functions_and_external_weights(tmp_path: Path) -> None:
    model = model_of("h = MatMul(x, w) y = local.written_out(h)")
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32) * 100
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=64
    )
    data = (tmp_path / "w.bin").read_bytes()
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert outcome.passed
    assert outcome.validation is not None and outcome.validation.fp32_identical
    assert outcome.notes == [
        Reason(Note.INLINED, ("written_out",)),
        Reason(Note.EPSILON_ROUNDED_AWAY, ("y",)),
    ]
    assert (tmp_path / "w.bin").read_bytes() == data
    again = protect_file(str(tmp_path / "out.onnx"), str(tmp_path / "again.onnx"))
    assert [norm.status for norm in again.norms] == ["unchanged"]
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_a_wrong_inlining_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaled model is held against the file as it was, not against what was inlined."""
    onnx.save(model_of("y = local.written_out(x)"), tmp_path / "m.onnx")
    wrong = model_of("z = Add(x, x) h = Mul(z, g) y = local.written_out(h)")
    inlined, names = inline_norm_functions(wrong)
    monkeypatch.setattr(
        "slanc_onnx.norms.model.inline_norm_functions", lambda *_, **__: (inlined, names)
    )
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert outcome.validation is not None
    assert not outcome.validation.fp32_identical
    assert not outcome.passed


def test_scales_are_applied_to_every_call(tmp_path: Path) -> None:
    model, _ = inline_norm_functions(model_of(CALLS["from two places"][0]))
    norms = find_norms(model)
    assert apply_scales_in(model, norms, {norm.name: 4.0 for norm in norms})
    onnx.save(model, tmp_path / "m.onnx")
    assert [n.scaled_by for n in find_norms(load_model(tmp_path / "m.onnx"))] == [4.0, 4.0]
