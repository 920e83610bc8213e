"""Which relations have to be satisfied together: those that share a weight."""

import onnx

from slanc_onnx.apply.fold.blocks import blocks, slots, whole
from slanc_onnx.apply.fold.groups import Partition, parted, partition
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph.flow import Tensor, read_flow
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph

ROWS = f"float[2, 3, {D}] x"
SKIP = "com.microsoft.SkipSimplifiedLayerNormalization"


def parts_of(model: onnx.ModelProto) -> Partition:
    scopes = read_graph(model)
    return partition(read_flow(scopes), find_norms_in(scopes))


def together(nodes: str, *names: str) -> bool:
    """Whether the nodes that make these tensors are in one block."""
    parts = parts_of(graph(nodes, weights(), ROWS))
    found = blocks(parts, Weights(parts.flow, None))
    assert sorted(i for block in found for i in block.relations) == [*range(len(parts.relations))]
    assert sorted(i for block in found for i in block.sites) == [*range(len(parts.sites))]
    made = [next(i for i, t in enumerate(parts.made) if Tensor((), n) in t) for n in names]
    return any(set(made) <= set(block.relations) for block in found)


def test_two_products_with_one_weight_are_a_block() -> None:
    nodes = f"a = MatMul(x, w1) b = MatMul(a, w1) c = MatMul(b, w2) [n] y = {RMS}(c, g1)"
    assert together(nodes, "a", "b")
    assert not together(nodes, "b", "c")


def test_a_weight_is_shared_through_what_it_passes() -> None:
    nodes = f"""
        t = Transpose<perm = [1, 0]>(w1) a = MatMul(x, w1) b = MatMul(a, t) u = Tanh(w2)
        c = MatMul(b, w2) d = MatMul(c, u) [n] y = {RMS}(d, g1)
    """
    assert together(nodes, "a", "b")
    assert not together(nodes, "c", "d"), "what Tanh makes of a weight is another"


def test_a_bias_that_a_norm_adds_ties_it_to_what_reads_the_bias_too() -> None:
    nodes = f"""
        a = MatMul(x, w1) b = Add(a, b1) c = MatMul(b, w2)
        [n] y = {SKIP}(x, c, g1, b1)
    """
    parts = parts_of(graph(nodes, weights(), ROWS))
    (tied,) = (block for block in blocks(parts, Weights(parts.flow, None)) if block.sites)
    assert [parts.made[i][0].name for i in tied.relations] == ["b"]


def test_a_block_depends_on_a_group_once_per_tensor_whatever_borders_there_are() -> None:
    nodes = f"a = MatMul(x, w1) s = Add(a, x) e = Exp(x) t = Add(s, e) [n] y = {RMS}(t, g1)"
    parts = parts_of(graph(nodes, weights(), ROWS))
    cut = parted(parts, frozenset(parts.flow.uses[Tensor((), "s")]))
    before, after = slots(parts, whole(parts)), slots(cut, whole(cut))
    assert len(before) == len(after) == 9, "of a MatMul two, of an Add three, of a norm one"
    assert len(set(before)) < len(set(after))
