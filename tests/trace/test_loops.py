"""Loops and scans: their bodies are read iteration by iteration, with what they carry."""

from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx.trace.expression import Alternatives
from tests.models.small_graphs import (
    GAMMA,
    D,
    Matrix,
    Weights,
    between,
    exact,
    from_weights,
    normal,
    read,
)
from tests.oracles.shown_rows import estimated, extremes, shown, sums, within_a_factor, x_rows
from tests.spellings.attention import shape

W = normal(5, D, D)
NUMBERS: Weights = {
    "w": W,
    "yes": np.array(True),
    "three": np.array(3),
    "forty": np.array(40),
    "two": np.array(2),
    "limit": np.array(2000, np.float32),
    "zeros": shape(0),
    "last": shape(-1),
}
# The body grows by a step each time, so that no two iterations have the same rows.
LOOP = """
    last_state, outs = Loop ({count}, {start}, x) <
        body = step (int64 i, bool going, float[b, s, 8] state)
            => (bool stay, float[b, s, 8] next, float[b, s, 8] out) {{
            [inner] n = SimplifiedLayerNormalization<axis = -1>(state, gamma)
            h = MatMul(n, w) next = Add(state, h) out = Identity(h) {stay}
        }}
    >
    total = {total}
"""
STAY = "stay = Identity(going)"
UNTIL = """q = Mul(next, next) r = ReduceMax<keepdims = 0>(q) stay = Less(r, limit)"""


def loop(count: str, total: str = "Identity(last_state)", stay: str = STAY) -> str:
    return LOOP.format(count=count, start="yes", stay=stay, total=total)


def rms(x: Matrix) -> Matrix:
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5))


def states(count: int, start: Matrix | None = None) -> list[Matrix]:
    """What the loop carries before the first iteration, after it, and so on, in NumPy."""
    every = [x_rows() if start is None else start]
    for _ in range(count):
        every.append(every[-1] + rms(every[-1]) * exact(GAMMA) @ exact(W))
    return every


def kinds(model: onnx.ModelProto, norm: str) -> int:
    """How many kinds of rows the trace reads at a norm."""
    expr = read(model)[0].inputs[norm]
    return len(expr.kinds) if isinstance(expr, Alternatives) else 1


def test_each_iteration_of_a_loop_is_one_of_the_rows_that_its_norm_reads() -> None:
    model = between(loop("three"), NUMBERS)
    truth = states(3)
    np.testing.assert_allclose(shown(model)[:, 0], truth[3], rtol=1e-4, atol=1e-4)
    rows = np.concatenate([sums(state) for state in truth[:3]])
    assert kinds(model, "inner") == 3
    assert extremes(estimated(model, "inner")) == pytest.approx([rows.min(), rows.max()], rel=1e-4)


def test_what_a_loop_carries_is_read_after_its_last_iteration() -> None:
    for count in (1, 2, 3):
        model = between(loop("n"), {**NUMBERS, "n": np.array(count)})
        rows = sums(states(count)[count])
        found = extremes(estimated(model))
        assert found == pytest.approx([rows.min(), rows.max()], rel=1e-4)


TRIPS = {
    "a constant": ("three", STAY, "", 3),
    "a constant, larger than what is followed": ("forty", STAY, "", 40),
    "a graph input": ("steps", STAY, "int64 steps", 5),
    "the length of the sequence": ("length", STAY, "", 8),
    "none, until the data says stop": ("", UNTIL, "", 8),
    "a constant, or until the data says stop": ("forty", UNTIL, "", 8),
}


