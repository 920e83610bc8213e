"""What a call of a function may look like, and what inlining it must keep."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, helper, numpy_helper

from slanc_onnx import apply_scales, compute_scales, find_norms, protect, protect_file
from slanc_onnx.graph.load import load_model
from slanc_onnx.norms.functions import inline_norm_functions
from tests.oracles.proto_diff import differences, fill
from tests.oracles.unoptimised import Values, different, run

NORM = (
    "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) v = Add(m, e) s = Sqrt(v) n = Div(x, s) "
    "y = Mul(n, g)"
)
CONSTANT = "e = Constant<value_float = 1e-5>()"
MODEL = """
<ir_version: 10, opset_import: ["": 17, "local": 1]>
main (float[2, rows, 8] x, bool c) => (float[2, rows, 8] y)
<float[8] g = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[8] b = {{8, 7, 6, 5, 4, 3, 2, 1}}> {{ {calls} }}
{functions}
"""
LOCAL = '<domain: "local", opset_import: ["": {opset}, "local": 1{more}]> '


def parse(calls: str, *functions: str, opset: int = 17, more: str = "") -> onnx.ModelProto:
    """A model with these calls and functions; only those of `LOCAL` are given a head."""
    heads = LOCAL.format(opset=opset, more=more)
    texts = [f if f.startswith("<") else heads + f for f in functions]
    return onnx.parser.parse_model(MODEL.format(calls=calls, functions="\n".join(texts)))


def feeds(taken: bool = True) -> Values:
    x = np.random.default_rng(1).normal(size=(2, 9, 8)).astype(np.float32) * 100
    return {"x": x, "c": np.array(taken)}


def scaled(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    assert apply_scales(copy, compute_scales(copy))
    return copy


PLAIN = f"norm (x, g) => (y) {{ {CONSTANT} {NORM} }}"
GIVEN = f"norm <eps> (x, g) => (y) {{ e = Constant<value_float: float = @eps>() {NORM} }}"
DEFAULT = GIVEN.replace("<eps>", "<eps: float = 0.25>")
FUSED = "norm <eps> (x, g) => (y) { y = LayerNormalization<epsilon: float = @eps>(x, g) }"
FUSED_DEFAULT = FUSED.replace("<eps>", "<eps: float = 0.25>")
OUTER = "outer <eps: float = 0.125> (x, g) => (y) { y = local.norm<eps: float = @eps>(x, g) }"
EPSILONS = {
    "given": ("y = local.norm<eps = 0.5>(x, g)", [GIVEN], [0.5]),
    "given, of a fused op": ("y = local.norm<eps = 0.5>(x, g)", [FUSED], [0.5]),
    "left out": ("y = local.norm(x, g)", [DEFAULT], [0.25]),
    "left out, of a fused op": ("y = local.norm(x, g)", [FUSED_DEFAULT], [0.25]),
    "left out without a default": ("y = local.norm(x, g)", [FUSED], [1e-5]),
    "given although there is a default": ("y = local.norm<eps = 0.5>(x, g)", [DEFAULT], [0.5]),
    "given once, left out once": (
        "z = local.norm<eps = 0.5>(x, g) y = local.norm(z, g)",
        [DEFAULT],
        [0.5, 0.25],
    ),
    "handed on": ("y = local.outer<eps = 0.5>(x, g)", [OUTER, GIVEN], [0.5]),
    "left out and handed on": ("y = local.outer(x, g)", [OUTER, GIVEN], [0.125]),
    "left out in a branch": (
        "y = If (c) <then_branch = t () => (float[2, rows, 8] o) { o = local.norm(x, g) },"
        " else_branch = f () => (float[2, rows, 8] p) { p = Exp(x) }>",
        [DEFAULT],
        [0.25],
    ),
}


@pytest.mark.parametrize("title", EPSILONS)
def test_epsilon_is_that_of_the_call_or_the_default_of_the_function(title: str) -> None:
    calls, functions, epsilons = EPSILONS[title]
    model = parse(calls, *functions)
    assert [norm.epsilon for norm in find_norms(model)] == [np.float32(e) for e in epsilons]
    inlined, _ = inline_norm_functions(model)
    small = {**feeds(), "x": feeds()["x"] / 1000}  # where epsilon counts
    assert different(run(model, **small), run(inlined, **small)) == []
    assert different(run(model, **small), run(scaled(model), **small)) == []


BRANCHES = {
    "a branch inside a function": (
        "y = local.maybe(x, g, c)",
        "maybe (x, g, c) => (y) { y = If (c) <"
        f"then_branch = t () => (o) {{ {CONSTANT} {NORM.replace('y =', 'o =')} }},"
        "else_branch = f () => (p) { p = Exp(x) }> }",
    ),
    "a call in a branch inside a function": (
        "y = local.maybe(x, g, c)",
        "maybe (x, g, c) => (y) { y = If (c) <"
        "then_branch = t () => (o) { o = local.norm(x, g) },"
        "else_branch = f () => (p) { h = local.norm(x, g) p = local.norm(h, g) }> }",
        PLAIN,
    ),
    "calls in both branches": (
        "y = If (c) <then_branch = t () => (float[2, rows, 8] o) { o = local.norm(x, g) },"
        " else_branch = f () => (float[2, rows, 8] p) {"
        " h = local.norm(x, g) p = local.norm(h, g) }>",
        PLAIN,
    ),
}


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("title", BRANCHES)
def test_norms_in_branches_and_functions_of_each_other(title: str, taken: bool) -> None:
    model = parse(*BRANCHES[title])
    norms = find_norms(model)
    paths = [norm.path for norm in norms]
    expected = ["then_branch", "else_branch", "else_branch"][: 3 if "call" in title else 1]
    assert paths == [((0, branch),) for branch in expected]
    assert len({norm.name for norm in norms}) == len(norms)
    assert different(run(model, **feeds(taken)), run(scaled(model), **feeds(taken))) == []


def test_inputs_that_a_call_leaves_out_are_left_out() -> None:
    norm = "norm (x, g, b) => (y) { y = LayerNormalization(x, g, b) }"
    model = parse("z = local.norm(x, g) y = local.norm(z, g, b)", norm)
    assert [norm.beta for norm in find_norms(model)] == [None, "b"]
    assert different(run(model, **feeds()), run(scaled(model), **feeds())) == []


def test_names_in_the_graph_that_inlining_would_use_are_left_alone() -> None:
    model = parse("q__1 = Exp(x) m__1 = Neg(q__1) z = local.norm(m__1, g) y = Add(z, q__1)", PLAIN)
    inlined, _ = inline_norm_functions(model)
    made = [name for node in inlined.graph.node for name in node.output]
    assert len(set(made)) == len(made)
    small = {**feeds(), "x": feeds()["x"] / 100}
    assert different(run(model, **small), run(scaled(model), **small)) == []


def test_a_function_that_is_not_called_stays() -> None:
    model = parse("y = Exp(x)", PLAIN)
    inlined, names = inline_norm_functions(model)
    assert (inlined is model, names, find_norms(model)) == (True, [], [])


def test_the_domain_of_an_inlined_op_is_imported() -> None:
    skip = "norm (x, g) => (y) { y = com.microsoft.SkipSimplifiedLayerNormalization(x, x, g) }"
    model = parse("y = local.norm(x, g)", skip, more=', "com.microsoft": 1')
    assert "com.microsoft" not in {o.domain for o in model.opset_import}
    inlined, names = inline_norm_functions(model)
    assert names == ["norm"]
    onnx.checker.check_model(inlined)
    assert different(run(model, **feeds()), run(scaled(model), **feeds())) == []


@pytest.mark.parametrize("other", [13, 16])
def test_a_function_of_another_opset_without_a_norm_is_no_obstacle(other: int) -> None:
    minus = LOCAL.format(opset=other, more="") + "minus (x) => (y) { y = Neg(x) }"
    model = parse("z = local.norm(x, g) y = local.minus(z)", PLAIN, minus)
    inlined, names = inline_norm_functions(model)
    assert names == ["norm"]
    assert [f.name for f in inlined.functions] == ["minus"]
    assert different(run(model, **feeds()), run(scaled(model), **feeds())) == []


@pytest.mark.parametrize("other", [13, 16])
def test_a_norm_in_a_function_of_another_opset_is_found(other: int) -> None:
    """ONNX Runtime runs it: the ops of the norm are the same in these opsets."""
    model = parse("y = local.norm(x, g)", PLAIN, opset=other)
    assert len(find_norms(model)) == 1
    assert different(run(model, **feeds()), run(scaled(model), **feeds())) == []


RICH_CALLS = """
    [start] h = Sin(x) [call] k = local.norm(h, g) [again] l = local.minus(k)
    [last] y = local.norm(l, g)
