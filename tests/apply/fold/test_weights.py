"""Where a scale can go: biases, quantised scales, shared and overridable weights, 16-bit ones."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx import Options, protect
from slanc_onnx.apply.fold.weights import divided, histogram_of, lost, range_of
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.reasons import Note, Reason
from slanc_onnx.report.wording import reason_text
from tests.models.fold_models import LN, RMS, folded, ops, same_bits, weights
from tests.models.small_graphs import D, between, graph, normal
from tests.oracles.unoptimised import different, run

ROWS = f"float[a, b, {D}] x"


def stored(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, float]:
    """By what each initializer was divided."""
    was, now = stored(before), stored(after)
    ratios = {
        n: float(np.asarray(v).flat[0]) / float(now[n].flat[0])
        for n, v in was.items()
        if v.tobytes() != now[n].tobytes()
    }
    for name, ratio in ratios.items():
        assert (now[name].astype(np.float64) * ratio == was[name].astype(np.float64)).all()
    return ratios


def check(nodes: str, expected: dict[str, float], opset: int = 17, **more: NDArray[Any]) -> None:
    """`nodes` make r from x; the norm that reads r is folded by 8, with these weights divided."""
    model = graph(f"{nodes} [n] y = {RMS}(r, ones)", weights(**more), ROWS, opset=opset)
    after, found = folded(model, {"n": (3, 3)})
    assert ops(after) == ops(model)
    assert found.applied == {"n": "fold"}
    assert changed(model, after) == expected
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_product_and_its_bias() -> None:
    check("m = MatMul(x, w1) r = Add(b1, m)", {"w1": 8, "b1": 8})


def test_of_layer_scale_and_projection_the_vector_next_to_the_group() -> None:
    check("m = MatMul(x, w1) r = Mul(m, b1)", {"b1": 8})


def test_a_divisor_is_multiplied() -> None:
    check("m = Exp(x) r = Div(m, b1)", {"b1": 1 / 8})


def test_a_gemm_between_changes_of_shape() -> None:
    check(
        "f = Reshape(x, two) g = Gemm<transB = 1>(f, w1, b1) r = Reshape(g, three)",
        {"w1": 8, "b1": 8},
        two=np.array([-1, D]),
        three=np.array([2, 3, D]),
    )


def test_a_convolution_behind_an_activation() -> None:
    kernel = normal(3, D, D, 1)
    check(
        """t = Transpose<perm = [0, 2, 1]>(x) c = Conv(t, kernel, b1) p = Relu(c)
        r = Transpose<perm = [0, 2, 1]>(p)""",
        {"kernel": 8, "b1": 8},
        kernel=kernel,
    )


def test_a_weight_behind_a_transpose_and_a_cast() -> None:
    half = normal(3, D, D).astype(np.float16)
    check(
        "c = Cast<to = 1>(half) t = Transpose<perm = [1, 0]>(c) r = MatMul(x, t)",
        {"half": 8},
        half=half,
    )


def test_of_quantised_weights_the_scales() -> None:
    integers = np.arange(-32, 32, dtype=np.int8).reshape(D, D)
    check(
        "w = DequantizeLinear<axis = 1>(integers, scales) r = MatMul(x, w)",
        {"scales": 8},
        integers=integers,
        scales=np.abs(normal(4, D)),
    )


def test_of_blocks_of_four_bits_the_scales_and_the_bias() -> None:
    width = 32
    weight = {
        "packed": np.arange(D * 16, dtype=np.uint8).reshape(D, 1, 16),
        "scales": np.abs(normal(4, D)).reshape(D, 1),
    }
    nodes = f"""
        r = com.microsoft.MatMulNBits<K = {width}, N = {D}, bits = 4, block_size = {width}>
            (x, packed, scales, , , b1)
        [n] y = {RMS}(r, ones)
    """
    model = graph(nodes, weights(**weight), f"float[a, b, {width}] x")
    after, _ = folded(model, {"n": (3, 3)})
    assert (ops(after), changed(model, after)) == (ops(model), {"scales": 8, "b1": 8})
    assert same_bits(model, after, x=normal(9, 2, 3, width))


def test_the_weight_behind_the_stream_takes_the_scale_back() -> None:
    nodes = f"""
        m = MatMul(x, w1) r = Identity(m)
        z = MatMul(r, w2)
        [n] h = {RMS}(r, ones)
        y = Add(h, z)
    """
    model = graph(nodes, weights(), ROWS)
    after, found = folded(model, {"n": (3, 3)})
    assert (found.inserted, changed(model, after)) == (0, {"w1": 8, "w2": 1 / 8})
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_shared_vector_is_copied_and_counted() -> None:
    nodes = f"m = MatMul(x, w1) r = Add(m, b1) [n] h = {RMS}(r, ones) y = Add(h, b1)"
    model = graph(nodes, weights(), ROWS)
    after, found = folded(model, {"n": (3, 3)})
    assert (found.copied, found.inserted, changed(model, after)) == (1, 0, {"w1": 8})
    assert (stored(after)["b1/slanc_8"] * 8 == stored(model)["b1"]).all()
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_shared_matrix_is_not_copied() -> None:
    nodes = f"m = MatMul(x, w1) [n] h = {RMS}(m, ones) s = Sin(h) y = MatMul(s, w1)"
    model = graph(nodes, weights(), ROWS)
    after, found = folded(model, {"n": (3, 3)})
    assert (found.inserted, changed(model, after)) == (1, {})
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_matrix_shared_by_reads_that_agree_is_divided_once() -> None:
    nodes = f"s = Sin(x) m = MatMul(x, w1) k = MatMul(s, w1) r = Add(m, k) [n] y = {RMS}(r, ones)"
    model = graph(nodes, weights(), ROWS)
    after, found = folded(model, {"n": (3, 3)})
    assert (found.inserted, changed(model, after)) == (0, {"w1": 8})
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_what_a_caller_may_override_is_no_place() -> None:
    nodes = f"m = MatMul(x, w1) [n] y = {RMS}(m, ones)"
    model = graph(nodes, weights(), f"{ROWS}, float[{D}, {D}] w1")
    after, found = folded(model, {"n": (3, 3)})
    assert (found.inserted, changed(model, after)) == (1, {})
    assert same_bits(model, after, x=normal(9, 2, 3, D), w1=normal(50, D, D))


def test_a_gamma_that_is_computed_is_divided_when_the_model_runs() -> None:
    nodes = f"""
        gamma = Add(b1, ones)
        [a] h = {RMS}(x, gamma)
        [n] y = {RMS}(h, ones)
    """
    model = graph(nodes, weights(), ROWS)
    after, found = folded(model, {"a": (0, 0), "n": (3, 3)})
    assert found.inserted == 1
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_zeros_need_no_division() -> None:
    nodes = f"m = MatMul(x, w1) r = Add(m, zero) [n] h = {RMS}(r, ones) y = Add(h, zero)"
    model = graph(nodes, weights(zero=np.zeros(D, np.float32)), ROWS)
    after, found = folded(model, {"n": (3, 3)})
    assert (found.copied, found.inserted, changed(model, after)) == (0, 0, {"w1": 8})
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_weight_that_would_overflow_is_no_place() -> None:
    huge = np.full((D, D), 3e38, np.float32)
    nodes = f"""
        t = Sin(x) s = MatMul(t, w1) c = Mul(s, tiny) m = MatMul(c, huge)
        [n] y = {RMS}(m, ones)
    """
    tiny = np.array(1e-30, np.float32)
    model = graph(nodes, weights(huge=huge, tiny=tiny), ROWS)
    after, found = folded(model, {"n": (-3, -3)})
    assert "huge" not in changed(model, after)
    assert found.applied["n"] in ("fold", "div")
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def half_model(smallest: float) -> onnx.ModelProto:
    weight = np.full((D, D), 0.5, np.float16)
    weight[1:] += normal(3, D - 1, D).astype(np.float16)
    weight[0, 0] = smallest
    nodes = f"""
        h = Cast<to = 10>(x) m = MatMul(h, w) r = Cast<to = 1>(m)
        [n] y = {RMS}(r, ones)
    """
    return graph(nodes, weights(w=weight), ROWS)


def test_a_weight_that_would_lose_a_bit_is_no_place() -> None:
    model = half_model(2.0**-24)
    after, found = folded(model, {"n": (3, 3)})
    assert (changed(model, after), found.inserted) == ({}, 1)
    assert list(map(reason_text, found.notes)) == [
        "1 weights would lose bits if divided, and were not: w (1 elements)"
    ]
    after, found = folded(half_model(2.0**-14), {"n": (3, 3)})
    assert (found.inserted, found.notes) == (0, [])


def test_a_weight_that_only_the_quotient_makes_subnormal_is_no_place() -> None:
    """2^-13 (1 + 2^-10) is normal; an eighth of it would need a bit below 2^-24."""
    smallest = 2.0**-13 * (1 + 2.0**-10)
    assert float(np.float16(smallest)) == smallest != 8 * float(np.float16(smallest / 8))
    model = half_model(smallest)
    after, found = folded(model, {"n": (3, 3)})
    assert (changed(model, after), found.inserted) == ({}, 1)
    assert found.notes == [Reason(Note.WOULD_LOSE_BITS, (("w", 1),))]


def test_of_the_exponents_that_serve_the_one_that_loses_no_bit() -> None:
    _, found = folded(half_model(2.0**-23), {"n": (1, 3)})
    assert (found.groups[0].sigma, found.inserted) == (2.0, 0)


def test_a_weight_that_would_lose_much_is_no_place() -> None:
    nodes = f"h = Cast<to = 10>(x) m = MatMul(h, w) r = Cast<to = 1>(m) [n] y = {RMS}(r, ones)"
    weight = (normal(3, D, D) * 2.0**-16).astype(np.float16)
    model = graph(nodes, weights(w=weight), ROWS)
    after, found = folded(model, {"n": (5, 5)})
    assert (changed(model, after), found.inserted) == ({}, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=20),
    st.integers(-4, 12),
    st.sampled_from([np.float16, ml_dtypes.bfloat16, np.float32]),
)
def test_loss_against_float64(values: list[float], exponent: int, dtype: Any) -> None:
    array = np.array(values).astype(dtype)
    exact = array.astype(np.float64) / 2.0**exponent
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    assert divided(array, exponent).tobytes() == rounded.tobytes()
    back = rounded.astype(np.float64)
    whole = np.linalg.norm(exact)
    relative = np.linalg.norm(back - exact) / whole if whole else 0.0
    ways = [lost(array, exponent)]
    if array.dtype.itemsize == 2:
        ways.append(histogram_of(array).lost(exponent))
    for loss in ways:
        assert loss.elements == np.count_nonzero(back != exact)
        assert loss.relative == pytest.approx(relative, rel=1e-12)
    finite = np.abs(array.astype(np.float64))
    nonzero = finite[finite > 0]
    assert range_of(array) == ((nonzero.min(), nonzero.max()) if nonzero.size else (np.inf, 0.0))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_a_histogram_leaves_out_what_is_not_finite(dtype: Any) -> None:
    array = np.array([[1.5, np.inf, 1.5], [np.nan, -0.25, -np.inf]]).astype(dtype)
    found = histogram_of(array)
    values = found.values.astype(np.float64).tolist()
    assert dict(zip(values, found.counts.tolist(), strict=True)) == {1.5: 2, -0.25: 1}


SKIP = f"""
    r0 = Gather(table, ids)
    [n1] x1 = {RMS}(r0, g1)
    m1 = MatMul(x1, w1)
    [n2] x2, , , r1 = com.microsoft.SkipSimplifiedLayerNormalization(r0, m1, g2, b1)
    m2 = MatMul(x2, w2)
    [n3] y, , , r2 = com.microsoft.SkipSimplifiedLayerNormalization(r1, m2, g3)
