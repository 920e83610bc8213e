"""The last line of a verdict that is not good enough ends with what to do next, once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Outcome, protect_file
from slanc_onnx.reasons import Failure, Next, Note, Reason
from slanc_onnx.report.next_step import next_step
from slanc_onnx.report.terminal import final_parts
from slanc_onnx.report.wording import reason_text
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.versions import needs_onnx_runtime

FP16 = Accelerator()
ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 3, D)
# A mean of 200 with a deviation of 0.5: a running FP16 sum of 1024 such numbers is off by more.
FAR = (normal(5, 64, 1024, spread=0.5) + 200).astype(np.float32)


def job(folder: Path, model: onnx.ModelProto, **options: Any) -> Outcome:
    onnx.save(model, folder / "m.onnx")
    asked = Options(**{"certify": "off", "accelerator": FP16, "isolate": False, **options})
    return protect_file(folder / "m.onnx", folder / "new.onnx", asked)


def told(outcome: Outcome) -> list[str]:
    """Every part of the last line that says what to do; it is the last one."""
    parts = final_parts(outcome)
    steps = [part for part in parts if part.startswith("next: ")]
    assert steps in ([], parts[-1:])
    return steps


def far() -> onnx.ModelProto:
    nodes = "x = Gather(table, ids) [n] y = LayerNormalization(x, g)"
    return graph(nodes, {"table": FAR, "g": np.ones(1024, np.float32)})


def exponential(folder: Path, **options: Any) -> Outcome:
    """What overflows is an exponential, which nothing in front of it divides."""
    nodes = f"z = Mul(x, ten) e = Exp(z) [n] y = {RMS}(e, g1)"
    model = graph(nodes, weights(ten=np.full(1, 10.0, np.float32)), ROWS)
    return job(folder, model, inputs={"x": X}, emulate="all", **options)


def test_sums_in_fp32_are_named_where_they_were_tried_and_pass(tmp_path: Path) -> None:
    needs_onnx_runtime(1, 28, for_what="the variance of rows far from 0")
    ids = {"ids": np.arange(64)[None]}
    outcome = job(tmp_path, far(), inputs=ids)
    [off] = [f for f in outcome.validation.failures if f.kind is Failure.OUTPUTS_OFF_IN]  # type: ignore[union-attr]
    assert off.facts[0] == "n"
    assert told(outcome) == [reason_text(Reason(Next.WIDER_SUMS))]
    assert "--accumulate fp32" in told(outcome)[0]
    again = job(tmp_path, far(), inputs=ids, accelerator=FP16.summing("fp32"))
    assert again.passed and told(again) == []  # as it says


def test_a_norm_that_is_off_is_named_with_the_error_that_numpy_finds(tmp_path: Path) -> None:
    outcome = job(tmp_path, far(), inputs={"ids": np.arange(64)[None]})
    (norm,) = outcome.norms
    scaled = (FAR / np.float32(norm.scale or 1)).astype(np.float16)
    total = np.zeros(64, np.float16)
    for column in scaled.T:
        total = total + column
    mean = (total / np.float16(1024)).astype(np.float16)
    squares = np.zeros(64, np.float16)
    with np.errstate(over="ignore"):
        for column in (scaled - mean[:, None]).T:
            squares = squares + column * column
        found = (squares / np.float16(1024)).astype(np.float64)
    exact = FAR.astype(np.float64).var(-1) / float(norm.scale or 1) ** 2
    [off] = [f for f in outcome.validation.failures if f.kind is Failure.OUTPUTS_OFF_IN]  # type: ignore[union-attr]
    assert off.facts[1] == pytest.approx(np.abs(found / exact - 1).max(), rel=0.01)


def test_what_leaves_the_format_is_left_to_the_list_of_nodes(tmp_path: Path) -> None:
    outcome = exponential(tmp_path)
    assert outcome.validation is not None
    assert outcome.validation.failures[0].kind is Failure.LEFT_FORMAT
    assert told(outcome) == [reason_text(Reason(Next.FP32_NODES))]
    assert "--fp32-nodes FILE" in told(outcome)[0]
    listed = exponential(tmp_path, fp32_nodes=True)
    assert listed.passed and told(listed) == []  # as it says


def test_own_inputs_are_asked_for_where_those_that_were_made_are_off(tmp_path: Path) -> None:
    device = FP16.summing("fp32")
    nodes = f"a = Add(x, large) b = Sub(a, large) [n] y = {RMS}(b, g1)"
    model = graph(nodes, weights(large=np.full(1, 3e4, np.float32)), ROWS)
    made = job(tmp_path, model, emulate="all", accelerator=device)
    assert told(made) == [reason_text(Reason(Next.OWN_INPUTS))]
    given = job(tmp_path, model, emulate="all", accelerator=device, inputs={"x": X})
    assert told(given) == [reason_text(Reason(Next.FP32_NODES))]


def test_another_shape_is_measured_and_what_says_it_itself_is_not_said_twice(
    tmp_path: Path,
) -> None:
    outcome = exponential(tmp_path)
    found = outcome.validation
    assert found is not None

    def step(*kinds: Failure) -> Reason | None:
        failures = [Reason(kind) for kind in kinds]
        return next_step(replace(outcome, validation=replace(found, failures=failures)))

    assert step(Failure.OTHER_SHAPE) == Reason(Next.MEASURE)
    assert step(Failure.OUTPUTS_OFF, Failure.SENSITIVE) is None
    assert step(Failure.FP32_DIFFERS) is None
    assert step() is None


@pytest.mark.parametrize(("apply", "said"), [("div", True), ("fold", False)])
def test_a_weight_loss_that_nothing_uses_is_noted(tmp_path: Path, apply: str, said: bool) -> None:
    model = graph(f"a = Add(x, x) [n] y = {RMS}(a, g1)", weights(), ROWS)
    outcome = job(tmp_path, model, inputs={"x": X}, apply=apply, weight_loss=1e-3)
    assert any(note.kind is Note.WEIGHT_LOSS_UNUSED for note in outcome.notes) == said
    assert outcome.passed


def test_a_table_that_fp16_does_not_hold_is_named_as_a_weight(tmp_path: Path) -> None:
    nodes = f"x = Gather(table, ids) [n] y = {RMS}(x, g1)"
    model = graph(nodes, weights(table=normal(3, 16, D, spread=1e5)))
    outcome = job(tmp_path, model, inputs={"ids": np.arange(16)[None]})
    assert outcome.validation is not None
    [left] = [f for f in outcome.validation.failures if f.kind is Failure.INPUT_LEFT_FORMAT]
    assert (left.op, left.tensor) == ("weight", "table")


def test_a_file_that_an_earlier_run_scaled_is_not_said_to_have_needed_nothing(
    tmp_path: Path,
) -> None:
    nodes = f"a = Add(x, x) [n] y = {RMS}(a, g1)"
    x = normal(9, 1, 8, D, spread=100.0)
    model = graph(nodes, weights(), ROWS)
    assert final_parts(job(tmp_path, model, inputs={"x": x}))[1].startswith("this model needs it: ")
    again = job(tmp_path, onnx.load(tmp_path / "new.onnx"), inputs={"x": x})
    assert final_parts(again)[:2] == ["NORMS PASSED", "scaled by an earlier run"]
    small = job(tmp_path, model, inputs={"x": x / 1000})
    assert final_parts(small)[1] == "no row loses its norm in FP16 as exported"


def test_a_model_needs_it_if_it_does_on_pixels_that_were_tried_alone(tmp_path: Path) -> None:
    """Rows of pixels from 0 to 255 overflow, those of unit variance do not."""
    model = graph(f"a = Add(x, x) [n] y = {RMS}(a, g1)", weights(), ROWS)
    outcome = job(tmp_path, model)
    needed = final_parts(outcome)[1]
    assert needed.startswith("this model needs it for x of range(0, 255): ")
    trial = outcome.validation.trials[2]  # type: ignore[union-attr]
    rows = (2 * np.random.default_rng(0).uniform(0, 255, trial.fed[0].shape)).astype(np.float16)
    with np.errstate(over="ignore"):
        squares = (rows * rows).astype(np.float16).astype(np.float64).sum(-1)
    assert trial.lost_before == (squares > 65504).sum() > 0
    assert f": {trial.lost_before} rows lose their norm in FP16" in needed
    small = job(tmp_path, model, inputs={"x": X})
    assert final_parts(small)[1] == "no row loses its norm in FP16 as exported"
