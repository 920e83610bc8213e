"""Bounds of norm inputs: no row that can be found is longer, and none is absurdly far below."""

import math
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx.norms.norm import Norm
from slanc_onnx.prove.bound import Bound, bounds_of
from slanc_onnx.prove.condition import Condition
from slanc_onnx.reasons import Doubt, Reason, Unproved, Unread
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.trace.expression import (
    Apply,
    Convolution,
    Embedding,
    Expr,
    Input,
    Opaque,
    Pooled,
    Select,
    Sum,
)
from slanc_onnx.trace.tracing import Trace
from tests.models.small_graphs import GAMMA, between, normal, read
from tests.oracles.blocks import STYLES, Block, D, Draw, known, linear, norm_of, weight
from tests.oracles.longest_row import bound_of, longest_row, norm_named
from tests.oracles.more_blocks import BLOCKS
from tests.oracles.unoptimised import run
from tests.places import SAMPLES

# Of Gaussian weights, 4 draws: how far the bound may be above the longest row found. What makes a
# bound loose is the activation in the middle: only sizes get through it.
LOOSEST: Mapping[str, float] = {
    "post-LN attention": 2.5,
    "grouped-query attention": 3.0,
    "query norm per head": 1.1,
    "gated MLP": 5.0,
    "relu²": 2.5,
    "sandwich residuals": 1.4,
    "pre-LN chain": 3.0,
    "parallel, layer scale": 4.0,
    "embeddings": 2.5,
    "softcap": 2.0,
    "convolution": 3.0,
    "experts": 4.0,
    "shared experts": 1.1,
    "leaky by Where": 4.0,
    "merged patches": 1.6,
    "joined rows": 1.1,
    "pixels or token": 3.0,
}
OF_AN_MLP = 8.0

draws = st.builds(
    lambda seed, style: (seed, Draw(np.random.default_rng(seed), style)),
    st.integers(0, 2**32 - 1),
    st.sampled_from(STYLES),
)


@pytest.mark.parametrize("title", BLOCKS)
def test_no_row_that_is_found_is_longer_than_the_bound(title: str) -> None:
    @settings(max_examples=8, deadline=None, database=None)
    @given(draws)
    def check(drawn: tuple[int, Draw]) -> None:
        seed, draw = drawn
        block = BLOCKS[title](draw)
        bound = bound_of(block)
        assert bound.reason is None and bound.length is not None
        assert bound.width == block.expr.channels
        row = longest_row(block, np.random.default_rng(seed), restarts=4, steps=25)
        assert np.linalg.norm(row) <= bound.length

    check()


@pytest.mark.parametrize("title", BLOCKS)
def test_bounds_are_not_absurd(title: str) -> None:
    for seed in range(4):
        block = BLOCKS[title](Draw(np.random.default_rng(seed)))
        bound = bound_of(block)
        found = float(np.linalg.norm(longest_row(block, np.random.default_rng(seed))))
        assert bound.length is not None
        assert bound.length <= found * LOOSEST.get(title, OF_AN_MLP)


def cheaply(block: Block, monkeypatch: pytest.MonkeyPatch) -> Bound:
    """As for matrices that are too large for tight norms."""
    with monkeypatch.context() as patch:
        patch.setattr("slanc_onnx.prove.evaluate.EXACT_SIZE", 0)
        return bound_of(block)


