"""The paper's scale: equations 5, 8 and 10 as printed, and the blocks that one rule adds."""

import numpy as np
import pytest

from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.reasons import Reason
from slanc_onnx.report.wording import reason_text
from tests.estimate.paper_blocks import DIAGONAL, GATES, IDENTITY, MLP, B, E, G, close
from tests.models.small_graphs import (
    GAMMA,
    D,
    Weights,
    between,
    exact,
    frobenius,
    graph,
    measured_map,
    normal,
    paper,
    read,
    spectral,
)
from tests.oracles.unoptimised import run
from tests.spellings.attention import (
    ATTEND,
    COMMON,
    GROUPED,
    GROUPED_OP,
    MULTI_HEAD,
    OPS,
    PACKED_FORMS,
    SEPARATE,
    SEPARATE_WEIGHTS,
    SPLIT_HEADS,
    Attention,
    shape,
)
from tests.versions import needs_onnx_runtime

BLOOM = next(a for a in PACKED_FORMS if "bloom" in a.title)  # the layout of packed MHA too


ACTIVATIONS = {
    "Relu": "a = Relu(h)",
    "Gelu": "a = com.microsoft.Gelu(h)",
    "erf Gelu as torch.onnx.export (TorchScript) writes it": """
        by = Div(h, root) er = Erf(by) plus = Add(er, one) first = Mul(h, plus)
        a = Mul(first, half)""",
    "erf Gelu as torch.onnx.export (dynamo) writes it": """
        by = Div(h, root) er = Erf(by) plus = Add(er, one) first = Mul(half, plus)
        a = Mul(first, h)""",
    "tanh Gelu": """
        cube = Pow(h, three) small = Mul(cubic, cube) sum = Add(h, small) in = Mul(sum, factor)
        th = Tanh(in) plus = Add(one, th) left = Mul(half, h) a = Mul(left, plus)""",
    "SiLU": "s = Sigmoid(h) a = Mul(s, h)",
    "quick Gelu": "z = Mul(h, alpha) s = Sigmoid(z) a = Mul(h, s)",
    "QuickGelu": "a = com.microsoft.QuickGelu<alpha = 1.702>(h)",
    "FastGelu with a bias": "a = com.microsoft.FastGelu(h, bias)",
    "BiasGelu": "a = com.microsoft.BiasGelu(h, bias)",
}


each_activation = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)


@each_activation
def test_equation_5(activation: str) -> None:
    """s = ‖Γ (E G + I)‖_F"""
    nodes = f"h = MatMul(x, e) {activation} o = MatMul(a, g) total = Add(o, x)"
    model = between(nodes, MLP)
    assert np.isfinite(run(model, ids=np.zeros((1, 3), np.int64))["y"]).all()
    printed = frobenius(DIAGONAL @ (exact(E) @ exact(G) + IDENTITY))
    assert paper(model)["last"] == close(printed)


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_equation_8(gate: str) -> None:
    """s = ‖Γ (‖Γ E‖₂ B G + I)‖_F"""
    nodes = f"{gate} o = MatMul(p, g) total = Add(x, o)"
    packed = {"eb": np.concatenate([E, B], 1), "n0": shape(0), "n12": shape(12), "n24": shape(24)}
    model = between(nodes, {**MLP, **packed, "n2": shape(2)})
    assert np.isfinite(run(model, ids=np.zeros((1, 3), np.int64))["y"]).all()
    norm_of_gate = spectral(DIAGONAL @ exact(E))
    printed = frobenius(DIAGONAL @ (norm_of_gate * exact(B) @ exact(G) + IDENTITY))
    assert paper(model)["last"] == close(printed)


def test_equation_10() -> None:
    """s = ‖Γ (W_V P + I)‖_F"""
    w_v, p = exact(SEPARATE_WEIGHTS["w_v"]), exact(COMMON["w_o"])
    printed = frobenius(DIAGONAL @ (w_v @ p + IDENTITY))
    assert paper(between(MULTI_HEAD.nodes, MULTI_HEAD.weights))["last"] == close(printed)


