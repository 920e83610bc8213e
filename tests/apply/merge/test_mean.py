"""The mean is centred away in everything that writes into a stream, or stays with the reason."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.norms import read_model, unmatched_means
from slanc_onnx.reasons import Unmerged
from tests.models.merge_models import (
    EVERY,
    IDS,
    LAYER,
    RMS,
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
from tests.oracles.unoptimised import run

CLOSE = 1e-6
BLOCK = {"up": normal(20, D, 12), "down": normal(21, 12, D), "bias": normal(22, D) + 3}
# A pre-norm block: a LayerNorm of the stream, a product with two weights, and the sum.
PRE = (
    norm(LAYER, "n", "rows", beta=True)
    + "h = MatMul(n_y, up) f = Relu(h) d = MatMul(f, down) db = Add(d, bias) r = Add(db, rows)"
)
LAST = norm(LAYER, "m", "r") + "y = MatMul(m_y, w)"
FUSED = """
    [n] n_y = LayerNormalization<axis = -1>(rows, gamma, beta)
    h = MatMul(n_y, up) f = Relu(h) d = MatMul(f, down) r = Add(d, rows)
    [m] m_y = LayerNormalization<axis = -1>(r, gamma, beta)
    y = MatMul(m_y, w)
"""


def centred(weight: NDArray[np.float32], axis: int = -1) -> NDArray[np.float32]:
    """A weight less its mean in float64, rounded once."""
    wide = weight.astype(np.float64)
    return np.asarray((wide - wide.mean(axis=axis, keepdims=True)).astype(np.float32))


def reason(before: onnx.ModelProto, name: str = "n", **options: Any) -> Unmerged:
    """Why a mean is left; the norm is as it was then."""
    after, merges = merged(before, "mean", **options)
    found = part(merges, name, "mean")
    assert found.state == "left" and found.reason is not None
    assert relative(before, after) < CLOSE
    assert isinstance(found.reason.kind, Unmerged)
    return found.reason.kind


def kinds_of_norms(found: onnx.ModelProto) -> dict[str, str]:
    return {norm.name: norm.kind for norm in read_model(found).norms}


def test_tables_products_and_biases_are_centred() -> None:
    before = model(PRE + LAST, BLOCK)
    after, merges = merged(before, "mean")
    assert [part(merges, n, "mean").state for n in "nm"] == ["merged", "merged"]
    for name, value in (
        ("table", EVERY["table"]),
        ("down", BLOCK["down"]),
        ("bias", BLOCK["bias"]),
    ):
        np.testing.assert_array_equal(stored(after)[name], centred(value))
    np.testing.assert_array_equal(stored(after)["up"], BLOCK["up"])
    assert kinds(after).count("Sub") == 0 and kinds(after).count("ReduceMean") == 2
    assert kinds_of_norms(after) == {"n": "rms", "m": "rms"}
    assert relative(before, after) < CLOSE


def test_the_stream_has_no_mean_left() -> None:
    """What the norms read is x - mean(x), as NumPy has it."""
    before = model(PRE + LAST, BLOCK)
    after, _ = merged(before, "mean")
    for one in (before, after):
        one.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    stream, less = (run(one, ids=IDS)["r"].astype(np.float64) for one in (before, after))
    np.testing.assert_allclose(less, stream - stream.mean(-1, keepdims=True), atol=1e-5)
    assert np.abs(stream.mean(-1)).min() > 0.1


@pytest.mark.parametrize("opset", [17, 23])
def test_beta_goes_where_a_fused_op_has_no_place_for_it(opset: int) -> None:
    """Into a new Add behind the product, as it would have one behind the norm."""
    before = model(FUSED, BLOCK, opset=opset)
    after, merges = merged(before, "all")
    assert [part(merges, n).state for n in "nm"] == ["merged", "merged"]
    assert relative(before, after) < CLOSE
    again, more = merged(after, "all")
    assert again == after and not more.changes


def test_gamma_and_mean_together_leave_no_more_than_a_root() -> None:
    before = model(PRE + LAST, BLOCK)
    after, merges = merged(before, "all")
    assert [part(merges, n).state for n in "nm"] == ["merged", "merged"]
    assert kinds(after).count("Mul") == 2 and kinds(after).count("Sub") == 0
    assert relative(before, after) < CLOSE
    again, more = merged(after, "all")
    assert again == after and len(more.norms) == 2


def test_a_new_bias_of_a_writer_is_centred_as_well() -> None:
    """The linear block takes beta in an Add of its own, which writes into the stream."""
    before = model(
        norm(LAYER, "n", "rows", beta=True) + "d = MatMul(n_y, w8) r = Add(d, rows)" + LAST,
        {"w8": normal(23, D, D)},
    )
    after, merges = merged(before, "all")
    assert [part(merges, n, "mean").state for n in "nm"] == ["merged", "merged"]
    assert part(merges, "n").state == "merged"
    assert relative(before, after) < CLOSE


def test_a_copied_bias_of_a_writer_is_centred_as_well() -> None:
    before = model(
        norm(LAYER, "n", "rows", beta=True)
        + "d = MatMul(n_y, w8) db = Add(d, bias) r0 = Add(db, rows) r = Add(r0, bias)"
        + LAST,
        {"w8": normal(23, D, D), "bias": BLOCK["bias"]},
    )
    after, merges = merged(before, "all")
    assert [part(merges, n, "mean").state for n in "nm"] == ["merged", "merged"]
    assert relative(before, after) < CLOSE


@pytest.mark.parametrize(("opset", "form"), [(17, "decomposed"), (23, "RMSNormalization")])
@pytest.mark.parametrize("parts", [("mean",), ("all",)])
def test_a_fused_op_becomes_what_the_opset_has(opset: int, form: str, parts: Any) -> None:
    before = model(FUSED, BLOCK, opset=opset)
    after, merges = merged(before, *parts)
    assert [one.form for one in merges.norms] == [form, form]
    assert [one.form for one in read_model(after).norms] == [form, form]
    assert kinds_of_norms(after) == {"n": "rms", "m": "rms"}
    assert "LayerNormalization" not in kinds(after)
    assert relative(before, after) < CLOSE


def test_a_fused_op_becomes_what_other_norms_are() -> None:
    other = "[o] o_y = SimplifiedLayerNormalization<axis = -1>(d, gamma) h2 = MatMul(o_y, w8)"
    before = model(
        FUSED.replace("r = Add(d, rows)", other + " r = Add(h2, rows)"),
        {**BLOCK, "w8": normal(24, D, D)},
    )
    after, merges = merged(before, "mean")
    assert [one.form for one in merges.norms] == ["SimplifiedLayerNormalization"] * 3
    assert relative(before, after) < CLOSE


def test_a_skip_norm_becomes_the_simplified_one() -> None:
    before = model(
        """
        [n] n_y, , , total = com.microsoft.SkipLayerNormalization(rows, rows, gamma, beta, skip)
        h = MatMul(n_y, up) f = Relu(h) d = MatMul(f, down)
        [m] m_y = com.microsoft.SkipLayerNormalization(d, total, gamma, beta)
        y = MatMul(m_y, w)
        """,
        {**BLOCK, "skip": normal(25, D)},
    )
    for parts in (("mean",), ("all",)):
        after, merges = merged(before, *parts)
        assert [one.form for one in merges.norms] == ["SkipSimplifiedLayerNormalization"] * 2
        assert relative(before, after) < CLOSE


def test_a_tied_table_is_centred_by_a_node_where_that_saves_means() -> None:
    tied = "e = Transpose<perm = [1, 0]>(table) y = MatMul(m_y, e)"
    before = model(PRE + norm(LAYER, "m", "r") + tied, BLOCK)
    after, merges = merged(before, "mean")
    assert [part(merges, n, "mean").state for n in "nm"] == ["merged", "merged"]
    np.testing.assert_array_equal(stored(after)["table"], EVERY["table"])
    assert kinds(after).count("Sub") == 1 and kinds(after).count("ReduceMean") == 3
    assert relative(before, after) < CLOSE
    again, more = merged(after, "mean")
    assert again == after and not more.changes
    read = read_model(after)
    assert len(read.norms) == 2 and not unmatched_means(read.scopes, read.norms)


def test_a_tied_table_of_one_norm_is_left() -> None:
    before = model(
        norm(LAYER, "n", "rows") + "e = Transpose<perm = [1, 0]>(table) y = MatMul(n_y, e)"
    )
    assert reason(before) is Unmerged.TIED


def test_a_post_norm_keeps_its_mean() -> None:
    """The stream is the norm's own output."""
    before = model(
        norm(LAYER, "n", "rows", beta=True)
        + "h = MatMul(n_y, up) f = Relu(h) d = MatMul(f, down) r = Add(d, n_y)"
        + LAST,
        BLOCK,
    )
    after, merges = merged(before, "mean")
    assert part(merges, "n", "mean").state == "merged"  # the embedding's
    found = part(merges, "m", "mean")
    assert found.reason is not None and found.reason.kind is Unmerged.SEEN_BY
    assert relative(before, after) < CLOSE


