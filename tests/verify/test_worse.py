"""Never worse: a scale with which more rows overflow than with 1 is not kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Outcome, find_norms, protect_file
from slanc_onnx.options import ApplyRule, ScaleRule
from slanc_onnx.prove import Certificate
from slanc_onnx.prove.bound import Bound
from slanc_onnx.reasons import Decision
from slanc_onnx.verify import Trial, held_against_rows, kept_at_one
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


@pytest.mark.parametrize(("rows", "kept"), [((0, 0), True), ((0, 3), False), ((-2, 1), True)])
def test_the_rows_of_all_inputs_that_were_tried_count(
    tmp_path: Path, rows: tuple[int, int], kept: bool
) -> None:
    """Rows that overflow with the scale less those with 1, on a first and on a second set."""
    outcome = job(tmp_path, 1.0)
    validation = outcome.validation
    assert validation is not None
    [(name, seen)] = validation.observed.items()
    trials = [
        Trial((), (), {name: replace(seen, overflowed=max(n, 0), overflowed_before=max(-n, 0))})
        for n in rows
    ]
    decisions = kept_at_one(outcome.norms, outcome.norms, replace(validation, trials=(*trials,)))
    assert (decisions is None) == kept
    if decisions is not None:
        assert [norm.scale for norm in decisions] == [1]


def test_a_certificate_is_held_against_the_rows_of_all_inputs(tmp_path: Path) -> None:
    outcome = job(tmp_path, 1.0)
    validation, [norm] = outcome.validation, outcome.norms
    assert validation is not None
    bound = Bound(1.0, width=D)
    certified = replace(
        norm, certificate=Certificate(True, None, bound, 1.0, 1.0, scale=norm.scale or 1.0)
    )
    seen = validation.observed[norm.norm.name]
    short, long = (replace(seen, sum_of_squares=np.array([each])) for each in (0.5, 1.5))
    for second, holds in ((short, True), (long, False)):
        trials = tuple(Trial((), (), {norm.norm.name: each}) for each in (short, second))
        [held] = held_against_rows([certified], replace(validation, trials=trials), [], None)
        assert held.certificate is not None and held.certificate.certified == holds
