"""Kept nodes: FP32 from one to another, rounded for whoever else reads; truth is NumPy's."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Accelerator
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.verify.emulate.everything import Everything
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.half_ops import half_run
from tests.oracles.unoptimised import run

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 3, D, spread=100.0).astype(np.float16).astype(np.float32)
LARGE = np.full(D, 1000.0, np.float32)
CHAIN = """
    [m] m = Mul(x, large) [t] t = Transpose<perm = [0, 2, 1]>(m)
    [u] u = Transpose<perm = [0, 2, 1]>(t) [d] y = Div(u, large)
"""


def emulated(
    model: onnx.ModelProto, *kept: str, watch: bool = False, **feeds: NDArray[Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """The outputs, and the largest number that left FP16 by tensor, where it is watched."""
    norms = find_norms_in(read_graph(model))
    copy = emulate(model, norms, Accelerator(), True, Everything(watch, frozenset(kept)))
    values = run(copy.model, **feeds)
    left = {w.tensor: float(values[w.output].max()) for w in copy.watched if w.what != "rows"}
    return values, {name: size for name, size in left.items() if size}


@pytest.mark.parametrize(
    "kept", [(), ("m",), ("m", "d"), ("m", "t", "u"), ("t", "u"), ("m", "t", "u", "d")], ids=str
)
def test_a_chain_is_as_numpy_has_it(kept: tuple[str, ...]) -> None:
    model = graph(CHAIN, weights(large=LARGE), ROWS)
    expected, fits = half_run(model, kept, x=X)
    y = emulated(model, *kept, x=X)[0]["y"]
    assert np.array_equal(y, expected["y"], equal_nan=True)
    assert np.isfinite(y).all() == (len(kept) == 4) == fits


def test_what_leaves_at_the_boundary_is_told() -> None:
    model = graph(CHAIN, weights(large=LARGE), ROWS)
    exact = float(np.abs(X * LARGE).max())
    assert emulated(model, x=X, watch=True)[1] == {"m": exact}
    assert emulated(model, "m", "t", x=X, watch=True)[1] == {"t": exact}
    assert emulated(model, "m", "t", "u", "d", x=X, watch=True)[1] == {}


def test_an_output_of_the_model_that_a_kept_node_makes_stays_in_fp32() -> None:
    model = graph("[m] y = Mul(x, large)", weights(large=LARGE), ROWS)
    assert np.array_equal(emulated(model, "m", x=X)[0]["y"], X * LARGE)


def test_a_weight_is_rounded_for_those_alone_who_are_not_kept() -> None:
    nodes = "[a] a = Mul(x, third) [b] b = Mul(x, third) [c] y = Sub(a, b)"
    model = graph(nodes, weights(third=np.full(D, 1 / 3, np.float32)), ROWS)
    for kept in ((), ("a", "c"), ("b", "c"), ("a", "b", "c")):
        expected, _ = half_run(model, kept, x=X)
        assert np.array_equal(emulated(model, *kept, x=X)[0]["y"], expected["y"])


@pytest.mark.parametrize("kept", [("m", "s"), ("m",), ("m", "s", "n")], ids=str)
def test_a_norm_reads_what_a_kept_node_makes_rounded(kept: tuple[str, ...]) -> None:
    nodes = f"[m] m = Mul(x, large) [s] s = Div(m, large) [n] y = {RMS}(s, g1)"
    model = graph(nodes, weights(large=LARGE), ROWS)
    y = emulated(model, *kept, x=X / 100)[0]["y"]
    if "n" in kept:
        exact = X / 100 / np.sqrt(np.mean((X / 100) ** 2, axis=-1, keepdims=True) + 1e-5)
        g1 = next(t for t in model.graph.initializer if t.name == "g1")
        assert np.allclose(y, exact * onnx.numpy_helper.to_array(g1), rtol=1e-5)
    else:
        assert np.array_equal(y, half_run(model, kept, x=X / 100)[0]["y"], equal_nan=True)


def test_a_branch_gives_what_is_rounded() -> None:
    nodes = """
        [if] m = If (flag) <
            then_branch = one () => (float[a, b, c] t) { [mul] t = Mul(x, large) },
            else_branch = two () => (float[a, b, c] e) { [exp] e = Exp(x) }
        >
        [d] y = Div(m, large)
    """
    model = graph(nodes, weights(large=LARGE), f"{ROWS}, bool flag")
    flag = np.array(True)
    y, left = emulated(model, "mul", "d", x=X, flag=flag, watch=True)
    assert not np.isfinite(y["y"]).all()
    assert left == {"t": float(np.abs(X * LARGE).max())}
    # One that reads it inside the branch, and is kept, gets it as it is.
    inside = nodes.replace(
        "[mul] t = Mul(x, large)", "[mul] k = Mul(x, large) [div] t = Div(k, large)"
    ).replace("[d] y = Div(m, large)", "[d] y = Identity(m)")
    model = graph(inside, weights(large=LARGE), f"{ROWS}, bool flag")
    y, left = emulated(model, "mul", "div", x=X, flag=flag, watch=True)
    exact = (X * LARGE / LARGE).astype(np.float16).astype(np.float32)
    assert np.array_equal(y["y"], exact) and left == {}