def test_a_stream_that_is_an_output_is_left() -> None:
    before = model(PRE + LAST, BLOCK, outputs="float[a, s, c] y, float[a, s, d] r")
    assert reason(before) is reason(before, "m") is Unmerged.STREAM_OUTPUT


@pytest.mark.parametrize(
    "reader",
    [
        "s = Softmax(r) y2 = MatMul(s, w) y = Add(y1, y2)",
        "y2 = MatMul(r, w) y = Add(y1, y2)",
        norm(RMS, "o", "r") + "y2 = MatMul(o_y, w) y = Add(y1, y2)",
    ],
)
def test_a_reader_that_would_see_the_mean_keeps_it(reader: str) -> None:
    last = norm(LAYER, "m", "r") + "y1 = MatMul(m_y, w)" + reader
    assert reason(model(PRE + last, BLOCK)) is Unmerged.SEEN_BY


def test_a_branch_that_reads_the_stream_keeps_its_mean() -> None:
    before = model(PRE + LAST, BLOCK)
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    node = helper.make_node("Abs", ["r"], ["z"])
    body = helper.make_graph([node], "body", [], [output])
    other = helper.make_graph([helper.make_node("Neg", ["y"], ["z"])], "other", [], [output])
    before.graph.node.append(
        helper.make_node("If", ["which"], ["out"], then_branch=body, else_branch=other)
    )
    before.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    after, merges = merged(before, "mean")
    found = part(merges, "n", "mean")
    assert found.reason is not None and found.reason.kind is Unmerged.SEEN_BY and after == before


