"""Norms of which products are divided, and not the row: how the finder reads them."""

from __future__ import annotations

import numpy as np
import pytest

from slanc_onnx import find_norms, protect
from slanc_onnx.norms import read_model
from slanc_onnx.norms.norm import Norm
from tests.models.deferred_models import ROOT, WRITTEN
from tests.models.merge_models import EVERY, IDS, model
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import run


def only(nodes: str) -> Norm:
    (norm,) = find_norms(model(nodes))
    return norm


@pytest.mark.parametrize("how", WRITTEN)
def test_it_is_one_norm_of_the_row(how: str) -> None:
    norm = only(WRITTEN[how])
    assert (norm.name, norm.kind, norm.input, norm.width) == ("n", "rms", "rows", D)
    assert norm.epsilon == float(np.float32(1e-5)) and norm.skip_reason is None
    assert [one.output for one in norm.deferred] == ["u", "v"]
    assert norm.has_row_steps and not norm.is_row_norm and not norm.other_steps
    assert len(norm.places) == 4  # of the square twice, and of both products


def test_dividing_it_divides_its_products_too() -> None:
    before = model(WRITTEN["Div"])
    after = model(WRITTEN["Div"])
    (decided,) = protect(after)
    assert decided.status == "scaled"
    for name, value in run(before, ids=IDS).items():
        assert (run(after, ids=IDS)[name] == value).all()


IN_HALF = """
    wide = Cast<to = 1>(rows)
    sq = Mul(wide, wide)
    ms = ReduceMean<axes = [-1]>(sq)
    sum = Add(ms, eps)
    root32 = Sqrt(sum)
    root = Cast<to = 10>(root32)
    p = MatMul(rows, h)
    [n] x = Div(p, root)
"""
AFTER = """
    wide2 = Cast<to = 1>(x)
    sq2 = Mul(wide2, wide2)
    ms2 = ReduceMean<axes = [-1]>(sq2)
    sum2 = Add(ms2, eps)
    root2 = Sqrt(sum2)
    [last] y = Div(wide2, root2)
"""


WEIGHTED = AFTER.replace("Cast<to = 1>(x)", "Cast<to = 1>(most)")


@pytest.mark.parametrize(
    "tail",
    ["y = Cast<to = 1>(x)", AFTER, f"q = MatMul(x, h) most = Min(x, q) {WEIGHTED}"],
    ids=["alone", "before a norm", "before weights and a norm"],
)
def test_a_root_of_fp32_divides_a_product_of_fp16(tail: str) -> None:
    """A scale of the cast row cancels in a norm behind it too; that of the row does so nearer."""
    halves = {"table": EVERY["table"].astype(np.float16), "h": normal(8, D, D).astype(np.float16)}
    norm, *others = find_norms(model(IN_HALF + tail, halves))
    assert (norm.name, norm.kind, norm.width, norm.skip_reason) == ("n", "rms", D, None)
    assert [one.output for one in norm.deferred] == ["x"]
    assert [(other.name, other.by_ops) for other in others] == [("last", False)] * (
        "[last]" in tail
    )
    assert len(norm.places) == 3  # of the square twice, and of the product


def test_a_row_less_a_mean_of_positions() -> None:
    """Of which that mean is subtracted, and none of the row: it is an RMS norm of what is left."""
    less = "mean = ReduceMean<axes = [1]>(rows) less = Sub(rows, mean)"
    rest = ROOT.replace("rows", "less") + "p = MatMul(less, w) [n] y = Div(p, root)"
    (norm,) = find_norms(model(f"{less} {rest}"))
    assert (norm.kind, norm.input, norm.width, norm.skip_reason) == ("rms", "less", D, None)
    assert [one.output for one in norm.deferred] == ["y"]


