"""Norms over groups of channels, several axes or the channels of an image: found and scaled."""

from dataclasses import replace

import numpy as np
import pytest

from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.run.instrumented import instrument
from tests.models.small_graphs import only_norm
from tests.oracles.unoptimised import different, run
from tests.spellings.row_norms import EPSILON, Floats, RowNorm
from tests.spellings.rows import ROW_NORMS

every_spelling = pytest.mark.parametrize("spelling", ROW_NORMS, ids=str)


def wide_samples(spelling: RowNorm) -> Floats:
    """Samples from 1e-7, where epsilon is all there is, to 1e4, where it is nothing; and zeros."""
    sizes = 10.0 ** np.random.default_rng(1).uniform(-7, 4, 60)
    return spelling.samples(sizes.tolist())


@every_spelling
def test_it_is_one_norm_whose_parts_are_known(spelling: RowNorm) -> None:
    norm = only_norm(spelling.model())
    assert (norm.kind, norm.axes, norm.width) == (spelling.kind, spelling.axes, spelling.width)
    assert norm.epsilon == pytest.approx(EPSILON, rel=1e-7)
    assert (norm.gamma is not None, norm.beta is not None) == (spelling.gamma, spelling.beta)
    channels = spelling.weights[0] if spelling.kind == "group" else None
    assert (norm.input, norm.channels, norm.epsilon_power) == ("x", channels, 2)
    assert (norm.path, norm.scaled_by, norm.skip_reason) == ((), None, None)


@every_spelling
def test_the_text_computes_the_norm_it_is_said_to_be(spelling: RowNorm) -> None:
    spelling.needs_its_runtime()
    x = spelling.samples([1e-6, 1e-3, 1, 100])
    np.testing.assert_allclose(run(spelling.model(), x=x)["y"], spelling.truth(x), atol=2e-4)


@every_spelling
@pytest.mark.parametrize("scale", [0.25, 16.0])
def test_scaling_changes_no_bit_of_the_output(spelling: RowNorm, scale: float) -> None:
    spelling.needs_its_runtime()
    x, model = wide_samples(spelling), spelling.model()
    before = run(model, x=x)
    assert apply_scales_in(model, [norm := only_norm(model)], {norm.name: scale})
    assert different(before, run(model, x=x)) == []


@every_spelling
def test_another_power_for_epsilon_would_change_the_output(spelling: RowNorm) -> None:
    spelling.needs_its_runtime()
    x, model = wide_samples(spelling), spelling.model()
    before = run(model, x=x)
    norm = only_norm(model)
    apply_scales_in(model, [replace(norm, epsilon_power=1)], {norm.name: 16.0})
    assert different(before, run(model, x=x)) == ["y"]


@every_spelling
def test_a_scaled_norm_is_found_again_with_its_scale(spelling: RowNorm) -> None:
    model = spelling.model()
    norm = only_norm(model)
    apply_scales_in(model, [norm], {norm.name: 16.0})
    again = only_norm(model)
    assert (norm.scaled_by, again.scaled_by) == (None, 16.0)
    assert norm.epsilon is not None
    assert again.epsilon == np.float32(norm.epsilon / 256)
    same = ("name", "kind", "form", "axes", "width", "output", "gamma", "beta", "skip_reason")
    assert [getattr(again, name) for name in same] == [getattr(norm, name) for name in same]


@every_spelling
@pytest.mark.parametrize("keep_outputs", [True, False])
def test_sums_of_squares_are_those_of_the_rows(spelling: RowNorm, keep_outputs: bool) -> None:
    model = spelling.model()
    norm = only_norm(model)
    instrumented = instrument(model, [norm], keep_outputs)
    if keep_outputs:
        spelling.needs_its_runtime()
    x = spelling.samples([1e-3, 1, 300])
    values = run(instrumented.model, x=x)
    sums = values[instrumented.sums[norm.name]]
    np.testing.assert_allclose(sums.reshape(-1), spelling.sums(x), rtol=1e-5, atol=1e-9)
    assert ("y" in values) == keep_outputs
    lengths = [values[name].reshape(-1).tolist() for name in instrumented.lengths.values()]
    size = len(spelling.rows(x)[0])
    assert lengths == ([[size]] if spelling.width is None else [])
