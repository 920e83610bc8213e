"""More ops between two norms: lookups by data, padding, pooling, resizing, fused activations.

Where nothing is assumed the smallest and the largest row are those of a run on every id. What has
no rule keeps the size of what it reads, and says so.
"""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.models.small_graphs import D, Weights, between, from_weights, graph, normal
from tests.oracles.shown_rows import estimated, extremes, shown, sums, within_a_factor, x_rows
from tests.spellings.attention import shape

W = normal(1, D, D)
NUMBERS: Weights = {
    "w": W,
    "row": np.linspace(0.5, 2, D).astype(np.float32),
    "bias": normal(2, D),
    "zero": np.array(0),
    "one": np.array(1),
    "eight": shape(D),
    "last": shape(-1),
    "middle": shape(1),
    "limit": np.array(0.3, np.float32),
    "two_d": shape(-1, D),
    "three_d": shape(-1, 1, D),
    "both": shape(0, 1),
    "four": np.array(4),
    "left_out": shape(0, 0, -2, 0, 0, 2),
    "cut": shape(0, 0, -1, 0, 0, -2),
    "more": shape(0, 0, 1, 0, 0, 2),
    "turned_in": shape(0, 0, 2, 0, 0, -2),
    "channel_pads": shape(1, 2),
    "channels": shape(2),
    "around": shape(0, 2, 0, 0, 3, 0),
    "inside": shape(0, -2, 0, 0, -3, 0),
    "wide": normal(3, 5, D),
    "long": normal(4, 11, D),
    "taps": normal(5, D, D, 1),
}
IDS = np.random.default_rng(5).integers(0, 11, (16, 6))

TURN, BACK = "t = Transpose<perm = [0, 2, 1]>(x)", "total = Transpose<perm = [0, 2, 1]>(u)"
EXACT = {
    "rows where a mask is set": "seen = GreaterOrEqual(ids, zero) f = Cast<to = 1>(seen) "
    "at = NonZero(f) where = Transpose(at) rows_ = GatherND(x, where) "
    "total = Unsqueeze(rows_, middle)",
    "the row at the largest id, as CLIP pools": "dims = Shape(ids) n = Gather(dims, zero) "
    "each = Range(zero, n, one) at = ArgMax<axis = 1, keepdims = 0>(ids) "
    "e2 = Unsqueeze(each, last) a2 = Unsqueeze(at, last) where = Concat<axis = 1>(e2, a2) "
    "rows_ = GatherND(x, where) total = Unsqueeze(rows_, middle)",
    "rows by an index per element": "dims = Shape(x) "
    "where = ConstantOfShape<value = int64[1] {0}>(dims) "
    "total = GatherElements<axis = 1>(x, where)",
    "all channels in order of size": "total, at = TopK<axis = -1>(x, eight)",
    "padded positions, cut again": "p = Pad(x, around) total = Pad(p, inside)",
    "channels moved out on one side": "p = Pad(x, left_out) total = MatMul(p, w)",
    "channels moved out on the other side": "p = Pad(x, turned_in) total = MatMul(p, w)",
    "channels cut off": "p = Pad(x, cut) total = MatMul(p, wide)",
    "channels padded on both sides": "p = Pad(x, more) total = MatMul(p, long)",
    "channels padded by an axis": "p = Pad(x, channel_pads, , channels) total = MatMul(p, long)",
    "a choice by the row itself": "g = LessOrEqual(x, limit) n = Neg(x) h = Mul(n, row) "
    "total = Where(g, h, x)",
    "a choice by another row": "h = MatMul(x, w) g = Greater(h, limit) total = Where(g, h, x)",
    "Hardtanh": "low = Neg(limit) h = Max(x, low) c = Mul(row, x) total = Add(c, x)",
    "FusedGemm with a Relu": "flat = Reshape(x, two_d) "
    'g = com.microsoft.FusedGemm<activation = "Relu">(flat, w, bias) total = Reshape(g, three_d)',
    "FusedGemm with a LeakyRelu": "flat = Reshape(x, two_d) "
    'g = com.microsoft.FusedGemm<activation = "LeakyRelu", activation_alpha = 0.5>(flat, w, bias) '
    "total = Reshape(g, three_d)",
    "the largest of one position": "m = ReduceMax<axes = [1], keepdims = 0>(x) "
    "total = Unsqueeze(m, middle)",
    "the least of one position": "total = ReduceMin<axes = [-2]>(x)",
    "a mean over channels": "m = ReduceMean<axes = [-1]>(x) total = Sub(x, m)",
    "FusedConv with a LeakyRelu": f'{TURN} u = com.microsoft.FusedConv<activation = "LeakyRelu", '
    f"activation_params = [0.5]>(t, taps, bias) {BACK}",
    "FusedConv with a Relu": f'{TURN} u = com.microsoft.FusedConv<activation = "Relu">'
    f"(t, taps, bias) {BACK}",
    "heads split into a sequence": "s = SplitToSequence<axis = 2>(x, four) a = SequenceAt(s, zero) "
    "b = SequenceAt(s, one) q = SequenceConstruct(b, a) t = ConcatFromSequence<axis = 2>(q) "
    "total = MatMul(t, w)",
    "channels split one by one": "s = SplitToSequence<axis = 2, keepdims = 0>(x) "
    "a = SequenceAt(s, one) c = Unsqueeze(a, last) total = Mul(x, c)",
}