@pytest.mark.parametrize("attention", [GROUPED, GROUPED_OP], ids=str)
def test_equation_10_with_heads_that_share_values(attention: Attention) -> None:
    """Value heads h0 h1 serve the query heads as h0 h0 h1 h1."""
    heads = exact(attention.weights["w_v"]).reshape(D, 2, -1)
    w_v = np.repeat(heads, 2, axis=1).reshape(D, -1)
    printed = frobenius(DIAGONAL @ (w_v @ exact(attention.weights["w_o"]) + IDENTITY))
    model = between(attention.nodes, attention.weights, attention.inputs)
    assert paper(model)["last"] == close(printed)


@pytest.mark.parametrize("attention", [MULTI_HEAD, GROUPED, *PACKED_FORMS, *OPS], ids=str)
def test_attention_however_it_is_written(attention: Attention) -> None:
    """With one position a softmax is 1, and the block is the linear map of equation 10."""
    a = attention
    model = between(a.nodes, a.weights, a.inputs, a.opset)
    if a is GROUPED_OP:
        needs_onnx_runtime(1, 27, for_what="a cache that may be left out")
    if a.title.startswith("ai.onnx") and a.title.endswith("grouped"):
        needs_onnx_runtime(1, 23, 1, for_what="which value heads serve which query heads")
    same = a if a.runs else BLOOM
    truth = measured_map(same.nodes, same.weights, same.inputs, same.opset, **same.feeds(D))
    assert paper(model)["last"] == close(frobenius(truth))


def test_a_mask_after_the_softmax_and_a_bias_of_v_do_not_matter() -> None:
    masked = ATTEND.replace(
        "mixed = MatMul(shares, vt)",
        "bad = IsNaN(shares) sure = Where(bad, none, shares) mixed = MatMul(sure, vt)",
    )
    projected = SEPARATE.replace("v_flat =", "v_bare =") + "v_flat = Add(bias_v, v_bare)"
    weights = {**MULTI_HEAD.weights, "none": np.array(0, np.float32), "bias_v": normal(8, D)}
    model = between(projected + SPLIT_HEADS + masked, weights)
    assert paper(model)["last"] == paper(between(MULTI_HEAD.nodes, MULTI_HEAD.weights))["last"]


@pytest.mark.parametrize("op", ["MultiHeadAttention", "Attention"])
def test_a_bias_inside_an_attention_op_does_not_matter(op: str) -> None:
    attention = next(a for a in OPS if a.title in (op, f"com.microsoft {op}"))
    nodes = attention.nodes.replace("v_flat)", "v_flat, bias)").replace("zeros)", "bias)")
    assert nodes != attention.nodes
    model = between(nodes, {**attention.weights, "bias": normal(8, 24) * 50})
    assert paper(model)["last"] == paper(between(attention.nodes, attention.weights))["last"]


BIASED = {
    "Add": "m = MatMul(x, e) h = Add(bias, m) a = Relu(h) k = MatMul(a, g) o = Add(k, bias_out) "
    "total = Add(o, x)",
    "before the last norm": "h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) "
    "t = Add(o, x) total = Add(t, bias_out)",
}


@pytest.mark.parametrize("nodes", BIASED.values(), ids=BIASED)
def test_biases_are_left_out(nodes: str) -> None:
    printed = frobenius(DIAGONAL @ (exact(E) @ exact(G) + IDENTITY))
    assert paper(between(nodes, MLP))["last"] == close(printed)


GAMMAS = {
    "in nodes of its own": (
        "first = SimplifiedLayerNormalization<axis = -1>(rows, ones) x = Mul(gamma, first)"
    ),
    "with a beta": "x = LayerNormalization<axis = -1>(rows, gamma, beta)",
    "stored as gamma - 1": (
        "sum = Add(less, one) x = SimplifiedLayerNormalization<axis = -1>(rows, sum)"
    ),
    "decomposed": """
        square = Pow(rows, two) mean = ReduceMean<axes = [-1]>(square) sum = Add(mean, eps)
        root = Sqrt(sum) by = Reciprocal(root) bare = Mul(rows, by) x = Mul(bare, gamma)""",
}


