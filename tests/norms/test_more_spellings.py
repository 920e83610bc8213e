"""Spellings of other frameworks, and what is listed but not scaled."""

import numpy as np
import onnx
import pytest

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in, find_norms_in, unmatched_means
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.reasons import Reason, Untaken
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import different, run
from tests.spellings.spelling import HEADER

MEAN = "m = ReduceMean<axes = [-1]>"
SQUARES = f"q = Pow(x, two) {MEAN}(q)"
VARIANCE = "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu) p = Mul(c, c) " + f"{MEAN}(p)"
ONE_PASS = (
    "mu = ReduceMean<axes = [-1]>(x) t = Mul(mu, mu) p = Mul(x, x) "
    "e = ReduceMean<axes = [-1]>(p) d1 = Sub(e, t)"
)
INVERSE = "v = Add(m, eps) s = Sqrt(v) r = Reciprocal(s)"
ROOT = "v = Add(m, eps) s = Sqrt(v)"

RMS = {
    "gamma in the inverse root, as Keras": f"{SQUARES} {INVERSE} k = Mul(r, g) y = Mul(x, k)",
    "gamma before the Div": f"{SQUARES} {ROOT} h = Mul(x, g) y = Div(h, s)",
    "gamma before the Mul": f"{SQUARES} {INVERSE} h = Mul(g, x) y = Mul(h, r)",
    "ReduceSumSquare": f"t = ReduceSumSquare<axes = [-1]>(x) m = Div(t, d) {ROOT} "
    "n = Div(x, s) y = Mul(n, g)",
    "a Sum for the Add": f"{SQUARES} v = Sum(m, eps) s = Sqrt(v) n = Div(x, s) y = Mul(n, g)",
    "Max for the floor": f"{SQUARES} v = Max(m, eps) s = Sqrt(v) n = Div(x, s) y = Mul(n, g)",
    "row by column": "a = Unsqueeze(x, minus_2) z = Unsqueeze(x, minus_1) t = MatMul(a, z) "
    f"u = Squeeze(t, minus_1) m = Div(u, d) {ROOT} n = Div(x, s) y = Mul(n, g)",
    "GlobalAveragePool": f"q = Pow(x, two) m = GlobalAveragePool(q) {ROOT} n = Div(x, s) "
    "y = Mul(n, g)",
}
WITHOUT_EPSILON = {
    "a mean": f"{SQUARES} s = Sqrt(m) n = Div(x, s) y = Mul(n, g)",
    "an L2 norm and a factor": "l = ReduceL2<axes = [-1]>(x) u = Div(x, l) n = Mul(u, root_d) "
    "y = Mul(n, g)",
    "LpNormalization and a factor": "u = LpNormalization<axis = -1, p = 2>(x) n = Mul(u, root_d) "
    "y = Mul(n, g)",
}
FOLDED = {
    "Sub": "k = Mul(r, g) a = Mul(x, k) w = Mul(mu, k) h = Sub(b, w) y = Add(a, h)",
    "Neg, as Keras": "k = Mul(r, g) a = Mul(x, k) z = Neg(mu) w = Mul(z, k) h = Add(w, b) "
    "y = Add(a, h)",
    "without gamma": "a = Mul(x, r) w = Mul(mu, r) h = Sub(b, w) y = Add(a, h)",
    "without either": "a = Mul(x, r) w = Mul(mu, r) y = Sub(a, w)",
    "gamma once more": "k = Mul(r, g) a = Mul(x, k) i = Mul(mu, r) w = Mul(i, g) h = Sub(b, w) "
    "y = Add(a, h)",
}
LAYER = {
    **{f"folded, {title}": f"{VARIANCE} {INVERSE} {end}" for title, end in FOLDED.items()},
    "one pass, at least 0": f"{ONE_PASS} m = Max(d1, zero) {ROOT} c = Sub(x, mu) n = Div(c, s) "
    "y = Mul(n, g)",
    "one pass, Relu": f"{ONE_PASS} m = Relu(d1) {ROOT} c = Sub(x, mu) n = Div(c, s) y = Mul(n, g)",
    "GlobalAveragePool": "mu = GlobalAveragePool(x) c = Sub(x, mu) p = Mul(c, c) "
    f"m = GlobalAveragePool(p) {ROOT} n = Div(c, s) y = Mul(n, g)",
}
NUMBERS = (
    "float zero = {0}, float root_d = {2.8284271}, int64[1] minus_1 = {-1}, int64[1] minus_2 = {-2}"
)


def parse(nodes: str, more: str = NUMBERS) -> onnx.ModelProto:
    text = HEADER.format(opset=13, nodes=nodes).replace("<float[8] g", f"<{more}, float[8] g")
    return onnx.parser.parse_model(text)


def inputs() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    random = np.random.default_rng(4)
    size = 10.0 ** random.uniform(-3, 3, (2, 64, 1))
    return (random.normal(size=(2, 64, 8)) * size + size).astype(np.float32)


