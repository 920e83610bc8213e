"""Norms of which products are divided, and not the row: how the finder reads them."""

from __future__ import annotations

import numpy as np
import pytest

from slanc_onnx import find_norms, protect
from slanc_onnx.norms import read_model
from slanc_onnx.norms.norm import Norm
from tests.models.deferred_models import ROOT, WRITTEN
from tests.models.merge_models import IDS, model
from tests.models.small_graphs import D
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


OTHERS = {
    "the weight is of the data": f"{ROOT} s = ReduceMax<keepdims = 0>(ms) w3d = Mul(w, s)"
    " p = MatMul(rows, w3d) [n] y = Div(p, root)",
    "a bias is divided too": f"{ROOT} p = Gemm(flat, w, b) [n] y = Div(p, root)",
    "a factor": f"{ROOT} p = Gemm<alpha = 0.5>(flat, w) [n] y = Div(p, root)",
    "another row is multiplied": f"{ROOT} o = Tanh(rows) p = MatMul(o, w) [n] y = Div(p, root)",
    "the row is divided as well": f"{ROOT} p = MatMul(rows, w3) [n] a = Div(p, root)"
    " v = Div(rows, root) c = MatMul(v, w) y = Add(a, c)",
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
