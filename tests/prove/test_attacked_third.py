"""What a third attack broke: numbers that the finder reads in its own way, and readings of ops."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, apply_scales, compute_scales, find_norms
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.constants import small_value
from tests.models.small_graphs import D, between, normal
from tests.oracles.unoptimised import run
from tests.prove.test_attacked import TABLE, Attack, certificate_of, check, number
from tests.spellings.attention import shape

F = np.float32
Number = NDArray[Any]
BEFORE_ALL = {"from": shape(-100), "to": shape(-(2**62)), "last": shape(2), "back": shape(-1)}
ZEROS, ONES = np.zeros(D, F), np.ones(D, F)
FIRST_EIGHT = np.array([[16, *range(1, D)]])  # of the table: ones, and spikes
LARGEST = "r = ReduceMax<axes = [2]>(x) "


def by_hand(nodes: str, mean: str = "m = ReduceMean<axes = [-1]>(q)", row: str = "x") -> str:
    """An RMSNorm of a row with the epsilon `eps`, after some nodes."""
    steps = f"q = Mul({row}, {row}) {mean} e = Add(m, eps) root = Sqrt(e) n = Div({row}, root) "
    return f"{nodes} {steps} total = Mul(n, unit)"


def epsilon(nodes: str, opset: int = 17, **weights: Number) -> Attack:
    """A norm of a row of zeros, whose epsilon some nodes compute of k."""
    table_row = np.array([[0]])
    every = {"k": number(1e-5), "unit": number(1), "none": number(0), **weights}
    return Attack(by_hand(f"z = Mul(x, none) {nodes}", row="z"), every, ids=table_row, opset=opset)


def given(nodes: str, name: str, default: Number, other: Number) -> Attack:
    """Nodes that read an initializer for which the caller gives another value."""
    kind = {"f": "float", "i": "int64"}[default.dtype.kind]
    sizes = f"[{default.size}]" if default.ndim else ""
    weights = {"eps": number(1e-5), "unit": number(1), "last": shape(-1), name: default}
    return Attack(nodes, weights, f"{kind}{sizes} {name}", {name: other}, opset=18)


AXES = "m = ReduceMean(q, axes)"
COUNTED = "s = ReduceSum(q, last) m = Div(s, count)"
TO_FP16 = "h = Cast<to = 10>(x) g = Mul(h, k) "

ATTACKS = {
    "a sum that is infinite on the way": Attack(
        LARGEST + "s = Sigmoid(r) t = Sum(s, far, far, back, back) "
        "w = Sin(t) total = Add(w, zeros)",
        {"far": number(3e38), "back": number(-3e38), "zeros": ZEROS},
    ),
    "a slice backwards from before the first place": Attack(
        "s = Slice(x, from, to, last, back) r = ReduceSum<keepdims = 1>(s, last) "
        "t = Mul(r, k) total = Add(x, t)",
        {**BEFORE_ALL, "k": number(1000)},
    ),
    "scores that FP16 does not hold": Attack(
        TO_FP16 + "o = Attention<q_num_heads = 2, kv_num_heads = 2>(g, g, h) "
        "total = Cast<to = 1>(o)",
        {"k": np.array(1000, np.float16)},
        opset=23,
    ),
    "scores that FP16 does not hold by their scale": Attack(
        TO_FP16 + "o = Attention<q_num_heads = 2, kv_num_heads = 2, scale = 30.0>(g, g, h) "
        "total = Cast<to = 1>(o)",
        {"k": np.array(100, np.float16)},
        opset=23,
    ),
    "an epsilon that was a whole number": epsilon("i = Cast<to = 3>(k) eps = Cast<to = 1>(i)"),
    "an epsilon that was like a whole number": epsilon(
        "i = CastLike(k, like) eps = Cast<to = 1>(i)", like=np.array(1, np.int8)
    ),
    "an epsilon that was FP16": epsilon(
        "h = Cast<to = 10>(k) eps = Cast<to = 1>(h)", k=number(1e-8)
    ),
    "an epsilon that FP32 does not hold": epsilon(
        "d = Cast<to = 11>(k) t = Mul(d, tiny) eps = Cast<to = 1>(t)", tiny=np.array(1e-60)
    ),
    "an epsilon that a caller adds to": given(
        by_hand("eps0 = Add(k, eps)").replace("Add(m, eps)", "Add(m, eps0)"),
        "k", number(1e-6), number(-30),
    ),
    "axes that a caller gives": given(
        by_hand("", AXES, "rows"), "axes", shape(-1), shape(1)
    ),
    "a count that a caller gives": given(
        by_hand("", COUNTED), "count", number(D), number(8e9)
    ),
    "rows of an axis that the file does not tell the rank of": Attack(
        "n = LayerNormalization<axis = 1>(x, ones) total = Mul(n, unit)",
        {"ones": ONES, "unit": number(1)},
    ),
    "numbers that only subnormals of FP16 hold": Attack(
        LARGEST + "s = Sigmoid(r) t = Mul(s, small) h = Cast<to = 10>(t) f = Cast<to = 1>(h) "
        "g = Mul(f, large) total = Add(g, zeros)",
        {"small": number(3e-5), "large": number(1e8), "zeros": ZEROS},
    ),
    "numbers that only subnormals of FP32 hold": Attack(
        LARGEST + "s = Sigmoid(r) t = Mul(s, small) f = Mul(t, large) g = Mul(f, large) "
        "total = Add(g, zeros)",
        {"small": number(1e-39), "large": number(1e20), "zeros": ZEROS},
    ),
    "an attribute that FP16 does not hold": Attack(
        "h = Cast<to = 10>(x) q = com.microsoft.QuickGelu<alpha = 1e38>(h) total = Cast<to = 1>(q)"
    ),
    "a Softplus of FP64": Attack(
        LARGEST + "y0 = Mul(r, k) d = Cast<to = 11>(y0) s = Softplus(d) f = Cast<to = 1>(s) "
        "total = Add(f, zeros)",
        {"k": number(1000), "zeros": ZEROS},
    ),
    "a Softplus of FP16": Attack(
        "y0 = Mul(x, k) h = Cast<to = 10>(y0) s = Softplus(h) total = Cast<to = 1>(s)",
        {"k": number(10)},
        opset=18,
    ),
    "a Selu whose factors FP32 does not hold together": Attack(
        "y0 = Mul(x, k) t = Selu<alpha = 1000.0, gamma = 1e38>(y0) total = Mul(t, small)",
        {"k": number(-1e-5), "small": number(1e-30)},
    ),
    "means that are kept neither way": Attack(
        by_hand("", "m = ReduceMean<axes = [-1], keepdims = 2>(q)", "rows"),
        {"eps": number(1e-5), "unit": number(1)},
        ids=FIRST_EIGHT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_no_certificate_is_false(name: str) -> None:
    check(ATTACKS[name])


KEPT = {
    "a sum that stays in FP32": Attack(
        LARGEST + "s = Sigmoid(r) t = Sum(s, far, back) w = Sin(t) total = Add(w, zeros)",
        {"far": number(1e30), "back": number(-1e30), "zeros": ZEROS},
    ),
    "a slice backwards": Attack(
        "s = Slice(x, from, to, last, back) total = Mul(s, k)",
        {**BEFORE_ALL, "from": shape(-1), "k": number(3)},
    ),
    "scores that FP16 holds": Attack(
        TO_FP16 + "o = Attention<q_num_heads = 2, kv_num_heads = 2>(g, g, h) "
        "total = Cast<to = 1>(o)",
        {"k": np.array(10, np.float16)},
        opset=23,
    ),
    "an epsilon that was FP16": epsilon("h = Cast<to = 10>(k) eps = Cast<to = 1>(h)"),
    "an epsilon by whole numbers": epsilon(
        "i = Div(j, two) f = Cast<to = 1>(i) eps = Mul(f, k)", j=np.array(7), two=np.array(2)
    ),
    "rows of the last axis, counted from the first": Attack(
        "n = LayerNormalization<axis = 2>(x, ones) total = Mul(n, unit)",
        {"ones": ONES, "unit": number(1)},
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_read_as_it_is_keeps_its_certificate(name: str) -> None:
    assert certificate_of(KEPT[name]).certified
    check(KEPT[name])


STALE = {
    "n = LayerNormalization<axis = 1>(x, unit) total = Mul(n, one)": ["x"],
    "q = Mul(x, x) m = ReduceMean<axes = [1]>(q) e = Add(m, eps) r = Sqrt(e) total = Div(x, r)": [
        "x",
        "q",
    ],
    "q = Pow(x, two) m = ReduceMean<axes = [1]>(q) e = Add(m, eps) r = Sqrt(e) total = Div(x, r)": [
        "q"
    ],
}


@pytest.mark.parametrize("nodes", STALE)
def test_shapes_of_another_graph_are_not_believed(nodes: str) -> None:
    """ONNX Runtime warns of them and goes on."""
    weights = {"unit": ONES, "one": number(1), "eps": number(1e-5), "two": number(2)}
    model = between(nodes, {"table": TABLE.astype(F), "gamma": ONES, **weights})
    for name in STALE[nodes]:
        model.graph.value_info.add().CopyFrom(
            onnx.helper.make_tensor_value_info(name, 1, ["rows", D])
        )
    certificate = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert certificate is not None and not certificate.certified


def test_an_epsilon_that_a_caller_adds_to_stays_one() -> None:
    """It is divided where the model runs, as no number of the file is what it will be."""
    model = between(
        by_hand("eps0 = Add(k, eps)").replace("Add(m, eps)", "Add(m, eps0)"),
        {"k": number(1e-6), "eps": number(1e-5), "unit": number(1)},
        "float k",
    )
    model.graph.node[1].input[1] = "wide"
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(ONES * 1000, "wide"))
    (norm,) = [each for each in find_norms(model) if each.name == "n"]
    assert norm.overridable_epsilon == "k"
    scaled = onnx.ModelProto()
    scaled.CopyFrom(model)
    assert apply_scales(scaled, compute_scales(scaled, Options(estimate="weights")))
    feed = {"ids": np.array([[0, 1]]), "k": number(50)}
    np.testing.assert_array_equal(run(model, **feed)["y"], run(scaled, **feed)["y"])


def test_sizes_of_what_has_no_elements_are_a_condition() -> None:
    """ONNX Runtime joins it to anything, and leaves numbers of the result unwritten."""
    joined = Attack("total = Concat<axis = 0>(x, k)", {"k": np.zeros((1, 3, D), F)})
    certificate = certificate_of(joined)
    assert certificate.certified
    assert [(c.kind, c.low) for c in certificate.conditions] == [("positions", 1.0)]
    same = certificate_of(Attack("total = Concat<axis = 1>(x, x)"))
    assert same.certified and not same.conditions


def test_rows_of_no_channels_are_no_damage() -> None:
    nodes = "s0 = Slice(x, from, from, last) s = Add(s0, s0) " + by_hand("", row="s")
    nodes = nodes.replace("total = Mul(n, unit)", "t = ReduceSum<keepdims = 1>(n, last) ")
    nodes += "total = Add(t, ones)"
    weights = {"from": shape(3), "last": shape(2), "eps": number(1e-5), "ones": ONES}
    found = [each.norm.name for each in compute_scales(between(nodes, weights))]
    assert found == ["first", "n", "last"]


COMPUTED = {
    "i = Cast<to = 3>(k) c = Cast<to = 1>(i)": number(-1.7),
    "i = Cast<to = 2>(k) c = Cast<to = 1>(i)": number(257),
    "c = Cast<to = 10>(k)": number(1e-8),
    "c = Div(k, two)": np.array(-3),
    "c = Slice(k, from, to, nil, back)": np.array([5, 7]),
    "c = Slice(k, back, to, nil, steps)": np.array([5, 7, 9]),
}


@pytest.mark.parametrize("nodes", COMPUTED)
def test_the_finder_computes_constants_as_onnx_runtime_does(nodes: str) -> None:
    weights = {**BEFORE_ALL, "k": COMPUTED[nodes], "two": np.array(2), "nil": shape(0)}
    model = between(f"{nodes} total = Neg(x)", {**weights, "steps": shape(-2)})
    (scope,) = read_graph(model)
    taken = small_value(scope, scope.tensors["c"])
    del model.graph.output[:]
    model.graph.output.add(name="c")
    made = run(model, ids=np.array([[0]]))["c"]
    assert taken is not None
    np.testing.assert_array_equal(taken.reshape(-1), made.reshape(-1))


LIKE_NORMS = ["SimplifiedLayerNormalization", "LayerNormalization", "Tanh"]


@pytest.mark.parametrize("op", LIKE_NORMS)
def test_a_function_is_not_the_op_whose_name_it_has(op: str) -> None:
    """Of ONNX Runtime's domain, where that has no such op: it runs the function."""
    gamma = ", gamma_of_last" if op != "Tanh" else ""
    nodes = f"total = com.microsoft.{op}(x{gamma})"
    model = between(nodes, {"table": normal(0, 11, D)})
    body = onnx.parser.parse_function(
        f'<domain: "com.microsoft", opset_import: ["": 17]> {op} (a{", g" if gamma else ""}) => (o)'
        "{ k = Constant<value_float = 1000.0>() o = Mul(a, k) }"
    )
    model.functions.append(body)
    assert [norm.name for norm in find_norms(model)] == ["first", "last"]
    certificate = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert certificate is not None and not certificate.certified
    del model.graph.output[:]
    model.graph.output.add(name="total")
    assert np.abs(run(model, ids=np.array([[0]]))["total"]).max() > 100
