"""Weights that cannot take gamma, or lose too much: it is left, with the reason."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx.reasons import Unmerged
from tests.models.merge_models import (
    EVERY,
    GAMMA,
    RMS,
    gamma_left,
    merged,
    model,
    norm,
    part,
    stored,
)
from tests.models.small_graphs import D, normal


def test_rotary_keeps_the_gamma_of_a_head() -> None:
    before = model(
        "heads = Reshape(rows, shape)"
        + norm(RMS, "n", "heads")
        + "turned = Mul(n_y, cos) y = MatMul(turned, w)",
        {"shape": np.array([0, -1, 1, D]), "cos": normal(15, D)},
        "float[a, s, h, c] y",
    )
    assert gamma_left(before) is Unmerged.READ_OTHERWISE


def test_quantised_weights_are_left() -> None:
    before = model(
        norm(RMS, "n", "rows") + "d = DequantizeLinear(q, s) y = MatMul(n_y, d)",
        {"q": np.arange(D * 6, dtype=np.int8).reshape(D, 6), "s": np.array(0.1, np.float32)},
    )
    assert gamma_left(before) is Unmerged.INTEGER_WEIGHT


def test_a_weight_that_a_caller_may_give_is_left() -> None:
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)")
    before.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [D, 6]))
    assert gamma_left(before) is Unmerged.WEIGHT_COMPUTED


def test_gamma_that_a_caller_may_give_is_left() -> None:
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)")
    before.graph.input.append(helper.make_tensor_value_info("gamma", TensorProto.FLOAT, [D]))
    assert gamma_left(before) is Unmerged.AFFINE_COMPUTED


def test_a_norm_that_is_left_out_keeps_gamma() -> None:
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)")
    assert gamma_left(before, exclude="^n$") is Unmerged.LEFT_OUT


def halves(factor: float, gamma: float = 1.0) -> onnx.ModelProto:
    """An FP16 model with a weight and a gamma of this size."""
    made = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)", outputs="float16[a, s, c] y")
    for tensor in made.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(np.float64)
        value = value * {"w": factor, "gamma": gamma}.get(tensor.name, 1.0)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    return made


def test_a_weight_of_16_bits_is_rounded_once() -> None:
    before = halves(1.0)
    after, merges = merged(before, "gamma")
    was, gamma = stored(before)["w"], stored(before)["gamma"]
    exact = was.astype(np.float64) * gamma.astype(np.float64)[:, None]
    np.testing.assert_array_equal(stored(after)["w"], exact.astype(np.float16))
    error = np.linalg.norm(stored(after)["w"].astype(np.float64) - exact) / np.linalg.norm(exact)
    assert merges.error == pytest.approx(error) and 0 < error < 2.0**-11


def test_a_weight_that_would_overflow_is_left() -> None:
    assert gamma_left(halves(1e4, 100.0)) is Unmerged.OVERFLOWS


def test_a_weight_that_would_vanish_is_left_but_where_that_is_accepted() -> None:
    before = halves(1e-3, 1e-3)
    assert gamma_left(before) is Unmerged.LOSES
    _, merges = merged(before, "gamma", weight_loss=0.1)
    assert part(merges, "n").state == "merged"


def test_bfloat16_weights_are_rounded_in_their_type() -> None:
    before = model(
        norm(RMS, "n", "rows") + "wide = Cast<to = 1>(w_b) y = MatMul(n_y, wide)",
        {"w_b": normal(16, D, 6)},
    )
    (tensor,) = (t for t in before.graph.initializer if t.name == "w_b")
    kept = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
    tensor.CopyFrom(numpy_helper.from_array(kept, "w_b"))
    after, _ = merged(before, "gamma")
    exact = kept.astype(np.float64) * GAMMA.astype(np.float64)[:, None]
    np.testing.assert_array_equal(stored(after)["w_b"], exact.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(("size", "kind"), [(1.0, None), (4e4, Unmerged.OVERFLOWS)])
def test_a_weight_that_is_cast_to_16_bits_counts_as_one_of_16_bits(
    size: float, kind: Unmerged | None
) -> None:
    nodes = norm(RMS, "n", "rows") + "h = Cast<to = 10>(w) f = Cast<to = 1>(h) y = MatMul(n_y, f)"
    weight = np.clip(EVERY["w"], -1, 1) * np.float32(size)
    _, merges = merged(model(nodes, {"w": weight}), "gamma")
    reason = part(merges, "n").reason
    assert (reason and reason.kind) is kind
    if kind is None:
        rounding = merges.changes.rounding["w"].relative
        exact = GAMMA[:, None].astype(np.float64) * weight
        off = exact.astype(np.float16) - exact
        assert rounding == pytest.approx(np.linalg.norm(off) / np.linalg.norm(exact))
