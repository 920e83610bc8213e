"""Ops that sum, outside norms: against NumPy, which adds in the device's order and rounds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.verify.emulate.everything import Everything
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.small_graphs import graph, normal
from tests.oracles.unoptimised import Values, run

IMAGE = "float[n, 3, 5, 7] x"
Rows = NDArray[np.float32]


def half(values: NDArray[Any]) -> Rows:
    """To FP16 and back."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float32)


def in_order(x: Rows) -> Rows:
    """One running sum in FP16 over the last axis, which stays."""
    total = np.zeros(x.shape[:-1], np.float32)
    for i in range(x.shape[-1]):
        total = half(total + x[..., i])
    return total[..., None]


def in_pairs(x: Rows) -> Rows:
    """A tree of FP16 adds: the first half and the second, and the odd one in the next level."""
    while x.shape[-1] > 1:
        n = x.shape[-1] // 2
        x = np.concatenate([half(x[..., :n] + x[..., n : 2 * n]), x[..., 2 * n :]], -1)
    return x


def in_fp32(x: Rows) -> Rows:
    return half(x.astype(np.float64).sum(-1, keepdims=True))


SUMS: dict[str, Callable[[Rows], Rows]] = {
    "sequential": in_order,
    "pairwise": in_pairs,
    "fp32": in_fp32,
}
# Behind the name: the node, the axes that it sums over, and its steps on rows.
Steps = Callable[[Rows, Callable[[Rows], Rows]], Rows]


def softmax(x: Rows, total: Callable[[Rows], Rows]) -> Rows:
    powers = half(np.exp(half(x - x.max(-1, keepdims=True))))
    return half(powers / total(powers))


def log_softmax(x: Rows, total: Callable[[Rows], Rows]) -> Rows:
    lower = half(x - x.max(-1, keepdims=True))
    return half(lower - half(np.log(total(half(np.exp(lower))))))


def log_sum_exp(x: Rows, total: Callable[[Rows], Rows]) -> Rows:
    largest = x.max(-1, keepdims=True)
    return half(half(np.log(total(half(np.exp(half(x - largest)))))) + largest)


def mean_variance(x: Rows, total: Callable[[Rows], Rows]) -> Rows:
    n = np.float32(x.shape[-1])
    centred = half(x - half(total(x) / n))
    return by_root(centred, half(total(half(centred * centred)) / n))


def by_root(x: Rows, square: Rows) -> Rows:
    """As a norm does: times the reciprocal of a root."""
    return half(x * half(np.float32(1) / half(np.sqrt(square))))


CASES: dict[str, tuple[str, tuple[int, ...], Steps]] = {
    "mean": ("ReduceMean<axes = [2, 3]>", (2, 3), lambda x, s: half(s(x) / np.float32(35))),
    "mean, first": ("ReduceMean<axes = [1]>", (1,), lambda x, s: half(s(x) / np.float32(3))),
    "l1": ("ReduceL1<axes = [-1]>", (3,), lambda x, s: s(np.abs(x))),
    "l2": ("ReduceL2<axes = [1, 3]>", (1, 3), lambda x, s: half(np.sqrt(s(half(x * x))))),
    "squares": ("ReduceSumSquare<axes = [2]>", (2,), lambda x, s: s(half(x * x))),
    "pool": ("GlobalAveragePool", (2, 3), lambda x, s: half(s(x) / np.float32(35))),
    "softmax": ("Softmax<axis = 1>", (1,), softmax),
    "log softmax": ("LogSoftmax<axis = 2>", (2,), log_softmax),
    "log sum": ("ReduceLogSum<axes = [2, 3]>", (2, 3), lambda x, s: half(np.log(s(x)))),
    "log sum exp": ("ReduceLogSumExp<axes = [3]>", (3,), log_sum_exp),
    "einsum": ('Einsum<equation = "abcd->ac">', (1, 3), lambda x, s: s(x)),
    "lp pool": ("GlobalLpPool", (2, 3), lambda x, s: half(np.sqrt(s(half(x * x))))),
    "lp pool 1": ("GlobalLpPool<p = 1>", (2, 3), lambda x, s: s(np.abs(x))),
    "lp 1": ("LpNormalization<axis = 2, p = 1>", (2,), lambda x, s: half(x / s(np.abs(x)))),
    "lp 2": ("LpNormalization<axis = -1>", (3,), lambda x, s: by_root(x, s(half(x * x)))),
    "mvn": ("MeanVarianceNormalization", (0, 2, 3), mean_variance),
}


