"""What looks like a norm and is none, and norms that cannot be scaled."""

import numpy as np
import onnx
import pytest

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.report.wording import reason_text
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import different, run
from tests.spellings.spelling import HEADER

SQUARE = "q = Pow(x, two)"
FROM_MEAN = "v = Add(m, eps) s = Sqrt(v) n = Div(x, s) y = Mul(n, g)"

# Norms of other kinds: each with its kind, and whether its ops compute more than the kind says.
FRIENDS = {
    "mean over axis 1": ("rms", False, f"{SQUARE} m = ReduceMean<axes = [1]>(q) {FROM_MEAN}"),
    "mean over two axes": ("rms", False, f"{SQUARE} m = ReduceMean<axes = [1, 2]>(q) {FROM_MEAN}"),
    "mean over all axes": ("rms", False, f"{SQUARE} m = ReduceMean(q) {FROM_MEAN}"),
    "L2 normalisation": ("l2", False, "l = ReduceL2<axes = [-1]>(x) y = Div(x, l)"),
    "L2 normalisation by Pow": (
        "l2",
        False,
        f"{SQUARE} t = ReduceSum(q, last) s = Pow(t, half) y = Div(x, s)",
    ),
    "L2 normalisation with a floor": (
        "l2",
        False,
        "l = ReduceL2<axes = [-1]>(x) s = Clip(l, eps) y = Div(x, s)",
    ),
    "L2 normalisation in the delta rule": (
        "l2",
        False,
        "q = Mul(x, x) t = ReduceSum(q, last) v = Add(t, eps) s = Sqrt(v) r = Reciprocal(s) "
        "y = Mul(x, r)",
    ),
    "sum over a number that is not the width": (
        "l2",
        True,
        f"{SQUARE} t = ReduceSum(q, last) m = Div(t, two) {FROM_MEAN}",
    ),
    "L2 norm times another factor": (
        "l2",
        True,
        "l = ReduceL2<axes = [-1]>(x) h = Mul(l, half) s = Add(h, eps) y = Div(x, s)",
    ),
    "an epsilon per channel": (
        "rms",
        True,
        f"{SQUARE} m = ReduceMean<axes = [-1]>(q) v = Add(m, g) s = Sqrt(v) y = Div(x, s)",
    ),
    "another tensor's deviation": (
        "rms",
        True,
        f"z = Abs(x) q = Mul(z, z) m = ReduceMean<axes = [-1]>(q) {FROM_MEAN}",
    ),
    "only the denominator is centred": (
        "layer",
        True,
        "mu = ReduceMean<axes = [-1]>(x) c = Sub(x, mu) q = Pow(c, two) "
        f"m = ReduceMean<axes = [-1]>(q) {FROM_MEAN}",
    ),
    "a ceiling on the mean square": (
        "rms",
        True,
        f"{SQUARE} m = ReduceMean<axes = [-1]>(q) v = Clip(m, eps, one) s = Sqrt(v) y = Div(x, s)",
    ),
}
FALSE_FRIENDS = {
    "an epsilon from data": f"{SQUARE} m = ReduceMean<axes = [-1]>(q) e = ReduceMax(x) "
    "v = Add(m, e) s = Sqrt(v) y = Div(x, s)",
    "the cube": f"q = Pow(x, d) m = ReduceMean<axes = [-1]>(q) {FROM_MEAN}",
    "product of two tensors": "z = Abs(x) q = Mul(x, z) m = ReduceMean<axes = [-1]>(q) "
    f"{FROM_MEAN}",
    "variance multiplied by data": f"{SQUARE} k = ReduceMean<axes = [-1]>(q) "
    f"z = ReduceMax<axes = [-1]>(q) w = Mul(k, z) m = Div(w, d_1) {FROM_MEAN}",
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


@pytest.mark.parametrize("title", FALSE_FRIENDS)
def test_a_false_friend_is_no_norm(title: str) -> None:
    assert find_norms_in(read_graph(parse(FALSE_FRIENDS[title]))) == []


@pytest.mark.parametrize("title", FRIENDS)
def test_a_norm_of_another_kind_is_scaled_exactly(title: str) -> None:
    kind, by_ops, nodes = FRIENDS[title]
    model = parse(nodes)
    norm = only_norm(model)
    assert (norm.kind, norm.by_ops, norm.skip_reason) == (kind, by_ops, None)
    random = np.random.default_rng(4)
    x = (random.normal(size=(2, 9, 8)) * 10.0 ** random.uniform(-6, 2, (2, 9, 1))).astype("f")
    before = run(model, x=x)
    apply_scales_in(model, [norm], {norm.name: 8.0})
    assert different(before, run(model, x=x)) == []


def test_a_sum_over_axes_that_no_file_tells_is_named() -> None:
    norm = only_norm(
        parse(
            'e = Einsum<equation = "btd,bsd->bd">(x, x) m = Div(e, d) v = Add(m, eps) s = Sqrt(v) '
            "y = Div(x, s)"
        )
    )
    assert norm.skip_reason is not None
    assert "axes are not known" in reason_text(norm.skip_reason)


def test_windows_that_are_no_rows_are_named() -> None:
    """Local contrast normalisation: shape inference tells no more of its axes."""
    pool = "AveragePool<kernel_shape = [3], pads = [1, 1]>"
    centred = f"m = {pool}(x) c = Sub(x, m) q = Mul(c, c) v = {pool}(q)"
    norm = only_norm(parse(f"{centred} t = Add(v, eps) s = Sqrt(t) y = Div(c, s)"))
    assert norm.skip_reason is not None
    assert "sums windows" in reason_text(norm.skip_reason)


@pytest.mark.parametrize("reason", LEAKS)
def test_a_norm_with_an_inner_value_in_use_says_who_reads_it(reason: str) -> None:
    model = parse(LEAKS[reason], output="v" if "graph output" in reason else "")
    found = only_norm(model).skip_reason
    assert found is not None and reason_text(found) == reason


@pytest.mark.parametrize("reader", ["Shape", "Size", "RandomNormalLike"])
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


@pytest.mark.parametrize("op", ["LayerNormalization", "EmbedLayerNormalization"])
def test_an_op_of_another_domain_is_no_norm_whatever_its_name(op: str) -> None:
    model = parse(f"y = my.domain.{op}<axis = -1>(x, g, b)")
    model.opset_import.add(domain="my.domain", version=1)
    assert find_norms_in(read_graph(model)) == []


@pytest.mark.parametrize("op", ["Pow", "ReduceMean", "Sqrt", "Div"])
def test_a_norm_with_an_op_of_another_domain_inside_is_none(op: str) -> None:
    model = parse(f"{RMS} {FROM_MEAN}")
    assert len(find_norms_in(read_graph(model))) == 1
    model.opset_import.add(domain="my.domain", version=1)
    next(node for node in model.graph.node if node.op_type == op).domain = "my.domain"
    assert find_norms_in(read_graph(model)) == []


def test_the_domain_of_the_standard_ops_has_two_names() -> None:
    model = parse(f"{RMS} {FROM_MEAN}")
    for node in model.graph.node:
        node.domain = "ai.onnx"
    assert only_norm(model).skip_reason is None


@pytest.mark.parametrize("change", ["no gamma", "no inputs", "no outputs", "no first input"])
@pytest.mark.parametrize(
    "op", ["LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"]
)
def test_a_fused_op_that_lacks_inputs_or_outputs_is_none_or_refused(op: str, change: str) -> None:
    domain = "" if op == "LayerNormalization" else "com.microsoft."
    model = parse(f"y = {domain}{op}(x, x, g)")
    node = model.graph.node[0]
    if change == "no gamma":
        del node.input[1:]
    elif change == "no inputs":
        del node.input[:]
    elif change == "no outputs":
        del node.output[:]
    else:
        node.input[0] = ""
    norms = find_norms_in(read_graph(model))
    none = change == "no outputs"
    assert (norms == []) == none
    for norm in norms:
        assert norm.broken and norm.skip_reason is not None
        assert f"breaks the rules of {op}: it has" in reason_text(norm.skip_reason)


def test_a_cast_without_its_attribute_is_read_past() -> None:
    model = parse(f"z = Cast<to = 1>(x) {RMS} {FROM_MEAN}".replace("(x, ", "(z, "))
    del model.graph.node[0].attribute[:]
    assert only_norm(model).element_type == onnx.TensorProto.FLOAT


def overridable(name: str) -> onnx.ModelProto:
    """The initializer of that name is also a graph input."""
    model = parse(f"{RMS} {FROM_MEAN}")
    model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []))
    return model


def test_an_epsilon_that_a_caller_may_override_is_no_constant() -> None:
    norm = only_norm(overridable("eps"))
    assert norm.epsilon == pytest.approx(1e-5)
    assert (norm.overridable_epsilon, norm.skip_reason) == ("eps", None)


def test_before_ir_version_4_every_initializer_is_a_graph_input_too() -> None:
    model = overridable("eps")
    model.ir_version = 3
    norm = only_norm(model)
    assert norm.epsilon == pytest.approx(1e-5)
    assert norm.skip_reason is None


def test_other_overridable_constants_count_as_their_defaults() -> None:
    norm = only_norm(overridable("two"))
    assert (norm.kind, norm.skip_reason) == ("rms", None)
    assert norm.epsilon == pytest.approx(1e-5)