CASES = {
    **{f"rms: {t}": ("rms", n, False) for t, n in RMS.items()},
    **{f"rms without epsilon: {t}": ("rms", n, True) for t, n in WITHOUT_EPSILON.items()},
    **{f"layer: {t}": ("layer", n, False) for t, n in LAYER.items()},
}


@pytest.mark.parametrize(("kind", "nodes", "bare"), CASES.values(), ids=CASES)
def test_it_is_found_scaled_exactly_and_known_again(kind: str, nodes: str, bare: bool) -> None:
    model = parse(nodes)
    norm = only_norm(model)
    assert (norm.kind, norm.width, norm.skip_reason) == (kind, 8, None)
    assert norm.epsilon == pytest.approx(0.0 if bare else 1e-5)
    assert (norm.epsilon_place is None) == bare
    before = run(model, x=inputs())
    apply_scales_in(model, [norm], {norm.name: 32.0})
    assert different(before, run(model, x=inputs())) == []
    again = only_norm(model)
    assert again.scaled_by == 32.0
    assert again.epsilon == pytest.approx(0.0 if bare else 1e-5 / 1024)


def test_the_folded_form_ends_after_gamma_and_beta() -> None:
    norm = only_norm(parse(LAYER["folded, Neg, as Keras"]))
    assert (norm.gamma, norm.beta, norm.output, norm.normalised) == ("g", "b", "y", "y")


@pytest.mark.parametrize("centred", [False, True])
def test_a_root_by_logarithm_is_a_suspect(centred: bool) -> None:
    start, x = (VARIANCE, "c") if centred else (SQUARES, "x")
    nodes = f"{start} v = Add(m, eps) l = Log(v) h = Mul(l, minus_half) r = Exp(h) y = Mul({x}, r)"
    found = find_in(read_graph(parse(nodes, "float minus_half = {-0.5}")))
    (suspect,) = found.suspects
    assert found.norms == []
    assert suspect.reason == Reason(Untaken.NO_DEGREE, ("2",), "Log", "l")


def test_a_pooling_of_another_rank_is_a_mean_over_several_axes() -> None:
    text = HEADER.format(opset=13, nodes=RMS["GlobalAveragePool"])
    model = onnx.parser.parse_model(text.replace("float[2, rows, 8]", "float[2, 3, 4, 8]"))
    assert only_norm(model).axes == RowAxes((-2, -1))


QUANTISED = "float step = {0.01}, uint8 middle = {128}"
AROUND = "qx = QuantizeLinear(x, step, middle) z = DequantizeLinear(qx, step, middle)"


def test_a_norm_of_a_quantised_input_is_scaled() -> None:
    nodes = f"{AROUND} {SQUARES} {ROOT} n = Div(z, s) y = Mul(n, g)".replace("(x, t", "(z, t")
    model = parse(nodes, QUANTISED)
    norm = only_norm(model)
    assert norm.skip_reason is None
    before = run(model, x=inputs())
    apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before, run(model, x=inputs())) == []
    assert only_norm(model).scaled_by == 16.0


def test_an_epsilon_that_was_quantised_counts_as_what_it_stands_for() -> None:
    more = "float step = {1e-5}, uint8 middle = {0}, uint8 one_step = {1}"
    end = "e = DequantizeLinear(one_step, step, middle) v = Add(m, e) s = Sqrt(v) n = Div(x, s)"
    norm = only_norm(parse(f"{SQUARES} {end} y = Mul(n, g)", more))
    assert norm.epsilon == pytest.approx(1e-5)


def test_a_norm_that_no_pattern_fits_is_a_mean_that_is_named() -> None:
    """As QOperator quantisation leaves it."""
    scopes = read_graph(parse(f"{SQUARES} [site] w = ReduceMean<axes = [-1]>(x) y = Mul(x, w)"))
    assert find_norms_in(scopes) == []
    assert unmatched_means(scopes, []) == ["m", "site"]
    assert unmatched_means(read_graph(parse(RMS["gamma before the Div"])), []) == ["m"]


def test_an_override_of_epsilon_still_works() -> None:
    model = parse(f"{SQUARES} {ROOT} n = Div(x, s) y = Mul(n, g)")
    model.graph.input.append(onnx.helper.make_tensor_value_info("eps", 1, []))
    norm = only_norm(model)
    override = {"x": inputs(), "eps": np.array(0.5, np.float32)}
    before = run(model, **override), run(model, x=inputs())
    apply_scales_in(model, [norm], {norm.name: 16.0})
    assert different(before[0], run(model, **override)) == []
    assert different(before[1], run(model, x=inputs())) == []
    again = only_norm(model)
    assert (again.scaled_by, again.overridable_epsilon) == (16.0, "eps")
    assert again.epsilon == pytest.approx(1e-5 / 256)


def test_a_scale_of_1_leaves_a_note_and_nothing_else() -> None:
    model = parse(f"{SQUARES} {ROOT} n = Div(x, s) y = Mul(n, g)")
    norm = only_norm(model)
    nodes = [node.output[0] for node in model.graph.node]
    assert apply_scales_in(model, [norm], {norm.name: 1.0})
    assert [node.output[0] for node in model.graph.node] == nodes
    assert only_norm(model).scaled_by == 1.0