@pytest.mark.parametrize(("count", "stay", "inputs", "trips"), TRIPS.values(), ids=TRIPS)
def test_a_loop_within_a_factor_of_a_run(count: str, stay: str, inputs: str, trips: int) -> None:
    """However it ends: `trips` is how often it runs, or about so."""
    length = "dims = Shape(x) length = Gather(dims, one)" if count == "length" else ""
    weights: Weights = {**NUMBERS, "one": np.array(1)}
    model = between(f"{length} {loop(count, stay=stay)}", weights, inputs)
    feeds: dict[str, Any] = {"ids": np.random.default_rng(3).integers(0, 11, (16, 8))}
    if inputs:
        feeds["steps"] = np.array(trips)
    outputs = shown(model, "outs", **feeds)
    assert abs(len(outputs) - trips) <= 1
    start = x_rows()[feeds["ids"]]
    rows = np.concatenate([sums(state) for state in states(len(outputs), start)[:-1]])
    assert within_a_factor(estimated(model, "inner"), rows)
    assert within_a_factor(estimated(model), sums(shown(model, **feeds)))


def test_what_a_loop_stacks_is_like_what_its_last_iteration_gave() -> None:
    model = between(
        loop("three", "Squeeze(some, zeros)").replace(
            "total =", "some = Slice(outs, from, to, zeros) total ="
        ),
        {**NUMBERS, "from": shape(-1), "to": shape(9)},
    )
    before = states(3)[2]
    rows = sums(rms(before) * exact(GAMMA) @ exact(W))
    np.testing.assert_allclose(sums(shown(model)), rows, rtol=1e-4)
    assert extremes(estimated(model)) == pytest.approx([rows.min(), rows.max()], rel=1e-4)


def test_a_norm_of_all_that_a_loop_stacks_is_within_a_factor_of_a_run() -> None:
    model = between(loop("three", "Identity(outs)"), NUMBERS)
    assert within_a_factor(estimated(model), sums(shown(model)))


SCAN = """
    turned = Transpose<perm = [1, 0, 2]>(x) zero_ = Slice(turned, zeros, one, zeros)
    none = Squeeze(zero_, zeros) start = Mul(none, nought)
    last_state, outs = Scan <num_scan_inputs = 1, body = step
        (float[b, 8] state, float[b, 8] element) => (float[b, 8] next, float[b, 8] out) {
            joined = Add(state, element)
            [inner] n = SimplifiedLayerNormalization<axis = -1>(joined, gamma)
            h = MatMul(n, w) next = Tanh(h) out = Identity(h)
        }
    > (start, turned)
    total = Transpose<perm = [1, 0, 2]>(outs)
"""


def test_a_scan_over_the_sequence_is_read_for_a_few_positions() -> None:
    """With one token the first iteration is exact; the state that comes in is 0."""
    model = between(SCAN, {**NUMBERS, "one": shape(1), "nought": np.array(0, np.float32)})
    first = sums(x_rows())
    found = estimated(model, "inner")
    assert found.lowest <= first.min() * (1 + 1e-4)
    assert found.seen >= first.max() * (1 - 1e-4)
    ids = np.random.default_rng(3).integers(0, 11, (16, 8))
    assert within_a_factor(estimated(model), sums(shown(model, ids=ids)))
    rows = []
    for sequence in x_rows()[ids]:
        state: Matrix = np.zeros(D)
        for element in sequence:
            rows.append(sums(state + element))
            state = np.tanh(rms(state + element) * exact(GAMMA) @ exact(W))
    assert within_a_factor(found, np.concatenate(rows))


LAYERS = """
    total = Loop (three, yes, x) <
        body = step (int64 i, bool going, float[b, s, 8] state)
            => (bool stay, float[b, s, 8] next) {
            stay = Identity(going) own = Gather(stack, i) scale = Gather(gammas, i)
            [inner] n = SimplifiedLayerNormalization<axis = -1>(state, ones)
            scaled = Mul(n, scale) h = MatMul(scaled, own) next = Add(state, h)
        }
    >
"""


def test_layers_that_take_their_weights_by_the_number_of_the_iteration() -> None:
    """One matrix and one gamma of a stack in each iteration."""
    stack, gammas = normal(6, 3, D, D, spread=0.5), normal(7, 3, D)
    weights = {**NUMBERS, "stack": stack, "gammas": gammas, "ones": np.ones(D, np.float32)}
    model = between(LAYERS, weights)
    every = [x_rows()]
    for own, gamma in zip(exact(stack), exact(gammas), strict=True):
        every.append(every[-1] + rms(every[-1]) * gamma @ own)
    np.testing.assert_allclose(shown(model)[:, 0], every[3], rtol=1e-4, atol=1e-4)
    rows = np.concatenate([sums(state) for state in every[:3]])
    assert extremes(estimated(model, "inner")) == pytest.approx([rows.min(), rows.max()], rel=1e-4)


