"""What is said of ONNX Runtime's default optimisation level is what it does there by itself."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from slanc_onnx import Accelerator, Options, protect, protect_file, validate
from slanc_onnx.norms.model import read_model
from slanc_onnx.options import ApplyRule
from slanc_onnx.report.terminal import final_line
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.verify import default_level
from slanc_onnx.verify.compare import compare
from tests.models.fold_models import weights
from tests.models.small_graphs import D, graph, normal
from tests.versions import needs_onnx_runtime

DEVICE = Accelerator().summing("fp32")
X = 30 * normal(3, 2, 5, D)
R = 30 * normal(4, 2, 5, D)
CHANGES = "an Add in a SkipLayerNormalization, which changes a bit"


def model(skips: bool) -> onnx.ModelProto:
    """LayerNormalization, with which ONNX Runtime fuses an Add in front of it."""
    sum_or_product = "h = Add(p, q)" if skips else "h = Mul(p, q)"
    return graph(
        f"p = MatMul(x, w1) q = MatMul(r, w2) {sum_or_product} "
        "n = LayerNormalization(h, g1, b1) y = MatMul(n, w3)",
        weights(),
        f"float[2, 5, {D}] x, float[2, 5, {D}] r",
    )


def by_default(found: onnx.ModelProto) -> NDArray[Any]:
    """y as ONNX Runtime gives it when nobody says anything of optimisation."""
    session = ort.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    y = np.asarray(session.run(["y"], {"x": X, "r": R})[0])
    return y


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_the_difference_is_that_of_plain_sessions(skips: bool, apply: ApplyRule) -> None:
    options = Options(apply=apply, accelerator=DEVICE, inputs={"x": X, "r": R})
    original, rewritten = model(skips), model(skips)
    [norm] = protect(rewritten, options)
    assert norm.scale not in (None, 1)
    result = validate(original, rewritten, options)
    a, b = (by_default(one).astype(np.float64) for one in (original, rewritten))
    assert result.passed and result.fp32_identical and result.at_default is not None
    assert result.at_default.absolute == np.abs(a - b).max()
    assert result.at_default.relative == np.abs(a - b).max() / np.abs(a).max()
    assert result.at_default.identical == (np.abs(a - b).max() == 0)
    if skips and apply == "div":
        needs_onnx_runtime(1, 27, for_what=CHANGES)
    assert result.at_default.identical == (apply == "fold" or not skips), "a Div stops the fusion"


def test_a_file_that_is_scaled_already_differs_nowhere() -> None:
    rewritten = model(skips=True)
    protect(rewritten, Options(accelerator=DEVICE, inputs={"x": X, "r": R}))
    result = validate(rewritten, rewritten, Options(accelerator=DEVICE, inputs={"x": X, "r": R}))
    assert result.at_default is not None and result.at_default.identical


@pytest.mark.parametrize(
    ("skips", "told"),
    [(True, "at the default level: differ by at most "), (False, "level: bit-identical | ")],
)
def test_the_line_says_at_which_level(tmp_path: Path, skips: bool, told: str) -> None:
    onnx.save(model(skips), tmp_path / "m.onnx")
    options = Options(accelerator=DEVICE, inputs={"x": X, "r": R})
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    line = final_line(outcome)
    assert line.startswith("NORMS PASSED"), "what fusions change fails nothing"
    assert "| FP32 outputs bit-identical with optimisation off; at the default level: " in line
    if skips:
        needs_onnx_runtime(1, 27, for_what=CHANGES)
    assert told in line
    assert outcome.report["validation"] is not None
    assert outcome.report["validation"]["fp32_default_level"]["identical"] == (not skips)


def test_what_does_not_run_there_is_said_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refuses(Session):
        def __init__(self, *args: Any, **named: Any) -> None:
            raise CannotRun("ONNX Runtime cannot load the model")

    monkeypatch.setattr(default_level, "Session", Refuses)
    onnx.save(model(skips=True), tmp_path / "m.onnx")
    options = Options(accelerator=DEVICE, inputs={"x": X, "r": R})
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    assert outcome.passed and outcome.validation is not None
    assert outcome.validation.at_default is None
    assert "optimisation off; at the default level: not run" in final_line(outcome)
    assert outcome.report["validation"] is not None
    assert outcome.report["validation"]["fp32_default_level"] is None


@pytest.mark.parametrize(("most", "runs"), [(0, 2), (1 << 30, 8)], ids=["large", "small"])
def test_large_outputs_are_kept_of_the_first_run_alone(
    most: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slanc_onnx.verify.versions.MOST_KEPT", most)
    ran, run = [], Session.run

    def counted(session: Session, feeds: Feeds) -> dict[str, NDArray[Any]]:
        ran.append(feeds)
        return run(session, feeds)

    monkeypatch.setattr(Session, "run", counted)
    read, feeds = read_model(model(True)), [{"x": X, "r": R}] * 5
    found = default_level.at_default_level(read, read, feeds)
    assert found is not None and compare(*found, []).identical and len(ran) == runs
