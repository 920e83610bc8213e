"""Norms are found by what they compute, and scaled without a change in any bit."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in, find_norms_in
from slanc_onnx.norms.model import read_model
from slanc_onnx.norms.norm import Norm
from slanc_onnx.ops.fused import Kind
from slanc_onnx.report.wording import reason_text
from tests.oracles.unoptimised import Values, different, run
from tests.spellings.no_norms import NONE, SUSPECTS
from tests.spellings.regions import FOUND, L2
from tests.spellings.written import CENTRED, Written

each_norm = pytest.mark.parametrize("written", FOUND, ids=str)


def inputs(written: Written) -> Values:
    """Rows from 1e-7, where epsilon is all there is, to 1e3."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(2, 8, 8)) * 10.0 ** random.uniform(-7, 3, (2, 8, 1))
    names = ["x", *(["z"] if " z" in written.more else [])]
    return {
        name: (rows * sign).astype(np.float32) for name, sign in zip(names, (1, -3), strict=False)
    }


def norms_of(model: onnx.ModelProto) -> list[Norm]:
    return find_norms_in(read_graph(model))


@each_norm
def test_it_is_found_with_its_kind(written: Written) -> None:
    found = find_in(read_graph(written.model()))
    kinds: tuple[Kind, ...] = tuple(norm.kind for norm in found.norms)
    assert (kinds, found.suspects) == (written.kinds, [])
    assert [norm.by_ops for norm in found.norms] == [written.by_ops] * len(kinds)
    assert [norm.skip_reason for norm in found.norms] == [None] * len(kinds)


@each_norm
@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_scaling_changes_no_bit(written: Written, scale: float) -> None:
    model, feeds = written.model(), inputs(written)
    before, norms = run(model, **feeds), norms_of(model)
    assert apply_scales_in(model, norms, {norm.name: scale for norm in norms})
    assert different(before, run(model, **feeds)) == []


@pytest.mark.parametrize("written", [w for w in FOUND if w.epsilon], ids=str)
def test_constants_that_are_not_divided_change_the_output(written: Written) -> None:
    model, feeds = written.model(), inputs(written)
    before, norms = run(model, **feeds), norms_of(model)
    bare = [replace(norm, epsilon=None, limits=()) for norm in norms]
    apply_scales_in(model, bare, {norm.name: 8.0 for norm in norms})
    assert different(before, run(model, **feeds)) == ["y"]


@each_norm
def test_a_scaled_one_is_found_again_with_its_scale(written: Written) -> None:
    model = written.model()
    norms = norms_of(model)
    apply_scales_in(model, norms, {norm.name: 8.0 for norm in norms})
    again = norms_of(model)
    assert [norm.scaled_by for norm in again] == [8.0] * len(norms)
    same = ("name", "kind", "width", "axes", "output", "by_ops", "one_pass", "unbiased")
    for one, other in zip(norms, again, strict=True):
        assert [getattr(other, name) for name in same] == [getattr(one, name) for name in same]


def test_rows_that_a_reshape_puts_elsewhere_are_no_plain_norm() -> None:
    model = next(w for w in FOUND if "torch.var" in w.title).model()
    (concat,) = (node for node in model.graph.node if node.op_type == "Concat")
    concat.input[0], concat.input[1] = concat.input[1], concat.input[0]
    (norm,) = norms_of(model)
    assert (norm.kind, norm.by_ops) == ("layer", True)


@pytest.mark.parametrize("written", NONE, ids=str)
def test_what_is_no_norm_is_neither_found_nor_suspected(written: Written) -> None:
    found = find_in(read_graph(written.model()))
    assert (found.norms, found.suspects) == ([], [])


@pytest.mark.parametrize("written", SUSPECTS, ids=str)
def test_what_looks_like_a_norm_is_a_suspect_with_the_reason(written: Written) -> None:
    found = find_in(read_graph(written.model()))
    assert found.norms == []
    (suspect,) = found.suspects
    assert suspect.op.startswith(("Reduce", "Add")) and len(reason_text(suspect.reason)) > 20


SQUARED = {  # what a norm behind the squares of another tensor normalises: that and no more
    "a mean of squares": "q = Mul(x, x) k = ReduceMean(q, second)",
    "squares by weights": "q = Mul(x, x) gc = Unsqueeze(g, second) bc = Unsqueeze(b, first) "
    "w8 = MatMul(gc, bc) k = MatMul(q, w8)",
    "squares by weights, with a residual": "q = Mul(x, x) gc = Unsqueeze(g, second) "
    "bc = Unsqueeze(b, first) w8 = MatMul(gc, bc) h = MatMul(q, w8) k = Add(h, x)",
}


@pytest.mark.parametrize("before", SQUARED.values(), ids=SQUARED)
def test_squares_that_a_norm_normalises_are_no_norm_with_it(before: str) -> None:
    norm = (
        "m = ReduceMean(k, last) c = Sub(k, m) p = Mul(c, c) v = ReduceMean(p, last) "
        "t = Add(v, eps) s = Sqrt(t) y = Div(c, s)"
    )
    found = find_in(read_graph(Written("", f"{before} {norm}", ("layer",)).model()))
    assert [(n.kind, n.input, n.by_ops) for n in found.norms] == [("layer", "k", False)]
    assert found.suspects == []


@pytest.mark.parametrize(("read", "norms"), [("n", 1), ("mean", 0), ("variance", 0)])
def test_a_batch_norm_in_training_is_a_suspect_where_its_statistics_are_read(
    read: str, norms: int
) -> None:
    nodes = (
        "n, mean, variance = BatchNormalization<training_mode = 1>(x, ones, zeros, b, eights) "
        f"k = ReduceMean<keepdims = 0>({read}) y = Add(n, k)"
    )
    found = find_in(read_graph(Written("", nodes, (), x="float[2, 8, rows]").model()))
    assert len(found.norms) == norms
    assert [suspect.op for suspect in found.suspects] == ["BatchNormalization"] * (1 - norms)