IF_IN_LOOP = """
    total = Loop (three, yes, x) <
        body = step (int64 i, bool going, float[b, s, 8] state)
            => (bool stay, float[b, s, 8] next) {
            stay = Identity(going)
            [each] n = SimplifiedLayerNormalization<axis = -1>(state, gamma)
            rest = Mod(i, two) odd = Cast<to = 9>(rest)
            h = If (odd) <
                then_branch = t () => (float[b, s, 8] a) {
                    [odd] m = SimplifiedLayerNormalization<axis = -1>(n, ones)
                    a = MatMul(m, w)
                },
                else_branch = e () => (float[b, s, 8] c) { c = MatMul(n, w) }
            >
            next = Add(state, h)
        }
    >
"""


def test_norms_in_an_if_in_a_loop() -> None:
    model = between(IF_IN_LOOP, {**NUMBERS, "ones": np.ones(D, np.float32)})
    estimates, reasons = from_weights(model)
    assert reasons == {}
    assert sorted(estimates) == ["each", "first", "last", "odd"]
    state, each, odd = x_rows(), [], []
    for i in range(3):
        each.append(sums(state))
        n = rms(state) * exact(GAMMA)
        odd.append(sums(n))
        state = state + (rms(n) if i % 2 else n) @ exact(W)
    np.testing.assert_allclose(shown(model)[:, 0], state, rtol=1e-4, atol=1e-4)
    # Either branch may be taken in any iteration, as far as the file tells.
    rows = np.concatenate(odd)
    assert within_a_factor(estimates["odd"], rows)
    assert within_a_factor(estimates["each"], np.concatenate(each))
    assert within_a_factor(estimates["last"], sums(state))


@pytest.mark.parametrize("sizes", [(1, 30), (30, 1)], ids=["else", "then"])
def test_the_larger_branch_of_an_if_counts_whichever_it_is(sizes: tuple[int, int]) -> None:
    nodes = """
        total = If (flag) <
            then_branch = t () => (float[b, s, 8] p) { p = MatMul(x, first_w) },
            else_branch = e () => (float[b, s, 8] q) { q = MatMul(x, other_w) }
        >"""
    weights = {"first_w": W * np.float32(sizes[0]), "other_w": W * np.float32(sizes[1])}
    found = estimated(between(nodes, weights, "bool flag"))
    small, large = sums(x_rows() @ exact(W)), sums(x_rows() @ exact(W) * 30)
    assert extremes(found) == pytest.approx([small.min(), large.max()], rel=1e-4)


def test_a_norm_in_a_loop_in_a_loop() -> None:
    inner = """
        t = Loop (two, yes, x) <body = inside (int64 j, bool on, float[b, s, 8] u)
            => (bool stay_on, float[b, s, 8] v) {
            stay_on = Identity(on)
            [inner] k = SimplifiedLayerNormalization<axis = -1>(u, gamma)
            l = MatMul(k, w) v = Add(u, l)
        }>"""
    nodes = f"""
        total = Loop (two, yes, x) <body = outside (int64 i, bool going, float[b, s, 8] state)
            => (bool stay, float[b, s, 8] next) {{
            stay = Identity(going) {inner.replace("yes, x", "yes, state")} next = Identity(t)
        }}>"""
    model = between(nodes, NUMBERS)
    truth = states(4)
    np.testing.assert_allclose(shown(model)[:, 0], truth[4], rtol=1e-4, atol=1e-4)
    rows = np.concatenate([sums(state) for state in truth[:4]])
    assert kinds(model, "inner") == 4
    assert extremes(estimated(model, "inner")) == pytest.approx([rows.min(), rows.max()], rel=1e-4)
