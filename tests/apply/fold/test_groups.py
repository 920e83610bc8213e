"""Which tensors have to be divided together."""

import onnx

from slanc_onnx.apply.fold.groups import Partition, parted, partition
from slanc_onnx.graph.flow import Tensor, read_flow
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.report.fold import explain_groups
from tests.models.fold_models import LN, RMS, folded, weights
from tests.models.small_graphs import D, graph

ROWS = f"float[2, 3, {D}] x"


def parts_of(model: onnx.ModelProto, *cuts: str) -> Partition:
    scopes = read_graph(model)
    parts = partition(read_flow(scopes), find_norms_in(scopes))
    for name in cuts:
        parts = parted(parts, frozenset(parts.flow.uses[Tensor((), name)]))
    return parts


def together(parts: Partition, *names: str) -> bool:
    return len({parts.of_output[Tensor((), name)] for name in names}) == 1


CHAIN = f"""
    e = Gather(table, ids)
    [n1] h1 = {RMS}(e, g1)
    m1 = MatMul(h1, w1)
    r1 = Add(e, m1)
    [n2] h2 = {RMS}(r1, g2)
    m2 = MatMul(h2, w2)
    t2 = Identity(m2)
    r2 = Sub(r1, t2)
    [n3] y = {RMS}(r2, g3)
"""


def test_a_residual_stream_is_one_group_and_what_norms_give_is_not_in_it() -> None:
    parts = parts_of(graph(CHAIN, weights()))
    assert together(parts, "e", "m1", "r1", "m2", "t2", "r2")
    assert len({site.group for site in parts.sites}) == 1
    assert not together(parts, "e", "h1")
    assert parts.sizes[parts.sites[0].group or 0] == 6


def test_a_cut_parts_a_stream_in_two() -> None:
    parts = parts_of(graph(CHAIN, weights()), "r1")
    assert together(parts, "e", "m1", "r1")
    assert together(parts, "m2", "r2")
    assert not together(parts, "r1", "r2")


def test_every_norm_of_a_post_norm_model_has_a_group() -> None:
    nodes = f"""
        [n1] h1 = {LN}(x, g1, b1)
        m1 = MatMul(h1, w1)
        r1 = Add(m1, h1)
        [n2] y = {LN}(r1, g2, b2)
    """
    parts = parts_of(graph(nodes, weights(), ROWS))
    assert len({site.group for site in parts.sites}) == 2
    assert together(parts, "h1", "m1", "r1")


def test_a_product_of_two_activations_joins_nothing() -> None:
    parts = parts_of(
        graph(f"s = Exp(x) m = Mul(x, s) k = Add(m, x) [n] y = {RMS}(k, g1)", weights(), ROWS)
    )
    assert together(parts, "m", "k")
    assert Tensor((), "s") not in parts.of_output


def test_a_cast_of_integers_joins_nothing() -> None:
    nodes = f"f = Cast<to = 1>(ids) u = Unsqueeze(f, axes) k = Add(u, g1) [n] y = {RMS}(k, g2)"
    import numpy as np

    parts = parts_of(graph(nodes, weights(axes=np.array([-1]))))
    assert together(parts, "u", "k")
    assert Tensor((), "f") not in parts.of_output


def test_the_same_tensor_in_a_branch_is_another() -> None:
    nodes = f"""
        s = Identity(x)
        y = If (flag) <
            then_branch = one () => (float[a, b, c] t) {{ u = Neg(s) [n] t = {RMS}(u, g1) }},
            else_branch = two () => (float[a, b, c] e) {{ e = Identity(s) }}
        >
    """
    parts = parts_of(graph(nodes, weights(), f"{ROWS}, bool flag"))
    assert Tensor((), "s") in parts.flow.pinned
    (site,) = parts.sites
    assert site.group != parts.of_output[Tensor((), "s")]


def test_groups_are_explained() -> None:
    _, found = folded(graph(CHAIN, weights()), {"n1": (3, 3), "n2": (0, 0), "n3": (3, 3)})
    text = list(explain_groups(found.groups))
    assert text == [
        "group 1: 6 tensors, divided by 8",
        "  enters: table / 8; w1 / 8; w2 / 8",
        "  leaves by norms: n1; n3",
        "  leaves by norms with a Div: n2",
    ]
