"""FP32 nodes: with the list a NumPy run in FP16 works, and without any name of it it does not."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options
from slanc_onnx.graph.edits import name_nodes
from slanc_onnx.norms.model import ReadModel, read_model
from slanc_onnx.run.feeds import InputSet, validation_inputs
from slanc_onnx.verify.fp32_nodes import Fp32Nodes, find_fp32_nodes, shrink
from slanc_onnx.verify.trials import validate_on
from slanc_onnx.verify.validation import Validation
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.half_ops import half_run

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 3, D).astype(np.float16).astype(np.float32)
BIG = normal(3, D, D, spread=200.0)
SMALL = np.full(1, 2.0**-14, np.float32)
# A product that leaves FP16, scaled down again, as the logits of an attention.
LOGITS = f"""
    [q] q = MatMul(x, big) [k] k = MatMul(q, big) [s] s = Mul(k, small)
    [a] a = Add(s, x) [n] y = {RMS}(a, g1)
"""
# A stream that is beyond FP16 from one Add to the norm that reads it, behind a transposition.
STREAM = f"""
    [q] q = MatMul(x, big) [k] k = MatMul(q, big) [a] a = Add(k, x) [b] b = Transpose<perm =
    [0, 2, 1]>(a) [c] c = Transpose<perm = [0, 2, 1]>(b) [d] d = Mul(c, small) [n] y = {RMS}(d, g1)
"""
# A sum in which FP16 keeps nothing of x.
CANCELLED = f"[a] a = Add(x, large) [b] b = Sub(a, large) [n] y = {RMS}(b, g1)"
# A norm in ONNX's own ops whose squares leave FP16.
SPELLED = """
    [big] h = Mul(x, large) [square] p = Mul(h, h) [mean] m = ReduceMean<axes = [-1]>(p)
    [eps] v = Add(m, epsilon) [root] r = Sqrt(v) [norm] z = Div(h, r) [gamma] y = Mul(z, g1)
"""
# One whose gamma, an op of its own behind the division, makes what leaves FP16.
GAMMA = """
    [square] p = Mul(x, x) [mean] m = ReduceMean<axes = [-1]>(p) [eps] v = Add(m, epsilon)
    [root] r = Sqrt(v) [norm] z = Div(x, r) [gamma] g = Mul(z, large) [down] y = Mul(g, small)