NAMED = {  # type, domain, attributes; whether it is a suspect
    "FastLayerNorm": ("plugins", {}, True),
    "CustomSkipLayerNormPluginDynamic": ("trt.plugins", {}, True),
    "GroupNormalizationPlugin": ("trt.plugins", {}, True),
    "RMSPlugin": ("trt.plugins", {}, True),
    "fused_rmsnorm": ("vendor", {}, True),
    "QOrderedLayerNormalization": ("com.microsoft", {}, True),
    "ATen": ("org.pytorch.aten", {"operator": "layer_norm"}, True),
    "Normalizer": ("ai.onnx.ml", {"norm": "L2"}, True),
    "Normalise": ("ai.onnx.ml", {"norm": "MAX"}, False),
    "Transforms": ("vendor", {}, False),
    "SurfaceNormals": ("vendor", {}, False),
    "Aten": ("org.pytorch.aten", {"operator": "gelu"}, False),
}


MULTIPLIED = {  # a root that multiplies, in front of a norm that its rows go through whole
    "a threshold at so many standard deviations": f"{CENTRED} s = Sqrt(v) t = Mul(s, half) "
    "u = Add(m, t) c2 = Sub(x, u) r = Relu(c2) sg = Sigmoid(r) k = Mul(r, sg)",
    "weights behind it": f"{CENTRED} s = Sqrt(v) c2 = Sub(x, s) r = Relu(c2) sg = Sigmoid(r) "
    "h = Mul(r, sg) gc = Unsqueeze(g, second) bc = Unsqueeze(b, first) w8 = MatMul(gc, bc) "
    "k = MatMul(h, w8)",
    "rows of the length of another": "q = Mul(x, x) v = ReduceMean(q, last) s = Sqrt(v) "
    "l = Mul(z, s) j = Concat<axis = 1>(x, l) k = Add(j, j)",
    "a row plus one of its length": "q = Mul(x, x) v = ReduceSum(q, last) s = Sqrt(v) "
    "l = Mul(z, s) k = Add(x, l)",
}


@pytest.mark.parametrize("divided", ["y = Div(k, ks)", "ki = Reciprocal(ks) y = Mul(k, ki)"])
@pytest.mark.parametrize("before", MULTIPLIED.values(), ids=MULTIPLIED)
def test_a_root_that_multiplies_leaves_the_norm_behind_it_alone(before: str, divided: str) -> None:
    norm = f"kq = Mul(k, k) kv = ReduceMean(kq, last) kt = Add(kv, eps) ks = Sqrt(kt) {divided}"
    more = ", float[2, rows, 8] z" if " z" in before or "(z" in before else ""
    model = Written("", f"{before} {norm}", ("rms",), more=more).model()
    found = find_in(read_graph(model))
    assert [(n.kind, n.input, n.skip_reason) for n in found.norms] == [("rms", "k", None)]
    assert found.suspects == []


@pytest.mark.parametrize("op", NAMED)
def test_an_op_that_nobody_knows_is_a_suspect_where_it_is_called_a_norm(op: str) -> None:
    domain, attributes, suspected = NAMED[op]
    model = L2[0].model()
    node = onnx.helper.make_node(op, ["x"], ["other"], "named", domain=domain, **attributes)
    model.graph.node.append(node)
    model.opset_import.extend(
        onnx.helper.make_opsetid(d, 1) for d in (domain,) if d != "com.microsoft"
    )
    found = find_in(read_graph(model)).suspects
    assert [(s.name, s.op) for s in found] == [("named", op)] * suspected
    for suspect in found:
        assert f"domain {domain!r}" in reason_text(suspect.reason)
        assert "export the norm in ONNX's own ops" in reason_text(suspect.reason)


CALL = """<ir_version: 10, opset_import: ["": 18, "pkg": 1]>
m (float[2, 8] x) => (float[2, 8] y) <float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}>
{ [call] y = pkg.LayerNorm(x, g) }
<domain: "pkg", opset_import: ["": 18]> LayerNorm (x, g) => (y) { BODY }"""
SQUARES = "q = Mul(x, x) v = ReduceSum(q) m = ReduceMax(x)"


@pytest.mark.parametrize(
    ("body", "inlined", "op"),
    [
        ("y = BatchNormalization(x, g, g, g, g)", [], None),
        (f"{SQUARES} t = Add(v, m) r = Sqrt(t) y = Div(x, r)", ["LayerNorm"], "ReduceSum"),
        ("y = plugins.FastNorm(x, g)", ["LayerNorm"], "FastNorm"),
    ],
)
def test_what_a_function_holds_is_told_whatever_its_name(
    body: str, inlined: list[str], op: str | None
) -> None:
    model = onnx.parser.parse_model(CALL.replace("BODY", body))
    for opsets in (model.opset_import, model.functions[0].opset_import):
        opsets.add(domain="plugins", version=1)
    read = read_model(model)
    assert (read.inlined, read.norms) == (inlined, [])
    assert [suspect.op for suspect in read.suspects] == [op] * (op is not None)


def test_a_value_that_leaves_a_region_is_named() -> None:
    model = L2[1].model()
    model.graph.node.add(op_type="Relu", name="reads it", input=["v"], output=["other"])
    (norm,) = norms_of(model)
    assert norm.skip_reason is not None
    assert reason_text(norm.skip_reason) == "its inner value 'v' is also read by Relu 'reads it'"
