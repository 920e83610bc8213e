"""Sizes, powers and axes that no norm has: read as no norm or skipped, in time and in memory."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx import Accelerator, Options, SlancError, compute_scales, find_norms, protect
from slanc_onnx.graph import read_tensor
from slanc_onnx.options import ApplyRule, EstimateRule, ScaleRule
from slanc_onnx.prove.trusted import values
from slanc_onnx.prove.trusted.values import Constant, of_constant
from slanc_onnx.report.wording import reasons_text
from tests.models.growing import decoder
from tests.models.small_graphs import GAMMA, D, Weights, between, graph, normal

LAYER = "m = ReduceMean(x, {axes}) c = Sub(x, m) q = Mul(c, c) v = ReduceMean(q, {axes})"
ROOT = "s = Sqrt(v) total = Div(c, s)"
WEIGHTS: Weights = {
    "zero": np.array(0),
    "one": np.array(1),
    "many": np.array(10**13),
    "axis": np.array([-1]),
    "none": np.array([], np.int64),
    "tiny": np.array(1e-320),
    "small": np.array(1e-40, np.float32),
    "infinite": np.array(np.inf, np.float32),
    "half": np.array(0.5, np.float32),
    "nothing": np.zeros((D, 0), np.float32),
    "short": normal(1, D - 3),
    "w3": normal(2, D, 3 * D),
    "kernel": normal(3, 4, 1, 1, D),
}

# Title -> nodes between two norms.
ODD = {
    "axes from a range of 10^13 numbers": f"r = Range(zero, many, one) {LAYER} {ROOT}".format(
        axes="r"
    ),
    "a mean of a scalar": """
        n = ReduceMean<keepdims = 0>(x) d = Unsqueeze(n, axis) v = ReduceMean(d, axis)
        s = Sqrt(v) total = Div(x, s)""",
    "a mean square over a number beside zero": """
        q = Mul(x, x) a = ReduceSum(q, axis) v = Mul(a, small) s = Sqrt(v) total = Div(x, s)""",
    "a mean square over an infinite number": """
        q = Mul(x, x) a = ReduceSum(q, axis) v = Mul(a, infinite) s = Sqrt(v) total = Div(x, s)""",
    "a norm times a number beside zero": """
        l = ReduceL2(x, axis) u = Div(x, l) total = Mul(u, small)""",
    "a norm times an infinite number": """
        l = ReduceL2(x, axis) u = Div(x, l) total = Mul(u, infinite)""",
    "a product by a matrix of nothing": """
        v = MatMul(x, nothing) s = Sqrt(v) total = Div(x, s)""",
    "a fill of nothing": """
        sizes = Shape(x) f = ConstantOfShape<value = float[0] {}>(sizes) q = Mul(x, x)
        v = ReduceMean(q, axis) e = Add(v, f) s = Sqrt(e) total = Div(x, s)""",
    "sizes cut by nothing": """
        sizes = Shape(x) one_size = Gather(sizes, infinite) back = Slice(sizes, axis)
        r = Reshape(x, back) q = Mul(r, r) v = ReduceMean(q, axis) s = Sqrt(v) total = Div(r, s)""",
    "an infinite power": "v = Pow(x, infinite) a = ReduceSum(v, axis) total = Div(x, a)",
    "the root of an infinite power": """
        q = Mul(x, x) a = ReduceSum(q, axis) v = Pow(a, infinite) total = Div(x, v)""",
    "attention with a bias that does not fit": """
        flat = com.microsoft.Attention<num_heads = 2>(x, w3, short) total = Add(x, flat)""",
    "a convolution of channels in the last axis of a scalar": """
        n = ReduceMean<keepdims = 0>(x) k = com.microsoft.NhwcConv(n, kernel)
        total = Add(x, k)""",
}


@pytest.mark.parametrize("title", ODD)
@pytest.mark.parametrize("estimate", ["auto", "weights"])
def test_numbers_that_no_norm_has_stop_no_other(title: str, estimate: EstimateRule) -> None:
    decided = compute_scales(between(ODD[title], WEIGHTS, opset=18), Options(estimate=estimate))
    assert decided[0].status == "scaled"
    assert decided[-1].status in ("scaled", "skipped")


def chain(first: str, step: str, last: str, count: int = 40) -> str:
    """Nodes, each of which reads the one before in two places."""
    steps = " ".join(step.format(before=f"a{i}", now=f"a{i + 1}") for i in range(count))
    return f"{first} {steps} {last.format(end=f'a{count}')}"


# Each is 2^40 walks where every path is one.
TWICE = {
    "axes": chain(
        "a0 = Identity(axis)",
        "{now} = Max({before}, {before})",
        f"{LAYER} {ROOT}".format(axes="{end}"),
        30,
    ),
    "an epsilon": chain(
        "m = Mul(x, x) a0 = Identity(half)",
        "{now} = Div({before}, {before})",
        """q = ReduceMean(m, axis) v = Add(q, {end}) s = Sqrt(v) total = Div(x, s)""",
    ),
    "a quantised epsilon": chain(
        "m = Mul(x, x) a0 = Identity(half)",
        "{now} = DequantizeLinear({before}, {before})",
        """q = ReduceMean(m, axis) v = Add(q, {end}) s = Sqrt(v) total = Div(x, s)""",
    ),
    "gates": chain("a0 = Tanh(x)", "{now} = Mul({before}, {before})", "total = Add(x, {end})"),
    "sums": chain("a0 = Tanh(x)", "{now} = Add({before}, {before})", "total = Add(x, {end})"),
}


@pytest.mark.parametrize("title", TWICE)
@pytest.mark.parametrize("scale", ["window", "paper"])
def test_what_reads_one_tensor_twice_again_and_again_is_walked_once(
    title: str, scale: ScaleRule
) -> None:
    model = between(TWICE[title], WEIGHTS, opset=18)
    decided = compute_scales(model, Options(scale=scale, estimate="weights"))
    assert decided[0].status == "scaled"


def test_rows_that_double_from_op_to_op_are_not_followed_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slanc_onnx.trace.values.MOST_CHANNELS", 2**10)
    nodes = chain(
        "a0 = Identity(x)",
        """{now} = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2>
           ({before}, {before}, {before}, {before}, {before}, {before}, {before})""",
        "n = ReduceMean(x, axis) g = Mul({end}, n) m = ReduceMean(g, axis) total = Add(x, m)",
    )
    model = between(nodes, WEIGHTS, opset=18)
    _, last = compute_scales(model, Options(estimate="weights"))
    assert "GroupQueryAttention (a8)" in reasons_text(last.reasons)  # 4 * 2^8 channels


@pytest.mark.parametrize("heads", [3, 2**62])
def test_heads_that_have_no_channels_prove_nothing(heads: int) -> None:
    """The fused rows are 43 wide: 3 + 2 heads leave a rest, and of 2^62 each has none."""
    nodes = f"""
        q = MatMul(x, w)
        m = com.microsoft.GroupQueryAttention<num_heads = {heads}, kv_num_heads = 1>
            (q, , , , , last, length)
        total = MatMul(m, w_o)"""
    weights = {"w": normal(1, D, 43), "w_o": normal(2, 24, D)}
    counts = {"last": np.zeros(1, np.int32), "length": np.array(1, np.int32)}
    model = between(nodes, {**weights, **counts}, opset=18)
    _, last = compute_scales(model, Options(estimate="weights"))
    assert last.certificate is not None
    assert last.certificate.bound.length is None


@pytest.mark.parametrize("options", [Options(scale="paper"), Options(apply="fold")])
def test_no_scale_makes_epsilon_infinite(options: Options) -> None:
    """Rows of 1e-45 ask for scales beside which FP32 does not hold epsilon / s²."""
    model = between(
        "total = MatMul(x, w)", {"w": normal(5, D, D), "gamma": np.full(D, 1e-45, np.float32)}
    )
    for decided in protect(model, replace(options, estimate="weights", isolate=False)):
        assert decided.scale is None or 1e-5 / decided.scale**2 < np.finfo(np.float32).max
    held = [a.f for node in model.graph.node for a in node.attribute if a.name == "epsilon"]
    assert np.isfinite(held).all()


@pytest.mark.parametrize(
    ("value", "nearest"), [(math.inf, 65504.0), (1e9, 65504.0), (65519.9, 65504.0), (1.0, 1.0)]
)
def test_nothing_is_rounded_to_infinity(value: float, nearest: float) -> None:
    assert Accelerator().format.nearest(value) == nearest


def test_an_index_that_goes_nowhere_is_no_index() -> None:
    nodes = """
        rows = Gather(table, ids)
        = Cast<to = 7>(ids)
        [n] y = SimplifiedLayerNormalization<axis = -1>(rows, gamma)"""
    model = graph(nodes, {"table": normal(0, 11, D), "gamma": GAMMA})
    assert [norm.status for norm in protect(model)] == ["scaled"]


@pytest.mark.parametrize("op", ["Reshape", "Transpose", "Squeeze", "MatMul", "Softmax", "Slice"])
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_a_node_that_gives_nothing_is_nothing(op: str, apply: ApplyRule) -> None:
    model = decoder(1)
    tensor = model.graph.node[2].output[0]
    node = model.graph.node.add(op_type=op, name="in vain", input=[tensor, tensor, tensor])
    decided = protect(model, Options(estimate="weights", apply=apply))
    assert {norm.status for norm in decided} == {"scaled"}
    assert node in model.graph.node


def test_a_constant_that_nobody_can_read_is_not_divided() -> None:
    model = decoder(1)
    model.graph.node.add(op_type="Constant").attribute.add(name="value_float", type=1, f=1.0)
    decided = protect(model, Options(estimate="weights", apply="fold"))
    assert {norm.status for norm in decided} == {"scaled"}


@pytest.mark.parametrize("dims", [[0], [1]])
def test_a_constant_of_shape_of_no_number_is_not_followed(dims: list[int]) -> None:
    nodes = "s = Shape(x) f = ConstantOfShape(s) total = Add(x, f)"
    model = between(nodes, {})
    fill = next(node for node in model.graph.node if node.op_type == "ConstantOfShape")
    numbers = numpy_helper.from_array(np.zeros(0 if dims == [0] else 2, np.float32))
    numbers.dims[:] = dims  # of which the file has more, or fewer
    fill.attribute.append(helper.make_attribute("value", numbers))
    decided = compute_scales(model, Options(estimate="weights"))
    assert [norm.status for norm in decided] == ["scaled", "skipped"]


@pytest.mark.parametrize("op", ["ConstantOfShape", "Expand", "Reshape", "Tile", "Pad", "Unsqueeze"])
@pytest.mark.parametrize("sizes", [np.full(2**22, 2), np.array([np.nan]), np.array([np.inf])])
def test_sizes_that_no_tensor_has_are_not_read(op: str, sizes: NDArray[Any]) -> None:
    inputs = "sizes" if op == "ConstantOfShape" else "x, sizes"
    model = between(f"total = {op}({inputs})", {"sizes": sizes})
    decided = compute_scales(model, Options(estimate="weights"))
    assert decided[0].status == "scaled"


@pytest.mark.parametrize(("count", "certified"), [(64, True), (65, False)])
def test_sizes_of_more_axes_than_a_tensor_has_prove_nothing(count: int, certified: bool) -> None:
    model = between("total = Expand(x, sizes)", {"sizes": np.ones(count, np.int64)})
    last = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert last is not None and last.certified is certified
    assert certified or (last.reason is not None and last.reason.facts == ("total", count))


@pytest.mark.parametrize("raw", [False, True])
def test_texts_are_no_numbers(raw: bool) -> None:
    text = TensorProto(name="t", data_type=TensorProto.STRING, dims=[1])
    if raw:  # which no file has
        text.raw_data = b"ab"
        with pytest.raises(SlancError, match="'t': raw data of texts"):
            read_tensor(text, None)
    else:
        text.string_data.append(b"ab")
        assert read_tensor(text, None).tolist() == ["ab"]
    model = between("total = Add(x, t)", {})
    model.graph.initializer.append(text)
    decided = compute_scales(model, Options(estimate="weights"))
    assert [norm.status for norm in decided] == ["scaled", "skipped"]


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("kind", ["string", "int4", "uint4", "float8e4m3fn", "complex64"])
def test_inputs_of_types_that_no_rule_knows_bound_nothing(kind: str, opset: int) -> None:
    """Of what is unknown, shapes alone are followed; here not those either."""
    nodes = "t = Transpose<perm = [0, 2, 1]>(s) f = Cast<to = 1>(t) total = Add(x, f)"
    model = between(nodes, {}, f"{kind}[batch, 8, 2] s", opset=opset)
    decided = compute_scales(model, Options(estimate="weights"))
    proved = [norm.certificate is not None and norm.certificate.certified for norm in decided]
    assert proved == [True, False]


def test_a_function_that_gives_a_name_twice_is_no_model() -> None:
    model = decoder(1)
    function = model.functions.add(name="f", domain="local", input=["a"], output=["b"])
    function.opset_import.add(domain="", version=17)
    function.node.add(op_type="Relu", input=["a"], output=["b"])
    find_norms(model)
    function.node.add(op_type="Tanh", input=["a"], output=["b"])
    with pytest.raises(SlancError, match="'b' names 2 tensors"):
        find_norms(model)


@pytest.mark.parametrize("sizes", [[2, 3], [D - 1, 2], [D + 2, -2], [2**40, 1]])
def test_pieces_that_do_not_add_up_prove_nothing(sizes: list[int]) -> None:
    nodes = "a, b = Split<axis = -1>(x, sizes) total = Concat<axis = -1>(a, a)"
    decided = compute_scales(between(nodes, {"sizes": np.array(sizes)}))
    proved = [norm.certificate is not None and norm.certificate.certified for norm in decided]
    assert proved == [True, False]


def test_a_constant_is_read_by_blocks_and_is_the_same_as_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = normal(7, 3, 5, D)
    array[1, 2, 3] = -np.inf
    given = Constant(TensorProto.FLOAT, array.shape, lambda: array)
    finite = np.where(np.isinf(array), 0.0, array.astype(np.float64))
    for at_once in (1, 2 * D, 1 << 22):
        monkeypatch.setattr(values, "CONVERTED", at_once)
        read = of_constant(given, 3, (2,))
        assert read.infinite
        assert (read.low, read.high) == (finite.min(), finite.max())
        assert np.array_equal(read.reach.each, np.abs(finite).max(axis=(0, 1)))
        longest = np.linalg.norm(finite, axis=-1).max()
        assert longest <= read.reach.length() <= longest * (1 + 1e-6)


def test_a_reshape_to_more_than_a_model_has_is_not_followed() -> None:
    shape = np.array([1, 2**12, 2**13])
    model = between("r = Reshape(x, large) n = ReduceMean(r) total = Add(x, n)", {"large": shape})
    decided = compute_scales(model, Options(estimate="weights"))
    assert "Reshape" in reasons_text(decided[-1].reasons)