"""


def model_of(nodes: str) -> onnx.ModelProto:
    more = {"large": np.full(D, 40000.0, np.float32), "epsilon": np.full(1, 1e-5, np.float32)}
    return graph(nodes, weights(big=BIG, small=SMALL, **more), ROWS)


def searched(
    model: onnx.ModelProto, feeds: dict[str, NDArray[Any]] | None = None, **options: object
) -> tuple[Fp32Nodes, Validation]:
    read, asked, inputs = judged(model, feeds)
    validation = validate_on(read, read, asked, inputs)
    asked = replace(asked, **options)  # type: ignore[arg-type]
    return find_fp32_nodes(read, read, asked, inputs, validation), validation


def judged(
    model: onnx.ModelProto, feeds: dict[str, NDArray[Any]] | None = None
) -> tuple[ReadModel, Options, list[InputSet]]:
    read = read_model(model)
    options = Options(inputs=feeds or {"x": X}, fp32_nodes=True)
    return read, options, validation_inputs(read, options)


def error(model: onnx.ModelProto, kept: set[str]) -> float:
    """Of the outputs, relative RMS; inf where a tensor left FP16."""
    every = {node.name for node in model.graph.node}
    exact: NDArray[np.float64] = half_run(model, every, x=X)[0]["y"].astype(np.float64)
    outputs, fits = half_run(model, kept, x=X)
    if not fits:
        return float("inf")
    return float(np.sqrt(np.mean((outputs["y"] - exact) ** 2) / np.mean(exact**2)))


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        (LOGITS, {"k", "s"}),
        (STREAM, {"k", "a", "b", "c", "d"}),
        (CANCELLED, {"a", "b"}),
        (SPELLED, {"big", "square", "mean", "eps", "root", "norm"}),
        (GAMMA, {"gamma", "down"}),
    ],
    ids=["logits", "stream", "cancelled", "spelled", "gamma"],
)
def test_numpy_needs_each_name_of_the_list_and_no_other(nodes: str, names: set[str]) -> None:
    model = model_of(nodes)
    found, validation = searched(model)
    assert not validation.passed
    assert (found.works, found.complete) == (True, True)
    kept = set(found.names)
    assert kept <= names
    assert error(model, kept) <= validation.rounded_tolerance
    for name in kept:
        assert not error(model, kept - {name}) <= validation.rounded_tolerance, name
    assert found.rms_error <= validation.rounded_tolerance
    assert found.nodes == len(model.graph.node)


def test_a_product_before_its_division_stays_in_fp32_though_nothing_shows_that_it_left() -> None:
    """Tanh takes infinity for what it is there: 1."""
    root = """
        [square] p = Mul(x, x) [mean] m = ReduceMean<axes = [-1]>(p) [eps] v = Add(m, epsilon)
        [root] r = Sqrt(v) [product] w = MatMul(x, huge) [norm] z = Div(w, r) [tanh] t = Tanh(z)
        [down] y = Abs(t)
    """
    more = {"huge": np.full((D, D), 30000, np.float32), "epsilon": np.full(1, 1e-5, np.float32)}
    model = graph(root, more, ROWS)
    found, validation = searched(model, {"x": np.abs(X)})
    assert not validation.passed and validation.rounded_rms_error < 1e-3
    assert found.works and {"product", "norm"} <= set(found.names)


def test_a_list_is_in_the_order_of_the_model_with_the_types_that_are_all_in_it() -> None:
    found, _ = searched(model_of(LOGITS))
    assert found.names == ("k", "s")
    assert found.op_types == ("Mul",)  # of the two MatMul one is left


def test_where_all_works_no_node_is_needed() -> None:
    found, validation = searched(model_of(f"[a] a = Add(x, x) [n] y = {RMS}(a, g1)"))
    assert validation.passed
    assert (found.names, found.works, found.complete, found.tried) == ((), True, True, 1)


def test_a_list_that_nobody_could_write_is_none() -> None:
    model = model_of(LOGITS)
    for node in model.graph.node:
        node.name = ""
    found, _ = searched(model)
    assert (found.names, found.works, found.complete, found.nodes) == ((), False, True, 0)


def test_nodes_of_one_name_stay_together() -> None:
    """ONNX Runtime takes the same name in both branches of an If."""
    nodes = f"""
        [if] k = If (flag) <
            then_branch = one () => (float[a, b, c] t)
                {{ [m] u = Mul(x, large) [s] t = Mul(u, small) }},
            else_branch = two () => (float[a, b, c] e) {{ [m] w = Mul(x, x) [f] e = Mul(w, small) }}
        >
        [n] y = {RMS}(k, g1)
    """
    model = graph(
        nodes,
        weights(small=SMALL, large=np.full(D, 60000.0, np.float32)),
        f"{ROWS}, bool flag",
    )
    feeds = {"x": X, "flag": np.array(True)}
    found, _ = searched(model, feeds)
    assert (found.names, found.op_types, found.nodes) == (("m", "s"), (), 5)


def test_nodes_in_a_loop_are_found_though_it_shows_no_tensor() -> None:
    nodes = f"""
        [loop] h = Loop (trips, yes, x) <
            body = b (int64 i, bool go, float[a, b, {D}] s) => (bool on, float[a, b, {D}] t) {{
                on = Identity(go) [up] u = Mul(s, large) [down] v = Div(u, large)
                [half] t = Mul(v, half)
            }}
        >
        [n] y = {RMS}(h, g1)
    """
    more: dict[str, NDArray[Any]] = {
        "large": np.full(D, 60000.0, np.float32),
        "half": np.full(1, 0.5, np.float32),
        "trips": np.array(3, np.int64),
        "yes": np.array(True),
    }
    found, validation = searched(graph(nodes, weights(**more), ROWS))
    assert "u" not in [size.tensor for size in validation.tensors]
    assert (found.names, found.works, found.complete) == (("up", "down"), True, True)


def test_without_time_nothing_is_claimed() -> None:
    found, _ = searched(model_of(STREAM), time_limit=1e-9)
    assert (found.names, found.works, found.complete) == ((), False, False)


def test_what_was_found_in_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is asked before each list, so a few of them may be tried, and no more."""
    model = model_of(STREAM)
    read, options, inputs = judged(model)
    validation = validate_on(read, read, options, inputs)
    whole = find_fp32_nodes(read, read, options, inputs, validation)
    asked = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: float(next(asked)))
    monkeypatch.setattr("slanc_onnx.verify.fp32_nodes.time", clock)
    found = find_fp32_nodes(read, read, replace(options, time_limit=6.0), inputs, validation)
    assert found.works and not found.complete
    assert set(found.names) >= set(whole.names)
    assert error(model, set(found.names)) <= validation.rounded_tolerance


def test_shrinking_leaves_what_cannot_be_left_out_alone() -> None:
    needed = {frozenset("c"), frozenset("g")}
    parts = [frozenset(name) for name in "abcdefgh"]
    assert shrink(parts, lambda some: needed <= set(some)) == [frozenset("c"), frozenset("g")]
    assert shrink(parts, lambda some: len(some) > 2) == parts[5:]
    assert shrink([], lambda some: True) == []


def test_nodes_get_the_names_that_norms_have_without_one() -> None:
    model = model_of("a = Add(x, x) [a] b = Mul(a, x) [n] y = Add(b, a)")
    name_nodes(model)
    assert [node.name for node in model.graph.node] == ["a_2", "a", "n"]
