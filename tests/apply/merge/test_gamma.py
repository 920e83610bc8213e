"""Gamma and beta go into every weight that reads the norm, or stay with the reason."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.reasons import Unmerged
from tests.models.merge_models import (
    BETA,
    EVERY,
    GAMMA,
    LAYER,
    RMS,
    gamma_left,
    kinds,
    merged,
    model,
    norm,
    part,
    protected,
    relative,
    stored,
)
from tests.models.small_graphs import D, normal

CLOSE = 1e-6


def times_gamma(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """diag(gamma) W in float64, rounded once."""
    return (GAMMA[:, None].astype(np.float64) * weight).astype(np.float32)


def test_three_readers_take_gamma_and_its_mul_is_gone() -> None:
    before = model(
        norm(RMS, "n", "rows")
        + "q = MatMul(n_y, w) k = MatMul(n_y, w2) v = MatMul(n_y, w3) qk = Add(q, k) y = Add(qk, v)"
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    assert kinds(after).count("Mul") == kinds(before).count("Mul") - 1
    for name in ("w", "w2", "w3"):
        np.testing.assert_array_equal(stored(after)[name], times_gamma(EVERY[name]))
    assert "gamma" not in stored(after)
    assert 0 < relative(before, after) < CLOSE


def test_beta_goes_into_the_bias_as_numpy_computes_it() -> None:
    before = model(norm(LAYER, "n", "rows", beta=True) + "p = MatMul(n_y, w) y = Add(b, p)")
    after, _ = merged(before, "gamma")
    wanted = (EVERY["b"].astype(np.float64) + BETA.astype(np.float64) @ EVERY["w"]).astype("f4")
    np.testing.assert_array_equal(stored(after)["b"], wanted)
    np.testing.assert_array_equal(stored(after)["w"], times_gamma(EVERY["w"]))
    assert kinds(after).count("Add") == kinds(before).count("Add") - 1
    assert relative(before, after) < CLOSE


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_a_gemm_with_factors(transposed: int, bias: str) -> None:
    weight = normal(6, 6, D) if transposed else normal(6, D, 6)
    gemm = f"p = Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>(flat, g{bias})"
    shape = np.array([-1, D])
    before = model(
        norm(LAYER, "n", "rows", beta=True) + f"flat = Reshape(n_y, shape) {gemm} y = Relu(p)",
        {"g": weight, "shape": shape},
        "float[r, c] y",
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    assert relative(before, after) < CLOSE


def test_a_weight_that_two_products_share_takes_gamma_once() -> None:
    before = model(norm(RMS, "n", "rows") + "p = MatMul(n_y, w) q = MatMul(n_y, w) y = Mul(p, q)")
    after, _ = merged(before, "gamma")
    np.testing.assert_array_equal(stored(after)["w"], times_gamma(EVERY["w"]))
    assert relative(before, after) < CLOSE


def test_a_weight_that_another_norm_reads_is_left() -> None:
    before = model(
        norm(RMS, "n", "rows")
        + "more = Add(rows, rows)"
        + norm(RMS, "m", "more")
        + "p = MatMul(n_y, w) q = MatMul(m_y, w) y = Mul(p, q)"
    )
    assert gamma_left(before) is Unmerged.TIED


def test_a_tied_embedding_is_left_and_not_copied() -> None:
    before = model(
        norm(RMS, "n", "rows") + "e = Transpose<perm = [1, 0]>(table) y = MatMul(n_y, e)"
    )
    assert gamma_left(before) is Unmerged.TIED


def test_movements_before_the_weight_and_of_the_weight() -> None:
    before = model(
        norm(RMS, "n", "rows")
        + """
        flat = Reshape(n_y, shape)
        turned = Transpose<perm = [1, 0]>(flat)
        back = Transpose<perm = [1, 0]>(turned)
        wide = Cast<to = 1>(back)
        first = Gather<axis = 0>(wide, index)
        wt = Transpose<perm = [1, 0]>(w_t)
        y = MatMul(first, wt)
        """,
        {"shape": np.array([-1, D]), "index": np.array([2, 0]), "w_t": normal(7, 6, D)},
        "float[r, c] y",
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    expected = (GAMMA.astype(np.float64) * normal(7, 6, D)).astype(np.float32)
    np.testing.assert_array_equal(stored(after)["w_t"], expected)
    assert relative(before, after) < CLOSE


def test_a_reshape_that_cuts_the_channels_is_no_way() -> None:
    before = model(
        norm(RMS, "n", "rows") + "h = Reshape(n_y, shape) y = MatMul(h, half)",
        {"shape": np.array([0, -1, D // 2]), "half": normal(8, D // 2, 3)},
    )
    assert gamma_left(before) is Unmerged.READ_OTHERWISE


def test_a_transposition_of_the_channels_is_no_way() -> None:
    before = model(
        norm(RMS, "n", "rows") + "h = Transpose<perm = [0, 2, 1]>(n_y) y = MatMul(h, three)",
        {"three": normal(8, 3, 3)},
    )
    assert gamma_left(before) is Unmerged.READ_OTHERWISE


def test_another_reader_keeps_gamma() -> None:
    before = model(
        norm(RMS, "n", "rows") + "p = MatMul(n_y, w8) y = Add(p, n_y)", {"w8": normal(9, D, D)}
    )
    assert gamma_left(before) is Unmerged.READ_OTHERWISE


def test_a_graph_output_keeps_gamma() -> None:
    before = model(
        norm(RMS, "n", "rows") + "y = MatMul(n_g, w)",
        outputs="float[a, s, c] y, float[a, s, d] n_y",
    )
    assert gamma_left(before) is Unmerged.OUTPUT


def branches() -> onnx.ModelProto:
    """A norm that the two branches of an If read, one by a product and one by an Abs."""
    made = model(norm(RMS, "n", "rows") + "y = MatMul(n_g, w)")
    del made.graph.node[-2:]

    def branch(op: str, *inputs: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"y_{op}", TensorProto.FLOAT, None)
        nodes = [helper.make_node(op, inputs, [f"y_{op}"])]
        return helper.make_graph(nodes, op, [], [output])

    made.graph.node.append(
        helper.make_node(
            "If",
            ["which"],
            ["y"],
            then_branch=branch("MatMul", "n_g", "w"),
            else_branch=branch("Abs", "n_g"),
        )
    )
    made.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    return made


def test_a_branch_that_reads_it_otherwise_keeps_gamma() -> None:
    assert gamma_left(branches()) is Unmerged.READ_OTHERWISE


def test_products_in_both_branches_take_it() -> None:
    before = branches()
    other = next(a.g for a in before.graph.node[-1].attribute if a.name == "else_branch")
    other.node[0].op_type = "MatMul"
    other.node[0].input[:] = ["n_g", "w2"]
    before.graph.initializer.append(numpy_helper.from_array(EVERY["w2"], "w2"))
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    ids = np.array([[1, 2]])
    for which in (np.array(True), np.array(False)):
        assert relative(before, after, ids=ids, which=which) < CLOSE


def test_beta_without_a_bias_takes_one_add_and_not_more() -> None:
    one = model(norm(LAYER, "n", "rows", beta=True) + "y = MatMul(n_y, w)")
    after, merges = merged(one, "gamma")
    assert part(merges, "n").state == "merged"
    assert len(after.graph.node) == len(one.graph.node) - 1
    assert relative(one, after) < CLOSE
    two = model(
        norm(LAYER, "n", "rows", beta=True) + "p = MatMul(n_y, w) q = MatMul(n_y, w2) y = Add(p, q)"
    )
    assert gamma_left(two) is Unmerged.NO_BIAS


def test_a_bias_that_is_shared_gets_a_copy() -> None:
    before = model(
        norm(LAYER, "n", "rows", beta=True)
        + "p = MatMul(n_y, w) q = MatMul(n_y, w2) pb = Add(p, b) qb = Add(q, b) y = Mul(pb, qb)"
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged" and "b" not in stored(after)
    assert relative(before, after) < CLOSE


CONV = """
    turned = Transpose<perm = [0, 2, 1]>(n_y)
    y = Conv<pads = [{pad}, {pad}], group = {group}>(turned, kernel, b)