"""


def rich_model() -> onnx.ModelProto:
    """A model with all that inlining can lose."""
    model = parse(RICH_CALLS, PLAIN, "minus (x) => (y) { [neg] y = Neg(x) }")
    model.producer_name, model.domain, model.model_version = "exporter", "org.example", 7
    model.doc_string = "a model"
    model.metadata_props.add(key="author", value="someone")
    model.opset_import.append(helper.make_opsetid("nobody.uses.this", 3))
    graph = model.graph
    graph.value_info.append(helper.make_tensor_value_info("k", 1, [2, "rows", 8]))
    graph.initializer[0].doc_string = "gamma"
    graph.initializer.append(numpy_helper.from_array(np.arange(300, dtype=np.float64), "big"))
    fill(model)
    for function in model.functions:
        function.value_info.append(helper.make_tensor_value_info("y", 1, [2, "rows", 8]))
    return model


def test_nothing_but_the_calls_of_norms_changes() -> None:
    before, model = rich_model(), rich_model()
    inlined, names = inline_norm_functions(model)
    assert (names, differences(before, model)) == (["norm"], [])
    calls = ("graph.node[k]", "graph.node[y]", "functions[norm]: removed")
    found = [line for line in differences(before, inlined) if not line.startswith(calls)]
    inner = [f"{name}__{i}" for i in (1, 2) for name in "eqmvsn"]
    assert found == [f"graph.node[{name}]: added" for name in inner]
    texts = {n.output[0]: (n.doc_string, n.metadata_props[0].value) for n in inlined.graph.node}
    assert texts["m__1"] == ("makes m", "model/ReduceMean")
    assert texts["l"] == ("makes l", "model/minus")


def test_the_input_of_every_step_is_left_as_it_is() -> None:
    before, model = rich_model(), rich_model()
    assert len(find_norms(model)) == 2
    decided = compute_scales(model)
    assert [(d.status, d.norm.width) for d in decided] == [("scaled", 8)] * 2
    assert differences(before, model) == []
    again = rich_model()
    assert protect(again) == decided
    assert apply_scales(model, decided)
    assert differences(model, again) == []
    assert different(run(before, **feeds()), run(model, **feeds())) == []
    assert [d.status for d in compute_scales(model)] == ["unchanged"] * 2


def external(folder: Path) -> Path:
    """The model, with every weight in a data file, the smallest ones too."""
    function = f"norm (x, g, e) => (y) {{ {NORM} }}"
    model = parse("h = MatMul(x, w) y = local.norm(h, g, eps)", function)
    weights = {"w": np.eye(8) * 100, "g": np.arange(8), "eps": np.array(1e-5)}
    del model.graph.initializer[:]
    for name, values in weights.items():
        tensor = numpy_helper.from_array(values.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    for tensor in model.graph.initializer:
        external_data_helper.set_external_data(tensor, "weights.bin")
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_weights_in_a_data_file_stay_there(tmp_path: Path) -> None:
    source = external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    outcome = protect_file(source, tmp_path / "out.onnx")
    assert [d.status for d in outcome.norms] == ["scaled"]
    assert outcome.passed
    assert (tmp_path / "weights.bin").read_bytes() == data
    before, after = load_model(source), load_model(tmp_path / "out.onnx")
    assert list(after.graph.initializer[:3]) == list(before.graph.initializer)
    pair = [run(onnx.load(tmp_path / name), **feeds()) for name in ("model.onnx", "out.onnx")]
    assert different(*pair) == []


def test_weights_in_a_data_file_are_found_by_every_step(tmp_path: Path) -> None:
    source = external(tmp_path)
    model = load_model(source)
    assert [n.epsilon for n in find_norms(model, tmp_path)] == [np.float32(1e-5)]
    decided = compute_scales(model, folder=tmp_path)
    assert [d.status for d in decided] == ["scaled"]
    assert apply_scales(model, decided, folder=tmp_path)
    assert [n.scaled_by for n in find_norms(model, tmp_path)] == [decided[0].scale]
