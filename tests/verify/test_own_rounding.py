"""What a file rounds to FP16 by itself is seen where norms are merged."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, Validation, protect_file
from slanc_onnx.cli import main
from slanc_onnx.norms import read_model
from slanc_onnx.options import Merge
from slanc_onnx.reasons import Failure
from slanc_onnx.run import validation_inputs
from slanc_onnx.verify import Exactness, validate_on
from tests.models.merge_models import RMS, model, norm
from tests.models.small_graphs import D, normal
from tests.oracles.unoptimised import run

ALL: tuple[Merge, ...] = ("all",)
IDS = np.array([[1, 5, 2], [7, 0, 3]])


def with_casts(by: float = 1.0) -> onnx.ModelProto:
    """A norm whose product passes FP16 and is multiplied, and divided again, by a number there."""
    text = norm(RMS, "n", "rows") + (
        "a = MatMul(n_y, w) m = Mul(a, by) h = Cast<to = 10>(m) f = Cast<to = 1>(h) y = Div(f, by)"
    )
    weights = {"w": normal(20, D, 1 << 14), "by": np.array(by, np.float32)}
    return model(text, weights)


def judged(before: onnx.ModelProto, after: onnx.ModelProto, exact: Exactness) -> Validation:
    one, other = read_model(before), read_model(after)
    options = Options(apply="fold", merge=ALL)
    return validate_on(one, other, options, validation_inputs(one, options), exact)


def test_it_is_measured_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(with_casts(), source)
    outcome = protect_file(
        source, output, Options(apply="fold", merge=ALL, certify="off", inputs={"ids": IDS})
    )
    found = outcome.validation
    assert outcome.passed and found is not None and found.as_they_round is not None
    before, after = (run(onnx.load(path), ids=IDS)["y"] for path in (source, output))
    off = np.sqrt(np.mean((before - after) ** 2.0) / np.mean(before**2.0))
    assert found.as_they_round.rms == pytest.approx(off) and 1e-6 < off < 1e-4
    assert found.fp32_rms_error < off / 4  # which does not see it
    assert outcome.report["validation"]["as_they_round_rms_error"] == found.as_they_round.rms  # type: ignore[index]
    main([str(source), "-o", str(output), "--apply", "fold", "--merge", "all", "-q"])
    assert "where the files round what they hold in 16 bits (toler" in capsys.readouterr().out


def test_a_fault_behind_the_rounding_fails() -> None:
    merged, beyond = with_casts(), with_casts(by=2.0**20)  # which FP16 does not hold
    plain = judged(merged, beyond, Exactness())
    assert plain.passed and plain.as_they_round is None
    found = judged(merged, beyond, Exactness(bits=False, merged=1e-7))
    assert found.fp32_rms_error < 1e-6
    assert [reason.kind for reason in found.failures] == [Failure.MERGED_OFF_AS_IT_IS]


def test_a_file_in_fp32_is_not_run_again() -> None:
    given = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)")
    assert judged(given, given, Exactness(bits=False, merged=1e-7)).as_they_round is None
