"""Tensor sizes: the largest number of each tensor as NumPy has it, and which of them do not fit."""

import numpy as np
import pytest

from slanc_onnx import Accelerator, Options, validate
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 3, D)
BIG = normal(3, D, D, spread=200.0)
NODES = f"[q] q = MatMul(x, big) [k] k = MatMul(q, big) [r] r = Add(k, x) [n] y = {RMS}(r, g1)"


def test_each_tensor_is_told_with_its_largest_number_in_fp32() -> None:
    model = graph(NODES, weights(big=BIG), ROWS)
    q = X.astype(np.float64) @ BIG
    exact: dict[str, np.ndarray] = {"x": X, "q": q, "k": q @ BIG, "r": q @ BIG + X}
    largest = {name: np.abs(value).max() for name, value in exact.items()}
    sizes = validate(model, model, Options(inputs={"x": X}, emulate="all")).tensors
    assert [(s.tensor, s.node, s.op) for s in sizes] == [
        ("x", "", "input"),
        ("q", "q", "MatMul"),
        ("k", "k", "MatMul"),
        ("r", "r", "Add"),
        ("y", "n", RMS.split("<")[0]),
    ]
    for size in sizes[:4]:
        assert size.largest == pytest.approx(largest[size.tensor], rel=2**-9)
        assert size.limit == 65504
        assert size.bits == pytest.approx(np.log2(65504 / size.largest))
    assert [s.left for s in sizes] == [False, False, True, False, False]


def test_a_sum_inside_an_op_that_left_is_told() -> None:
    model = graph(f"[m] m = ReduceMean<axes = [1]>(x) [n] y = {RMS}(m, g1)", weights(), ROWS)
    x = np.full((1, 9216, D), 10.0, np.float32)
    device = Accelerator().summing("fp32")
    asked = Options(inputs={"x": x}, emulate="all", accelerator=device)
    mean = validate(model, model, asked).tensors[1]
    assert (mean.tensor, mean.left, mean.largest) == ("m", True, 92160.0)


def test_with_norms_alone_nothing_is_told() -> None:
    model = graph(NODES, weights(big=BIG), ROWS)
    assert validate(model, model, Options(inputs={"x": X})).tensors == ()


def test_constants_ids_and_what_lies_inside_norms_are_no_tensors_here() -> None:
    nodes = """
        c = Mul(big, big) s = Shape(x) h = MatMul(x, c) p = Mul(h, h) m = ReduceMean<axes = [-1]>(p)
        v = Add(m, epsilon) r = Sqrt(v) z = Div(h, r) g = Mul(z, g1) y = Add(g, g1)
    """
    model = graph(nodes, weights(big=BIG, epsilon=np.full(1, 1e-5, np.float32)), ROWS)
    sizes = validate(model, model, Options(inputs={"x": X}, emulate="all")).tensors
    assert [(s.tensor, s.op) for s in sizes] == [
        ("x", "input"),
        ("h", "MatMul"),
        ("y", "decomposed"),
    ]


def test_an_infinite_mask_counts_for_nothing() -> None:
    mask = np.where(np.arange(D) < 3, -np.inf, 0).astype(np.float32)
    nodes = f"m = Add(x, mask) s = Softmax(m) a = MatMul(s, w1) [n] y = {RMS}(a, g1)"
    model = graph(nodes, weights(mask=mask), ROWS)
    sizes = validate(model, model, Options(inputs={"x": X}, emulate="all")).tensors
    masked = next(s for s in sizes if s.tensor == "m")
    assert masked.largest == np.abs(X[..., 3:]).max() and not masked.left


def test_what_reads_what_left_does_not_leave_itself() -> None:
    nodes = f"""
        k = MatMul(x, big) l = MatMul(k, big) s = Mul(l, small) w = Softmax(s)
        m = ReduceMean<axes = [-1], keepdims = 0>(l) [n] y = {RMS}(s, g1)
    """
    more = {"big": BIG, "small": np.full(1, 2.0**-14, np.float32)}
    model = graph(nodes, weights(**more), ROWS, "float[a, b, c] y, float[a, b, c] w, float[a, b] m")
    sizes = validate(model, model, Options(inputs={"x": X}, emulate="all")).tensors
    assert [s.tensor for s in sizes if s.left] == ["l"]


def test_a_norm_whose_own_rows_are_lost_left_the_format() -> None:
    model = graph(f"a = Add(x, x) [n] y = {RMS}(a, g1)", weights(), ROWS)
    x = np.full((1, 1, D), 64.0, np.float32)
    sizes = validate(model, model, Options(inputs={"x": x}, emulate="all")).tensors
    assert [(s.tensor, s.left) for s in sizes] == [("x", False), ("a", False), ("y", True)]