def test_a_writer_that_is_not_linear_in_a_weight_is_left() -> None:
    before = model("a = Relu(rows)" + norm(LAYER, "n", "a") + "y = MatMul(n_y, w)")
    assert reason(before) is Unmerged.WRITTEN_BY


def test_a_weight_that_writes_and_is_read_otherwise_is_left() -> None:
    nodes = norm(LAYER, "n", "rows") + "d = MatMul(n_y, w8) s = MatMul(d, w8)"
    before = model(
        nodes + norm(LAYER, "m", "d") + "t = Add(m_y, s) y = MatMul(t, w)", {"w8": normal(26, D, D)}
    )
    _, merges = merged(before, "mean")
    found = part(merges, "m", "mean")
    assert found.state == "left"


def test_a_number_that_is_added_to_all_channels_is_no_writer() -> None:
    before = model("a = Add(rows, eps)" + norm(LAYER, "n", "a") + "y = MatMul(n_y, w)")
    assert reason(before) is Unmerged.WRITTEN_BY


def test_one_pass_variance_is_another_spelling() -> None:
    before = model(
        """
        mean = ReduceMean<axes = [-1]>(rows) sq = Mul(rows, rows)
        ms = ReduceMean<axes = [-1]>(sq) m2 = Mul(mean, mean) v = Sub(ms, m2) ve = Add(v, eps)
        root = Sqrt(ve) less = Sub(rows, mean)
        [n] x = Div(less, root)
        y = MatMul(x, w)
        """
    )
    assert reason(before) is Unmerged.SPELLING