@pytest.mark.parametrize("norm", GAMMAS.values(), ids=GAMMAS)
def test_gamma_counts_wherever_it_stands(norm: str) -> None:
    weights = {
        "table": normal(0, 11, D),
        "gamma": GAMMA,
        "beta": normal(6, D),
        "less": GAMMA - 1,
        "ones": np.ones(D, np.float32),
        "one": np.array(1, np.float32),
        "e": E,
        "g": G,
        "two": np.array(2, np.float32),
        "eps": np.array(1e-6, np.float32),
    }
    nodes = f"""rows = Gather(table, ids) {norm}
        h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) total = Add(o, x)
        [last] y = SimplifiedLayerNormalization<axis = -1>(total, ones)"""
    printed = frobenius(DIAGONAL @ (exact(E) @ exact(G) + IDENTITY))
    assert paper(graph(nodes, weights))["last"] == close(printed)


def test_gamma_folded_into_the_matrices() -> None:
    """A graph whose Γ was multiplied into E and into the residual gives the same scale."""
    nodes = "h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) r = Mul(x, gamma_r) total = Add(o, r)"
    folded = {"gamma": np.ones(D, np.float32), "gamma_r": GAMMA, "e": GAMMA[:, None] * E, "g": G}
    printed = frobenius(DIAGONAL @ (exact(E) @ exact(G) + IDENTITY))
    assert paper(between(nodes, folded))["last"] == close(printed)


PRE_LN = """
    rows = Gather(table, ids)
    [n1] x1 = {norm}(rows, gamma)
    v = MatMul(x1, v1) o1 = MatMul(v, p1) r1 = Add(rows, o1)
    [n2] x2 = {norm}(r1, gamma2)
    h = MatMul(x2, e) a = Relu(h) o2 = MatMul(a, g) r2 = Add(o2, r1)
    [n3] y = {norm}(r2, gamma)
"""


@pytest.mark.parametrize(
    "norm", ["SimplifiedLayerNormalization<axis = -1>", "LayerNormalization<axis = -1>"]
)
def test_a_pre_ln_residual_is_collinear_with_the_norm_that_read_it(norm: str) -> None:
    """M = Γ block + (s_prev / √d) I, along the network."""
    gamma2 = normal(7, D)
    table, v1, p1 = normal(0, 11, D), normal(8, D, D), normal(9, D, D)
    weights: Weights = {
        "table": table,
        "gamma": GAMMA,
        "gamma2": gamma2,
        "v1": v1,
        "p1": p1,
        "e": E,
        "g": G,
    }
    s1 = frobenius(exact(table)) / 11**0.5
    s2 = frobenius(DIAGONAL @ exact(v1) @ exact(p1) + s1 / D**0.5 * IDENTITY)
    s3 = frobenius(np.diag(exact(gamma2)) @ exact(E) @ exact(G) + s2 / D**0.5 * IDENTITY)
    assert paper(graph(PRE_LN.format(norm=norm), weights)) == {
        "n1": close(s1),
        "n2": close(s2),
        "n3": close(s3),
    }


def test_a_pre_ln_chain_of_skip_ops() -> None:
    nodes = """
        rows = Gather(table, ids)
        [n1] x1 = SimplifiedLayerNormalization<axis = -1>(rows, gamma)
        o1 = MatMul(x1, v1)
        [n2] x2, , , r1 = com.microsoft.SkipSimplifiedLayerNormalization(rows, o1, gamma)
        o2 = MatMul(x2, v1)
        [n3] y, , , r2 = com.microsoft.SkipSimplifiedLayerNormalization(o2, r1, gamma)
    """
    table, v1 = normal(0, 11, D), normal(8, D, D)
    s1 = frobenius(exact(table)) / 11**0.5
    s2 = frobenius(DIAGONAL @ exact(v1) + s1 / D**0.5 * IDENTITY)
    s3 = frobenius(DIAGONAL @ exact(v1) + s2 / D**0.5 * IDENTITY)
    found = paper(graph(nodes, {"table": table, "gamma": GAMMA, "v1": v1}))
    assert found == {"n1": close(s1), "n2": close(s2), "n3": close(s3)}


