"""Never worse: a scale with which more rows overflow than with 1 is not kept."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Outcome, find_norms, protect_file
from slanc_onnx.options import ApplyRule, ScaleRule
from slanc_onnx.reasons import Decision
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

X = normal(7, 2, 3, D)
DEVICE = Accelerator().summing("fp32")


def job(
    folder: Path, size: float, scale: ScaleRule = "window", apply: ApplyRule = "div"
) -> Outcome:
    """A norm of small rows, as far as the weights tell, which are large on these inputs."""
    small = np.full(D, 1e-3, np.float32)
    nodes = f"h = Mul(x, small) [n] n = {RMS}(h, g1) y = Identity(n)"
    onnx.save(graph(nodes, weights(small=small), f"float[a, b, {D}] x"), folder / "m.onnx")
    options = Options(
        scale=scale,
        apply=apply,
        estimate="weights",
        certify="off",
        inputs={"x": X * np.float32(size)},
        accelerator=DEVICE,
    )
    return protect_file(folder / "m.onnx", folder / "new.onnx", options)


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("scale", ["window", "paper"])
def test_a_scale_that_makes_rows_overflow_is_not_kept(
    tmp_path: Path, scale: ScaleRule, apply: ApplyRule
) -> None:
    if (scale, apply) == ("paper", "fold"):
        pytest.skip("a fold takes powers of two")
    size = 150.0 / float(np.sqrt((X.astype(np.float64) ** 2).sum(-1).max())) * 1e3
    squares = ((X.astype(np.float64) * size * 1e-3) ** 2).sum(-1)
    assert squares.max() < 65504
    outcome = job(tmp_path, size, scale, apply)
    [norm] = outcome.norms
    why = [reason for reason in norm.reasons if reason.kind is Decision.WORSE_THAN_ONE]
    if scale == "window":  # it knows the inputs that are given, and needs no second try
        assert why == [] and outcome.validation is not None and outcome.passed
        assert outcome.validation.overflowed_after == 0
        return
    assert norm.scale == 1 and len(why) == 1
    before = float(why[0].facts[0])  # type: ignore[arg-type]
    assert (squares / before**2).max() > 65504  # as it would have overflowed
    assert outcome.validation is not None and outcome.passed
    assert (outcome.validation.overflowed_before, outcome.validation.overflowed_after) == (0, 0)
    [written] = find_norms(onnx.load(tmp_path / "new.onnx"))
    assert written.scaled_by == 1 or written.scaled_by is None


def test_one_that_does_not_is_kept(tmp_path: Path) -> None:
    outcome = job(tmp_path, 1.0)
    [norm] = outcome.norms
    assert norm.scale is not None and norm.scale < 1 and outcome.passed
    assert all(reason.kind is not Decision.WORSE_THAN_ONE for reason in norm.reasons)