"""
IDS = np.array([[3, 1, 4, 1, 5]], np.int64)


def test_a_skip_norm_stays_fused_and_its_sum_in_the_stream() -> None:
    model = graph(SKIP, weights())
    after, found = folded(model, dict.fromkeys(("n1", "n2", "n3"), (3, 3)))
    assert ops(after) == ops(model)
    assert changed(model, after) == {"table": 8, "w1": 8, "b1": 8, "w2": 8}
    assert found.inserted == 0
    assert same_bits(model, after, ids=IDS)


def test_the_sum_of_a_skip_norm_keeps_its_value_as_an_output() -> None:
    model = graph(SKIP, weights(), outputs="float[a, b, c] y, float[a, b, c] r2")
    after, found = folded(model, dict.fromkeys(("n1", "n2", "n3"), (3, 3)))
    assert found.inserted == 1
    assert same_bits(model, after, ids=IDS)


def test_a_skip_norm_outside_the_window_has_its_addends_divided() -> None:
    model = graph(SKIP, weights())
    windows = {"n1": (3, 3), "n2": (9, 9), "n3": (3, 3)}
    after, found = folded(model, windows)
    assert same_bits(model, after, ids=IDS)
    assert [n.scaled_by for n in find_norms_in(read_graph(after))] == [8.0, 512.0, 8.0]
    assert found.inserted <= 3


BRANCHES = f"""
    s = MatMul(x, w1)
    y = If (flag) <
        then_branch = one () => (float[a, b, c] t) {{
            c = Sin(s) m = MatMul(s, w2) u = Add(m, c) [inner] t = {RMS}(u, g1) }},
        else_branch = two () => (float[a, b, c] e) {{ e = Identity(s) }}
    >
    [n] z = {LN}(s, g2, b2)