@pytest.mark.parametrize("nodes", EXACT.values(), ids=EXACT)
def test_single_tokens_are_read_exactly(nodes: str) -> None:
    model = between(nodes, NUMBERS, opset=18 if "channel_pads" in nodes else 17)
    rows = sums(shown(model))
    assert extremes(estimated(model)) == pytest.approx([rows.min(), rows.max()], rel=1e-4)


# Longer sequences mix rows, so that only the largest row is that of a token alone.
MEANS = {
    "kept": "total = ReduceMean<axes = [1]>(x)",
    "along the last axis": "t = Transpose<perm = [0, 2, 1]>(x) m = ReduceMean<axes = [2]>(t) "
    "total = Transpose<perm = [0, 2, 1]>(m)",
    "without its axis": "m = ReduceMean<axes = [1], keepdims = 0>(x) total = Unsqueeze(m, middle)",
}


@pytest.mark.parametrize("nodes", MEANS.values(), ids=MEANS)
def test_the_mean_over_positions_is_no_larger_than_a_row(nodes: str) -> None:
    model = between(nodes, NUMBERS)
    assert estimated(model).seen == pytest.approx(sums(shown(model)).max(), rel=1e-4)


SEQUENCES = {
    "the mean of all positions": "m = ReduceMean<axes = [1]>(x) total = Add(x, m)",
    "the largest of all positions": "m = ReduceMax<axes = [1]>(x) total = Add(x, m)",
    "the smaller of two": "h = MatMul(x, w) total = Min(x, h)",
    "the larger of three": "h = MatMul(x, w) n = Neg(h) total = Max(x, h, n)",
    "a choice between two rows": "h = MatMul(x, w) g = Greater(h, x) total = Where(g, h, x)",
    "Einsum, a mix": "t = Transpose<perm = [0, 2, 1]>(x) "
    "scores = MatMul(x, t) shares = Softmax<axis = -1>(scores) "
    'total = Einsum<equation = "bqk, bkd -> bqd">(shares, x)',
}


@pytest.mark.parametrize("nodes", SEQUENCES.values(), ids=SEQUENCES)
def test_sequences_are_within_a_factor_of_a_run(nodes: str) -> None:
    model = between(nodes, NUMBERS)
    assert within_a_factor(estimated(model), sums(shown(model, ids=IDS)))