OTHERS = {
    "the weight is of the data": f"{ROOT} s = ReduceMax<keepdims = 0>(ms) w3d = Mul(w, s)"
    " p = MatMul(rows, w3d) [n] y = Div(p, root)",
    "a bias is divided too": f"{ROOT} p = Gemm(flat, w, b) [n] y = Div(p, root)",
    "a factor": f"{ROOT} p = Gemm<alpha = 0.5>(flat, w) [n] y = Div(p, root)",
    "another row is multiplied": f"{ROOT} o = Tanh(rows) p = MatMul(o, w) [n] y = Div(p, root)",
    "the row is divided as well": f"{ROOT} p = MatMul(rows, w3) [n] a = Div(p, root)"
    " v = Div(rows, root) c = MatMul(v, w) y = Add(a, c)",
    "the root is of the row less its mean": "mean = ReduceMean<axes = [-1]>(rows)"
    " less = Sub(rows, mean) sq = Mul(less, less) ms = ReduceMean<axes = [-1]>(sq)"
    " sum = Add(ms, eps) root = Sqrt(sum) p = MatMul(rows, w) [n] y = Div(p, root)",
    "gamma lies before the product": f"{ROOT} g = Mul(rows, gamma) p = MatMul(g, w)"
    " [n] y = Div(p, root)",
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_is_no_such_norm(what: str) -> None:
    """They may be norms that are read op by op, or suspects; no product of theirs is bounded."""
    nodes = OTHERS[what]
    if "flat" in nodes:
        shape = "k = Constant<value_ints = [-1, 8]>() flat = Reshape(rows, k)"
        nodes = shape + nodes.replace("(rows", "(flat").replace("(rows, rows)", "(flat, flat)")
        nodes = nodes.replace("Reshape(flat, k)", "Reshape(rows, k)").replace(", rows)", ", flat)")
    made = model(nodes, outputs="float[t, c] y" if "flat" in nodes else "float[a, s, c] y")
    found = find_norms(made)
    assert not any(norm.deferred for norm in found)
    assert found or read_model(made, None).suspects


def test_what_reads_a_product_before_its_division_keeps_the_norm_as_it_is() -> None:
    norm = only(f"{ROOT} p = MatMul(rows, w) [n] u = Div(p, root) t = Tanh(p) y = Add(u, t)")
    assert norm.skip_reason is not None
    after = model(f"{ROOT} p = MatMul(rows, w) [n] u = Div(p, root) t = Tanh(p) y = Add(u, t)")
    before = after.SerializeToString()
    protect(after)
    assert after.SerializeToString() == before


def test_what_is_compared_before_the_division_is_not_the_norm() -> None:
    norm = only(
        f"{ROOT} p = MatMul(rows, w) g = Greater(p, root) [n] u = Div(p, root)"
        " f = Cast<to = 1>(g) y = Add(u, f)"
    )
    assert (norm.name, norm.normalised) == ("n", "u")
    assert [one.output for one in norm.deferred] == ["u"]


def test_its_width_is_that_of_the_weights_where_no_shape_tells_it() -> None:
    inputs = "float[a, s, k] rows"
    for product in ("MatMul(rows, w)", "MatMul(rows, turned)"):
        turned = "turned = Transpose<perm = [1, 0]>(wt)" if "turned" in product else ""
        weights = {"eps": EVERY["eps"], "w": EVERY["w"], "wt": EVERY["w"].T.copy()}
        used = {"eps": weights["eps"], **({"wt": weights["wt"]} if turned else {"w": weights["w"]})}
        made = graph(f"{turned} {ROOT} p = {product} [n] y = Div(p, root)", used, inputs)
        (norm,) = find_norms(made)
        assert norm.width == D and norm.deferred


def test_a_residual_around_its_products_is_no_mean() -> None:
    """x + x W is no row less its mean, whatever lies behind it."""
    first = f"{ROOT} [n] x = Div(rows, root) a = MatMul(x, s1) z = Add(a, x)"
    last = ROOT.replace("rows", "z").replace("root", "r2")
    for name in ("sq", "ms", "sum"):
        last = last.replace(f"{name} =", f"{name}2 =").replace(f"({name}", f"({name}2")
    nodes = f"{first}{last} p = MatMul(z, w) [last] y = Div(p, r2)"
    one, two = find_norms(model(nodes, {"s1": normal(7, D, D)}))
    assert (one.name, two.name, two.kind, two.input) == ("n", "last", "rms", "z")
    assert len(two.deferred) == 1
