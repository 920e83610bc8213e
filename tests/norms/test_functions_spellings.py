"""Every spelling of a norm is found inside a model-local function as it is outside of one."""

import numpy as np
import onnx
import pytest

from slanc_onnx import find_norms
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.norms.functions import inline_norm_functions
from tests.norms.test_more_spellings import CASES, inputs, parse
from tests.oracles.unoptimised import different, run
from tests.spellings.fused import FUSED
from tests.spellings.in_functions import wrapped
from tests.spellings.layer import DECOMPOSED_LAYER
from tests.spellings.rms import DECOMPOSED_RMS
from tests.spellings.row_norms import Floats, RowNorm
from tests.spellings.rows import ROW_NORMS

LAST_AXIS = {str(s): s.model() for s in [*DECOMPOSED_RMS, *DECOMPOSED_LAYER, *FUSED]} | {
    title: parse(nodes) for title, (_, nodes, _) in CASES.items()
}
SPELLINGS: dict[str, tuple[onnx.ModelProto, Floats, RowNorm | None]] = {
    **{title: (model, inputs(), None) for title, model in LAST_AXIS.items()},
    **{str(s): (s.model(), s.samples([1e-3, 1, 100]), s) for s in ROW_NORMS},
}
every_spelling = pytest.mark.parametrize(("model", "x", "rows"), SPELLINGS.values(), ids=SPELLINGS)


@every_spelling
def test_a_norm_in_a_function_is_found_and_scaled(
    model: onnx.ModelProto, x: Floats, rows: RowNorm | None
) -> None:
    in_function = wrapped(model)
    (plain,), (norm,) = find_norms(model), find_norms(in_function)
    same = ("kind", "form", "axes", "width", "epsilon", "epsilon_power", "skip_reason")
    assert [getattr(norm, name) for name in same] == [getattr(plain, name) for name in same]
    inlined, names = inline_norm_functions(in_function)
    assert (names, list(inlined.functions)) == (["norm"], [])
    assert apply_scales_in(inlined, [norm], {norm.name: 16.0})
    assert [again.scaled_by for again in find_norms(inlined)] == [16.0]
    if rows is not None:
        rows.needs_its_runtime()
    assert different(run(model, x=x), run(inlined, x=x)) == []


SPREAD = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
main (float[2, rows, 8] x) => (float[2, rows, 8] y) { y = local.norm(x) }
<domain: "local", opset_import: ["": 17, "local": 1]>
norm (x) => (y) { m = local.mean_square(x) r = local.inverse_root(m) y = Mul(x, r) }
<domain: "local", opset_import: ["": 17]>
mean_square (x) => (m) { q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) }
<domain: "local", opset_import: ["": 17]>
inverse_root (m) => (r) {
    e = Constant<value_float = 1e-5>() v = Add(m, e) s = Sqrt(v) r = Reciprocal(s) }
"""


def test_a_norm_that_is_spread_over_several_functions_is_found() -> None:
    """As torch.onnx.dynamo_export writes it: a function per module, and one per aten op."""
    model = onnx.parser.parse_model(SPREAD)
    inlined, names = inline_norm_functions(model)
    assert sorted(names) == ["inverse_root", "mean_square", "norm"]
    (norm,) = find_norms(model)
    assert (norm.kind, norm.input) == ("rms", "x")
    assert norm.epsilon == np.float32(1e-5)
    assert apply_scales_in(inlined, [norm], {norm.name: 16.0})
    assert different(run(model, x=inputs()), run(inlined, x=inputs())) == []


def test_a_norm_with_its_root_in_a_function_is_found() -> None:
    text = SPREAD.replace(
        "y = local.norm(x)",
        "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) r = local.inverse_root(m) y = Mul(x, r)",
    )
    model = onnx.parser.parse_model(text)
    (norm,) = find_norms(model)
    assert (norm.kind, norm.input, norm.output) == ("rms", "x", "y")


ONE_STEP = {  # a function of one op, that every norm has, and the rest of a norm
    "square": ("square (x) => (y) { y = Mul(x, x) }", "q = local.square(x) REST y = Mul(x, r)"),
    "divide": (
        "divide (x, z) => (y) { y = Div(x, z) }",
        "q = Mul(x, x) REST y = local.divide(x, s)",
    ),
    "scale": ("scale (x, z) => (y) { y = Mul(x, z) }", "q = Mul(x, x) REST y = local.scale(x, r)"),
}


@pytest.mark.parametrize(("function", "nodes"), ONE_STEP.values(), ids=ONE_STEP)
def test_a_norm_of_which_one_step_is_a_function_is_found(function: str, nodes: str) -> None:
    rest = "m = ReduceMean<axes = [-1]>(q) a = Add(m, e) s = Sqrt(a) r = Reciprocal(s)"
    text = SPREAD.replace("y = local.norm(x)", "e = Constant<value_float = 1e-5>() " + nodes)
    more = '<domain: "local", opset_import: ["": 17, "local": 1]>'
    model = onnx.parser.parse_model(f"{text.replace('REST', rest)} {more} {function}")
    _, names = inline_norm_functions(model)
    assert names == [function.split()[0]]
    (norm,) = find_norms(model)
    assert (norm.kind, norm.input, norm.output) == ("rms", "x", "y")


@pytest.mark.parametrize("function", ["mean_square", "inverse_root"])
def test_a_part_of_a_norm_in_a_function_is_none(function: str) -> None:
    model = onnx.parser.parse_model(SPREAD)
    model.graph.node[0].op_type = function
    inlined, names = inline_norm_functions(model)
    assert (inlined is model, names, find_norms(model)) == (True, [], [])


def test_a_wrapped_model_computes_the_same() -> None:
    model = LAST_AXIS[str(DECOMPOSED_LAYER[0])]
    assert different(run(model, x=inputs()), run(wrapped(model), x=inputs())) == []
    assert np.isfinite(run(model, x=inputs())["y"]).all()