def test_patches_of_a_convolution_with_a_class_token() -> None:
    """As ViT has it: the channels are axis 1 first, and the token's row is expanded."""
    nodes = (
        """
        p = Conv<strides = [4, 4], kernel_shape = [4, 4]>(image, kernel, kb)
        flat = Reshape(p, shape) patches = Transpose<perm = [0, 2, 1]>(flat)
        all = Concat<axis = 1>(cls, patches) placed = Add(all, pos)
        """
        + norm(LAYER, "n", "placed")
        + "y = MatMul(n_y, w)"
    )
    weights = {
        "kernel": normal(30, D, 3, 4, 4),
        "kb": normal(31, D),
        "shape": np.array([1, D, 4]),
        "cls": normal(32, 1, 1, D),
        "pos": normal(33, 1, 5, D),
    }
    before = model(nodes, weights)
    del before.graph.node[0]  # the embedding
    del before.graph.input[:]
    shape = [1, 3, 8, 8]
    before.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    after, merges = merged(before, "mean")
    assert part(merges, "n", "mean").state == "merged"
    np.testing.assert_array_equal(stored(after)["kernel"], centred(weights["kernel"], 0))
    image = normal(34, *shape)
    assert relative(before, after, image=image) < CLOSE


def test_a_gemm_that_writes() -> None:
    before = model(
        norm(LAYER, "n", "rows")
        + "f = Reshape(n_y, flat) g = Gemm<transB = 1, alpha = 0.5, beta = 3.0>(f, gw, gb)"
        "back = Reshape(g, three) r = Add(back, rows)" + LAST,
        {
            "flat": np.array([-1, D]),
            "three": np.array([2, 3, D]),
            "gw": normal(35, D, D),
            "gb": normal(36, D),
        },
    )
    after, merges = merged(before, "mean")
    assert [part(merges, n, "mean").state for n in "nm"] == ["merged", "merged"]
    np.testing.assert_array_equal(stored(after)["gw"], centred(normal(35, D, D), 0))
    assert relative(before, after) < CLOSE


def test_16_bits_without_an_op_are_left() -> None:
    before = model(FUSED, BLOCK, outputs="float16[a, s, c] y")
    for tensor in before.graph.initializer:
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    after, merges = merged(before, "mean")
    found = part(merges, "n", "mean")
    assert found.reason is not None and found.reason.kind is Unmerged.NO_FORM and after == before


def test_what_rounds_16_bits_is_one_rounding() -> None:
    before = model(PRE + LAST, BLOCK, outputs="float16[a, s, c] y")
    for tensor in before.graph.initializer:
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    after, _ = merged(before, "mean")
    wide = stored(before)["down"].astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)).astype(np.float16)
    np.testing.assert_array_equal(stored(after)["down"], expected)


def test_a_norm_that_is_left_out_keeps_its_mean_and_others_do_not() -> None:
    before = model(PRE + LAST, BLOCK)
    assert reason(before, exclude="^n$") is Unmerged.LEFT_OUT
    after, merges = merged(before, "mean", exclude="^n$")
    assert part(merges, "m", "mean").state == "merged"
    assert kinds_of_norms(after) == {"n": "layer", "m": "rms"}


def test_a_norm_of_a_constant_is_left() -> None:
    """As DeBERTa normalises its relative positions; a decomposed one would be no norm."""
    before = model(
        "[n] n_y = LayerNormalization<axis = -1>(table, gamma, beta)"
        "p = Transpose<perm = [1, 0]>(n_y) y = MatMul(rows, p)"
    )
    _, merges = merged(before, "all")
    for what in ("gamma", "mean"):
        found = part(merges, "n", what)
        assert found.reason is not None and found.reason.kind is Unmerged.NO_DATA


def test_an_rms_norm_has_no_mean_to_merge() -> None:
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)")
    after, merges = merged(before, "mean")
    assert merges.norms[0].mean is None and after == before


def test_folded_and_merged() -> None:
    before = model(PRE + LAST, {**BLOCK, "table": normal(1, 11, D) * 900})
    after = protected(before, "all")
    powers = EVERY["table"].max() * 900 / np.abs(stored(after)["table"]).max()
    assert powers > 2
    assert relative(before, after) < CLOSE