"""


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
def test_a_convolution(group: int, beta: bool, pad: int) -> None:
    before = model(
        norm(LAYER, "n", "rows", beta=beta) + CONV.format(pad=pad, group=group),
        {"kernel": normal(10, 6, D // group, 3)},
    )
    if beta and pad:
        assert gamma_left(before) is Unmerged.PADDED
        return
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    assert relative(before, after) < CLOSE


def test_automatic_padding_is_padding() -> None:
    nodes = (
        norm(LAYER, "n", "rows", beta=True)
        + """
        turned = Transpose<perm = [0, 2, 1]>(n_y)
        y = Conv<auto_pad = "SAME_UPPER">(turned, kernel, b)
    """
    )
    assert gamma_left(model(nodes, {"kernel": normal(10, 6, D, 3)})) is Unmerged.PADDED


def test_fused_ops_keep_a_gamma_of_ones() -> None:
    before = model(
        "[n] n_y = LayerNormalization<axis = -1>(rows, gamma, beta)p = MatMul(n_y, w) y = Add(p, b)"
    )
    after, _ = merged(before, "gamma")
    (node,) = (n for n in after.graph.node if n.op_type == "LayerNormalization")
    assert len(node.input) == 2
    np.testing.assert_array_equal(stored(after)[node.input[1]], np.ones(D, np.float32))
    assert relative(before, after) < CLOSE
    again, more = merged(after, "gamma")
    assert part(more, "n").state == "before" and again == after


def test_a_skip_norm_keeps_the_bias_behind_its_beta() -> None:
    before = model(
        "[n] n_y, , , total = com.microsoft.SkipLayerNormalization(rows, rows, gamma, beta, skip)"
        "p = MatMul(n_y, w8) q = Add(p, skip) y = Add(q, total)",
        {"skip": normal(11, D), "w8": normal(12, D, D)},
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    assert relative(before, after) < CLOSE


def test_packed_attention_weights_take_it() -> None:
    before = model(
        "[n] n_y = LayerNormalization<axis = -1>(rows, gamma, beta)"
        "y = com.microsoft.Attention<num_heads = 2>(n_y, qkv, qkv_b)",
        {"qkv": normal(13, D, 3 * D), "qkv_b": normal(14, 3 * D)},
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    assert relative(before, after) < CLOSE


def test_gamma_that_the_graph_computes() -> None:
    before = model(
        "g1 = Add(gamma, one)"
        + norm(RMS, "n", "rows", gamma=False)
        + "g = Mul(n_y, g1) y = MatMul(g, w)",
        {"one": np.array(1, np.float32)},
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "merged"
    wanted = ((1 + GAMMA.astype(np.float64))[:, None] * EVERY["w"]).astype(np.float32)
    np.testing.assert_array_equal(stored(after)["w"], wanted)
    assert "gamma" not in stored(after) and kinds(after).count("Add") == 1


def test_gamma_of_the_data_is_none_to_merge() -> None:
    before = model(
        norm(RMS, "n", "rows", gamma=False) + "g = Sigmoid(rows) a = Mul(n_y, g) y = MatMul(a, w)"
    )
    after, merges = merged(before, "gamma")
    assert part(merges, "n").state == "before" and after == before


def test_a_second_run_finds_the_norm_and_merges_nothing() -> None:
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)")
    after, _ = merged(before, "gamma")
    again, merges = merged(after, "gamma")
    assert [one.name for one in merges.norms] == ["n"]
    assert part(merges, "n").state == "before" and again == after


def test_folding_and_merging_go_together() -> None:
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)", {"table": normal(1, 11, D) * 900})
    after = protected(before, "gamma")
    assert np.abs(stored(after)["table"]).max() < np.abs(stored(before)["table"]).max()
    np.testing.assert_array_equal(stored(after)["w"], times_gamma(EVERY["w"]))
    assert relative(before, after) < CLOSE