BY_POWERS = ("softmax", "log softmax", "log sum", "log sum exp")


def emulated(model: onnx.ModelProto, device: Accelerator, **feeds: NDArray[Any]) -> Values:
    norms = find_norms_in(read_graph(model))
    values = run(emulate(model, norms, device, everything=Everything()).model, **feeds)
    return {output.name: values[output.name] for output in model.graph.output}


def by_rows(x: Rows, axes: tuple[int, ...], steps: Callable[[Rows], Rows]) -> Rows:
    """What steps on rows give, with the axes of a row where they were."""
    last = tuple(range(x.ndim - len(axes), x.ndim))
    moved = np.moveaxis(x, axes, last)
    kept = moved.shape[: x.ndim - len(axes)]
    y = steps(moved.reshape(*kept, -1))
    whole = y.shape[-1] > 1
    own = moved.shape[-len(axes) :] if whole else [1] * len(axes)
    return np.moveaxis(y.reshape(*kept, *own), last, axes)


@pytest.mark.parametrize("order", SUMS)
@pytest.mark.parametrize("case", CASES)
def test_an_op_that_sums_does_so_as_the_device_does(case: str, order: str) -> None:
    node, axes, steps = CASES[case]
    op, _, attributes = node.partition("<")
    attributes = f"<{attributes}" if attributes else ""
    model = graph(f"y = {op} {attributes} (x)", {}, IMAGE, "float[a, b, c, d] y")
    x = half(normal(3, 2, 3, 5, 7, spread=4.0) + 1)
    x = np.abs(x) if case == "log sum" else x
    device = Accelerator().summing(order)
    y = emulated(model, device, x=x)["y"]
    expected = by_rows(x, axes, lambda rows: steps(rows, SUMS[order]))
    expected = expected.reshape(y.shape)  # an Einsum drops the axes
    close = case in BY_POWERS or order == "fp32"  # exp and FP32 sums may round otherwise
    assert np.allclose(y, expected, rtol=2**-9, atol=2**-14) if close else (y == expected).all()
    assert np.allclose(y, run(model, x=x)["y"], rtol=0.02, atol=0.02)


def test_axes_of_an_input_are_read_and_dropped() -> None:
    model = graph("y = ReduceSum<keepdims = 0>(x, axes)", {"axes": np.array([1, 3])}, IMAGE)
    model.graph.output[0].type.tensor_type.shape.dim.pop()
    x = half(normal(3, 2, 3, 5, 7))
    y = emulated(model, Accelerator(), x=x)["y"]
    assert (y == in_order(x.transpose(0, 2, 1, 3).reshape(2, 5, 21))[..., 0]).all()


POOLS = [
    "kernel_shape = [3, 2]",
    "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]",
    "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1",
    "kernel_shape = [2, 4], strides = [2, 2], ceil_mode = 1",
]


@pytest.mark.parametrize("order", SUMS)
@pytest.mark.parametrize("attributes", POOLS)
def test_windows_of_a_pooling_are_summed(attributes: str, order: str) -> None:
    model = graph(f"y = AveragePool<{attributes}>(x)", {}, IMAGE, "float[a, b, c, d] y")
    x = half(normal(3, 1, 3, 5, 7))
    device = Accelerator().summing(order)
    exact = run(model, x=x)["y"]
    assert np.allclose(emulated(model, device, x=x)["y"], exact, rtol=0.01, atol=0.002)
    large = emulated(model, device, x=np.full((1, 3, 5, 7), 30000.0, np.float32))["y"]
    assert np.isinf(large).any()  # three of them are beyond FP16, their mean is not


@pytest.mark.parametrize("op", ["GlobalAveragePool(x)", "ReduceMean<axes = [2, 3]>(x)"])
@pytest.mark.parametrize("order", SUMS)
def test_a_mean_is_lost_where_its_sum_overflows(op: str, order: str) -> None:
    model = graph(f"y = {op}", {}, "float[1, 1, 96, 96] x", "float[a, b, c, d] y")
    x = np.full((1, 1, 96, 96), 10.0, np.float32)
    assert (run(model, x=x)["y"] == 10).all()
    y = emulated(model, Accelerator().summing(order), x=x)["y"]
    # A running FP16 sum stops growing at 32768, where half the spacing is 16: it is wrong too.
    assert (y < 4).all() if order == "sequential" else np.isinf(y).all()
    y = emulated(model, Accelerator(fp32_steps=frozenset({"sum"})), x=x)["y"]
    assert (y == 10).all()


