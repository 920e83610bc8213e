"""Norms inside loops, scans and nested branches in a run: observed, emulated, and protected."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx import Options, protect_file
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.options import EstimateRule
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.small_graphs import GAMMA, D, Matrix, Weights, exact, graph, normal
from tests.oracles.half_norm import HalfNorm
from tests.oracles.shown_rows import sums
from tests.oracles.unoptimised import run

W = normal(5, D, D, spread=0.5)
NUMBERS: Weights = {
    "gamma": GAMMA,
    "w": W,
    "yes": np.array(True),
    "three": np.array(3),
    "two": np.array(2),
    "none": np.array(0),
    "row": np.array([0]),
    "minus": np.array([-1]),
    "far": np.array([99]),
    "zeroes": np.zeros((1, D), np.float32),
}
X = normal(9, 4, D, spread=3.0)
NORM = "[inner] n = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-5>({}, gamma)"


def rms(x: Matrix) -> Matrix:
    return np.asarray(x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * exact(GAMMA))


def step(x: Matrix) -> Matrix:
    return np.asarray(x + rms(x) @ exact(W))


def states(count: int) -> list[Matrix]:
    """What is carried into each iteration."""
    every = [exact(X)]
    for _ in range(count - 1):
        every.append(step(every[-1]))
    return every


def scanned() -> list[Matrix]:
    """What the scan below normalises, row by row of X."""
    every, state = [], np.zeros(D)
    for element in exact(X):
        every.append(state + element)
        state = np.tanh(rms(state + element) @ exact(W))
    return every


def loop(count: str, norm: str, rest: str, name: str = "y", start: str = "x") -> str:
    return f"""{name} = Loop ({count}, yes, {start}) <
        body = b{name} (int64 i, bool go, float[a, 8] state) => (bool on, float[c, 8] next) {{
            on = Identity(go) {norm} {rest}
        }}>"""


BOTH = NORM.format("state")
STEP = "h = MatMul(n, w) next = Add(state, h)"
ODD = "rest = Mod(i, two) odd = Cast<to = 9>(rest)"
BRANCH = f"""{ODD} h = If (odd) <
    then_branch = t () => (float[d, 8] p) {{ {BOTH} p = MatMul(n, w) }},
    else_branch = e () => (float[d, 8] q) {{ q = Identity(state) }}>
    next = Add(state, h)"""
CASES: dict[str, tuple[str, Callable[[], list[Matrix]]]] = {
    "a Loop": (loop("three", BOTH, STEP), lambda: states(3)),
    "a Loop that never runs": (loop("none", BOTH, STEP), list),
    "a Scan": (
        f"""start = ReduceSum<keepdims = 0>(zeroes, row)
        last, y = Scan <num_scan_inputs = 1, body = b
            (float[8] state, float[8] element) => (float[8] next, float[8] out) {{
                joined = Add(state, element) {NORM.format("joined")}
                h = MatMul(n, w) next = Tanh(h) out = Identity(h)
            }}> (start, x)""",
        scanned,
    ),
    "a Loop in a branch of an If": (
        f"""y = If (yes) <
            then_branch = t () => (float[a, 8] p) {{ {loop("three", BOTH, STEP, "p")} }},
            else_branch = e () => (float[a, 8] q) {{ q = Identity(x) }}>""",
        lambda: states(3),
    ),
    "a Loop in a Loop": (
        f"""y = Loop (two, yes, x) <
            body = outside (int64 j, bool go_on, float[a, 8] outer)
                => (bool stay, float[c, 8] done) {{
                stay = Identity(go_on) {loop("two", BOTH, STEP, "done", "outer")}
            }}>""",
        lambda: states(4),
    ),
}
# Iterations that have more rows or fewer than others: scan outputs cannot hold them.
UNEVEN = {
    "a branch of an If in a Loop, taken once": loop("three", "", BRANCH),
    "a Loop whose rows grow in number": loop(
        "three", BOTH, "new = Slice(n, minus, far, row) next = Concat<axis = 0>(state, new)"
    ),
}
each_case = pytest.mark.parametrize(("nodes", "truth"), CASES.values(), ids=CASES)


def model_of(nodes: str) -> onnx.ModelProto:
    return graph(nodes, NUMBERS, f"float[a, {D}] x", f"float[b, {D}] y")


@each_case
def test_all_rows_of_all_iterations_are_observed(
    nodes: str, truth: Callable[[], list[Matrix]]
) -> None:
    model = model_of(nodes)
    norms = find_norms_in(read_graph(model))
    assert [norm.name for norm in norms] == ["inner"]
    observed = instrument(model, norms)
    outputs = run(observed.model, x=X)
    np.testing.assert_array_equal(outputs["y"], run(model, x=X)["y"])
    expected = [value for rows in truth() for value in sums(rows)]
    found = outputs[observed.sums["inner"]].reshape(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@each_case
def test_all_rows_of_all_iterations_are_emulated(
    nodes: str, truth: Callable[[], list[Matrix]]
) -> None:
    """The rows that come later are made of rounded ones: they are off by some FP16 roundings."""
    model = model_of(nodes)
    emulated = emulate(model, find_norms_in(read_graph(model)), Accelerator())
    outputs = run(emulated.model, x=X)
    found = outputs[emulated.mean_squares["inner"]].reshape(-1)
    every = truth()
    expected = [value / D for rows in every for value in sums(rows)]
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-6)
    half = HalfNorm(Accelerator(), "rms", 1e-5)
    first = [half.row(row, GAMMA.tolist())[1] for rows in every[:1] for row in np.atleast_2d(rows)]
    np.testing.assert_array_equal(found[: len(first)], np.array(first, np.float32))


def hot(nodes: str, folder: Path, estimate: EstimateRule) -> Outcome:
    """What becomes of such a model with rows a hundred times as large as FP16 can sum."""
    model = model_of(nodes)
    model.graph.input[0].name = "ids"
    model.graph.input[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.INT64, ["a"]))
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "ids"], ["x"]))
    del model.graph.initializer[:]
    large = {**NUMBERS, "table": normal(0, 30, D, spread=1000.0), "w": W * 1000}
    for name, value in large.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, folder / "m.onnx")
    outcome = protect_file(folder / "m.onnx", folder / "out.onnx", Options(estimate=estimate))
    assert [(norm.norm.name, norm.status) for norm in outcome.norms] == [("inner", "scaled")]
    before, after = (
        run(onnx.load(folder / name), ids=np.arange(30))["y"] for name in ("m.onnx", "out.onnx")
    )
    assert before.tobytes() == after.tobytes()
    assert outcome.not_validated is None
    return outcome


each_estimate = pytest.mark.parametrize("estimate", ["auto", "weights"])


@each_estimate
@pytest.mark.parametrize("nodes", [c[0] for t, c in CASES.items() if "never" not in t])
def test_a_hot_norm_in_a_loop_overflows_before_and_not_after(
    nodes: str, estimate: EstimateRule, tmp_path: Path
) -> None:
    outcome = hot(nodes, tmp_path, estimate)
    assert outcome.validation is not None
    assert outcome.validation.fp32_identical
    assert outcome.validation.overflowed_before > 0 == outcome.validation.overflowed_after
    assert outcome.passed


@pytest.mark.parametrize("nodes", UNEVEN.values(), ids=UNEVEN)
def test_iterations_that_differ_in_size_are_not_observed_but_run(nodes: str) -> None:
    model = model_of(nodes)
    norms = find_norms_in(read_graph(model))
    observed = instrument(model, norms, loops=False)
    emulated = emulate(model, norms, Accelerator(), loops=False)
    assert (observed.sums, emulated.mean_squares) == ({}, {})
    truth = run(model, x=X)["y"]
    np.testing.assert_array_equal(run(observed.model, x=X)["y"], truth)
    np.testing.assert_allclose(run(emulated.model, x=X)["y"], truth, rtol=0.02, atol=0.02)


@each_estimate
@pytest.mark.parametrize("nodes", UNEVEN.values(), ids=UNEVEN)
def test_a_hot_norm_whose_rows_are_not_observed_is_scaled_all_the_same(
    nodes: str, estimate: EstimateRule, tmp_path: Path
) -> None:
    """Its FP16 output is wrong before and right after, which needs no look inside."""
    outcome = hot(nodes, tmp_path, estimate)
    assert outcome.validation is not None
    assert outcome.validation.observed == {}
    assert outcome.validation.fp32_identical
    assert outcome.validation.rounded_error_before > 10 * outcome.validation.rounded_error_after
    assert outcome.passed