"""


@pytest.mark.parametrize("flag", [True, False])
def test_what_a_branch_reads_keeps_its_value(flag: bool) -> None:
    outputs = "float[a, b, c] y, float[a, b, c] z"
    model = graph(BRANCHES, weights(), f"{ROWS}, bool flag", outputs)
    after, found = folded(model, {"n": (3, 3), "inner": (4, 4)})
    assert set(found.applied) == {"n", "inner"}
    feeds = {"x": normal(9, 2, 3, D), "flag": np.array(flag)}
    assert different(run(model, **feeds), run(after, **feeds)) == []


def test_a_constant_node_is_a_weight_too() -> None:
    value = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(normal(4, D, D)))
    model = graph(f"m = MatMul(x, w) [n] y = {RMS}(m, ones)", weights(), ROWS)
    model.graph.node.insert(0, value)
    after, _ = folded(model, {"n": (3, 3)})
    assert ops(after) == ops(model)
    tensor = after.graph.node[0].attribute[0].t
    assert tensor.data_type == TensorProto.FLOAT
    assert (numpy_helper.to_array(tensor) * 8 == normal(4, D, D)).all()
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_number_in_a_constant_node_is_a_weight_too() -> None:
    model = graph(
        f"k = Constant<value_float = 3.0>() m = Mul(x, k) [n] y = {RMS}(m, ones)", weights(), ROWS
    )
    after, found = folded(model, {"n": (3, 3)})
    assert found.inserted == 0
    assert float(numpy_helper.to_array(after.graph.node[0].attribute[0].t)) == 0.375
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_a_constant_that_is_held_in_fp8_on_its_way_is_not_divided() -> None:
    """FP8 saturates 1e6 at 448, and 1e6 / 1024 too."""
    nodes = """
        narrow = Cast<to = 17>(large)
        wide = Cast<to = 1>(narrow)
        twice = MatMul(x, w)
        total = Add(twice, wide)
    """
    held = {"w": normal(1, 8, 8, spread=1e4), "large": np.full(8, 1e6, np.float32)}
    model = between(nodes, held, opset=19)
    after = onnx.ModelProto.FromString(model.SerializeToString())
    decided = protect(after, Options(estimate="weights", apply="fold", validate=False))
    assert any(d.scale not in (None, 1.0) for d in decided)
    ids = {"ids": np.array([[1, 5, 3]])}
    assert (run(model, **ids)["y"] == run(after, **ids)["y"]).all()