# Op without a rule -> what it is called, its tensor, and whether it does keep the size.
ASSUMED = {
    "Shrink": ("h = Shrink<lambd = 0.1>(x) total = Add(h, x)", "Shrink (h)", True),
    "ThresholdedRelu": (
        "h = ThresholdedRelu<alpha = 0.2>(x) total = MatMul(h, w)",
        "ThresholdedRelu (h)",
        True,
    ),
    "one behind another": (
        "h = Shrink<lambd = 0.1>(x) g = ThresholdedRelu<alpha = 0.1>(h) total = Add(g, x)",
        "ThresholdedRelu (g), Shrink (h)",
        True,
    ),
    "the largest channel": (
        "m = ReduceMax<axes = [2]>(x) total = Add(x, m)",
        "ReduceMax (m)",
        True,
    ),
    "Einsum of two activations": (
        't = Einsum<equation = "abc,abd->acd">(x, x) total = MatMul(t, w)',
        "Einsum (t)",
        False,
    ),
    "Einsum over two letters": (
        't = Einsum<equation = "abc,dbc->ad">(x, cube) total = Unsqueeze(t, middle)',
        "Einsum (t)",
        False,
    ),
    "Einsum without a result": (
        't = Einsum<equation = "abc,cd">(x, w) total = Identity(t)',
        "Einsum (t)",
        False,
    ),
    "Einsum of three": (
        't = Einsum<equation = "abc,cd,de->abe">(x, w, w) total = Identity(t)',
        "Einsum (t)",
        False,
    ),
}


@pytest.mark.parametrize(("nodes", "named", "kept"), ASSUMED.values(), ids=ASSUMED)
def test_an_op_without_a_rule_is_assumed_to_keep_the_size_of_what_it_reads(
    nodes: str, named: str, kept: bool
) -> None:
    model = between(nodes, {**NUMBERS, "cube": normal(6, D, 1, D)})
    found = estimated(model, assumes=f"assumes that the size of what {named} reads is kept")
    rows = sums(shown(model, "total") if kept else x_rows())
    assert within_a_factor(found, rows) or not kept


UNREAD = {
    "ids": "h = my.domain.Look(ids) total = Add(h, x)",
    "a mask": "g = Greater(ids, one) h = my.domain.Look(g) total = Mul(h, x)",
    "a constant": "h = my.domain.Look(w) total = Add(h, x)",
}


@pytest.mark.parametrize("shaped", [True, False], ids=["of known shape", "of unknown shape"])
@pytest.mark.parametrize("nodes", UNREAD.values(), ids=UNREAD)
def test_an_op_that_reads_no_activation_is_named_and_its_norm_skipped(
    nodes: str, shaped: bool
) -> None:
    """Whatever it is added to or multiplied with: its own size may be any."""
    model = between(nodes, NUMBERS)
    model.opset_import.add(domain="my.domain", version=1)
    if shaped:
        info = helper.make_tensor_value_info("h", TensorProto.FLOAT, ["b", "s", D])
        model.graph.value_info.append(info)
    estimates, reasons = from_weights(model)
    assert sorted(estimates) == ["first"]
    assert reasons == {"last": "the trace stopped at Look (h)"}


KERNEL = normal(7, D, 3, 3, 3, spread=0.3)
IMAGES = {
    "MaxPool": "c = Conv(pixels, kernel) p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)",
    "AveragePool": "c = Conv(pixels, kernel) p = AveragePool<kernel_shape = [3, 3]>(c)",
    "Resize by factors": 'c = Conv(pixels, kernel) p = Resize<mode = "nearest">(c, , factors)',
    "Resize to a size": 'c = Conv(pixels, kernel) p = Resize<mode = "linear">(c, , , size)',
    "padded in space": "q = Pad(pixels, space) p = Conv(q, kernel)",
    "cut in space": "q = Pad(pixels, minus_space) p = Conv(q, kernel)",
    "FusedConv with a Relu": "p = "
    'com.microsoft.FusedConv<activation = "Relu">(pixels, kernel, bias)',
    "FusedConv with a LeakyRelu": 'p = com.microsoft.FusedConv<activation = "LeakyRelu", '
    "activation_params = [0.3]>(pixels, kernel, bias)",
    "depthwise": "c = Conv(pixels, kernel) p = Conv<group = 8>(c, each)",
    "BatchNormalization": "c = Conv(pixels, kernel) "
    "p = BatchNormalization(c, row, bias, bias, row)",
    "a strided convolution with auto_pad": 'p = Conv<strides = [2, 2], auto_pad = "SAME_UPPER">'
    "(pixels, kernel)",
    "GlobalAveragePool": "s = Slice(pixels, from, to, space_axes) c = Conv(s, kernel) "
    "p = GlobalAveragePool(c)",
    "GlobalMaxPool": "s = Slice(pixels, from, to, space_axes) c = Conv(s, kernel) "
    "p = GlobalMaxPool(c)",
}
AS_ROWS = """{} f = Reshape(p, flat) t = Transpose<perm = [0, 2, 1]>(f)
    [last] y = SimplifiedLayerNormalization<axis = -1>(t, ones)"""


