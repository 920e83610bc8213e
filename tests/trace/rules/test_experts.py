"""Mixtures of experts: matrices that the data chooses, and experts behind a mask.

Two kinds of truth. Experts that are all alike are one MLP, whichever the router chooses, so the
rows are known to the last bits. Different ones are compared with a run within a factor of 10: which
experts a row gets is the router's business, and the estimate draws them by turns.
"""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.models.small_graphs import D, Matrix, Weights, between, exact, normal
from tests.oracles.shown_rows import (
    ROWS,
    estimated,
    extremes,
    shown,
    sums,
    table_of,
    within_a_factor,
    x_rows,
)
from tests.spellings.attention import shape

E, K, I = 4, 2, 16  # noqa: E741
MANY = 200  # rows of the table, where a run has to show how large they become
IDS = np.arange(MANY).reshape(20, 10)


def stack(seed: int, *sizes: int, alike: bool = False, experts: int = E) -> NDArray[np.float32]:
    """Random matrices or vectors, one per expert; or one of them for every expert."""
    one = normal(seed, 1 if alike else experts, *sizes, spread=0.5)
    return np.ascontiguousarray(np.broadcast_to(one, (experts, *sizes)))


def gated(x: Matrix, gate: Matrix, up: Matrix, down: Matrix) -> Matrix:
    opened = x @ gate
    return np.asarray((opened / (1 + np.exp(-opened)) * (x @ up)) @ down)


# From x to `total` through the router and two of four experts, one token after the other.
ROUTER = """
    dims = Shape(x) flat = Reshape(x, two_d) logits = MatMul(flat, router)
    probs = Softmax<axis = -1>(logits) top, chosen = TopK(probs, k)
    in_all = ReduceSum(top, last) shares = Div(top, in_all)
"""
RESIDUAL = "back = Reshape(moe, dims) total = Add(x, back)"
SILU = "sig = Sigmoid(gate) swish = Mul(gate, sig) act = Mul(swish, up)"
REPEAT = "wide = Unsqueeze(flat, one) twice = Expand(wide, repeats) many = Reshape(twice, two_d)"
SUM = "grouped = Reshape(weighted, by_token) moe = ReduceSum<keepdims = 0>(grouped, one)"
CHOSEN = f"""{ROUTER} ids_of = Reshape(chosen, minus) {REPEAT}
    column = Unsqueeze(many, last) w1 = Gather(gate_up, ids_of) h3 = MatMul(w1, column)
    h = Squeeze(h3, last) gate, up = Split<axis = -1, num_outputs = 2>(h) {SILU}
    a3 = Unsqueeze(act, last) w2 = Gather(down, ids_of) o3 = MatMul(w2, a3) o = Squeeze(o3, last)
    each = Reshape(shares, as_column) weighted = Mul(o, each)
    {SUM} {RESIDUAL}
"""
TURN = "Transpose<perm = [0, 2, 1]>"
AS_ROWS = (
    CHOSEN.replace("column = Unsqueeze(many, last)", "column = Unsqueeze(many, one)")
    .replace("h3 = MatMul(w1, column)", f"u1 = {TURN}(w1) h3 = MatMul(column, u1)")
    .replace("h = Squeeze(h3, last)", "h = Squeeze(h3, one)")
    .replace("a3 = Unsqueeze(act, last)", "a3 = Unsqueeze(act, one)")
    .replace("o3 = MatMul(w2, a3)", f"u2 = {TURN}(w2) o3 = MatMul(a3, u2)")
    .replace("o = Squeeze(o3, last)", "o = Squeeze(o3, one)")
)
EMPTY = "dims_flat = Shape(flat) empty = ConstantOfShape(dims_flat)"
TOKENS = f"""{EMPTY} n = Gather(dims_flat, zero) upto = Range(zero, n, one_)
    tokens = Unsqueeze(upto, last) pairs = Expand(tokens, pair)"""
ADDED = {
    "ScatterND": f"{TOKENS} where = Reshape(pairs, as_column) "
    'moe = ScatterND<reduction = "add">(empty, where, weighted)',
    "ScatterElements": f"{TOKENS} first = Reshape(pairs, as_column) dims_w = Shape(weighted) "
    "where = Expand(first, dims_w) "
    'moe = ScatterElements<axis = 0, reduction = "add">(empty, where, weighted)',
}


def by_expert(one: str, experts: int) -> str:
    """Every expert in nodes of its own: its rows x{e}, its result o{e}, and the sum before it."""
    nodes = ROUTER + EMPTY
    for e in range(experts):
        mlp = f"""g{e} = MatMul(x{e}, gate{e}) u{e} = MatMul(x{e}, up{e}) s{e} = Sigmoid(g{e})
            w{e} = Mul(g{e}, s{e}) a{e} = Mul(w{e}, u{e}) o{e} = MatMul(a{e}, down{e})"""
        numbered = one.replace("{mlp}", mlp).replace("{e}", str(e)).replace("{next}", str(e + 1))
        nodes += numbered
    return f"{nodes} moe = Identity(sum{experts}) {RESIDUAL}"


def masked(experts: int = E) -> str:
    """All rows through all experts, with a share of 0 for those that are not chosen."""
    mask = """dims_l = Shape(logits) none = ConstantOfShape(dims_l)
        all = ScatterElements<axis = -1>(none, chosen, shares) sum0 = Identity(empty)"""
    one = """x{e} = Identity(flat) {mlp} c{e} = Gather<axis = -1>(all, number{e})
        d{e} = Unsqueeze(c{e}, last) m{e} = Mul(o{e}, d{e}) sum{next} = Add(sum{e}, m{e})"""
    return by_expert(one, experts).replace(EMPTY, EMPTY + " " + mask)


