"""Between two weights the power of two is taken with which FP16 holds the most of both in full."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from slanc_onnx.accelerator import FLOAT16
from slanc_onnx.apply.fold import Fold, apply_fold, fold
from slanc_onnx.apply.fold.binades import Faint, binades_of
from slanc_onnx.estimate import TensorRange, probe_tensors
from slanc_onnx.graph import Tensor
from slanc_onnx.norms import read_model
from slanc_onnx.options import Options
from tests.models.fold_models import RMS, decided, ops, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import Values, different, run

TO_FP16 = Options(apply="fold", to="fp16")
FED: Values = {"ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int64)}
WIDE = 64
PAIR = f"""
    r0 = Gather(table, ids)
    [n1] x = {RMS}(r0, g1)
    up = MatMul(x, into)
    act = {{act}}
    down = MatMul(act, out)
    r1 = Add(r0, down)
    [n2] y = {RMS}(r1, g2)
"""
FLOAT32 = NDArray[np.float32]


def pair(into: float = 1.0, out: float = 2.0**-14, act: str = "Relu(up)") -> onnx.ModelProto:
    """Two matrices with a function of degree 1 between them, of the given spreads."""
    made = weights(into=normal(1, D, WIDE, spread=into), out=normal(2, WIDE, D, spread=out))
    return graph(PAIR.format(act=act), made)


def balanced(
    model: onnx.ModelProto, options: Options = TO_FP16, exponent: int = 0
) -> tuple[onnx.ModelProto, Fold]:
    """A folded copy in which all norms ask for one exponent, and what was done."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    read = read_model(copy)
    norms = decided(copy, dict.fromkeys(("n1", "n2"), (exponent, exponent)))
    found, _ = fold(read, norms, options, probe_tensors(read, options))
    apply_fold(copy, found, None)
    return copy, found


def in_front(found: Fold) -> int:
    """The exponent of all in front of what is between: the matrix, and gamma, which takes part."""
    return sum(found.weights.get(Tensor((), name), 0) for name in ("g1", "into"))


def in_fp16(values: FLOAT32) -> Faint:
    """What NumPy's FP16 does not hold of some numbers in full."""
    there = np.abs(values[values != 0])
    small = there < 2.0**-14
    with np.errstate(over="ignore"):
        zero = int(np.count_nonzero(there.astype(np.float16) == 0))
    return Faint(int(np.count_nonzero(small)) - zero, zero)


def stored(model: onnx.ModelProto, name: str) -> FLOAT32:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


@pytest.mark.parametrize("exponent", range(-20, 30))
def test_binades_count_what_fp16_does_not_hold(exponent: int) -> None:
    values = normal(5, 400, 60, spread=2.0**-12) * np.exp2(normal(6, 400, 1, spread=5.0))
    values[0, :4] = 0, np.inf, np.nan, -0.0
    finite = values[np.isfinite(values)]
    divided = np.ldexp(finite.astype(np.float64), -exponent).astype(np.float32)
    found = binades_of(values)
    assert found.faint(exponent, FLOAT16) == in_fp16(divided)
    with np.errstate(over="ignore"):
        infinite = np.isinf(divided.astype(np.float16)).any()
    assert found.overflows(exponent, FLOAT16) or not infinite


@pytest.mark.parametrize("exponent", [0, 3, 8, 12])
def test_the_error_that_a_division_adds_is_that_of_fp16(exponent: int) -> None:
    values = normal(7, 500, 200, spread=2.0**-6)

    def error(k: int) -> float:
        back = np.ldexp(np.ldexp(values, -k).astype(np.float16).astype(np.float64), k)
        return float(np.sum((back - values) ** 2))

    truth = np.sqrt(max(error(exponent) - error(0), 0) / np.sum(values.astype(np.float64) ** 2))
    found = binades_of(values).added(exponent, FLOAT16)
    assert np.isclose(found, truth, rtol=0.15, atol=2.0**-18)


def test_subnormal_numbers_of_fp32_count_as_lost() -> None:
    values = np.array([2.0**-140, 1.0, 0.0], np.float32)
    assert binades_of(values).faint(0, FLOAT16) == Faint(0, 1)
    assert not binades_of(values).exact_in_float32(0)
    assert binades_of(values[1:]).exact_in_float32(126)
    assert not binades_of(values[1:]).exact_in_float32(127)


def test_a_small_matrix_takes_room_from_the_one_before_it() -> None:
    model = pair()
    after, found = balanced(model)
    told = {weight.name: weight for weight in found.faint}
    assert found.inserted == 0 and ops(after) == ops(model)
    assert different(run(model, **FED), run(after, **FED)) == []
    out = told["out"]
    assert out.exponent < 0 and out.undivided == out.unbalanced == in_fp16(stored(model, "out"))
    assert out.divided == in_fp16(stored(after, "out"))
    assert out.divided.elements < out.undivided.elements / 50
    assert in_front(found) == -out.exponent
    assert out.elements == WIDE * D
    now = sum(in_fp16(stored(after, name)).elements for name in ("g1", "into", "out"))
    for k in range(-30, 31):  # no other power of two is better
        moved = np.ldexp(stored(after, "into"), -k), np.ldexp(stored(after, "out"), k)
        assert sum(in_fp16(values).elements for values in moved) >= now - 2 * D * WIDE / 1024


