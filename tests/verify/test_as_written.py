"""A file of 16 bits is run as it is, its outputs are held against FP32, row by row."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.cli import main
from slanc_onnx.reasons import Failure
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.verify.compare import Difference, Runs, least_cosine
from slanc_onnx.verify.default_level import as_written
from tests.places import SAMPLES

SAMPLE = SAMPLES / "bert_like.onnx"


def runs(**outputs: object) -> Runs:
    return Runs([{name: np.asarray(v, np.float32) for name, v in outputs.items()}], {}, [])


def test_the_least_cosine_is_that_of_the_worst_row() -> None:
    a, b = runs(y=[[1, 0], [1, 1]]), runs(y=[[1, 0], [1, 0]])
    assert least_cosine(a, b, []) == pytest.approx(1 / np.sqrt(2))
    assert least_cosine(a, a, []) == pytest.approx(1)
    assert least_cosine(a, b, ["y"]) == 1, "left out"


def test_rows_without_a_direction_have_no_cosine() -> None:
    assert least_cosine(runs(y=[[0, 0], [1, 1]]), runs(y=[[5, 5], [2, 2]]), []) == pytest.approx(1)
    assert least_cosine(runs(y=[[np.nan, 1]]), runs(y=[[1, 1]]), []) == 1
    assert np.isnan(least_cosine(runs(y=[[1, 1], [1, 1]]), runs(y=[[1, 1], [np.nan, 1]]), []))
    assert least_cosine(runs(y=3.0), runs(y=4.0), []) == 1, "a number has no rows"
    assert least_cosine(runs(y=[1, 1]), runs(y=[[1, 1]]), []) == 1, "of another shape"


def test_the_difference_is_that_of_a_plain_session(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    feeds = {info.name: np.ones((1, 8), np.int64) for info in onnx.load(SAMPLE).graph.input}
    done = protect_file(SAMPLE, output, Options(to="fp16", inputs=feeds)).validation
    assert done is not None and done.passed and done.as_written is not None
    cpu = ["CPUExecutionProvider"]
    plain, file = (
        ort.InferenceSession(str(path), providers=cpu).run(None, feeds) for path in (SAMPLE, output)
    )
    worst = max(np.abs(a - b).max() for a, b in zip(plain, file, strict=True))
    assert done.as_written.absolute == pytest.approx(worst, rel=1e-3)
    assert done.cosine is not None and 0.999 < done.cosine <= 1


def test_a_file_that_does_not_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object, **__: object) -> None:
        raise CannotRun("ONNX Runtime died (SIGSEGV)")

    monkeypatch.setattr("slanc_onnx.job.draft.as_written", dies)
    done = protect_file(SAMPLE, tmp_path / "out.onnx", Options(to="fp16"))
    assert done.validation is not None and not done.passed
    assert [f.kind for f in done.validation.failures] == [Failure.NOT_RUN_AS_WRITTEN]
    assert not done.validation.inconclusive, "no other inputs change that"
    assert (tmp_path / "out.onnx").exists()


def test_a_fusion_that_kills_it_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*given: Any, optimised: bool) -> Difference | None:
        if optimised:
            os.kill(os.getpid(), signal.SIGSEGV)
        return as_written(*given, optimised=optimised)

    monkeypatch.setattr("slanc_onnx.job.draft.as_written", dies)
    assert main([str(SAMPLE), "--to", "fp16", "-o", str(tmp_path / "out.onnx"), "-q"]) == 1
    told = capsys.readouterr().out
    assert "FAILED" in told and "PASSED" not in told
    assert "ONNX Runtime died (SIGSEGV); without graph optimisation it does" in told


def test_other_files_are_not_run_so(tmp_path: Path) -> None:
    done = protect_file(SAMPLE, tmp_path / "out.onnx").validation
    assert done is not None and done.as_written is None and done.cosine is None


def test_what_contradicts_it_is_refused() -> None:
    with pytest.raises(SlancError, match="--to bf16: the target computes in FP16"):
        Options(to="bf16").implied()
    with pytest.raises(SlancError, match="--scale paper"):
        Options(to="fp16", scale="paper").implied()
    implied = Options(to="fp16").implied()
    assert (implied.apply, implied.emulate, implied.epsilon) == ("fold", "all", "representable")
    assert Options().implied() == Options(), "nothing is asked for"
