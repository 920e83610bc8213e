"""Rows of zeros: an epsilon that the target rounds away makes them nan, unless it is raised."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, Outcome, find_norms, protect_file, validate
from slanc_onnx.options import ApplyRule, EpsilonRule
from slanc_onnx.reasons import Failure, Note
from slanc_onnx.report.wording import reason_text
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

X = normal(7, 1, 6, D, spread=300.0)
DEVICE = Accelerator().summing("fp32")
BY_OPS = (
    "q = Mul(h, h) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) r = Sqrt(e) n = Div(h, r) "
    "y = Mul(n, g1)"
)
FUSED = f"[n] n = {RMS}<epsilon = 0.0001>(h, g1) y = Identity(n)".replace("><", ", ")
SPELLINGS = pytest.mark.parametrize("nodes", [BY_OPS, FUSED])


def job(
    folder: Path,
    nodes: str,
    x: np.ndarray,
    epsilon: EpsilonRule | None = None,
    apply: ApplyRule = "div",
    device: Accelerator = DEVICE,
) -> Outcome:
    held = weights(eps=np.array(1e-4, np.float32), half=np.array(0.5, np.float32))
    model = graph(f"h = Mul(x, half) {nodes}", held, f"float[a, b, {D}] x")
    onnx.save(model, folder / "m.onnx")
    options = Options(
        inputs={"x": x}, accelerator=device, certify="off", epsilon=epsilon, apply=apply
    )
    return protect_file(folder / "m.onnx", folder / "new.onnx", options)


def on_a_device(folder: Path, x: np.ndarray) -> np.ndarray:
    """The norm of the written file in float16, with its epsilon rounded to nearest; by NumPy."""
    [norm] = find_norms(onnx.load(folder / "new.onnx"))
    assert norm.epsilon is not None
    scale, epsilon = norm.scaled_by or 1.0, np.float16(norm.epsilon)
    rows = (x * np.float32(0.5)).astype(np.float16) / np.float16(scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (rows.astype(np.float32) ** 2).mean(-1, keepdims=True).astype(np.float16)
        return np.asarray(rows / np.sqrt(mean + epsilon))


@SPELLINGS
@pytest.mark.parametrize("apply", ["div", "fold"])
def test_a_row_of_zeros_gets_an_epsilon_that_survives(
    tmp_path: Path, nodes: str, apply: ApplyRule
) -> None:
    x = X.copy()
    x[0, 1:3] = 0
    exact = job(tmp_path, nodes, x, "exact", apply)
    assert np.isnan(on_a_device(tmp_path, x)).all(-1).sum() == 2
    assert exact.validation is not None and not exact.passed
    [why] = [f for f in exact.validation.failures if f.kind is Failure.ZERO_ROWS]
    assert why.facts[:2] == (2, 1)
    default = job(tmp_path, nodes, x, None, apply)
    assert default.passed and default.validation is not None
    assert np.isfinite(on_a_device(tmp_path, x)).all()
    assert any(note.kind is Note.EPSILON_RAISED for note in default.notes)
    assert default.validation.rounded_epsilons == 1
    assert default.validation.fp32_max_relative_error <= default.validation.fp32_tolerance


@pytest.mark.parametrize("epsilon", [None, "exact", "representable"])
def test_an_epsilon_that_no_scale_divides_is_no_matter_of_the_option(
    tmp_path: Path, epsilon: EpsilonRule | None
) -> None:
    """0 / max(0, 1e-8) beside the scale 1: as in the original, whatever --epsilon says."""
    x = normal(7, 1, 6, D)
    x[0, 1:3] = 0
    floor = "l = ReduceL2<axes = [-1]>(h) t = Mul(eps, eps) c = Clip(l, t) y = Div(h, c)"
    outcome = job(tmp_path, floor, x, epsilon)
    [norm] = find_norms(onnx.load(tmp_path / "new.onnx"))
    assert norm.scaled_by == 1.0 and outcome.validation is not None
    [why] = [f for f in outcome.validation.failures if f.kind is Failure.ZERO_ROWS_UNDIVIDED]
    assert why.facts[:2] == (2, 1) and why.facts[3] == pytest.approx(1e-8)
    assert Failure.ZERO_ROWS not in {f.kind for f in outcome.validation.failures}
    assert "--epsilon" not in reason_text(why)
    assert not any(note.kind is Note.EPSILON_RAISED for note in outcome.notes)


@SPELLINGS
def test_without_such_rows_epsilon_is_exact(tmp_path: Path, nodes: str) -> None:
    outcome = job(tmp_path, nodes, X)
    assert outcome.passed and outcome.validation is not None
    assert outcome.validation.fp32_identical
    told = [(note.kind, note.facts) for note in outcome.notes]
    assert told == [(Note.EPSILON_ROUNDED_AWAY, (outcome.norms[0].norm.name,))]
    zeros = X.copy()
    zeros[0, 1] = 0  # what the note is of
    assert np.isnan(on_a_device(tmp_path, zeros)).all(-1).sum() == 1


@SPELLINGS
def test_asked_for_it_is_raised_all_the_same(tmp_path: Path, nodes: str) -> None:
    outcome = job(tmp_path, nodes, X, "representable")
    [norm] = find_norms(onnx.load(tmp_path / "new.onnx"))
    assert outcome.passed and norm.epsilon == 2.0**-24 and outcome.notes == []


def test_a_target_that_adds_epsilon_in_fp32_keeps_the_exact_one(tmp_path: Path) -> None:
    x = X.copy()
    x[0, 1:3] = 0
    wide = frozenset({"variance", "deviation"})
    device = Accelerator("any", sum_format=DEVICE.sum_format, fp32_steps=wide)  # type: ignore[arg-type]
    outcome = job(tmp_path, FUSED, x, None, device=device)
    assert outcome.passed and outcome.validation is not None
    assert outcome.validation.fp32_identical and outcome.notes == []


def test_an_epsilon_of_zero_is_told(tmp_path: Path) -> None:
    outcome = job(tmp_path, FUSED.replace("0.0001", "0.0"), X)
    assert [note.kind for note in outcome.notes] == [Note.EPSILON_GONE]
    assert outcome.notes[0].facts == ("n",)


def test_a_floor_of_a_length_keeps_its_reciprocal(tmp_path: Path) -> None:
    """F.normalize: 0 / max(0, floor) as 0 * (1 / floor), where 1 / floor has to be finite."""
    x = X.copy()
    x[0, 1:3] = 0
    length = "l = ReduceL2<axes = [-1]>(h) c = Clip(l, eps) w = Shape(h) z = Expand(c, w)"
    outcome = job(tmp_path, f"{length} y = Div(h, z)", x)
    [norm] = find_norms(onnx.load(tmp_path / "new.onnx"))
    assert norm.epsilon is not None and norm.epsilon_power == 1
    with np.errstate(divide="ignore", over="ignore"):
        assert np.isfinite(np.float16(1) / np.float16(norm.epsilon))
        assert np.isinf(np.float16(1) / np.float16(1e-4 / (norm.scaled_by or 1.0)))
    assert outcome.passed and outcome.validation is not None
    assert outcome.validation.fp32_identical  # no row is as short as that


@SPELLINGS
def test_a_row_that_vanishes_counts_like_one_of_zeros(tmp_path: Path, nodes: str) -> None:
    zeros, faint = X.copy(), X.copy()
    zeros[0, 1], faint[0, 1] = 0, 1e-5
    job(tmp_path, nodes, zeros, "exact")  # by a scale with which the squares of both are 0
    assert not np.isfinite(on_a_device(tmp_path, faint)).all()
    before, after = (onnx.load(tmp_path / name) for name in ("m.onnx", "new.onnx"))
    found = validate(before, after, Options(inputs={"x": faint}, accelerator=DEVICE))
    assert [f.facts[:2] for f in found.failures if f.kind is Failure.ZERO_ROWS] == [(1, 1)]
