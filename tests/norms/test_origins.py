"""From where a region may start, and which of these tensors a mean was subtracted from."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.origins import origins
from tests.models.fold_models import weights
from tests.models.small_graphs import D, graph, normal

MORE: dict[str, NDArray[Any]] = {
    "last": np.array([-1], np.int64),
    "column": np.full((D, 1), 1 / D, np.float32),
    "square": np.full((D, D), 1 / D, np.float32),
    "odd": np.concatenate([np.full((D - 1, 1), 1 / D), [[1.0]]]).astype(np.float32),
    "halves": np.kron(np.eye(2), np.full((D // 2, D // 2), 2 / D)).astype(np.float32),
    "kernel": normal(3, D, D, 1),
    "even": np.full((D, D, 1), 1 / D, np.float32),
    "few": normal(5, D, 1),
}
MEANS = {
    "a ReduceMean": "m = ReduceMean<axes = [-1]>(x) z = Sub(x, m)",
    "a column": "m = MatMul(x, column) z = Sub(x, m)",
    "a matrix": "m = MatMul(x, square) z = Sub(x, m)",
    "a matrix of groups": "m = MatMul(x, halves) z = Sub(x, m)",
    "a Gemm-like Einsum": 'm = Einsum<equation = "abc,cd->abd">(x, square) z = Sub(x, m)',
    "a Conv of equal weights": "m = Conv(x, even) z = Sub(x, m)",
    "a negative one": "m = MatMul(x, square) n = Neg(m) z = Add(x, n)",
}
NONE = {
    "a residual": "m = MatMul(x, w1) z = Add(x, m)",
    "one that is subtracted": "m = MatMul(x, w1) z = Sub(x, m)",
    "a column that is not even": "m = MatMul(x, odd) z = Sub(x, m)",
    "a column of weights": "m = MatMul(x, few) z = Sub(x, m)",
    "a Conv": "m = Conv(x, kernel) z = Add(x, m)",
    "an Einsum": 'm = Einsum<equation = "abc,cd->abd">(x, w1) z = Add(x, m)',
    "data": "m = MatMul(data, x) z = Sub(x, m)",
    "the mean of a product": "p = MatMul(x, w1) m = ReduceMean<axes = [-1]>(p) z = Sub(x, m)",
    "a product less its row's mean": "p = MatMul(x, w1) r = Add(x, p) "
    "m = ReduceMean<axes = [-1]>(x) z = Sub(r, m)",
    "a product of what is centred": "c = ReduceMean<axes = [-1]>(x) u = Sub(x, c) "
    "m = MatMul(u, w1) z = Add(u, m)",
}


def centred(nodes: str) -> dict[str, bool]:
    """The origins of z by name, with whether they say that their mean was subtracted."""
    inputs = f"float[a, {D}, {D}] x, float[a, {D}, {D}] data"
    model = graph(f"{nodes} y = Mul(z, z)", weights(**MORE), inputs)
    scope = read_graph(model)[0]
    [tensor] = [t for node in scope.graph.nodes for t in node.outputs if t.name == "z"]
    return {found.name: less for found, less in origins(scope, tensor)}


@pytest.mark.parametrize("nodes", MEANS.values(), ids=MEANS)
def test_a_mean_was_subtracted(nodes: str) -> None:
    assert centred(nodes)["x"]


@pytest.mark.parametrize("nodes", NONE.values(), ids=NONE)
def test_a_product_is_no_mean(nodes: str) -> None:
    found = centred(nodes)
    assert not any(found.values())
    assert next(iter(found)) == "z" and {"x", "u", "r"} & set(found)  # which may start one


def test_the_nearest_is_first_and_none_is_behind_a_mean_that_is_further_up() -> None:
    twice = "c = MatMul(x, column) u = Sub(x, c) m = ReduceMean<axes = [-1]>(u) z = Sub(u, m)"
    assert list(centred(twice).items()) == [("z", False), ("u", True), ("x", True)]
    behind = "a = Abs(x) m = MatMul(a, w1) z = Add(a, m)"
    assert list(centred(behind).items()) == [("z", False), ("a", False), ("x", False)]