def test_branches_from_one_norm_add_up_as_maps() -> None:
    nodes = (
        MULTI_HEAD.nodes.replace("total = Add(x, out)", "")
        + """
        h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) both = Add(out, o) total = Add(both, x)"""
    )
    w_v, p = exact(SEPARATE_WEIGHTS["w_v"]), exact(COMMON["w_o"])
    printed = frobenius(DIAGONAL @ (w_v @ p + exact(E) @ exact(G) + IDENTITY))
    assert paper(between(nodes, {**MULTI_HEAD.weights, **MLP}))["last"] == close(printed)


def test_branches_from_two_norms_add_up_in_quadrature() -> None:
    nodes = """other = Gather(table2, ids) x2 = LayerNormalization(other, gamma2)
        a = MatMul(x, w) b = MatMul(x2, w2) total = Add(a, b)"""
    w, w2, gamma2 = normal(5, D, D), normal(6, D, D), normal(7, D)
    weights = {"w": w, "w2": w2, "gamma2": gamma2, "table2": normal(8, 30, D)}
    printed = np.hypot(
        frobenius(DIAGONAL @ exact(w)), frobenius(np.diag(exact(gamma2)) @ exact(w2))
    )
    assert paper(between(nodes, weights))["last"] == close(float(printed))


def test_embedding_rows_count_with_their_mean_square() -> None:
    """Token rows times sqrt(d), position rows, and a token type that the table has one row of."""
    nodes = """
        t = Gather(table, ids) big = Mul(t, root_d)
        dims = Shape(ids) length = Gather(dims, n1) where = Range(n0, length, n1)
        p = Gather(positions, where) sum = Add(big, p)
        [n] y = LayerNormalization(sum, gamma)
    """
    table, positions = normal(0, 11, D), normal(1, 20, D, spread=3.0)
    weights = {
        "table": table,
        "positions": positions,
        "gamma": GAMMA,
        "n0": np.array(0),
        "n1": np.array(1),
        "root_d": np.array(D**0.5, np.float32),
    }
    square = D * np.sum(exact(table) ** 2) / 11 + np.sum(exact(positions) ** 2) / 20
    assert paper(graph(nodes, weights))["n"] == close(float(square**0.5))


def test_layer_scale_and_multipliers() -> None:
    nodes = """h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) kept = Identity(layer_scale)
        small = Mul(kept, o) smaller = Mul(small, half) less = Div(smaller, three)
        twice = Mul(x, two) total = Sub(twice, less)"""
    layer_scale = normal(6, D)
    weights = {**MLP, "layer_scale": layer_scale, "two": np.array(2, np.float32)}
    block = exact(E) @ exact(G) * exact(layer_scale) * 0.5 / 3
    printed = frobenius(DIAGONAL @ (2 * IDENTITY - block))
    assert paper(between(nodes, weights))["last"] == close(printed)


def test_a_difference_of_branches_is_not_their_sum() -> None:
    """As in differential attention: a Sub, and an Add of a Neg."""
    w, w2 = normal(5, D, D), normal(6, D, D)
    printed = frobenius(DIAGONAL @ (exact(w) - exact(w2) + IDENTITY))
    for nodes in ("d = Sub(a, b)", "c = Neg(b) d = Add(a, c)"):
        text = f"a = MatMul(x, w) b = MatMul(x, w2) {nodes} total = Add(d, x)"
        assert paper(between(text, {"w": w, "w2": w2}))["last"] == close(printed)


def test_one_minus_a_sigmoid_is_a_factor_of_at_most_one() -> None:
    nodes = "h = MatMul(x, e) s = Sigmoid(h) z = Sub(one, s) a = Mul(z, h) total = MatMul(a, g)"
    printed = frobenius(DIAGONAL @ exact(E) @ exact(G))
    assert paper(between(nodes, MLP))["last"] == close(printed)


