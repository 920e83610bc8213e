"""A norm whose input leaves the format is FAILED with the tensor: no Div behind it heals that."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Validation, protect, validate
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.report.terminal import verdict
from slanc_onnx.report.wording import reason_text
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 3, D, spread=100.0)
DEVICE = Accelerator().summing("fp32")


def stream(size: float, behind: str = "") -> onnx.ModelProto:
    """Two norms of a stream; what the second reads is up to `size`."""
    big = np.full(D, size / float(np.abs(X).max()), np.float32)
    nodes = f"[m] a = {RMS}(x, g1) h = Mul(x, big) {behind} [n] n = {RMS}(h, g2) y = Add(a, n)"
    return graph(nodes, weights(big=big), ROWS)


def scaled_and_checked(model: onnx.ModelProto, options: Options) -> Validation:
    original = onnx.ModelProto.FromString(model.SerializeToString())
    protect(model, options)
    return validate(original, model, options)


@pytest.mark.parametrize("emulate", ["norms", "all"])
def test_a_stream_that_leaves_the_format_fails_with_its_tensor(emulate: str) -> None:
    options = Options(inputs={"x": X}, accelerator=DEVICE, emulate=emulate)  # type: ignore[arg-type]
    model = stream(3e5)
    big = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "big")
    largest = float(np.abs(X * big).max())
    assert largest > 65520 > np.abs(X).max()  # from there on FP16 rounds to infinity
    result = scaled_and_checked(model, options)
    assert not result.passed and result.overflowed_after == 3
    left = result.first_out
    assert left is not None and (left.tensor, left.op) == ("h", "Mul")
    assert np.isclose(left.value, largest, rtol=0 if emulate == "norms" else 2**-9)
    first = result.failures[0]
    if emulate == "norms":
        assert first == Reason(Failure.INPUT_LEFT_FORMAT, ("FP16", left.value, "n"), "Mul", "h")
        assert reason_text(first).startswith("Mul (h): leaves FP16 before the norm 'n' reads it")
    else:
        assert first == Reason(Failure.LEFT_FORMAT, ("FP16", left.value), "Mul", "h")


def test_one_that_just_fits_passes() -> None:
    result = scaled_and_checked(stream(65504.0), Options(inputs={"x": X}, accelerator=DEVICE))
    assert result.passed and result.first_out is None


def test_the_tensor_is_the_one_that_is_computed_not_the_one_it_is_moved_to() -> None:
    model = stream(3e5)
    behind = "t = Transpose<perm = [0, 1, 2]>(h)"
    moved = stream(3e5, behind)
    next(n for n in moved.graph.node if n.name == "n").input[0] = "t"
    options = Options(inputs={"x": X}, accelerator=DEVICE)
    for one in (model, moved):
        left = scaled_and_checked(one, options).first_out
        assert left is not None and (left.tensor, left.op) == ("h", "Mul")


def test_a_device_that_reads_fp32_loses_nothing() -> None:
    device = replace(DEVICE, fp32_steps=frozenset(["input", "centred", "square"]))
    result = scaled_and_checked(stream(3e5), Options(inputs={"x": X}, accelerator=device))
    assert result.passed and result.overflowed_after == 0 and result.first_out is None


def test_what_came_broken_is_not_held_against_the_norm_that_reads_it() -> None:
    nodes = f"[m] a = {RMS}(x, huge) [n] y = {RMS}(a, g2)"
    model = graph(nodes, weights(huge=np.full(D, 60000.0, np.float32)), ROWS)
    result = scaled_and_checked(model, Options(inputs={"x": X}, accelerator=DEVICE))
    seen = result.observed["n"]
    normalised = X.astype(np.float64) / np.sqrt(np.mean(X.astype(np.float64) ** 2, -1)[..., None])
    product = np.abs(normalised.astype(np.float16).astype(np.float64) * 60000)
    broken = (product > 65519).any(-1).sum()
    assert seen.overflowed == seen.arrived == broken > 0
    left = result.first_out
    assert left is not None and (left.tensor, left.norm, left.what) == ("a", "m", "made")
    assert np.isclose(left.value, product.max(), rtol=2**-8)


def test_the_line_says_first_whether_the_model_needs_it() -> None:
    options = Options(inputs={"x": X * 10}, accelerator=DEVICE)
    model = graph(f"[n] y = {RMS}(x, g1)", weights(), ROWS)
    squares = (X.astype(np.float64) * 10) ** 2
    lost = int((squares.sum(-1) > 65504).sum())
    assert lost == 3
    word, needed, *_ = verdict(scaled_and_checked(model, options))
    assert word == "NORMS PASSED"
    assert needed == "this model needs it: 3 rows lose their norm in FP16 as exported"
    mild = Options(inputs={"x": X / 100}, accelerator=DEVICE, emulate="all")
    word, needed, *_ = verdict(
        scaled_and_checked(graph(f"[n] y = {RMS}(x, g1)", weights(), ROWS), mild)
    )
    assert (word, needed) == ("PASSED", "no row loses its norm in FP16 as exported")


def test_rows_that_vanish_beside_no_epsilon_need_it_too() -> None:
    faint = (X * 1e-6).astype(np.float32)  # squares of 1e-8, below half the smallest subnormal
    device = Accelerator("any", True, sum_format=DEVICE.sum_format)
    options = Options(inputs={"x": faint}, accelerator=device)
    model = graph(
        "[n] y = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-12>(x, g1)", weights(), ROWS
    )
    result = scaled_and_checked(model, options)
    assert (result.overflowed_before, result.lost_before) == (0, 3)
    large = graph(
        "[n] y = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-3>(x, g1)", weights(), ROWS
    )
    assert scaled_and_checked(large, options).lost_before == 0
