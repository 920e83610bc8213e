"""Tracing position tables, masks and caches: what stands around the rows and is seen through."""

import numpy as np
import pytest

from slanc_onnx.trace.expression import (
    Embedding,
    Opaque,
    Sum,
    walk,
)
from tests.models.small_graphs import (
    GAMMA,
    D,
    between,
    from_weights,
    graph,
    normal,
    paper,
    read,
)
from tests.spellings.attention import MULTI_HEAD, shape

POSITIONS = {
    "Gather at Range": (
        "dims = Shape(ids) n = Gather(dims, one) where = Range(zero, n, one) "
        "p = Gather(positions, where)",
        0,
    ),
    "Gather at a buffer cut to length": (
        "dims = Shape(ids) n = Gather(dims, one) n1 = Unsqueeze(n, from) "
        "where = Slice(buffer, from, n1, axis) p = Gather(positions, where)",
        2,
    ),
    "Gather at the sum of ones, as OPT does with an offset": (
        "dims = Shape(ids) ones = ConstantOfShape<value = int64[1] {1}>(dims) "
        "running = CumSum(ones, one) where = Add(running, one) p = Gather(positions, where)",
        2,
    ),
    "Slice of the table": (
        "dims = Shape(ids) n = Gather(dims, one) n1 = Unsqueeze(n, from) "
        "p = Slice(positions, from, n1, from)",
        0,
    ),
    "a graph input": ("p = Gather(positions, position_ids)", 0),
}


@pytest.mark.parametrize(("nodes", "first"), POSITIONS.values(), ids=POSITIONS)
def test_rows_of_a_position_table_know_the_first_position(nodes: str, first: int) -> None:
    weights = {
        "table": normal(0, 11, D),
        "positions": normal(1, 6, D),
        "gamma": GAMMA,
        "zero": np.array(0),
        "one": np.array(1),
        "from": shape(0),
        "axis": shape(1),
        "buffer": np.arange(2, 6)[None],
    }
    text = f"""tokens = Gather(table, ids) {nodes} sum = Add(tokens, p)
        [n] y = LayerNormalization(sum, gamma)"""
    more = ", int64[batch, sequence] position_ids" if "position_ids" in nodes else ""
    model = graph(text, weights, "int64[batch, sequence] ids" + more)
    traced, _ = read(model)
    tables = {e.table.name: e.first for e in walk(traced.inputs["n"]) if isinstance(e, Embedding)}
    assert tables == {"table": None, "positions": first}


def test_embed_layer_normalization_reads_its_tables() -> None:
    nodes = """
        x, mask = com.microsoft.EmbedLayerNormalization
            (ids, types, words, positions, segments, gamma, beta)
        [last] y = SimplifiedLayerNormalization<axis = -1>(x, gamma)
    """
    tables = {"words": normal(0, 11, D), "positions": normal(1, 6, D), "segments": normal(2, 2, D)}
    inputs = "int32[batch, sequence] ids, int32[batch, sequence] types"
    model = graph(nodes, {**tables, "gamma": GAMMA, "beta": np.ones(D, np.float32)}, inputs)
    traced, norms = read(model)
    found = {
        e.table.name: e.first
        for e in walk(traced.inputs[norms[0].name])
        if isinstance(e, Embedding)
    }
    assert found == {"words": None, "positions": 0, "segments": None}
    assert isinstance(traced.inputs["last"], Sum)  # x Γ + β


MASKS = {
    "Where before the softmax": (
        "scaled = Mul(scores, half)",
        "big = Mul(scores, half) seen = Cast<to = 9>(mask) scaled = Where(seen, big, low)",
    ),
    "Where with a mask of unknown shape": (
        "scaled = Mul(scores, half)",
        "big = Mul(scores, half) odd = my.domain.Mask(mask) seen = Cast<to = 9>(odd) "
        "scaled = Where(seen, big, low)",
    ),
    "Add before the softmax": (
        "scaled = Mul(scores, half)",
        "big = Mul(scores, half) f = Cast<to = 1>(mask) scaled = Add(big, f)",
    ),
    "nan rows replaced after the softmax": (
        "mixed = MatMul(shares, vt)",
        "bad = IsNaN(shares) sure = Where(bad, none, shares) mixed = MatMul(sure, vt)",
    ),
    "Dropout after the softmax": (
        "mixed = MatMul(shares, vt)",
        "sure = Dropout(shares) mixed = MatMul(sure, vt)",
    ),
    "a sink that takes part in the softmax": (
        "shares = Softmax<axis = -1>(scaled)",
        "more = Concat<axis = -1>(scaled, sink) all = Softmax<axis = -1>(more) "
        "shares = Slice(all, s0, minus, s3)",
    ),
}


@pytest.mark.parametrize(("old", "new"), MASKS.values(), ids=MASKS)
def test_attention_is_seen_through_its_mask(old: str, new: str) -> None:
    weights = {
        **MULTI_HEAD.weights,
        "low": np.array(-1e4, np.float32),
        "none": np.array(0, np.float32),
        "sink": np.zeros((1, 4, 1, 1), np.float32),
        "s0": shape(0),
        "s3": shape(3),
        "minus": shape(-1),
    }
    assert old in MULTI_HEAD.nodes
    nodes = MULTI_HEAD.nodes.replace(old, new)
    model = between(nodes, weights, "int64[batch, sequence] mask")
    model.opset_import.add(domain="my.domain", version=1)
    plain = paper(between(MULTI_HEAD.nodes, MULTI_HEAD.weights))
    assert paper(model)["last"] == plain["last"]


def test_an_empty_cache_in_front_of_keys_and_values_changes_nothing() -> None:
    nodes = MULTI_HEAD.nodes.replace("vt = Transpose", "v_new = Transpose").replace(
        "mixed = MatMul", "vt = Concat<axis = -2>(past, v_new) mixed = MatMul"
    )
    model = between(nodes, MULTI_HEAD.weights, "float[batch, 4, past_sequence_length, 2] past")
    assert paper(model)["last"] == paper(between(MULTI_HEAD.nodes, MULTI_HEAD.weights))["last"]


def test_a_cache_of_fixed_length_is_named_as_a_source() -> None:
    nodes = MULTI_HEAD.nodes.replace("vt = Transpose", "v_new = Transpose").replace(
        "mixed = MatMul", "vt = Concat<axis = -2>(past, v_new) mixed = MatMul"
    )
    model = between(nodes, MULTI_HEAD.weights, "float[1, 4, 3, 2] past")
    estimates, reasons = from_weights(model)
    assert reasons == {}
    assert np.isfinite(estimates["last"].upper)


@pytest.mark.parametrize("casts", ["CastLike", "Cast<to = 7>"])
def test_rows_that_are_picked_at_positions_of_a_like_type_are_read(casts: str) -> None:
    """As torch.onnx writes them without its optimiser: GatherND at counts of the type of a size."""
    like = ", n" if casts == "CastLike" else ""
    nodes = f"""
        dims = Shape(x) n = Gather(dims, second) low = {casts}(none{like}) by = {casts}(step{like})
        where = Range(low, n, by) column = Unsqueeze(where, last) zeros = Mul(column, first)
        at = Concat<axis = -1>(zeros, column) picked = GatherND(words, at) total = Add(x, picked)
    """
    weights = {
        "second": np.array(1),
        "first": np.array(0),
        "last": shape(-1),
        "none": np.array(0, np.float32),
        "step": np.array(1, np.float32),
    }
    model = between(nodes, weights, "float[batch, sequence, 8] words")
    traced, _ = read(model)
    assert not any(isinstance(e, Opaque) for e in walk(traced.inputs["last"]))
