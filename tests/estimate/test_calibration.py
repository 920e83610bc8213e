"""Calibrated scales come from the rows of the data alone, and are refused without data."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, SlancError, compute_scales
from slanc_onnx.estimate.calibration import from_data
from slanc_onnx.tokens import Tokens
from tests.conftest import Run
from tests.places import SAMPLES

LLAMA = SAMPLES / "llama_like.onnx"
IDS = np.random.default_rng(3).integers(0, 200, (3, 20))


def test_median_and_maximum_of_the_rows_that_are_numbers() -> None:
    found = from_data(np.array([4.0, np.inf, 1.0, 0.0, np.nan, 9.0]), 16)
    assert found is not None
    assert (found.typical, found.upper, found.lowest, found.largest) == (4.0, 9.0, 1.0, 9.0)
    assert (found.by, found.width) == ("calibrated", 16)
    assert from_data(np.array([0.0, np.nan])) is None


def test_the_first_norm_of_a_decoder_is_calibrated_by_its_embedding_rows() -> None:
    model = onnx.load(LLAMA)
    first = compute_scales(model, Options(scale="calibrated", tokens=Tokens(IDS)))[0]
    [table] = [t for t in model.graph.initializer if t.name.endswith("embed_tokens.weight")]
    rows = onnx.numpy_helper.to_array(table).astype(np.float64)[IDS.reshape(-1)]
    sums = np.square(rows).sum(axis=1)
    assert first.estimate is not None and first.scale is not None
    assert first.estimate.typical == pytest.approx(np.median(sums), rel=1e-6)
    assert first.estimate.upper == pytest.approx(sums.max(), rel=1e-6)
    assert sums.max() / first.scale**2 < 65504
    assert np.median(sums) / first.scale**2 / rows.shape[1] > 2.0**-14


def test_data_with_larger_rows_gives_larger_scales() -> None:
    model = onnx.load(LLAMA)
    [table] = [t for t in model.graph.initializer if t.name.endswith("embed_tokens.weight")]
    rows = np.square(onnx.numpy_helper.to_array(table)).sum(axis=1)[:200]
    by_size = np.argsort(rows)
    scales = [
        compute_scales(model, Options(scale="calibrated", tokens=Tokens(ids[None])))[0].estimate
        for ids in (by_size[:20], by_size[-20:])
    ]
    assert scales[0] is not None and scales[1] is not None
    assert scales[0].upper < scales[1].typical


def test_no_data_is_refused() -> None:
    with pytest.raises(SlancError, match="takes its scales from data"):
        compute_scales(onnx.load(LLAMA), Options(scale="calibrated"))


def test_the_command_line(run: Run) -> None:
    np.save("ids.npy", IDS)
    status, out, _ = run(
        str(LLAMA), "-o", "out.onnx", "--scale", "calibrated", "--tokens", "ids.npy", "-q"
    )
    assert status == 0
    assert "estimated by calibrated" in out
    assert "no effect" not in out
    _, out, _ = run(
        str(LLAMA),
        "-o",
        "out.onnx",
        "--scale",
        "calibrated",
        "--tokens",
        "ids.npy",
        "-q",
        "--estimate",
        "weights",
    )
    assert "--estimate weights has no effect with --scale calibrated" in out
    with pytest.raises(SystemExit) as error:
        run(str(LLAMA), "-o", "out.onnx", "--scale", "calibrated")
    assert error.value.code == 2
