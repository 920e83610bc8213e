"""Limits, and functions of constants: no certified row is longer than its bound."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike

from slanc_onnx import Options, compute_scales
from tests.models.small_graphs import D, between, normal, read
from tests.oracles.unoptimised import run

F = np.float32
W = normal(1, D, D)
TABLE = normal(2, 11, D) * 2000
TABLE[3] = -TABLE[:3].sum(axis=0)
ZERO = np.array([0])

# (nodes from x to total, weights)
MODELS: dict[str, tuple[str, Mapping[str, ArrayLike]]] = {
    "Clip": ("a = MatMul(x, w) total = Clip(a, lo, hi)", {"lo": F(-1), "hi": F(1)}),
    "Clip above zero": ("a = MatMul(x, w) total = Clip(a, lo)", {"lo": F(50)}),
    "Clip with its limits crossed": (
        "a = MatMul(x, w) total = Clip(a, lo, hi)",
        {"lo": F(5), "hi": F(-3)},
    ),
    "Max with several numbers": (
        "a = MatMul(x, w) total = Max(a, lo, hi)",
        {"lo": F(-1), "hi": F(30)},
    ),
    "Max of one tensor": ("a = MatMul(x, w) total = Max(a)", {}),
    "Max with a number of a higher rank": (
        "a = MatMul(x, w) b = Max(a, deep) c = Slice(b, zero, one, two) d = Mul(c, many) "
        "e = Add(b, d) total = Squeeze(e, zero)",
        {
            "deep": np.zeros((1, 1, 1, 1), F),
            "zero": ZERO,
            "one": ZERO + 1,
            "two": ZERO + 2,
            "many": F(1e4),
        },
    ),
    "a limit by channel behind a Clip": (
        "a = MatMul(x, w) b = Clip(a, lo, hi) total = Max(b, by)",
        {"lo": F(-1), "hi": F(1), "by": np.linspace(0, 500, D, dtype=F)},
    ),
    "BiasGelu of a constant": (
        "a = MatMul(x, w) b = com.microsoft.BiasGelu(none, bias) total = Add(a, b)",
        {"none": np.zeros(D, F), "bias": np.full(D, 1e5, F)},
    ),
    "FastGelu of a constant": (
        "a = MatMul(x, w) b = com.microsoft.FastGelu(none, bias) total = Add(a, b)",
        {"none": np.zeros(D, F), "bias": np.full(D, 1e5, F)},
    ),
    "Clip of whole numbers": (
        "a = MatMul(x, w) seven = Clip(n, one) half = Div(seven, two) "
        "upto = Range(none, half, one) some = Gather<axis = 0>(tab, upto) "
        "sum = ReduceSum<keepdims = 0>(some, zero) total = Add(a, sum)",
        {
            "n": np.int64(7),
            "one": np.int64(1),
            "two": np.int64(2),
            "none": np.int64(0),
            "tab": TABLE,
            "zero": ZERO,
        },
    ),
    "Tanh of a constant": (
        "a = MatMul(x, w) b = Tanh(c) total = Add(a, b)",
        {"c": np.linspace(-3, 3, D, dtype=F)},
    ),
    "LeakyRelu of a constant": (
        "a = MatMul(x, w) b = LeakyRelu<alpha = -7.0>(c) total = Add(a, b)",
        {"c": np.linspace(-30, 3, D, dtype=F)},
    ),
}


def model_of(name: str) -> onnx.ModelProto:
    nodes, weights = MODELS[name]
    return between(nodes, {"w": W, **{key: np.asarray(value) for key, value in weights.items()}})


@pytest.mark.parametrize("name", MODELS)
def test_no_row_is_longer_than_its_certificate_says(name: str) -> None:
    model = model_of(name)
    _, last = compute_scales(model, Options(estimate="weights"))
    assert last.certificate is not None
    if not last.certificate.certified:
        return
    model.graph.output.add(name="total").type.tensor_type.elem_type = 1
    ids = np.random.default_rng(0).integers(0, 11, (8, 16))
    rows = run(model, ids=ids)["total"].reshape(-1, D).astype(np.float64)
    assert last.certificate.bound.length is not None
    assert np.linalg.norm(rows, axis=1).max() <= last.certificate.bound.length


CERTIFIED = {
    "Clip",
    "Clip above zero",
    "Max of one tensor",
    "Max with a number of a higher rank",
    "Max with several numbers",
    "a limit by channel behind a Clip",
    "BiasGelu of a constant",
    "FastGelu of a constant",
    "Clip of whole numbers",
    "Tanh of a constant",
    "LeakyRelu of a constant",
}


@pytest.mark.parametrize("name", MODELS)
def test_what_can_be_read_is_certified_and_nothing_else(name: str) -> None:
    model = model_of(name)
    _, last = compute_scales(model, Options(estimate="weights"))
    assert last.certificate is not None
    assert (last.certificate.bound.length is not None) == (name in CERTIFIED)


def test_a_softmax_that_is_kept_from_zero_still_mixes() -> None:
    nodes = (
        "t = Transpose<perm = [0, 2, 1]>(x) s = MatMul(x, t) p = Softmax(s) q = Clip(p, lo, hi) "
        "v = MatMul(x, w) total = MatMul(q, v)"
    )
    traced, _ = read(between(nodes, {"w": W, "lo": np.array(0, F), "hi": np.array(1, F)}))
    assert type(traced.inputs["last"]).__name__ == "Mix"
