"""Ops that pick, pad, split, reduce or pool between two norms: read as what a run shows."""

import numpy as np
import pytest

from tests.models.small_graphs import D, Weights, between, from_weights, normal
from tests.oracles.shown_rows import estimated, extremes, shown, sums, within_a_factor
from tests.spellings.attention import shape

W = normal(1, D, D)
NUMBERS: Weights = {
    "w": W,
    "wt": np.ascontiguousarray(W.T),
    "row": np.linspace(0.5, 2, D).astype(np.float32),
    "three": np.array(3),
    "zero": np.array(0),
    "one": np.array(1),
    "five": shape(5),
    "last": shape(-1),
    "middle": shape(1),
    "limit": np.array(0.3, np.float32),
    "before": shape(0, 1, 0, 0, 0, 0),
    "shifted": shape(0, 1, 0, 0, -1, 0),
    "wider": shape(0, 0, 2, 0, 0, 3),
    "first8": shape(0),
    "to8": shape(8),
    "sizes": shape(3, 5),
    "gains": np.linspace(1, 3, 4).astype(np.float32).reshape(4, 1, 1),
    "v": normal(2, 4, D, 1),
    "scale": np.linspace(1, 2, D).astype(np.float32),
    "shift": normal(3, D),
    "mean": normal(4, D),
    "variance": np.linspace(1, 4, D).astype(np.float32),
}
TURN, BACK = "t = Transpose<perm = [0, 2, 1]>(x)", "total = Transpose<perm = [0, 2, 1]>(u)"

# With a token alone nothing is assumed: the estimate's rows are those of a run on each id.
EXACT = {
    "Einsum, weight as it is": 'total = Einsum<equation = "abc,cd->abd">(x, w)',
    "Einsum, weight turned": 'total = Einsum<equation = "abc,dc->abd">(x, wt)',
    "Einsum, weight first": 'total = Einsum<equation = "cd,abc->abd">(w, x)',
    "Sum of three": "h = MatMul(x, w) total = Sum(x, h, row)",
    "a split sequence": "s = SplitToSequence<axis = 2>(x, sizes) a = SequenceAt(s, zero) "
    "c = SequenceAt(s, one) j = Concat<axis = 2>(c, a) total = Mul(j, row)",
    "a sequence joined again": "s = SplitToSequence<axis = 2>(x, sizes) "
    "total = ConcatFromSequence<axis = 2>(s)",
    "padded channels, cut again": "p = Pad(x, wider) total = Slice(p, first8, to8, last)",
    "a comparison": "g = Greater(x, limit) h = MatMul(x, w) total = Where(g, h, x)",
    "BatchNormalization": f"{TURN} u = BatchNormalization(t, scale, shift, mean, variance) {BACK}",
    "a sum over one position": "total = ReduceSum<keepdims = 1>(x, middle)",
    "the largest over one position": "total = ReduceMax<axes = [1]>(x)",
    "running sums of positions": "ones = ConstantOfShape<value = int64[1] {1}>(dims) "
    "c = CumSum(ones, one) f = Cast<to = 1>(c) total = Mul(x, f)",
}
# Longer sequences mix rows, so that only the largest row is that of a token alone.
MIXED = {
    "Einsum, a mix of rows": "q = MatMul(x, w) k = Transpose<perm = [0, 2, 1]>(q) "
    "scores = MatMul(q, k) s = Softmax<axis = -1>(scores) "
    'total = Einsum<equation = "bqk,bkd->bqd">(s, x)',
    "pooling": f"{TURN} u = GlobalAveragePool(t) {BACK}",
}


@pytest.mark.parametrize("title", EXACT)
def test_single_tokens_are_read_exactly(title: str) -> None:
    nodes = EXACT[title]
    if "dims" in nodes:
        nodes = f"all = Shape(ids) dims = Identity(all) {nodes}"
        nodes = nodes.replace("f = Cast<to = 1>(c)", "c3 = Unsqueeze(c, last) f = Cast<to = 1>(c3)")
    model = between(nodes, NUMBERS)
    rows = sums(shown(model))
    assert extremes(estimated(model)) == pytest.approx([rows.min(), rows.max()], rel=1e-4)


@pytest.mark.parametrize("title", MIXED)
def test_the_largest_row_of_single_tokens_is_read_exactly(title: str) -> None:
    model = between(MIXED[title], NUMBERS)
    assert estimated(model).seen == pytest.approx(sums(shown(model)).max(), rel=1e-4)


ALIKE = {
    "a row of another position": "p = Pad(x, shifted) total = Add(x, p)",
    "the larger of two": "h = MatMul(x, w) total = Max(x, h)",
    "a sum over positions": "s = ReduceSum<keepdims = 1>(x, middle) total = Add(x, s)",
}


@pytest.mark.parametrize("title", ALIKE)
def test_sequences_are_within_a_factor_of_a_run(title: str) -> None:
    model = between(ALIKE[title], NUMBERS)
    ids = np.random.default_rng(5).integers(0, 11, (16, 4))
    assert within_a_factor(estimated(model), sums(shown(model, ids=ids)))


def test_a_kernel_with_weight_normalisation_is_read() -> None:
    """As wav2vec 2.0's position convolution: g v / |v|, computed when the model runs."""
    nodes = f"""
        n = ReduceL2<axes = [1, 2], keepdims = 1>(v) unit = Div(v, n) kernel = Mul(unit, gains)
        {TURN} u = Conv(t, kernel) {BACK}"""
    model = between(nodes, {**NUMBERS, "gamma_of_last": np.ones(4, np.float32)})
    rows = sums(shown(model))
    assert extremes(estimated(model)) == pytest.approx([rows.min(), rows.max()], rel=1e-4)


def test_a_table_for_another_length_is_added_row_by_row() -> None:
    """Positions of an image of another size than the one that is traced."""
    table = normal(6, 7, D)
    model = between("total = Add(x, places)", {**NUMBERS, "places": table})
    ids = np.random.default_rng(5).integers(0, 11, (16, 7))
    assert within_a_factor(estimated(model), sums(shown(model, ids=ids)))


def test_an_export_for_more_positions_is_read_with_all_of_one_kind() -> None:
    nodes = "r = Reshape(x, baked) h = MatMul(r, w) total = Add(h, row)"
    model = between(nodes, {**NUMBERS, "baked": shape(1, 5, D)})
    ids = np.random.default_rng(5).integers(0, 11, (1, 5))
    assert within_a_factor(estimated(model), sums(shown(model, ids=ids)))


def test_what_lies_behind_an_unknown_of_unknown_shape_has_the_size_of_its_weights() -> None:
    model = between("h = my.domain.Whirl(x) total = MatMul(h, w)", NUMBERS)
    model.opset_import.add(domain="my.domain", version=1)
    assumes = "assumes that the size of what Whirl (h) reads is kept"
    found = estimated(model, assumes=assumes)
    plain = between("total = MatMul(x, w)", NUMBERS)
    assert within_a_factor(found, sums(shown(plain)))


def test_what_reads_nothing_is_skipped_and_named() -> None:
    model = between("h = my.domain.Whirl() total = MatMul(h, w)", NUMBERS)
    model.opset_import.add(domain="my.domain", version=1)
    assert from_weights(model)[1] == {"last": "the trace stopped at Whirl (h)"}