def image_model(nodes: str) -> onnx.ModelProto:
    weights: Weights = {
        **NUMBERS,
        "kernel": KERNEL,
        "each": normal(8, D, 1, 3, 3),
        "flat": shape(0, D, -1),
        "ones": np.ones(D, np.float32),
        "factors": np.array([1, 1, 2, 2], np.float32),
        "size": shape(1, D, 9, 9),
        "space": shape(0, 0, 1, 1, 0, 0, 1, 1),
        "minus_space": shape(0, 0, -1, -2, 0, 0, -1, -1),
        "from": shape(0, 0),
        "to": shape(3, 3),
        "space_axes": shape(2, 3),
    }
    return graph(AS_ROWS.format(nodes), weights, "float[1, 3, 12, 12] pixels")


def image_rows(model: onnx.ModelProto) -> list[NDArray[Any]]:
    """The rows that a run shows for several images."""
    random = np.random.default_rng(2)
    images = random.standard_normal((60, 1, 3, 12, 12)).astype(np.float32)
    return [shown(model, "t", pixels=image) for image in images]


@pytest.mark.parametrize("nodes", IMAGES.values(), ids=IMAGES)
def test_images_are_within_a_factor_of_a_run(nodes: str) -> None:
    """Pixels of unit variance; pooling and resizing average what the estimate does not."""
    model = image_model(nodes)
    truth = np.concatenate([sums(rows) for rows in image_rows(model)])
    assert within_a_factor(estimated(model), truth)


def test_a_convolution_with_channels_last_is_the_one_with_channels_first() -> None:
    """ONNX Runtime's CPU provider has no NhwcConv, so Conv says what it gives."""
    last = """p = com.microsoft.NhwcConv(turned, kernel_last) u = Transpose<perm = [0, 3, 1, 2]>(p)
        f = Reshape(u, flat) t = Transpose<perm = [0, 2, 1]>(f)
        [last] y = SimplifiedLayerNormalization<axis = -1>(t, ones)"""
    weights: Weights = {
        "kernel_last": np.ascontiguousarray(np.moveaxis(KERNEL, 1, -1)),
        "flat": shape(0, D, -1),
        "ones": np.ones(D, np.float32),
    }
    nodes = "turned = Transpose<perm = [0, 2, 3, 1]>(pixels)"
    found = estimated(graph(f"{nodes} {last}", weights, "float[1, 3, 12, 12] pixels"))
    first = estimated(image_model("p = Conv(pixels, kernel)"))
    assert extremes(found) == pytest.approx(extremes(first), rel=1e-5)
    assert found.typical == pytest.approx(first.typical, rel=1e-5)


def test_a_fused_activation_is_applied() -> None:
    """A Tanh leaves no element larger than 1."""
    plain = estimated(image_model("p = com.microsoft.FusedConv(pixels, kernel, bias)"))
    name = 'p = com.microsoft.FusedConv<activation = "Tanh">(pixels, kernel, bias)'
    found = estimated(image_model(name))
    assert found.upper <= 2 * D < plain.upper
