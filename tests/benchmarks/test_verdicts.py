"""Verdicts held against a run in which Casts round every op, which NumPy holds in turn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import worse
from benchmarks.rounded import every_op_rounded
from benchmarks.verdicts import judged, main
from slanc_onnx import Options, Outcome, protect_file
from slanc_onnx.verify import Trial
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph
from tests.oracles.unoptimised import run
from tests.verify.test_input_left import ROWS, X, stream


def saved(folder: Path, model: onnx.ModelProto, x: np.ndarray) -> Path:
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "inputs.npz", x=x)
    return folder / "model.onnx"


@pytest.mark.parametrize("opset", [17, 18])
def test_a_norm_in_one_op_is_rounded_step_by_step(opset: int) -> None:
    held = weights()
    model = graph(f"y = {RMS}(x, g1)", held, ROWS, opset=opset)
    half, x = np.float16, (X / 100).astype(np.float16)
    squares = (x * x).astype(np.float32).mean(-1, keepdims=True)
    total = (squares * np.float32(D)).astype(half)
    mean = (total.astype(np.float32) / np.float32(D)).astype(half)
    divided = x / np.sqrt(mean + half(1e-5))
    truth = (divided * held["g1"].astype(half)).astype(np.float32)
    found = run(every_op_rounded(model), x=x.astype(np.float32))["y"]
    np.testing.assert_allclose(found, truth, rtol=2**-9)
    assert np.isinf(run(every_op_rounded(graph("y = Mul(x, x)", held, ROWS)), x=X * 10)["y"]).any()


def test_models_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, broken = stream(100.0), stream(3e5)
    options = Options(emulate="all", certify="off")
    assert judged(saved(tmp_path / "a", fine, X), options) == "PASSED and works"
    assert judged(saved(tmp_path / "b", broken, X), options) == "FAILED and broken"
    assert main([str(tmp_path)]) == 0
    assert "| PASSED and broken | 0 |" in capsys.readouterr().out


def test_modes_that_leave_more_rows_overflowing_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "a", stream(100.0), X)
    assert worse.main([str(tmp_path)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == list(worse.MODES)
    monkeypatch.setattr(worse, "protect_file", _spoiled)
    assert worse.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.count(" 1 |\n") == len(worse.MODES)


def _spoiled(source: Path, output: Path, options: Options) -> Outcome:
    """The outcome, as if one more row had overflowed after than before."""
    outcome = protect_file(source, output, options)
    assert outcome.validation is not None
    observed = {
        name: replace(seen, overflowed=seen.overflowed_before + 1)
        for name, seen in outcome.validation.observed.items()
    }
    trials = (Trial((), (), observed),)
    return replace(outcome, validation=replace(outcome.validation, trials=trials))