def test_a_sandwich_norm_ends_the_block_it_follows() -> None:
    nodes = """
        o = MatMul(x, w)
        [post] normed = SimplifiedLayerNormalization<axis = -1>(o, gamma_post)
        total = Add(rows, normed)
    """
    w, gamma_post = normal(5, D, D), normal(6, D)
    found = paper(between(nodes, {"w": w, "gamma_post": gamma_post}))
    assert found["post"] == close(frobenius(DIAGONAL @ exact(w)))
    square = found["first"] ** 2 + np.sum(exact(gamma_post) ** 2)
    assert found["last"] == close(float(square**0.5))


def test_a_norm_per_head_takes_the_root_mean_over_heads() -> None:
    """Queries of 4 heads of 2 in one tensor: ‖Γ W_h‖_F in the quadratic mean over h."""
    nodes = """
        q_flat = MatMul(x, w) q = Reshape(q_flat, heads)
        [per_head] qn = SimplifiedLayerNormalization<axis = -1>(q, gamma_q)
        flat = Reshape(qn, whole) total = MatMul(flat, w_o)
    """
    w, gamma_q, w_o = normal(5, D, D), normal(6, 2), COMMON["w_o"]
    weights = {"w": w, "gamma_q": gamma_q, "w_o": w_o, "heads": COMMON["heads"]}
    found = paper(between(nodes, {**weights, "whole": COMMON["whole"]}))
    heads = (DIAGONAL @ exact(w)).reshape(D, 4, 2)
    per_head = [frobenius(heads[:, h]) for h in range(4)]
    assert found["per_head"] == close(float(np.sqrt(np.mean(np.square(per_head)))))


def test_what_cannot_be_read_has_no_estimate_but_a_reason() -> None:
    nodes = 'h = Einsum<equation = "bsi,bji->bsj">(x, x) total = Add(h, x)'
    model = between(nodes, {"w": normal(5, D, D)})
    estimates, reasons = paper_estimates(*read(model))
    assert list(estimates) == ["first"]
    assert told(reasons) == {"last": "the trace stopped at Einsum (h)"}


def test_maps_of_too_many_parts_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model = between("h = MatMul(x, w) total = Add(h, x)", {"w": normal(5, D, D)})
    assert len(paper_estimates(*read(model))[0]) == 2
    monkeypatch.setattr("slanc_onnx.estimate.paper.MOST_READ", 3)
    estimates, reasons = paper_estimates(*read(model))
    assert list(estimates) == ["first"]
    assert told(reasons)["last"].startswith("the maps from earlier norms have more than 3 parts")


def test_a_block_of_zeros_has_no_scale() -> None:
    nodes = "total = MatMul(x, w)"
    model = between(nodes, {"w": np.zeros((D, D), np.float32)})
    _, reasons = paper_estimates(*read(model))
    assert told(reasons) == {"last": "the predicted sum of squares is 0"}


@pytest.mark.parametrize("gate", ["k = Add(t, bias)", "s = Sigmoid(z) k = Mul(t, s)"])
def test_one_number_per_row_counts_in_every_channel(gate: str) -> None:
    """‖Γ c 1ᵀ W‖_F, with the column c that gives the number; a Sigmoid is at most 1."""
    nodes = f"t = MatMul(x, c) z = MatMul(x, w) {gate} total = MatMul(k, w)"
    c, w = normal(5, D, 1), normal(6, D, D)
    found = paper(between(nodes, {"c": c, "w": w, "bias": normal(7, D)}))
    printed = frobenius(DIAGONAL @ exact(c) @ np.ones((1, D)) @ exact(w))
    assert found["last"] == close(printed)


def test_a_map_whose_square_is_beyond_fp64_has_no_scale() -> None:
    products = " ".join(f"h{i + 1} = MatMul(h{i}, w)" for i in range(5))
    nodes = f"h0 = MatMul(x, w) {products} gate = Relu(h5) total = Mul(gate, h0)"
    model = between(nodes, {"w": np.full((D, D), 1e38, np.float32)})
    _, reasons = paper_estimates(*read(model))
    assert told(reasons) == {"last": "the predicted sum of squares is inf"}


def told(reasons: dict[str, Reason]) -> dict[str, str]:
    return {name: reason_text(reason) for name, reason in reasons.items()}