def test_rows_of_a_softmax_without_a_fixed_length() -> None:
    model = graph("y = Softmax<axis = -1>(x)", {}, "float[a, b] x", "float[a, b] y", opset=11)
    x = half(normal(3, 4, 9))
    y = emulated(model, Accelerator().summing("pairwise"), x=x)["y"]
    assert np.allclose(y, softmax(x, in_pairs), rtol=2**-9)


INTEGERS = """
    q, qs, qz = DynamicQuantizeLinear(x)
    whole = MatMulInteger(q, w, qz, wz)
    float = Cast<to = 1>(whole)
    scales = Mul(qs, ws)
    y = Mul(float, scales)
"""


def test_an_integer_accumulator_and_its_scales_are_one_step() -> None:
    rng = np.random.default_rng(4)
    weights: dict[str, NDArray[Any]] = {
        "w": rng.integers(0, 256, (512, 8)).astype(np.uint8),
        "wz": np.array(0, np.uint8),
        "ws": np.array(3e-4, np.float32),
    }
    model = graph(INTEGERS, weights, "float[a, 512] x", "float[a, 8] y")
    x = half(np.abs(normal(9, 2, 512)))
    exact = run(model, x=x)["y"]
    assert exact.max() / (3e-4 * x.max() / 255) > 65504  # what the accumulator holds
    y = emulated(model, Accelerator(), x=x)["y"]
    assert np.allclose(y, exact, rtol=2**-10)


def test_an_integer_accumulator_that_is_read_otherwise_is_rounded() -> None:
    weights: dict[str, NDArray[Any]] = {
        "w": np.full((512, 8), 255, np.uint8),
        "ws": np.array(3e-4, np.float32),
    }
    nodes = "whole = MatMulInteger(x, w) f = Cast<to = 1>(whole) y = Mul(f, ws) z = Add(f, ws)"
    model = graph(nodes, weights, "uint8[a, 512] x", "float[a, 8] y, float[a, 8] z")
    values = emulated(model, Accelerator(), x=np.full((1, 512), 255, np.uint8))
    assert np.isinf(values["y"]).all() and np.isinf(values["z"]).all()


@pytest.mark.parametrize("op", ["ReduceLogSum", "ReduceLogSumExp", "LogSoftmax"])
def test_a_logarithm_of_a_sum_that_overflows_is_infinite(op: str) -> None:
    """The sum of 9216 tens is beyond FP16 however its logarithm is; that of powers is 9216."""
    axis = "axis = -1" if op == "LogSoftmax" else "axes = [1]"
    model = graph(f"y = {op} <{axis}> (x)", {}, "float[n, 9216] x", "float[a, b] y")
    x = np.full((1, 9216), 10, np.float32)
    y = emulated(model, Accelerator().summing("pairwise"), x=x)["y"]
    assert np.isinf(y).all() == (op == "ReduceLogSum")
    assert np.isfinite(run(model, x=x)["y"]).all()


@pytest.mark.parametrize("order", SUMS)
@pytest.mark.parametrize("op", ["Sum", "Mean"])
def test_tensors_are_added_one_after_the_other(op: str, order: str) -> None:
    shapes = "float[n, 7] x, float[n, 7] z, float[7] w"
    model = graph(f"y = {op} (x, z, w)", {}, shapes, "float[a, b] y")
    x, z, w = (
        half(normal(n, *shape, spread=9.0)) for n, shape in enumerate([(3, 7), (3, 7), (7,)])
    )
    x[0], z[0], w[:] = 60000.0, 60000.0, -60000.0
    y = emulated(model, Accelerator().summing(order), x=x, z=z, w=w)["y"]
    with np.errstate(over="ignore"):
        total = half(x + z) + w if order != "fp32" else x.astype(np.float64) + z + w
        expected = half(total) if op == "Sum" else half(half(total) / np.float32(3))
    assert (y == expected).all()
    assert np.isinf(y[0]).all() == (order != "fp32")


@pytest.mark.parametrize("equation", ["ab->", "ab->ba", "aa->a", "ab", "...b->..."])
def test_an_einsum_that_does_more_or_less_is_rounded_behind(equation: str) -> None:
    model = graph(f'y = Einsum<equation = "{equation}"> (x)', {}, "float[4, 4] x", "float y")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    x = half(normal(3, 4, 4))
    y = emulated(model, Accelerator(), x=x)["y"]
    expected = half(np.einsum(equation, x.astype(np.float64)))
    np.testing.assert_allclose(y, expected, rtol=2**-8, atol=2**-8)
