"""Rows that epsilon outweighs, and means far from zero: what their norms give in FP16."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Accelerator, Options, compute_scales, find_norms
from slanc_onnx.estimate.calibration import calibrate
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.job import protect_file
from slanc_onnx.options import ApplyRule
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.terminal import final_line
from slanc_onnx.scale.window import place
from tests.models.small_graphs import from_weights, graph, normal
from tests.versions import needs_onnx_runtime

FP16 = Accelerator()
WIDTH = 256


def test_rows_below_epsilon_do_not_hold_the_window_down() -> None:
    faint = Estimate(1e-12, 3e4, 1e-13, "probe", largest=2e4)
    kept = place(faint, WIDTH, FP16, epsilon=1e-5)
    assert kept.note is None
    assert kept.scale == 1  # the largest row needs 2^-0.8, epsilon as a normal number 2^-1.3
    assert place(faint, WIDTH, FP16).note is not None  # without epsilon they do count


@pytest.mark.parametrize("typical", [1e-6, 1e-12, 1e-20])
@pytest.mark.parametrize("largest", [1.0, 6e4, 1e6, 1e9])
def test_no_scale_below_one_loses_a_row_that_was_seen(typical: float, largest: float) -> None:
    seen = Estimate(typical, 2 * largest, typical, "probe", largest=largest)
    scale = place(seen, WIDTH, FP16).scale
    assert scale >= 1 or largest <= 65504 * scale**2


def norm_of(rows: NDArray[np.float32], op: str = "LayerNormalization") -> onnx.ModelProto:
    """A norm of rows of a table."""
    nodes = f"x = Gather(table, ids) [n] y = {op}<axis = -1>(x, g)"
    return graph(nodes, {"table": rows, "g": np.ones(rows.shape[1], np.float32)})


def healed(model: onnx.ModelProto, folder: Path, options: Options) -> Outcome:
    """The job on a model, after which no row overflows."""
    onnx.save(model, folder / "model.onnx")
    done = protect_file(folder / "model.onnx", folder / "out.onnx", options)
    assert done.validation is not None
    assert done.validation.overflowed_after == 0, final_line(done)
    return done


# Rows of 1024 with a mean of 200 and a deviation of 0.5: their squares need s = 2, which leaves a
# running sum of 102400.
FAR = (normal(5, 64, 1024, spread=0.5) + 200).astype(np.float32)


@pytest.mark.parametrize("order", ["sequential", "pairwise", "fp32"])
@pytest.mark.parametrize("estimate", ["probe", "weights"])
def test_the_plain_sum_of_a_mean_fits(order: str, estimate: str, tmp_path: Path) -> None:
    if order != "sequential":
        needs_onnx_runtime(1, 28, for_what="the variance of rows far from 0")
    model = norm_of(FAR)
    device = FP16.summing(order)
    ids = np.arange(64)[None]
    options = Options(
        isolate=False,
        accelerator=device,
        estimate="probe" if estimate == "probe" else "weights",
        inputs={"ids": ids},
    )
    (decided,) = compute_scales(model, options)
    sums = np.abs(FAR.astype(np.float64)).sum(axis=1)
    estimated = decided.estimate
    assert estimated is not None
    assert sums.min() <= estimated.magnitudes <= sums.max() * (1 + 1e-6)
    assert decided.scale is not None and sums.max() / decided.scale <= 65504
    done = healed(model, tmp_path, options)
    # A running FP16 sum of 1024 numbers that are alike has an error beyond the deviation.
    assert done.passed or order == "sequential", final_line(done)


@pytest.mark.parametrize("order", ["pairwise", "fp32"])
def test_the_plain_sum_of_a_mean_fits_where_the_scale_is_folded(order: str, tmp_path: Path) -> None:
    """The group of one norm has the scale that the norm has by itself, not 1."""
    needs_onnx_runtime(1, 28, for_what="the variance of rows far from 0")
    device, ids = FP16.summing(order), np.arange(64)[None]
    options = Options(isolate=False, apply="fold", accelerator=device, inputs={"ids": ids})
    done = healed(norm_of(FAR), tmp_path, options)
    assert done.passed
    table = next(w for w in onnx.load(done.output).graph.initializer if w.name == "table")
    assert np.abs(onnx.numpy_helper.to_array(table)).astype(np.float64).sum(-1).max() <= 65504


def test_magnitudes_are_measured_on_the_users_data() -> None:
    model = norm_of(FAR)
    feeds = [{"ids": np.array([[n]])} for n in range(64)]
    found = calibrate(model, find_norms(model), feeds, None)["n"]
    assert np.isclose(found.magnitudes, np.abs(FAR.astype(np.float64)).sum(axis=1).max())


def test_a_norm_that_subtracts_no_mean_has_no_plain_sum() -> None:
    estimates, _ = from_weights(norm_of(FAR, "SimplifiedLayerNormalization"))
    assert estimates["n"].magnitudes == 0


def test_a_group_norm_over_positions_has_its_plain_sum(tmp_path: Path) -> None:
    nodes = "h = Conv(x, w, b) [n] y = InstanceNormalization(h, one, zero)"
    weights = {
        "w": normal(3, 4, 3, 1, 1),
        "b": np.full(4, 40.0, np.float32),
        "one": np.ones(4, np.float32),
        "zero": np.zeros(4, np.float32),
    }
    model = graph(nodes, weights, "float[1, 3, 48, 48] x", "float[a, b, c, d] y")
    device = FP16.summing("pairwise")
    done = healed(model, tmp_path, Options(isolate=False, accelerator=device))
    assert done.passed and done.validation is not None
    assert done.validation.overflowed_before == 4


FAINT = np.concatenate([normal(1, 4, WIDTH, spread=1e-8), normal(2, 60, WIDTH, spread=10.0)])


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_faint_rows_make_no_other_row_overflow(op: str, tmp_path: Path) -> None:
    model = norm_of(FAINT, op)
    ids = np.arange(64)[None]
    assert healed(model, tmp_path, Options(isolate=False, inputs={"ids": ids})).passed


# As many rows of variance 1e-15 as others, of which some overflow: epsilon outweighs the typical
# row, and is itself below the smallest normal number.
MIXED = np.concatenate([normal(1, 32, WIDTH, spread=3e-8), normal(2, 32, WIDTH, spread=30.0)])


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_faint_rows_keep_no_other_row_from_being_saved(
    op: str, apply: ApplyRule, tmp_path: Path
) -> None:
    ids = np.arange(64)[None]
    options = Options(isolate=False, inputs={"ids": ids}, apply=apply)
    done = healed(norm_of(MIXED, op), tmp_path, options)
    squares = (MIXED.astype(np.float64) ** 2).sum(-1)
    assert done.validation is not None
    assert done.validation.overflowed_before == (squares > 65504).sum() > 0
    (norm,) = done.norms
    assert norm.scale is not None and squares.max() / norm.scale**2 <= 65504
    assert done.passed
