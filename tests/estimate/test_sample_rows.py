"""The estimate from the weights: sample rows through real arithmetic."""

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx.estimate import sample_rows as rows_module
from slanc_onnx.estimate.estimate import By, Estimate, from_rows
from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.estimate.sample_rows import estimate_from_rows, normalised, sums_of_squares
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.ops.elementwise import UNARY, apply_function, erf
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run.inputs import random_ids
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.trace.expression import Apply, Input
from tests.models.small_graphs import D, between, from_weights, graph, normal, read
from tests.oracles.unoptimised import run
from tests.places import SAMPLES
from tests.versions import needs_onnx_runtime

OPSET = 24


def sampled(
    model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """(ordinary, exact) sums of squares of the sample rows by norm name."""
    seen: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []

    def spy(
        ordinary: NDArray[np.float64],
        exact: NDArray[np.float64],
        by: By,
        width: int | None,
        magnitudes: NDArray[np.float64] | None,
    ) -> Estimate | None:
        assert by == "weights"
        seen.append((ordinary, exact))
        return from_rows(ordinary, exact, by, width, magnitudes)

    monkeypatch.setattr(rows_module, "from_rows", spy)
    estimates, reasons = from_weights(model)
    assert reasons == {}
    return dict(zip(estimates, seen, strict=True))


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_single_tokens_have_the_sums_of_squares_of_a_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one token nothing is assumed: ONNX Runtime gives the same rows on the same ids."""
    model = onnx.load(SAMPLES / f"{name}.onnx")
    norms = find_norms_in(read_graph(model))
    observed = instrument(model, norms, keep_outputs=False)
    ids = random_ids(200, (256, 1))
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": random_ids(2, (256, 1)),
    }
    values = run(observed.model, **{i.name: feeds[i.name] for i in model.graph.input})
    found = sampled(model, monkeypatch)
    assert sorted(found) == sorted(norm.name for norm in norms)
    for norm, output in observed.sums.items():
        truth = values[output].astype(np.float64)
        exact = found[norm][1]
        if truth.size > 256:  # a norm per head: here head by head
            truth = np.moveaxis(truth.reshape(256, -1), 1, 0)
        if truth.size == 256:
            np.testing.assert_allclose(exact, truth.reshape(-1), rtol=1e-4)
        else:
            np.testing.assert_allclose(np.sort(exact), np.sort(truth.reshape(-1)), rtol=1e-4)


@pytest.mark.parametrize("name", ["bert_like", "llama_like", "sandwich_like"])
def test_estimates_enclose_the_rows_of_random_sequences(name: str) -> None:
    """On the samples the estimate from the weights is within one decade of what a run shows."""
    model = onnx.load(SAMPLES / f"{name}.onnx")
    norms = find_norms_in(read_graph(model))
    observed = instrument(model, norms, keep_outputs=False)
    ids = np.random.default_rng(5).integers(0, 200, (4, 32))
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    values = run(observed.model, **{i.name: feeds[i.name] for i in model.graph.input})
    estimates, _ = from_weights(model)
    for norm, output in observed.sums.items():
        found, sums = estimates[norm], values[output]
        assert found.lowest <= found.typical <= found.upper
        assert 0.1 < found.typical / np.quantile(sums, 0.05) < 10
        assert 0.1 < found.upper / sums.max() < 10


def test_the_same_model_gives_the_same_estimates() -> None:
    model = onnx.load(SAMPLES / "sandwich_like.onnx")
    assert from_weights(model) == from_weights(model)


# Activation -> the values that it takes.
FUNCTIONS = {
    "Relu(x)": "any",
    "Gelu(x)": "any",
    'Gelu<approximate = "tanh">(x)': "any",
    "com.microsoft.Gelu(x)": "any",
    "com.microsoft.FastGelu(x)": "any",
    "com.microsoft.FastGelu(x, bias)": "any",
    "com.microsoft.BiasGelu(x, bias)": "any",
    "com.microsoft.QuickGelu(x)": "any",
    "com.microsoft.QuickGelu<alpha = 1.0>(x)": "any",
    "Sigmoid(x)": "any",
    "HardSigmoid(x)": "any",
    "HardSigmoid<beta = 0.4>(x)": "any",
    "HardSigmoid<alpha = 0.1, beta = 0.6>(x)": "any",
    "HardSwish(x)": "any",
    "Tanh(x)": "any",
    "Erf(x)": "any",
    "Exp(x)": "any",
    "Softplus(x)": "any",
    "Softsign(x)": "any",
    "Abs(x)": "any",
    "Sin(x)": "any",
    "Cos(x)": "any",
    "Mish(x)": "any",
    "Neg(x)": "any",
    "Elu(x)": "any",
    "Elu<alpha = 0.3>(x)": "any",
    "Celu(x)": "any",
    "Celu<alpha = 2.5>(x)": "any",
    "Selu(x)": "any",
    "Selu<alpha = 1.2, gamma = 0.7>(x)": "any",
    "Selu<gamma = 0.7>(x)": "any",
    "LeakyRelu(x)": "any",
    "LeakyRelu<alpha = 0.3>(x)": "any",
    "Swish(x)": "any",
    "Swish<alpha = 1.7>(x)": "any",
    "Log(x)": "positive",
    "Sqrt(x)": "positive",
    "Reciprocal(x)": "positive",
    "Pow(x, two)": "any",
    "Pow(x, three)": "any",
    "Pow(x, half)": "positive",
    "Pow(x, minus)": "positive",
    "Div(half, x)": "positive",
    "Sub(half, x)": "any",
}
VALUES = np.concatenate(
    [np.linspace(-12, 12, 241), [-1e-3, 1e-3, -60.0, 60.0, 1e-7]], dtype=np.float32
)


def function_model(function: str) -> onnx.ModelProto:
    width = VALUES.size
    weights = {
        "half": np.array(0.5, np.float32),
        "two": np.array(2, np.float32),
        "three": np.array(3, np.float32),
        "minus": np.array(-1.5, np.float32),
        "bias": normal(3, width),
        "g": np.ones(width, np.float32),
    }
    nodes = f"a = {function} y = SimplifiedLayerNormalization<axis = -1>(a, g)"
    inputs = f"float[batch, sequence, {width}] x"
    return graph(nodes, weights, inputs, "float[a, b, c] y", opset=OPSET)


@pytest.mark.parametrize(("function", "domain"), FUNCTIONS.items(), ids=list(FUNCTIONS))
def test_functions_are_those_of_the_runtime(function: str, domain: str) -> None:
    needs_onnx_runtime(1, 24, for_what=f"opset {OPSET}")
    model = function_model(function)
    values = VALUES if domain == "any" else np.abs(VALUES) + np.float32(0.01)
    del model.graph.output[:]
    model.graph.output.add(name="a").type.tensor_type.elem_type = 1
    truth = run(model, x=values.reshape(1, 1, -1))["a"].reshape(-1)

    traced, (norm,) = read(function_model(function))
    expr = traced.inputs[norm.name]
    order, _ = rows_module._schedule([expr])
    found: dict[int, NDArray[np.float32]] = {}
    layout = rows_module._Layout(1, 1, 1)
    rng = np.random.default_rng(0)
    for part in order:
        found[part.serial] = (
            np.broadcast_to(values, (layout.rows, values.size))
            if isinstance(part, Input)
            else rows_module._evaluate(part, found, layout, rng)
        )
    np.testing.assert_allclose(found[expr.serial][0], truth, rtol=2e-5, atol=2e-6)


def test_every_activation_that_is_traced_has_its_arithmetic() -> None:
    tried = {function.split("(")[0].split("<")[0].split(".")[-1] for function in FUNCTIONS}
    assert tried >= set(UNARY)


def test_an_activation_without_arithmetic_is_an_error_and_no_identity() -> None:
    with pytest.raises(KeyError):
        apply_function("Whirl", np.zeros((1, 1)))


def test_erf() -> None:
    x = np.linspace(-5, 5, 1001)
    truth = [math.erf(v) for v in x]
    np.testing.assert_allclose(erf(x), truth, atol=2e-7)
    np.testing.assert_allclose(erf(x.astype(np.float32)), truth, atol=4e-7)


def test_large_values_do_not_turn_into_nan() -> None:
    x = np.array([[-1e30, -1e4, 0, 1e4, 1e30]], np.float32)
    for name in ("Sigmoid", "Tanh", "Erf", "Gelu", "FastGelu", "Softplus", "Relu", "Softsign"):
        assert not np.isnan(apply_function(name, x)).any(), name


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_mixed_rows_are_no_longer_than_the_longest_before_them(
    singles: int, sequences: int, length: int, seed: int
) -> None:
    layout = rows_module._Layout(singles, sequences, length)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(layout.rows, D)) * 10.0 ** rng.uniform(-3, 3, (layout.rows, 1))
    x = x.astype(np.float32)
    mixed = layout.mixed(x, rng)
    assert mixed.shape == x.shape
    np.testing.assert_array_equal(mixed[:singles], x[:singles])
    norms, results = np.linalg.norm(x, axis=1), np.linalg.norm(mixed, axis=1)
    for s in range(sequences):
        rows = slice(singles + s * length, singles + (s + 1) * length)
        np.testing.assert_allclose(mixed[rows.start], x[rows.start], rtol=1e-5)
        longest = np.maximum.accumulate(norms[rows])
        assert (results[rows] <= longest * (1 + 1e-5)).all()


def test_rows_are_normalised_as_the_norms_do() -> None:
    x = normal(1, 20, D, spread=300.0) + 40
    for centred, op in ((False, "SimplifiedLayerNormalization"), (True, "LayerNormalization")):
        text = f"total = {op}<axis = -1, epsilon = 1e-12>(x, g)"
        model = graph(text, {"g": np.ones(D, np.float32)}, "float[a, 8] x", "float[a, 8] total")
        truth = run(model, x=x)["total"]
        np.testing.assert_allclose(normalised(x, centred), truth, rtol=1e-4, atol=1e-6)
    assert np.isfinite(normalised(np.zeros((2, D)), False)).all()


def test_sums_of_squares_are_centred_for_a_layer_norm() -> None:
    x = normal(1, 20, D) + 100
    wide = x.astype(np.float64)
    np.testing.assert_allclose(sums_of_squares(x, False), (wide**2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(sums_of_squares(x, True), D * wide.var(axis=1), rtol=1e-9)


def test_position_rows_begin_at_the_first_position(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = """
        dims = Shape(ids) n = Gather(dims, one) where = Range(two, n, one)
        p = Gather(positions, where) t = Gather(table, ids) sum = Add(t, p)
        [n] y = SimplifiedLayerNormalization<axis = -1>(sum, g)
    """
    weights = {
        "positions": normal(1, 9, D),
        "table": np.zeros((11, D), np.float32),
        "one": np.array(1),
        "two": np.array(0),
        "g": np.ones(D, np.float32),
    }
    ordinary, exact = sampled(graph(nodes, weights), monkeypatch)["n"]
    rows = sums_of_squares(normal(1, 9, D), False)
    np.testing.assert_allclose(exact, rows[0], rtol=1e-6)
    # The second half of 16 positions; the table ends at its ninth row.
    np.testing.assert_allclose(np.unique(ordinary), rows[8:9], rtol=1e-6)


def estimates_of(nodes: str, kernel: NDArray[np.float32]) -> Estimate:
    """Of one norm over 12 channels behind a convolution of frames."""
    ones = np.ones(12, np.float32)
    text = f"{nodes} [n] y = SimplifiedLayerNormalization<axis = -1>(total, g)"
    model = graph(text, {"w": kernel, "g": ones}, "float[batch, time, 8] frames")
    estimates, _ = from_weights(model)
    return estimates["n"]


def test_a_pointwise_convolution_is_a_matrix() -> None:
    w = normal(1, 12, 8, 1)
    turned = "t = Transpose<perm = [0, 2, 1]>(frames) c = Conv(t, w) "
    convolved = estimates_of(turned + "total = Transpose<perm = [0, 2, 1]>(c)", w)
    multiplied = estimates_of("total = MatMul(frames, w)", np.ascontiguousarray(w[:, :, 0].T))
    assert convolved.upper == pytest.approx(multiplied.upper, rel=1e-5)
    assert convolved.typical == pytest.approx(multiplied.typical, rel=1e-5)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_adds_up_its_taps(groups: int) -> None:
    """Rows of independent numbers with unit variance: E |row|² = ‖w‖²."""
    w = normal(1, 12, 8 // groups, 5)
    nodes = f"""t = Transpose<perm = [0, 2, 1]>(frames)
        c = Conv<group = {groups}, pads = [2, 2]>(t, w) total = Transpose<perm = [0, 2, 1]>(c)"""
    found = estimates_of(nodes, w)
    expected = float(np.sum(w.astype(np.float64) ** 2))
    assert found.typical < expected < found.upper
    assert found.upper < 6 * expected


BROKEN = {
    "nan": np.full((D, D), np.nan, np.float32),
    "inf": np.full((D, D), np.inf, np.float32),
    "zero": np.zeros((D, D), np.float32),
}


@pytest.mark.parametrize("weight", BROKEN.values(), ids=BROKEN)
def test_weights_that_give_no_row_have_a_reason(weight: NDArray[np.float32]) -> None:
    with np.errstate(all="ignore"):
        estimates, reasons = from_weights(between("total = MatMul(x, w)", {"w": weight}))
    assert list(estimates) == ["first"]
    assert reasons == {"last": "its rows are not finite or zero"}


def test_a_large_model_is_sampled_with_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = between("total = MatMul(x, w)", {"w": normal(1, D, D)})
    many, _ = from_weights(model)
    monkeypatch.setattr(rows_module, "MOST_OPERATIONS", 1.0)
    few, _ = from_weights(model)
    assert few != many
    assert 0.1 < few["last"].seen / many["last"].seen <= 1
    assert 0.2 < few["last"].typical / many["last"].typical < 5


def test_a_wide_model_is_sampled_with_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = between("total = MatMul(x, w)", {"w": normal(1, D, D)})
    many, _ = from_weights(model)
    monkeypatch.setattr(rows_module, "MOST_ELEMENTS", D * 100)
    few, _ = from_weights(model)
    assert few != many
    assert 0.1 < few["last"].seen / many["last"].seen <= 1
    assert 0.2 < few["last"].typical / many["last"].typical < 5
    monkeypatch.setattr(rows_module, "MOST_ELEMENTS", D * 16)  # the typical of 16 rows is rough
    fewest, _ = from_weights(model)
    assert fewest != few
    assert 0.1 < fewest["last"].seen / many["last"].seen <= 1


def test_progress_reaches_the_end() -> None:
    seen: list[float] = []
    model = between("total = MatMul(x, w)", {"w": normal(1, D, D)})
    estimate_from_rows(*read(model), lambda what, done: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_an_activation_between_two_norms_is_one_expression() -> None:
    traced, norms = read(function_model("Elu<alpha = 0.3>(x)"))
    expr = traced.inputs[norms[0].name]
    assert isinstance(expr, Apply)
    assert expr.function == "Elu"
    assert expr.parameters == pytest.approx((0.3,))


ESTIMATES: Sequence[tuple[list[float], list[float], Estimate | None]] = [
    ([1, 2, 3], [], Estimate(1.1, 3, 1, "probe")),
    ([1, 2, 3], [0.5, 9], Estimate(1.1, 9, 0.5, "probe")),
    ([1, 2, 3, math.nan, math.inf, 0, -1], [math.inf, 0], Estimate(1.1, 3, 1, "probe")),
    ([], [5], None),
    ([math.nan, 0], [5], None),
]


@pytest.mark.parametrize(("ordinary", "extreme", "expected"), ESTIMATES)
def test_an_estimate_from_rows(
    ordinary: list[float], extreme: list[float], expected: Estimate | None
) -> None:
    found = from_rows(np.array(ordinary), np.array(extreme), "probe")
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.typical == pytest.approx(expected.typical)
        assert (found.largest, found.lowest, found.by) == (expected.upper, expected.lowest, "probe")
        assert expected.upper < found.upper <= 2 * expected.upper


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.inf, np.nan, np.float32(3e38)])
def test_weights_that_are_not_finite_are_reported_and_print_nothing(value: float) -> None:
    weights = normal(1, D, D)
    weights[0, 0] = value
    nodes = "h = MatMul(x, w) i = MatMul(h, w) total = Mul(i, i)"
    model = between(nodes, {"w": weights})
    estimates, reasons = from_weights(model)
    assert sorted(estimates) == ["first"]
    assert reasons == {"last": "its rows are not finite or zero"}
    if not np.isfinite(value):
        reason = paper_estimates(*read(model))[1]["last"]
        assert reason_text(reason).startswith("the predicted sum of squares is ")