def by_tokens(experts: int = E) -> str:
    """As transformers 4 exports it: each expert's tokens by NonZero, added to the sum by index."""
    one = """
        is{e} = Equal(chosen, number{e}) f{e} = Cast<to = 1>(is{e}) found{e} = NonZero(f{e})
        t{e}, p{e} = Split<axis = 0, num_outputs = 2>(found{e}) rows{e} = Squeeze(t{e}, zeros)
        x{e} = Gather(flat, rows{e}) {mlp}
        at{e} = Transpose(found{e}) picked{e} = GatherND(shares, at{e})
        c{e} = Unsqueeze(picked{e}, last) m{e} = Mul(o{e}, c{e}) where{e} = Unsqueeze(rows{e}, last)
        sum{next} = ScatterND<reduction = "add">(sum{e}, where{e}, m{e})"""
    return by_expert(one, experts).replace(EMPTY, EMPTY + " sum0 = Identity(empty)")


SPELLINGS = {
    "chosen by Gather, as columns": CHOSEN,
    "chosen by Gather, as rows of turned matrices": AS_ROWS,
    "chosen by GatherND": CHOSEN.replace(
        "w1 = Gather(gate_up, ids_of)", "at = Unsqueeze(ids_of, last) w1 = GatherND(gate_up, at)"
    ).replace("w2 = Gather(down, ids_of)", "w2 = GatherND(down, at)"),
    "chosen, added up by ScatterND": CHOSEN.replace(SUM, ADDED["ScatterND"]),
    "chosen, added up by ScatterElements": CHOSEN.replace(SUM, ADDED["ScatterElements"]),
}
# All rows through all experts at once, as gpt-oss and Llama 4 have it.
BATCHED = f"""{ROUTER} {EMPTY} dims_l = Shape(logits) none = ConstantOfShape(dims_l)
    all = ScatterElements<axis = -1>(none, chosen, shares) mask = Transpose(all)
    m3 = Unsqueeze(mask, last) f3 = Unsqueeze(flat, zeros) x3 = Expand(f3, copies)
    gate = MatMul(x3, gates) up = MatMul(x3, ups) {SILU} o = MatMul(act, downs)
    weighted = Mul(o, m3) moe = ReduceSum<keepdims = 0>(weighted, zeros) {RESIDUAL}"""
SEVERAL = {"all experts, times a mask": masked, "each with its tokens": by_tokens}


def spelled(nodes: str, alike: bool = False, experts: int = E) -> tuple[onnx.ModelProto, Weights]:
    """A model, and the stacks [experts, in, out] in it."""
    parts: Weights = {
        "gate": stack(1, D, I, alike=alike, experts=experts),
        "up": stack(2, D, I, alike=alike, experts=experts),
        "down": stack(3, I, D, alike=alike, experts=experts),
    }
    turned = {name: np.ascontiguousarray(w.swapaxes(1, 2)) for name, w in parts.items()}
    gate_up = np.concatenate([turned["gate"], turned["up"]], axis=1)
    numbers: Weights = {
        "k": shape(K),
        "two_d": shape(-1, D),
        "last": shape(-1),
        "minus": shape(-1),
        "one": shape(1),
        "repeats": shape(1, K, 1),
        "as_column": shape(-1, 1),
        "pair": shape(1, K),
        "by_token": shape(-1, K, D),
        "zero": np.array(0),
        "one_": np.array(1),
        "zeros": shape(0),
        "router": normal(7, D, experts),
        "gate_up": gate_up,
        "down": turned["down"],
        "table": table_of(ROWS if alike else MANY),
        "copies": shape(experts, 1, 1),
        **{f"{name}s": w for name, w in parts.items()},
    }
    own = {f"{name}{e}": w[e] for name, w in parts.items() for e in range(experts)}
    own |= {f"number{e}": np.array(e) for e in range(experts)}
    return between(nodes, {**numbers, **own}, opset=18), parts


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_chosen_experts_within_a_factor_of_a_run(nodes: str) -> None:
    model, _ = spelled(nodes)
    assert within_a_factor(estimated(model), sums(shown(model, ids=IDS)))


@pytest.mark.parametrize("experts", [E, 64])
@pytest.mark.parametrize("nodes", SEVERAL.values(), ids=SEVERAL)
def test_experts_in_nodes_of_their_own_within_a_factor_of_a_run(
    nodes: Callable[[int], str], experts: int
) -> None:
    """Two are chosen for a row, however many there are."""
    model, _ = spelled(nodes(experts), experts=experts)
    assert within_a_factor(estimated(model), sums(shown(model, ids=IDS)))


@pytest.mark.parametrize("experts", [E, 64])
def test_stacks_that_are_multiplied_at_once_are_not_read_but_assumed(experts: int) -> None:
    model, _ = spelled(BATCHED, experts=experts)
    assumes = "assumes that the size of what MatMul (o), MatMul (gate), MatMul (up) reads is kept"
    assert within_a_factor(estimated(model, assumes=assumes), sums(shown(model, ids=IDS)))


@pytest.mark.parametrize("nodes", SPELLINGS.values(), ids=SPELLINGS)
def test_chosen_experts_that_are_alike_are_one_mlp(nodes: str) -> None:
    model, parts = spelled(nodes, alike=True)
    x = x_rows()
    truth = sums(x + gated(x, *(exact(parts[name][0]) for name in ("gate", "up", "down"))))
    np.testing.assert_allclose(sums(shown(model)), truth, rtol=1e-4)
    assert extremes(estimated(model)) == pytest.approx([truth.min(), truth.max()], rel=1e-4)
