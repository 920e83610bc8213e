"""Every spelling of a norm is found, read right, and scaled without a change in any bit."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx.apply.div import apply_scales_in
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import different, run
from tests.spellings.fused import FUSED
from tests.spellings.layer import DECOMPOSED_LAYER
from tests.spellings.rms import DECOMPOSED_RMS
from tests.spellings.spelling import EPSILON, D, Spelling

GAMMA = np.array([0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75])
BETA = np.array([1, 2, 3, 4, -1, -2, -3, -4])

every_spelling = pytest.mark.parametrize(
    "spelling", [*DECOMPOSED_RMS, *DECOMPOSED_LAYER, *FUSED], ids=str
)


def wide_rows() -> NDArray[np.float32]:
    """Rows from 1e-7, where epsilon is all there is, to 1e4, where it is nothing; and zeros."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(2, 512, D)) * 10.0 ** random.uniform(-7, 4, (2, 512, 1))
    rows[0, 0] = 0
    return rows.astype(np.float32)


def truth(spelling: Spelling, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The norm's definition, in float64."""
    v = x.astype(np.float64)
    if spelling.kind == "layer":
        v = v - v.mean(-1, keepdims=True)
    mean_square = (v**2).sum(-1, keepdims=True) / (D - 1 if spelling.unbiased else D)
    if spelling.power == 2:
        variance = np.maximum(mean_square, EPSILON) if spelling.floor else mean_square + EPSILON
        deviation = np.sqrt(variance)
    elif spelling.floor:  # of the L2 norm, which is sqrt(d) times the root
        deviation = np.maximum(np.sqrt(mean_square * D), EPSILON) / np.sqrt(D)
    else:
        deviation = np.sqrt(mean_square) + EPSILON
    y = v / deviation * (GAMMA if spelling.gamma else 1) + (BETA if spelling.beta else 0)
    return np.asarray(y, np.float64)


@every_spelling
def test_it_is_one_norm_whose_parts_are_known(spelling: Spelling) -> None:
    norm = only_norm(spelling.model())
    assert (norm.kind, norm.width) == (spelling.kind, D)
    assert norm.epsilon == pytest.approx(EPSILON, rel=1e-7)
    assert norm.epsilon_power == spelling.power
    assert norm.unbiased == spelling.unbiased
    assert (norm.gamma is not None, norm.beta is not None) == (spelling.gamma, spelling.beta)
    assert (norm.path, norm.scaled_by, norm.skip_reason) == ((), None, None)
    assert (norm.element_type, norm.output_type) in [(1, 1), (11, 1)]


@every_spelling
def test_the_text_computes_the_norm_it_is_said_to_be(spelling: Spelling) -> None:
    x = wide_rows()
    np.testing.assert_allclose(run(spelling.model(), x=x)["y"], truth(spelling, x), atol=2e-4)


@every_spelling
@pytest.mark.parametrize("scale", [0.25, 64.0])
def test_scaling_changes_no_bit_of_the_output(spelling: Spelling, scale: float) -> None:
    x, model = wide_rows(), spelling.model()
    before = run(model, x=x)
    assert apply_scales_in(model, [norm := only_norm(model)], {norm.name: scale})
    assert different(before, run(model, x=x)) == []


@every_spelling
def test_another_power_for_epsilon_would_change_the_output(spelling: Spelling) -> None:
    x, model = wide_rows(), spelling.model()
    before = run(model, x=x)
    norm = only_norm(model)
    apply_scales_in(model, [replace(norm, epsilon_power=3 - spelling.power)], {norm.name: 64.0})
    assert different(before, run(model, x=x)) == ["y"]


@every_spelling
def test_a_scaled_norm_is_found_again_with_its_scale(spelling: Spelling) -> None:
    model = spelling.model()
    norm = only_norm(model)
    apply_scales_in(model, [norm], {norm.name: 64.0})
    again = only_norm(model)
    assert again.scaled_by == 64.0
    assert norm.epsilon is not None
    assert again.epsilon == np.float32(norm.epsilon / 64.0**spelling.power)
    same = ("name", "kind", "form", "width", "output", "gamma", "beta", "unbiased", "skip_reason")
    assert [getattr(again, name) for name in same] == [getattr(norm, name) for name in same]


@every_spelling
def test_the_rewritten_model_is_sorted_and_well_typed(spelling: Spelling) -> None:
    model = spelling.model()
    norm = only_norm(model)
    apply_scales_in(model, [norm], {norm.name: 64.0})
    if "SimplifiedLayerNormalization" in norm.form or spelling.opset == 14:
        pytest.skip("ONNX Runtime runs this op here, but onnx.checker does not know it")
    onnx.checker.check_model(model, full_check=True)
