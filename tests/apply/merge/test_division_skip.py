"""The division of a norm whose op adds a residual: the sum is written out, as the op has it."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, find_norms, protect
from slanc_onnx.reasons import Unmerged
from tests.models.divided_models import CLOSE, EPSILON, deferred, division, normalised, reason
from tests.models.merge_models import BETA, EVERY, GAMMA, IDS, kinds, model
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import run

# Of very different sizes, so that the order in which three are added shows.
SIZES = np.float32(10) ** np.random.default_rng(7).uniform(-3, 3, (11, D)).astype(np.float32)
MORE = {
    "skips": normal(11, 11, D) * SIZES,
    "bias": normal(12, D) * SIZES[0],
    "table": normal(1, 11, D) * SIZES[::-1],
}
SIMPLIFIED = "com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.00001>"
LAYER = "com.microsoft.SkipLayerNormalization<epsilon = 0.00001>"
TAIL = {
    "unused": ("n_y", "y = MatMul(n_y, w)"),
    "read": ("n_y, , , s", "y = MatMul(n_y, w) t = Tanh(s) z = Identity(t)"),
    "given out": ("n_y, , , z", "y = MatMul(n_y, w)"),
    "read with others": ("n_y, , , s", "z = Add(s, s) p = MatMul(n_y, w) y = Mul(p, p)"),
}


def skip(outputs: str, addends: str, tail: str, op: str = SIMPLIFIED, **more: Any) -> Any:
    """A model whose norm adds rows of another table to those of the embedding."""
    nodes = f"skip = Gather(skips, ids) [n] {outputs} = {op}({addends}) {tail}"
    given = "float[a, s, c] y" + (", float[a, s, d] z" if "z" in outputs + tail else "")
    return model(nodes, {**MORE, **more}, given)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tail", TAIL)
def test_the_sum_is_that_of_the_op_bit_by_bit(tail: str, bias: bool) -> None:
    outputs, rest = TAIL[tail]
    before = skip(outputs, "rows, skip, gamma" + ", bias" * bias, rest)
    after, merges = deferred(before)
    assert division(merges).state == "merged" and "SkipSimpl" not in "".join(kinds(after))
    one, other = run(before, ids=IDS), run(after, ids=IDS)
    if "z" in one:
        assert one["z"].tobytes() == other["z"].tobytes()
    total = MORE["table"][IDS] + MORE["skips"][IDS]
    total = total + MORE["bias"] if bias else total
    expected = normalised(total) * GAMMA @ EVERY["w"].astype(np.float64)
    expected = expected**2 if "p, p" in rest else expected
    assert np.abs(other["y"] - expected).max() < CLOSE * np.abs(expected).max()
    (found,) = find_norms(after)
    assert (found.name, found.kind, len(found.deferred)) == ("n", "rms", 1)
    again, more = deferred(after)
    assert again == after and not more.changes and division(more).state == "before"


def test_the_order_of_three_shows() -> None:
    """So that the test above tests something."""
    rows, skips = MORE["table"][IDS], MORE["skips"][IDS]
    assert ((rows + skips) + MORE["bias"] != rows + (skips + MORE["bias"])).any()


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_norm_whose_mean_is_centred_away(bias: bool) -> None:
    addends = "rows, skip, gamma, beta" + ", bias" * bias
    tail = "p = MatMul(n_y, w) y = Add(p, b)"
    before = skip("n_y", addends, tail, LAYER)
    after, merges = deferred(before)
    assert division(merges).state == "merged" and "SkipLayer" not in "".join(kinds(after))
    total = (MORE["table"].astype(np.float64)[IDS] + MORE["skips"][IDS]) + bias * MORE["bias"]
    less = total - total.mean(axis=-1, keepdims=True)
    expected = (normalised(less) * GAMMA + BETA) @ EVERY["w"].astype(np.float64) + EVERY["b"]
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - expected).max() < 2 * CLOSE * np.abs(y).max()
    again, more = deferred(after)
    assert again == after and not more.changes
    kept, other = deferred(before, "gamma", "division")
    assert reason(other).kind is Unmerged.KEEPS_MEAN and "SkipLayerNormalization" in kinds(kept)


def test_a_skip_that_is_broadcast() -> None:
    """ONNX Runtime takes one of two axes, or of one batch."""
    nodes = f"[n] n_y, , , z = {SIMPLIFIED}(rows, row, gamma) y = MatMul(n_y, w)"
    outputs = "float[a, s, c] y, float[a, s, d] z"
    for row in (normal(13, 3, D), normal(13, 1, 3, D)):
        before = model(nodes, {"row": row}, outputs)
        after, merges = deferred(before)
        assert division(merges).state == "merged"
        one, other = run(before, ids=IDS), run(after, ids=IDS)
        assert one["z"].tobytes() == other["z"].tobytes()
        assert np.abs(one["y"] - other["y"]).max() < CLOSE * np.abs(one["y"]).max()


def test_statistics_that_nothing_reads_are_dropped() -> None:
    """Some exporters name all outputs of the op."""
    before = skip("n_y, mean, deviation, z", "rows, skip, gamma", "y = MatMul(n_y, w)")
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    one, other = run(before, ids=IDS), run(after, ids=IDS)
    assert one["z"].tobytes() == other["z"].tobytes()


def halved(**more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    values = {"table": normal(1, 11, D), "skips": normal(11, 11, D), "gamma": GAMMA, **more}
    return {name: value.astype(np.float16) for name, value in {**values, "w": EVERY["w"]}.items()}


def of_half(addends: str, epsilon: str = "0.00001", **more: NDArray[Any]) -> onnx.ModelProto:
    op = f"com.microsoft.SkipSimplifiedLayerNormalization<epsilon = {epsilon}>"
    nodes = f"""
        rows = Gather(table, ids) skip = Gather(skips, ids)
        [n] n_y, , , z = {op}({addends}) y = MatMul(n_y, w)
    """
    outputs = "float16[a, s, c] y, float16[a, s, d] z"
    return graph(nodes, halved(**more), outputs=outputs)


def test_a_file_of_16_bits_squares_in_fp32() -> None:
    before = of_half("rows, skip, gamma")
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    assert kinds(after).count("Cast") == 2  # the row and its root
    one, other = run(before, ids=IDS), run(after, ids=IDS)
    assert one["z"].tobytes() == other["z"].tobytes() and one["z"].dtype == np.float16
    weights = halved()
    total = (weights["table"][IDS] + weights["skips"][IDS]).astype(np.float64)
    expected = normalised(total) * weights["gamma"] @ weights["w"].astype(np.float64)
    assert np.abs(other["y"] - expected).max() < 4 * 2.0**-11 * np.abs(expected).max()
    (found,) = find_norms(after)
    assert (found.name, found.kind, len(found.deferred)) == ("n", "rms", 1)
    again, more = deferred(after)
    assert again == after and not more.changes


def test_three_addends_of_16_bits_are_left() -> None:
    """The op adds them in FP32 and rounds once; two Adds of FP16 give another sum."""
    before = of_half("rows, skip, gamma, bias", bias=normal(12, D))
    after, merges = deferred(before, "division", "gamma")
    assert reason(merges).kind is Unmerged.SUM_OF_THREE
    assert "SkipSimplifiedLayerNormalization" in kinds(after)


@pytest.mark.parametrize(("epsilon", "kept"), [("1e-10", True), ("1e-12", False)])
def test_a_root_that_16_bits_may_lose_keeps_the_division(epsilon: str, kept: bool) -> None:
    """A row of zeros over a root of zero is nan."""
    zero = np.arange(11)[:, None] == IDS[0, 0]
    rows = {name: np.where(zero, 0, normal(1, 11, D)) for name in ("table", "skips")}
    before = of_half("rows, skip, gamma", epsilon, **rows)
    after, merges = deferred(before)
    assert (division(merges).state == "merged") == kept
    if not kept:
        assert reason(merges).kind is Unmerged.ROOT_FADES
    assert (run(after, ids=IDS)["y"][0, 0] == 0).all()


def test_what_else_reads_it_is_the_first_reason() -> None:
    before = skip("n_y, , , s", "rows, skip, ones", "u = MatMul(n_y, sq) y = Add(u, n_y)")
    before.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name)
        for name, value in (("sq", normal(8, D, D)), ("ones", np.ones(D, np.float32)))
    )
    after, merges = deferred(before)
    assert reason(merges).kind is Unmerged.READ_OTHERWISE and reason(merges).op == "Add"
    assert after == before
    gamma = skip("n_y, , , s", "rows, skip, gamma", "u = Tanh(n_y) y = MatMul(u, w)")
    after, merges = deferred(gamma)
    assert reason(merges).kind is Unmerged.GAMMA_STAYS and after == gamma


def test_the_scale_of_a_stream_is_kept() -> None:
    """Also where a Div divides each addend, and a Mul gives the sum back."""
    before = skip("n_y, , , z", "rows, skip, gamma", "y = MatMul(n_y, w)")
    after = onnx.ModelProto()
    after.CopyFrom(before)
    options = Options(apply="fold", merge=["all"], certify="off")
    protect(after, replace(options, set_scale={"n": 64.0}))
    (found,) = find_norms(after)
    assert (found.scaled_by, len(found.deferred)) == (64.0, 1)
    assert found.epsilon == pytest.approx(EPSILON / 64**2, rel=1e-6)
    one, other = run(before, ids=IDS), run(after, ids=IDS)
    assert one["z"].tobytes() == other["z"].tobytes()
    assert np.abs(one["y"] - other["y"]).max() < CLOSE * np.abs(one["y"]).max()
    again = onnx.ModelProto()
    again.CopyFrom(after)
    protect(again, options)
    assert again == after