def test_what_norms_took_is_given_back_by_the_matrix_before() -> None:
    model = pair(out=2.0**-6)
    after, found = balanced(model, exponent=7)
    (out,) = [weight for weight in found.faint if weight.name == "out"]
    assert found.weights[Tensor((), "table")] == 7
    assert out.unbalanced == in_fp16(np.ldexp(stored(model, "out"), -7))
    assert out.divided == in_fp16(stored(after, "out"))
    assert out.divided.elements < out.unbalanced.elements / 4
    assert different(run(model, **FED), run(after, **FED)) == []


def test_weights_that_fp16_holds_stay_as_they_are() -> None:
    _, found = balanced(pair(out=0.5))
    assert (found.weights, found.faint) == ({}, ())


def test_no_element_of_gamma_is_lost_for_elements_of_a_matrix() -> None:
    small = np.full(D, 2.0**-12, np.float32)
    model = pair(into=2.0**-14, out=2.0**-6)
    for tensor in model.graph.initializer:
        if tensor.name == "g1":
            tensor.CopyFrom(numpy_helper.from_array(small, "g1"))
    after, found = balanced(model)
    assert found.weights.get(Tensor((), "g1"), 0) <= 2
    assert in_fp16(stored(after, "g1")) == Faint()
    assert different(run(model, **FED), run(after, **FED)) == []


def test_a_balanced_model_is_not_balanced_again() -> None:
    once, _ = balanced(pair())
    _, found = balanced(once)
    assert found.weights == {}


@pytest.mark.parametrize("act", ["Sigmoid(up)", "Tanh(up)", "Gelu(up)"])
def test_a_function_of_no_degree_takes_no_power_of_two(act: str) -> None:
    model = pair(act=act)
    model.opset_import[0].version = 20
    _, found = balanced(model)
    assert found.weights == {}


def test_a_tensor_between_keeps_its_room_above_and_below() -> None:
    model = pair()
    read = read_model(model)
    norms = decided(model, dict.fromkeys(("n1", "n2"), (0, 0)))
    measured = probe_tensors(read, TO_FP16)
    between = [Tensor((), "up"), Tensor((), "act")]
    # what it is now takes 3 more bits until its ordinary elements are no normal numbers
    typical = {t: measured[t]._replace(typical=8 * 2.0**-14 * 2**3) for t in between}
    found, _ = fold(read, norms, TO_FP16, {**measured, **typical})
    assert (in_front(found), found.weights[Tensor((), "out")]) == (3, -3)
    # the other way round: a matrix before that is small may be multiplied until this overflows
    model = pair(into=2.0**-14, out=1.0)
    read = read_model(model)
    norms = decided(model, dict.fromkeys(("n1", "n2"), (0, 0)))
    measured = probe_tensors(read, TO_FP16)
    large = dict.fromkeys(between, TensorRange(65504 / 4 / 2**2, 1.0))
    before = {Tensor((), "x"): TensorRange(1.0, 8 * 2.0**-14)}  # so that gamma takes no part
    found, _ = fold(read, norms, TO_FP16, {**measured, **large, **before})
    assert (in_front(found), found.weights[Tensor((), "out")]) == (-2, 2)


def test_a_tensor_that_was_not_seen_is_not_moved() -> None:
    model = pair()
    read = read_model(model)
    norms = decided(model, dict.fromkeys(("n1", "n2"), (0, 0)))
    measured = probe_tensors(read, TO_FP16)
    del measured[Tensor((), "up")], measured[Tensor((), "act")]
    found, _ = fold(read, norms, TO_FP16, measured)
    assert "out" not in {tensor.name for tensor in found.weights}


def test_a_weight_that_others_read_stays() -> None:
    nodes = PAIR.format(act="Relu(up)").replace(
        "r1 = Add(r0, down)", "also = Relu(out)\n r1 = Add(r0, down)"
    )
    made = weights(into=normal(1, D, WIDE), out=normal(2, WIDE, D, spread=2.0**-14))
    model = graph(nodes, made)
    model.graph.output.add(name="also").type.tensor_type.elem_type = TensorProto.FLOAT
    after, found = balanced(model)
    assert (found.inserted, found.weights) == (0, {})
    assert different(run(model, **FED), run(after, **FED)) == []


def test_weights_in_fp16_and_files_in_fp32_are_not_balanced() -> None:
    _, found = balanced(pair(), replace(TO_FP16, to=None))
    assert (found.weights, found.faint) == ({}, ())
    model = pair()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    _, found = balanced(model)
    assert (found.weights, found.faint) == ({}, ())
