"""Islands: what stays in FP32 besides single ops, and why; exact where whole numbers are."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.convert.convert import Converted, convert
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.graph import NodeAt
from slanc_onnx.reasons import InFp32, Reason
from tests.models.float_kinds import X, floats
from tests.oracles.half_file import round_trips
from tests.oracles.unoptimised import Values, run

Found = dict[str, InFp32]
Tensors = Mapping[str, np.ndarray[Any, Any] | np.generic]
AXIS: Tensors = {"ax": np.array(1)}


def model_of(text: str, weights: Tensors | None = None, opset: int = 18) -> onnx.ModelProto:
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>\n'
    model = onnx.parser.parse_model(head + text)
    for name, weight in (weights or {}).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(weight), name))
    return model


def islands(
    text: str,
    weights: Tensors | None = None,
    opset: int = 18,
    kept: dict[str, Reason] | None = None,
) -> tuple[onnx.ModelProto, Found]:
    """The model in FP16, and what stays in FP32 by the first output of its node."""
    model = model_of(text, weights, opset)
    at = {}
    for name, why in (kept or {}).items():
        nodes = [node.name for node in model.graph.node]
        at[NodeAt((), nodes.index(name))] = why
    done: Converted = convert(model, Weights(), Accelerator(), kept=at)
    onnx.checker.check_model(model, full_check=True)
    assert round_trips(model) == []
    outputs = {node.name: node.output[0].removesuffix("/fp32") for node in model.graph.node}
    return model, {outputs.get(n.name, n.name): _kind(n.why) for n in done.nodes}


def _kind(why: Reason) -> InFp32:
    assert isinstance(why.kind, InFp32)
    return why.kind


# The buckets of T5: distances, and their logarithm from 16 on.
BUCKETS = """
m (int64[n] d) => (int64[n] y) {
    f = Cast<to = 1>(d) a = Div(f, sixteen) l = Log(a) b = Div(l, width) c = Mul(b, sixteen)
    i = Cast<to = 7>(c) j = Add(i, count) s = Less(d, count) k = Min(j, last) y = Where(s, d, k)
}
"""
CONSTANTS: Tensors = {
    "sixteen": np.array(16, np.float32),
    "width": np.array(np.log(8), np.float32),
    "count": np.array(16, np.int64),
    "last": np.array(31, np.int64),
}


def test_buckets_of_distances_are_exact_at_5000_positions() -> None:
    model, found = islands(BUCKETS, CONSTANTS)
    assert found == dict.fromkeys("falbc", InFp32.WHOLE_NUMBERS)
    feeds: Values = {"d": np.arange(1, 5001)}
    expected = run(model_of(BUCKETS, CONSTANTS), **feeds)["y"]
    np.testing.assert_array_equal(run(model, **feeds)["y"], expected)


LENGTH = """
m (float[n] x) => (float[k] y) {{
    s = Shape(x) f = Cast<to = 1>(s) {half} g = Mul(f, h) r = Floor(g) i = Cast<to = 7>(r)
    y = Slice(x, zero, i)
}}
"""


@pytest.mark.parametrize(
    "half",
    [
        "h = Identity(half)",
        "h = Constant<value_float = 0.5>()",
        "h = Constant<value_floats = [0.5]>()",
        "h0 = Constant<value = float {0.5}>() h = Unsqueeze(h0, zero)",
    ],
)
def test_a_length_is_exact_however_its_factor_is_spelled(half: str) -> None:
    weights: Tensors = {"half": np.array(0.5, np.float32), "zero": np.array([0], np.int64)}
    model, found = islands(LENGTH.format(half=half), weights)
    assert {found["g"], found["r"], found["f"]} == {InFp32.WHOLE_NUMBERS}
    assert run(model, x=floats(5001))["y"].shape == (2500,)


def test_factors_of_a_resize_are_exact_and_its_image_is_narrow() -> None:
    text = """
    m (float[1, 1, 1, n] x, int64[1] w) => (float[1, 1, 1, k] y) {
        d = Shape<start = 3>(x) e = Cast<to = 1>(d) f = Cast<to = 1>(w) q = Div(f, e)
        s = Concat<axis = 0>(ones, q) z = Exp(x) y = Resize<mode = "nearest">(z, , s)
    }
    """
    model, found = islands(text, {"ones": np.ones(3, np.float32)})
    assert found == dict.fromkeys("efqs", InFp32.WHOLE_NUMBERS)
    feeds: Values = {"x": floats(1, 1, 1, 2049), "w": np.array([4097])}
    before = run(model_of(text, {"ones": np.ones(3, np.float32)}), **feeds)["y"]
    assert run(model, **feeds)["y"].shape == before.shape == (1, 1, 1, 4097)


HALF: Tensors = {"half": np.array(0.5, np.float32), "zero": np.array([0], np.int64)}


def test_a_length_that_is_also_a_factor_is_exact_as_a_length() -> None:
    text = """
    m (float[n] x, float[4] z) => (float[k] y, float[4] t) {
        s = Shape(x) f = Cast<to = 1>(s) g = Mul(f, half) r = Floor(g) i = Cast<to = 7>(r)
        y = Slice(x, zero, i) u = Shape(g) v = Identity(g) t = Mul(z, v)
    }
    """
    model, found = islands(text, HALF)
    assert found == dict.fromkeys("fgr", InFp32.WHOLE_NUMBERS)
    got = run(model, x=floats(5001), z=floats(4))
    assert got["y"].shape == (2500,)
    np.testing.assert_allclose(got["t"], floats(4) * 2500.5, rtol=2**-9)


def test_a_length_that_becomes_an_integer_in_a_branch_is_exact() -> None:
    text = """
    m (float[n] x) => (float[k] y) {
        s = Shape(x) f = Cast<to = 1>(s) g = Mul(f, half) c = Constant<value = bool {1}>()
        y = If(c)<then_branch = a () => (float[k] y1) {
            r = Floor(g) i = Cast<to = 7>(r) y1 = Slice(x, zero, i)
        }, else_branch = b () => (float[k] y2) { y2 = Identity(x) }>
    }
    """
    model, found = islands(text, HALF)
    assert found == dict.fromkeys(("f", "g", "r_2"), InFp32.WHOLE_NUMBERS), "r is a tensor's name"
    assert run(model, x=floats(5001))["y"].shape == (2500,)


def test_a_float_of_integers_of_which_only_the_shape_is_read_is_narrow() -> None:
    text = """
    m (int64[n] ids, float[n] z) => (float[n] y, int64[k] t) {
        f = Cast<to = 1>(ids) y = Mul(f, z) t = Shape(f)
    }
    """
    assert islands(text, {})[1] == {}


def test_embeddings_and_masks_of_integers_are_no_whole_numbers() -> None:
    text = """
    m (int64[n] ids, int64[n] mask) => (float[n, 4] y, int64[n] best) {
        e = Gather(table, ids) f = Cast<to = 1>(mask) g = Sub(one, f) h = Mul(g, low)
        u = Unsqueeze(h, last) y = Add(e, u) best = ArgMax<axis = 1, keepdims = 0>(y)
    }
    """
    table: Tensors = {"table": floats(9, 4), "one": np.float32(1), "low": np.float32(-3.4e38)}
    model, found = islands(text, {**table, "last": np.array([1])})
    assert found == {}
    feeds: Values = {"ids": np.array([1, 2, 3]), "mask": np.array([1, 1, 0])}
    assert np.isfinite(run(model, **feeds)["y"]).all()


def test_what_lies_between_two_islands_stays_and_what_lies_beside_does_not() -> None:
    text = """
    m (float[2, 4] x) => (float[2, 4] y) {
        h = Exp(x) c = CumSum(h, ax) d = Neg(c) e = CumSum(d, ax) f = Neg(h) y = Add(e, f)
    }
    """
    _, found = islands(text, AXIS, 11)
    assert found == {"c": InFp32.SCHEMA, "d": InFp32.BETWEEN_OTHERS, "e": InFp32.SCHEMA}


def test_an_island_whose_result_is_read_in_both_types_is_cast_once() -> None:
    text = """
    m (float[2, 4] x) => (float[2, 4] y, float[2, 4] z) {
        h = Exp(x) c = CumSum(h, ax) y = Neg(c) e = CumSum(c, ax) z = Add(e, y)
    }
    """
    model, found = islands(text, AXIS, 11)
    assert set(found) == {"c", "e"}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 6  # x, two round the islands' ends, y is read inside, y and z


def test_an_accumulator_stays_until_it_is_scaled_and_no_longer() -> None:
    text = """
    m (uint8[2, 4] a) => (float[2, 4] y) {
        n = MatMulInteger(a, b) t = Transpose<perm = [0, 1]>(n) f = Cast<to = 1>(t)
        r = Reshape(f, shape) g = Mul(r, s) y = Add(g, s)
    }
    """
    weights: Tensors = {"b": np.full((4, 4), 200, np.uint8), "s": np.float32(1e-4)}
    model, found = islands(text, {**weights, "shape": np.array([2, 4])})
    assert found == dict.fromkeys("frg", InFp32.ACCUMULATOR)
    feeds: Values = {"a": np.full((2, 4), 255, np.uint8)}  # sums of 204000
    got = run(model, **feeds)["y"]
    np.testing.assert_allclose(got, 20.4, rtol=1e-3)


ONE_BY_ONE = """
m (float[2, 64] x) => (float[2, 4] y) {
    a, s, z = DynamicQuantizeLinear(x) n = MatMulInteger(a, b, z) i = Add(n, bias)
    f = Cast<to = 1>(i) g = Mul(f, s) h = Mul(g, t) e = Exp(h) y = Mul(h, e)
}
"""


def test_scales_that_multiply_an_accumulator_one_by_one_are_all_in_fp32() -> None:
    weights: Tensors = {
        "b": np.full((64, 4), 127, np.int8),
        "t": np.float32(1e-6),
        "bias": np.full(4, 70000, np.int32),
    }
    model, found = islands(ONE_BY_ONE, weights)
    assert found == {"a": InFp32.SCHEMA, **dict.fromkeys("fgh", InFp32.ACCUMULATOR)}
    feeds: Values = {"x": np.full((2, 64), 1000, np.float32)}
    expected = run(model_of(ONE_BY_ONE, weights), **feeds)["y"]
    np.testing.assert_allclose(run(model, **feeds)["y"], expected, rtol=2e-3)


def test_a_product_of_scales_that_fewer_bits_do_not_hold_stays_wherever_it_is_moved() -> None:
    text = """
    m (float[2, 64] x) => (float[2, 4] y) {
        a, s, z = DynamicQuantizeLinear(x) n = MatMulInteger(a, b, z) f = Cast<to = 1>(n)
        p = Mul(s, t) q = Unsqueeze(p, zero) r = Reshape(q, minus) g = Mul(f, r) y = Exp(g)
    }
    """
    weights: Tensors = {
        "b": np.full((64, 4), 1, np.int8),
        "t": np.float32(1e-6),
        "zero": np.array([0]),
        "minus": np.array([-1]),
    }
    model, found = islands(text, weights)
    assert dict.fromkeys("pqr", InFp32.BETWEEN_OTHERS).items() <= found.items()
    feeds: Values = {"x": floats(2, 64, spread=1e-2)}
    expected = run(model_of(text, weights), **feeds)["y"]
    np.testing.assert_allclose(run(model, **feeds)["y"], expected, rtol=2e-3)


def test_products_of_what_is_no_scale_are_not_kept() -> None:
    """Between what is dequantised and quantised again a product of activations is computed."""
    text = """
    m (float[2, 4] x) => (float[2, 4] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = Exp(d) g = Mul(d, e)
        r = QuantizeLinear(g, s, z) w = DequantizeLinear(r, s, z) y = Neg(w)
    }
    """
    weights: Tensors = {"s": np.float32(0.05), "z": np.int8(0)}
    _, found = islands(text, weights, 13)
    assert set(found) == set("qdrw")


def test_nodes_that_are_kept_are_kept_for_that_reason() -> None:
    text = "m (float[2, 4] x) => (float[2, 4] y) { [a] h = Exp(x) [b] g = Neg(h) [c] y = Abs(g) }"
    why = Reason(InFp32.WHOLE_NUMBERS)
    model, found = islands(text, kept={"b": why})
    assert found == {"g": why.kind}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == 4


def test_nodes_with_graphs_and_calls_are_not_kept_as_one() -> None:
    text = """
    m (float[2, 4] x, bool c) => (float[2, 4] y) {
        [a] h = Exp(x)
        [b] y = If (c) <then_branch = t () => (float[2, 4] p) { p = Neg(h) },
                        else_branch = e () => (float[2, 4] q) { q = Abs(h) }>
    }
    """
    model, found = islands(text, kept={"b": Reason(InFp32.WHOLE_NUMBERS)})
    assert found == {}
    run(model, **X, c=np.array(True))


def test_a_graph_in_an_op_of_which_nothing_is_known_stays_with_all_in_it() -> None:
    text = """
    m (float[2, 4] x) => (float[2, 4] y) {
        h = Exp(x) [f] g = other.Foo<body = b (float[4] s) => (float[4] t) { t = Neg(s) }>(h)
        y = Abs(g)
    }
    """
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 18, "other": 1]>\n' + text)
    done = convert(model, Weights(), Accelerator())
    assert {node.op: node.why.kind for node in done.nodes} == {
        "Foo": InFp32.HOLDER,
        "Neg": InFp32.BETWEEN_OTHERS,
    }
    body = next(node for node in model.graph.node if node.name == "f").attribute[0].g
    assert body.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("keep_io_types", [True, False])
def test_sequences_at_the_ends_of_a_model_stay_in_fp32_only_where_ends_do(
    keep_io_types: bool,
) -> None:
    text = """
    m (float[2, 4] x) => (seq(float[1, 4]) y) {
        h = Exp(x) s = SplitToSequence<axis = 0>(h) y = SequenceInsert(s, h)
    }
    """
    model = model_of(text)
    done = convert(model, Weights(), Accelerator(), keep_io_types=keep_io_types)
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op: node.why.kind for node in done.nodes}
    ops = {"SplitToSequence", "SequenceInsert"} if keep_io_types else set()
    assert kinds == dict.fromkeys(ops, InFp32.SEQUENCE)


def test_a_tensor_in_an_attribute_has_the_type_of_what_is_read_beside_it() -> None:
    text = "m (float[2, 4] x) => (float[2, 4] y) { h = Exp(x) y = Neg(h) }"
    model = model_of(text)
    tensor = numpy_helper.from_array(np.ones(1, np.float32))
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("table", tensor))
    done = convert(model, Weights(), Accelerator())
    assert [(node.op, node.why.kind) for node in done.nodes] == [("Neg", InFp32.ATTRIBUTE)]


def test_a_constant_is_narrowed_by_who_reads_it_also_behind_what_moves_it() -> None:
    text = """
    m (float[2, 4] x) => (float[2, 4] y) {
        e = Constant<value_float = 1e-12>() u = Unsqueeze(e, zero) a = Add(x, u)
        m = Mul(a, tiny) y = Clip(m, low, high)
    }
    """
    weights: Tensors = {
        "tiny": np.float32(1e-12),
        "low": np.float32(-3.4e38),
        "high": np.float32(3.4e38),
        "zero": np.array([0]),
    }
    model, _ = islands(text, weights)
    values = {
        t.name: float(numpy_helper.to_array(t).item())
        for t in model.graph.initializer
        if t.name != "zero"
    }
    assert (values["tiny"], values["low"], values["high"]) == (0, -65504, 65504)
    constant = next(node for node in model.graph.node if node.op_type == "Constant")
    assert numpy_helper.to_array(constant.attribute[0].t) == 2.0**-24
