"""What looks like a norm and is none, and norms that cannot be scaled."""

import numpy as np
import onnx
import pytest

from slanc_onnx.graph import read_graph
from slanc_onnx.norms import Norm, find_norms_in
from slanc_onnx.rewrite import apply_scales_in
from tests.spelling import HEADER
from tests.unoptimised import different, run

SQUARE = "q = Pow(x, two)"
FROM_MEAN = "v = Add(m, eps) s = Sqrt(v) n = Div(x, s) y = Mul(n, g)"

FALSE_FRIENDS = {
    "mean over axis 1": f"{SQUARE} m = ReduceMean<axes = [1]>(q) {FROM_MEAN}",
    "mean over two axes": f"{SQUARE} m = ReduceMean<axes = [1, 2]>(q) {FROM_MEAN}",
    "mean over all axes": f"{SQUARE} m = ReduceMean(q) {FROM_MEAN}",
    "L2 normalisation": "l = ReduceL2<axes = [-1]>(x) y = Div(x, l)",
    "L2 normalisation by Pow": f"{SQUARE} t = ReduceSum(q, last) s = Pow(t, half) y = Div(x, s)",
    "L2 normalisation with a floor": "l = ReduceL2<axes = [-1]>(x) s = Clip(l, eps) y = Div(x, s)",
    "L2 normalisation in the delta rule": "q = Mul(x, x) t = ReduceSum(q, last) v = Add(t, eps) "
    "s = Sqrt(v) r = Reciprocal(s) y = Mul(x, r)",
    "sum over a number that is not the width": f"{SQUARE} t = ReduceSum(q, last) m = Div(t, two) "
    f"{FROM_MEAN}",
    "L2 norm times another factor": "l = ReduceL2<axes = [-1]>(x) h = Mul(l, half) s = Add(h, eps) "
    "y = Div(x, s)",
    "no epsilon": f"{SQUARE} m = ReduceMean<axes = [-1]>(q) s = Sqrt(m) y = Div(x, s)",
    "an epsilon per channel": f"{SQUARE} m = ReduceMean<axes = [-1]>(q) v = Add(m, g) s = Sqrt(v) "
    "y = Div(x, s)",
    "an epsilon from data": f"{SQUARE} m = ReduceMean<axes = [-1]>(q) e = ReduceMax(x) "
    "v = Add(m, e) s = Sqrt(v) y = Div(x, s)",
    "the cube": f"q = Pow(x, d) m = ReduceMean<axes = [-1]>(q) {FROM_MEAN}",
    "product of two tensors": "z = Abs(x) q = Mul(x, z) m = ReduceMean<axes = [-1]>(q) "
    f"{FROM_MEAN}",
    "another tensor's deviation": "z = Abs(x) q = Mul(z, z) m = ReduceMean<axes = [-1]>(q) "
    f"{FROM_MEAN}",
    "only the denominator is centred": "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu) "
    f"q = Pow(c, two) m = ReduceMean<axes = [-1]>(q) {FROM_MEAN}",
    "a ceiling on the mean square": f"{SQUARE} m = ReduceMean<axes = [-1]>(q) "
    "v = Clip(m, eps, one) s = Sqrt(v) y = Div(x, s)",
    "variance multiplied by data": f"{SQUARE} k = ReduceMean<axes = [-1]>(q) "
    f"z = ReduceMax<axes = [-1]>(q) w = Mul(k, z) m = Div(w, d_1) {FROM_MEAN}",
    "Einsum over the rows": 'e = Einsum<equation = "btd,btd->bd">(x, x) m = Div(e, d) '
    "v = Add(m, eps) s = Sqrt(v) y = Div(x, s)",
}

RMS = f"{SQUARE} m = ReduceMean<axes = [-1]>(q)"

LEAKS = {
    "its inner value 'q' is also read by Relu 'other'": f"{RMS} {FROM_MEAN} [other] z = Relu(q)",
    "its inner value 's' is also read by Abs ''": f"{RMS} {FROM_MEAN} z = Abs(s)",
    "its inner value 'm' is also read by Abs 'behind'": f"{RMS} {FROM_MEAN} "
    "f = Cast<to = 1>(m) h = Identity(f) [behind] z = Abs(h)",
    "its inner value 'v' is a graph output": f"{RMS} {FROM_MEAN}",
    "its inner value 's' is also read by Neg 'inside'": f"{RMS} {FROM_MEAN} k = Cast<to = 9>(one) "
    "z = If (k) <then_branch = t () => (float[2, rows, 1] o) {[inside] o = Neg(s)},"
    " else_branch = e () => (float[2, rows, 1] p) {p = Exp(x)}>",
}


def parse(nodes: str, output: str = "") -> onnx.ModelProto:
    text = HEADER.format(opset=13, nodes=nodes)
    if output:
        text = text.replace("8] y)", f"8] y, float[2, rows, 1] {output})")
    return onnx.parser.parse_model(text)


def only_norm(model: onnx.ModelProto) -> Norm:
    (norm,) = find_norms_in(read_graph(model))
    return norm


@pytest.mark.parametrize("title", FALSE_FRIENDS)
def test_a_false_friend_is_no_norm(title: str) -> None:
    assert find_norms_in(read_graph(parse(FALSE_FRIENDS[title]))) == []


@pytest.mark.parametrize("reason", LEAKS)
def test_a_norm_with_an_inner_value_in_use_says_who_reads_it(reason: str) -> None:
    model = parse(LEAKS[reason], output="v" if "graph output" in reason else "")
    assert only_norm(model).skip_reason == reason


@pytest.mark.parametrize("reader", ["Shape", "Size"])
def test_reading_the_shape_of_an_inner_value_is_no_obstacle(reader: str) -> None:
    assert only_norm(parse(f"{RMS} {FROM_MEAN} z = {reader}(q)")).skip_reason is None


@pytest.mark.parametrize("factor", ["two", "row"])
def test_a_factor_that_is_no_row_of_constants_is_not_gamma(factor: str) -> None:
    nodes = f"row = Abs(x) {RMS} {FROM_MEAN}".replace("(n, g)", f"(n, {factor})")
    norm = only_norm(parse(nodes))
    assert (norm.gamma, norm.output) == (None, "n")


def test_others_may_read_the_input_and_the_normalised_value() -> None:
    model = parse(f"{RMS} v = Add(m, eps) s = Sqrt(v) n = Div(x, s) a = Add(n, x) y = Mul(n, a)")
    norm = only_norm(model)
    assert (norm.skip_reason, norm.output, norm.gamma) == (None, "n", None)
    x = np.random.default_rng(2).normal(size=(2, 9, 8)).astype(np.float32)
    before = run(model, x=x)
    apply_scales_in(model, [norm], {norm.name: 64.0})
    assert different(before, run(model, x=x)) == []
