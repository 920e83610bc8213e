"""Gated MLPs between two norms: which graphs are ones, and that rows keep the tighter bound."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, compute_scales
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.prove.gated import gated_mlp
from slanc_onnx.targets import TARGETS
from tests.models.small_graphs import GAMMA, between, normal

Double = NDArray[np.float64]
WEIGHTS: dict[str, NDArray[Any]] = {
    "G": normal(1, 8, 24),
    "U": normal(2, 8, 24),
    "D": normal(3, 24, 8),
    "half": np.array(0.5, np.float32),
    "one": np.array(1.0, np.float32),
    "root_half": np.array(0.70710678, np.float32),
    "two": np.array(2.0, np.float32),
    "bias": normal(4, 24),
}
PRODUCTS = "g = MatMul(x, G) u = MatMul(x, U)"
END = "h = Mul(a, u) total = MatMul(h, D)"
SPELLINGS = {
    "silu": "s = Sigmoid(g) a = Mul(g, s)",
    "silu turned": "s = Sigmoid(g) a = Mul(s, g)",
    "gelu by erf": "r = Mul(g, root_half) e = Erf(r) p = Add(e, one) m = Mul(g, p) "
    "a = Mul(m, half)",
    "gelu by tanh": "t = Tanh(g) p = Add(t, one) m = Mul(g, half) a = Mul(m, p)",
    "gelu halved": "e = Erf(g) p = Add(one, e) q = Div(p, two) a = Mul(g, q)",
    "relu": "a = Relu(g)",
    "none": "a = Identity(g)",
}


def silu(t: Double) -> Double:
    return np.asarray(t / (1 + np.exp(-t)))


def relu(t: Double) -> Double:
    return np.maximum(t, 0)


def model(activation: str, **weights: NDArray[np.float32]) -> onnx.ModelProto:
    return between(f"{PRODUCTS} {activation} {END}", {**WEIGHTS, **weights})


def bound(graph: onnx.ModelProto, certify: str, target: str = "fp16-sequential") -> float:
    device = TARGETS[target]
    options = Options(estimate="weights", certify=certify, accelerator=device)  # type: ignore[arg-type]
    last = next(d for d in compute_scales(graph, options) if d.norm.name == "last")
    assert last.certificate is not None and last.certificate.bound.length is not None
    return last.certificate.bound.length


def found(graph: onnx.ModelProto) -> bool:
    main = read_graph(graph)[0]
    return gated_mlp(main, main.graph.tensors()["total"]) is not None


@pytest.mark.parametrize("name", [name for name in SPELLINGS if name != "none"])
def test_spellings_of_it_get_the_tighter_bound(name: str) -> None:
    graph = model(SPELLINGS[name])
    assert found(graph)
    assert bound(graph, "exact") < bound(graph, "auto") / 1.2


@pytest.mark.parametrize(
    "target", ["fp16-sequential", "fp16-sequential-flush", "bf16", "fp16-in-out"]
)
@pytest.mark.parametrize(("name", "function"), [("silu", silu), ("relu", relu)])
def test_no_row_is_longer(target: str, name: str, function: Callable[[Double], Double]) -> None:
    """Rows of the first norm's output are any of the length sqrt(8), times gamma."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((64, 8))
    gate, up, down = (WEIGHTS[n].astype(np.float64) for n in "GUD")

    def lengths(rows: Double) -> Double:
        x = rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.sqrt(8) * GAMMA
        return np.asarray(np.linalg.norm(function(x @ gate) * (x @ up) @ down, axis=1))

    for size in np.geomspace(1, 0.01, 200):
        tried = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        tried = tried + size * rng.standard_normal(rows.shape)
        rows = np.where((lengths(tried) > lengths(rows))[:, None], tried, rows)
    longest = float(lengths(rows).max())
    assert longest <= bound(model(SPELLINGS[name]), "exact", target) <= 4 * longest


OTHERS = {
    "a bias": f"g = MatMul(x, G) u0 = MatMul(x, U) u = Add(u0, bias) a = Relu(g) {END}",
    "a residual": f"{PRODUCTS} a = Relu(g) h = Mul(a, u) m = MatMul(h, D) total = Add(m, x)",
    "another row": f"g = MatMul(x, G) z = Neg(x) u = MatMul(z, U) a = Relu(g) {END}",
    "a sum inside": f"{PRODUCTS} v = Add(g, u) a = Relu(v) {END}",
    "three products": f"{PRODUCTS} r = Relu(g) a = Mul(r, u) {END}",
    "twice the function": f"{PRODUCTS} r = Relu(g) a = Relu(r) {END}",
    "no gate": "g = MatMul(x, G) h = Relu(g) total = MatMul(h, D)",
    "an activation of the other": f"{PRODUCTS} a = Tanh(g) {END}",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_gated_mlp_keeps_its_bound(name: str) -> None:
    graph = between(OTHERS[name], WEIGHTS)
    assert not found(graph)
    assert bound(graph, "exact") == bound(graph, "auto")


def test_rows_of_other_positions_are_no_gated_mlp() -> None:
    """A gate that reads the row before: both products read rows of one set, but not one row."""
    starts, ends = np.array([-2], np.int64), np.array([-1], np.int64)
    nodes = f"z = Slice(x, starts, ends, axes) g = MatMul(z, G) u = MatMul(x, U) a = Relu(g) {END}"
    weights = {**WEIGHTS, "starts": starts, "ends": ends, "axes": np.array([1], np.int64)}
    assert not found(between(nodes, weights))


def test_weights_that_a_caller_replaces_are_none() -> None:
    graph = model(SPELLINGS["silu"])
    assert found(graph)
    graph.graph.input.append(onnx.helper.make_tensor_value_info("U", 1, [8, 24]))
    assert not found(graph)


def test_wide_weights_of_another_type_or_not_finite_are_none() -> None:
    assert not found(model(SPELLINGS["silu"], U=np.full((8, 24), np.inf, np.float32)))
    half = model("s = Sigmoid(g) a = Mul(g, s)")
    for tensor in half.graph.initializer:
        if tensor.name == "D":
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "D"))
    assert not found(half)


def test_a_tower_of_products_ends() -> None:
    tower = " ".join(f"m{i + 1} = Mul(m{i}, m{i})" for i in range(80))
    assert not found(model(f"m0 = Sigmoid(g) {tower} a = Mul(g, m80)"))


def test_tiny_gammas_are_rounded_up_to_subnormals() -> None:
    """FP16 makes 1.19e-7 of 1e-7: the outputs of the first norm are longer than in FP32."""
    weights = {"gamma": np.full(8, 0.9e-7, np.float32), "w": normal(5, 8, 8, spread=1e6)}
    graph = between("total = MatMul(x, w)", weights)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20000, 8))
    rows *= np.sqrt(8) / np.linalg.norm(rows, axis=1, keepdims=True)
    held = (rows.astype(np.float16).astype(np.float32) * weights["gamma"]).astype(np.float16)
    longest = np.linalg.norm(held.astype(np.float64) @ weights["w"], axis=1).max()
    assert longest <= bound(graph, "auto")
    exact = np.linalg.norm(rows * 0.9e-7 @ weights["w"], axis=1).max()
    assert longest > exact * 1.05
