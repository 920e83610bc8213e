"""Norms between whose steps QuantizeLinear and DequantizeLinear stand: scaled, bit by bit."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, protect
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in, find_norms_in
from slanc_onnx.options import ApplyRule
from slanc_onnx.report.wording import reason_text
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import Values, different, run
from tests.spellings.quantised import Quantiser, with_constants
from tests.versions import needs_onnx_runtime

TEXT = """
<ir_version: 10, opset_import: ["": {opset}]>
main (float[2, 5, 8] x) => (float[2, 5, 8] y)
<float[8] g = {{0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75}}, float[8] b = {{1, 2, 3, 4, -1, -2, -3, -4}},
 float two = {{2}}, float eps = {{0.01}}, float eighth = {{0.125}}, int64[1] last = {{-1}}>
{{ {nodes} }}
"""
MEAN = "ReduceMean<axes = [-1]>"
NORMS = {
    "layer": f"m = {MEAN}(x) c = Sub(x, m) q = Pow(c, two) v = {MEAN}(q) t = Add(v, eps) "
    "s = Sqrt(t) n = Div(c, s) o = Mul(n, g) y = Add(o, b)",
    "rms": f"q = Mul(x, x) v = {MEAN}(q) t = Add(v, eps) s = Sqrt(t) r = Reciprocal(s) "
    "n = Mul(x, r) y = Mul(n, g)",
    "layer, one pass": f"m = {MEAN}(x) p = Mul(m, m) q = Mul(x, x) w = {MEAN}(q) v = Sub(w, p) "
    "t = Add(v, eps) s = Sqrt(t) c = Sub(x, m) n = Div(c, s) o = Mul(n, g) y = Add(o, b)",
    "l2": "s0 = ReduceL2<axes = [-1]>(x) s = Max(s0, eps) y = Div(x, s)",
}
CASES = [
    *((norm, kind, None, opset) for norm in NORMS for kind, opset in (("uint8", 10), ("int8", 17))),
    *(("layer", kind, None, 21) for kind in ("int16", "uint16")),
    *(("layer", kind, -1, 13) for kind in ("uint8", "int8")),
    ("rms", "uint16", 2, 23),
]


def inputs(size: float = 30.0) -> Values:
    rows = np.random.default_rng(1).normal(size=(2, 5, 8)) * np.linspace(0.1, size, 5)[:, None]
    return {"x": rows.astype(np.float32)}


def written(norm: str, opset: int = 17) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.format(opset=17, nodes=NORMS[norm]))
    if opset >= 18:
        model = onnx.version_converter.convert_version(model, opset)
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize("dedicated", [False, True], ids=["shared pairs", "a pair for each"])
@pytest.mark.parametrize(("norm", "kind", "axis", "opset"), CASES)
def test_it_is_found_and_scaled_without_a_change_in_any_bit(
    norm: str, kind: str, axis: int | None, opset: int, dedicated: bool
) -> None:
    model = Quantiser(kind, axis, dedicated).quantised(written(norm, opset), inputs())
    onnx.checker.check_model(model)
    found = find_in(read_graph(model))
    (one,) = found.norms
    assert (one.kind, one.skip_reason, found.suspects) == (norm.split(",")[0], None, [])
    assert one.by_ops and one.width == 8 and one.epsilon == pytest.approx(0.01, rel=1e-6)
    assert one.one_pass == ("pass" in norm)
    if opset == 23:
        needs_onnx_runtime(1, 24, for_what="QuantizeLinear of opset 23")
    before = run(model, **inputs())
    for scale in (0.25, 64.0):
        scaled = onnx.ModelProto()
        scaled.CopyFrom(model)
        assert apply_scales_in(scaled, [one], {one.name: scale})
        onnx.checker.check_model(scaled)
        assert different(before, run(scaled, **inputs())) == []
        (again,) = find_norms_in(read_graph(scaled))
        assert (again.scaled_by, again.name, again.kind) == (scale, one.name, one.kind)


def test_scales_that_stay_change_the_output() -> None:
    model = Quantiser("uint8").quantised(written("layer"), inputs())
    norm = only_norm(model)
    before = run(model, **inputs())
    apply_scales_in(model, [replace(norm, limits=())], {norm.name: 64.0})
    assert different(before, run(model, **inputs())) == ["y"]


def test_a_scale_that_others_read_is_not_touched() -> None:
    """One scale for all steps, and for a pair outside of the norm."""
    model = Quantiser("uint8").quantised(written("rms"), inputs())
    for node in model.graph.node:
        if node.op_type.endswith("QuantizeLinear") or node.op_type == "DequantizeLinear":
            node.input[1] = "x_0_scale"
    model.graph.node.add(op_type="QuantizeLinear", input=["x", "x_0_scale"], output=["z"])
    model.graph.output.add(name="z").type.tensor_type.elem_type = onnx.TensorProto.UINT8
    norm, before = only_norm(model), run(model, **inputs())
    stored = [t.SerializeToString() for t in model.graph.initializer]
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, **inputs())) == []
    kept = [t.SerializeToString() for t in model.graph.initializer]
    assert kept[: len(stored)] == stored


def test_integers_may_be_read_by_others() -> None:
    """They stay as they are; so does what another DequantizeLinear makes of them."""
    model = Quantiser("uint8").quantised(written("layer"), inputs())
    whole = next(n.output[0] for n in model.graph.node if n.input[0] == "v")
    outside = ("DequantizeLinear", [whole, "v_0_scale", "v_0_zero"], ["z"])
    model.graph.node.add(op_type=outside[0], input=outside[1], output=outside[2])
    model.graph.output.add(name="z").type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    norm, before = only_norm(model), run(model, **inputs())
    assert norm.skip_reason is None
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, **inputs())) == []


def test_an_epsilon_and_an_exponent_that_are_integers_are_read() -> None:
    model = with_constants(written("layer"), "eps", "two")
    model = Quantiser("uint8").quantised(model, inputs())
    norm, before = only_norm(model), run(model, **inputs())
    assert norm.epsilon == pytest.approx(0.01, rel=1e-6)
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, **inputs())) == []


def test_a_scale_that_a_caller_may_give_is_divided_when_the_model_runs() -> None:
    model = Quantiser("uint8").quantised(written("layer"), inputs())
    model.graph.input.add(name="v_0_scale").type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    feeds = {**inputs(), "v_0_scale": np.array(2.0, np.float32)}
    norm, before = only_norm(model), run(model, **feeds)
    assert apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, **feeds)) == []


DYNAMIC = (
    f"q = Mul(x, x) v0 = {MEAN}(q) i, k, z = DynamicQuantizeLinear(v0) "
    "v = DequantizeLinear(i, k, z) t = Add(v, eps) s = Sqrt(t) y = Div(x, s)"
)


def test_integers_with_a_scale_from_the_data_follow_by_themselves() -> None:
    model = onnx.parser.parse_model(TEXT.format(opset=17, nodes=DYNAMIC))
    norm, before = only_norm(model), run(model, **inputs())
    assert norm.skip_reason is None and norm.by_ops
    for scale in (0.25, 64.0):
        scaled = onnx.ModelProto()
        scaled.CopyFrom(model)
        assert apply_scales_in(scaled, [norm], {norm.name: scale})
        assert different(before, run(scaled, **inputs())) == []


@pytest.mark.parametrize(
    "reader",
    ["a = Cast<to = 1>(i) v = Mul(a, k)", "j = Max(i, z) v = DequantizeLinear(j, k, z)"],
    ids=["a cast", "the larger one"],
)
def test_what_computes_with_integers_reads_them_as_they_are(reader: str) -> None:
    nodes = DYNAMIC.replace("v = DequantizeLinear(i, k, z)", reader)
    model = onnx.parser.parse_model(TEXT.format(opset=17, nodes=nodes))
    norm = only_norm(model)
    assert norm.skip_reason is None
    if "Max" in reader:
        needs_onnx_runtime(1, 24, for_what="Max of uint8")
    before = run(model, **inputs())
    assert apply_scales_in(model, [norm], {norm.name: 8.0})
    assert different(before, run(model, **inputs())) == []


def test_integers_with_a_limit_among_other_numbers_are_no_region() -> None:
    """Their product with the data has the degree of the data alone."""
    nodes = DYNAMIC.replace("v = DequantizeLinear(i, k, z)", "a = Cast<to = 1>(i) v = Mul(a, a)")
    found = find_in(read_graph(onnx.parser.parse_model(TEXT.format(opset=17, nodes=nodes))))
    (suspect,) = found.suspects
    assert found.norms == [] and len(reason_text(suspect.reason)) > 20


def test_integers_that_are_moved_stay_integers() -> None:
    nodes = (
        f"q = Mul(x, x) v0 = {MEAN}(q) i = QuantizeLinear(v0, unit, none) j = Transpose(i) "
        "k = Transpose(j) v = DequantizeLinear(k, unit, none) t = Add(v, eps) s = Sqrt(t) "
        "y = Div(x, s)"
    )
    text = TEXT.format(opset=17, nodes=nodes).replace(
        "float two", "float unit = {4.5}, uint8 none = {0}, float two"
    )
    model = onnx.parser.parse_model(text)
    norm, before = only_norm(model), run(model, **inputs())
    assert apply_scales_in(model, [norm], {norm.name: 8.0})
    assert different(before, run(model, **inputs())) == []


def half(size: float, level: float) -> tuple[onnx.ModelProto, Values]:
    """The layer in FP16 with the scales in FP16, at about `level` times what fits them well."""
    model = written("layer", 21)
    feeds = {"x": (inputs(size)["x"] * level).astype(np.float16)}
    wide = {"x": feeds["x"].astype(np.float32)}
    model = Quantiser("uint8").quantised(model, wide)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            if tensor.name.endswith("_scale"):  # few bits, so that a smaller one is exact too
                values = 2.0 ** np.rint(np.log2(values))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del model.graph.value_info[:]
    return model, feeds


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_scales_in_fp16_move_where_they_are_held(apply: ApplyRule) -> None:
    model, feeds = half(120.0, 1.0)
    before = run(model, **feeds)
    (decided,) = protect(model, Options(inputs=feeds, apply=apply))
    assert decided.status == "scaled" and decided.scale not in (None, 1.0)
    assert different(before, run(model, **feeds)) == []


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_scales_in_fp16_that_would_leave_it_are_refused_with_the_reason(apply: ApplyRule) -> None:
    model, feeds = half(200.0, 1.0)
    (place,) = (t for t in model.graph.initializer if t.name == "t_0_scale")
    place.CopyFrom(onnx.numpy_helper.from_array(np.array(2.0**-22, np.float16), place.name))
    before = model.SerializeToString()
    (decided,) = protect(model, Options(inputs=feeds, apply=apply))
    assert decided.status == "skipped" and model.SerializeToString() == before
    assert "FLOAT16 would not hold its constant" in reason_text(decided.reasons[0])