@pytest.mark.parametrize("title", BLOCKS)
def test_cheap_norms_hold_too_and_are_said_to_be_loose(
    title: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = BLOCKS[title](Draw(np.random.default_rng(5), "outliers"))
    cheap, tight = cheaply(block, monkeypatch), bound_of(block)
    assert cheap.length is not None and tight.length is not None
    assert tight.loose is False
    assert cheap.loose is (title not in ("embeddings", "sandwich residuals"))
    assert np.linalg.norm(longest_row(block, np.random.default_rng(5))) <= cheap.length


def test_an_element_that_comes_from_one_of_two_rows_keeps_no_direction() -> None:
    """a = (t, t) and W = (1, -1): a W is 0, but with the second element replaced it is not."""
    pair = linear(norm_of(channels=1), np.ones((1, 2)))
    zero = known(np.zeros(2))
    chosen = Select(
        2, Apply(2, "Greater", linear(norm_of(channels=2), np.eye(2)), (0.0,)), pair, zero
    )
    difference = linear(chosen, np.array([[1.0], [-1.0]]))
    bound = bound_of(Block(difference, (), lambda: np.zeros(0)))
    assert bound.length is not None and bound.length >= 1.0


def expression_bound(expr: Expr, **ranges: tuple[float, float]) -> Bound:
    trace = Trace({"next": expr}, {})
    return bounds_of(trace, [norm_named("next")], ranges=ranges)["next"]


def test_a_mask_of_its_own_for_each_channel_is_not_one_number() -> None:
    """Ids and masks are traced as one channel, whatever their shape."""
    wide = Sum(2, Input(1, "mask", floats=False), known(np.zeros(2)))
    bound = expression_bound(linear(wide, np.array([[1.0], [-1.0]])))
    assert bound.length is not None and bound.length >= 1.0  # the mask (1, 0)


def refused(expr: Expr, **ranges: tuple[float, float]) -> str:
    bound = expression_bound(expr, **ranges)
    assert bound.length is None
    assert bound.reason is not None
    return reason_text(bound.reason)


def test_what_nothing_limits_has_no_bound() -> None:
    x = linear(norm_of(), np.eye(D))
    assert refused(Opaque(D, "Mystery", "out")) == "the trace stopped at Mystery (out)"
    assert "limits the graph input 'pixels'" in refused(Input(D, "pixels"))
    assert "--feed 'pixels=range(LO,HI)'" in refused(Input(D, "pixels"), other=(0.0, 1.0))
    assert refused(Apply(D, "Pow", x, (-1.0,))) == "nothing limits Pow"
    assert refused(Apply(D, "Log", x)) == "nothing limits Log"
    assert refused(Apply(D, "Reciprocal", x)) == "nothing limits Reciprocal"


@pytest.mark.parametrize("taps", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_on_the_device_is_as_far_off_as_a_running_sum(groups: int, taps: int) -> None:
    """Pixels of 1 through taps whose running sum in FP32 rounds up at each addend."""
    n = 4096
    weights = np.full(n, 1.01 * 2.0**-24, np.float32)
    weights[0] = 1.0
    running = float(np.add.accumulate(weights, dtype=np.float32)[-1])
    assert running > math.fsum(weights.astype(np.float64)) + 0.9 * n * 2.0**-24
    kernel = np.tile(weights.reshape(1, -1, taps), (groups, 1, 1))
    channels = groups * n // taps
    expr = Convolution(groups, Input(channels, "pixels"), weight(kernel.astype(np.float64)), groups)
    bound = expression_bound(expr, pixels=(-1.0, 1.0))
    assert bound.length is not None
    assert running * math.sqrt(groups) <= bound.length


def test_a_norm_over_positions_gives_rows_as_long_as_all_of_them() -> None:
    groups = norm_of()
    object.__setattr__(groups, "input", Pooled(D, Input(D, "x"), 4))
    bound = expression_bound(linear(groups, np.eye(D)))
    assert bound.length == pytest.approx(math.sqrt(4 * D), rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_give_no_bound(bad: float) -> None:
    matrix, row = np.eye(D), np.ones(D)
    matrix[1, 2] = row[3] = bad
    x = norm_of()
    for expr in (
        linear(x, matrix),
        linear(Apply(D, "Gelu", x), matrix),
        linear(x, np.eye(D), row),
        Sum(D, x, Embedding(D, weight(matrix))),
        known(row),
    ):
        assert refused(expr) in ("its bound is not finite", "its weights are not finite")


def test_what_a_graph_input_has_to_be_is_told() -> None:
    bound = expression_bound(Input(4, "pixels"), pixels=(-1.0, 3.0))
    assert bound.conditions == (Condition("pixels", "range", -1.0, 3.0),)
    assert bound.length == pytest.approx(6.0)
    ids = expression_bound(Sum(4, Input(1, "types", floats=False), known(np.zeros(4))))
    assert ids.conditions == (Condition("types", "range", 0.0, 1.0),)
    assert ids.length == pytest.approx(2.0)
    assert expression_bound(norm_of(channels=4)).conditions == ()  # whatever went into that norm


def test_powers_and_roots_grow_with_the_row() -> None:
    box = Input(4, "pixels")
    for function, numbers, largest in (
        ("Pow", (4.0,), 81.0),
        ("Sqrt", (), math.sqrt(3)),
        ("Exp", (), math.exp(3)),
    ):
        bound = expression_bound(Apply(4, function, box, numbers), pixels=(0.0, 3.0))
        assert bound.length == pytest.approx(2 * largest, rel=1e-5)


def test_a_norm_without_an_expression_says_where_the_trace_stopped() -> None:
    norms = [norm_named("a"), norm_named("b")]
    found = bounds_of(Trace({}, {"a": Reason(Unread.NOTHING_SAID).at("Loop", "out")}), norms)
    assert [reason_text(bound.reason) for bound in found.values() if bound.reason] == [
        "the trace stopped at Loop (out)",
        "the trace did not reach it",
    ]


def test_what_holds_as_an_estimate_only_is_no_bound() -> None:
    x = linear(norm_of(), np.eye(D))
    trace = Trace({"next": linear(x, np.eye(D))}, {}, estimated={x.serial: Reason(Doubt.ROUNDED)})
    found = bounds_of(trace, [norm_named("next")])["next"]
    assert found.length is None
    assert found.reason == Reason(Unproved.ESTIMATE_ONLY, behind=Reason(Doubt.ROUNDED))


NODES: Mapping[str, tuple[str, dict[str, NDArray[np.float32]]]] = {
    "MLP": (
        "e = MatMul(x, E) f = Relu(e) g = MatMul(f, G) total = Add(g, x)",
        {"E": normal(1, 8, 16), "G": normal(2, 16, 8)},
    ),
    "gated MLP": (
        "e = MatMul(x, E) s = Sigmoid(e) f = Mul(e, s) b = MatMul(x, B) h = Mul(f, b) "
        "g = MatMul(h, G) total = Add(g, x)",
        {"E": normal(1, 8, 16), "B": normal(3, 8, 16), "G": normal(2, 16, 8)},
    ),
    "attention": (
        "q = MatMul(x, Q) k = MatMul(x, K) v = MatMul(x, V) t = Transpose<perm = [0, 2, 1]>(k) "
        "s = MatMul(q, t) p = Softmax<axis = -1>(s) m = MatMul(p, v) o = MatMul(m, P) "
        "total = Add(o, x)",
        {n: normal(i, 8, 8) for i, n in enumerate("QKVP")},
    ),
    "leaky by Where": (
        "e = MatMul(x, E) c = Greater(e, zero) h = Mul(e, half) f = Where(c, e, h) "
        "total = MatMul(f, G)",
        {
            "E": normal(1, 8, 16),
            "G": normal(2, 16, 8),
            "zero": np.zeros((), np.float32),
            "half": np.array(0.5, np.float32),
        },
    ),
}


def bounds_in(model: onnx.ModelProto) -> tuple[dict[str, Bound], list[Norm]]:
    traced, norms = read(model)
    return bounds_of(traced, norms), norms


@pytest.mark.parametrize("title", NODES)
def test_rows_of_a_graph_on_onnx_runtime_stay_within_its_bound(title: str) -> None:
    """Tables of thousands of random rows, improved by keeping the longest and moving them."""
    nodes, weights = NODES[title]
    rng = np.random.default_rng(0)
    bounds, _ = bounds_in(between(nodes, weights))
    limit = bounds["last"].length
    assert limit is not None
    best, longest = rng.standard_normal((64, 8)), 0.0
    for step in range(30):
        moved = best[:, None] + 0.8**step * rng.standard_normal((64, 16, 8))
        table = np.concatenate([best[:, None], moved], axis=1).reshape(-1, 8).astype(np.float32)
        model = between(nodes, {**weights, "table": table})
        model.graph.output.add(name="total").type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        total = run(model, ids=np.arange(len(table)).reshape(-1, 1))["total"].astype(np.float64)
        lengths = np.linalg.norm(total[:, 0], axis=-1)
        best = table[np.argsort(lengths)[-64:]].astype(np.float64)
        longest = max(longest, float(lengths.max()))
    assert limit / 5 < longest <= limit


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_sample_models_never_exceed_their_bounds(name: str) -> None:
    model = onnx.load(SAMPLES / f"{name}.onnx")
    bounds, norms = bounds_in(model)
    assert all(bound.length is not None for bound in bounds.values())
    shown = instrument(model, norms, keep_outputs=False)
    rng = np.random.default_rng(1)
    for length in (1, 3, 16):
        ids = rng.integers(0, 200, (64, length))
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": rng.integers(0, 2, ids.shape),
        }
        feeds = {value.name: feeds[value.name] for value in model.graph.input}
        outputs = run(shown.model, **feeds)
        for norm in norms:
            limit = bounds[norm.name].length
            assert limit is not None
            largest = math.sqrt(float(outputs[shown.sums[norm.name]].max()))
            assert largest <= limit * (1 + 1e-6)  # the sum of squares itself is in FP32


def test_the_bound_of_a_diagonal_is_its_largest_gamma() -> None:
    model = between("total = Mul(x, two)", {"two": np.array(2, np.float32)})
    found = bounds_in(model)[0]["last"].length
    assert found is not None
    assert found == pytest.approx(2 * np.abs(GAMMA).max() * math.sqrt(8), rel=1e-6)
