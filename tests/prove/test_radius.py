"""The safe radius: rows up to it are finite at every step, and a little beyond the proof ends."""

from dataclasses import replace

import numpy as np
import pytest

from slanc_onnx import Accelerator, Options, compute_scales, protect
from slanc_onnx.accelerator import Step
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import certify
from slanc_onnx.prove.radius import safe_radius
from slanc_onnx.reasons import Reason, Unproved
from slanc_onnx.targets import TARGETS
from tests.models.four_norms import four_norms
from tests.oracles.adversarial import random_rows
from tests.oracles.named_norm import norm_named
from tests.oracles.stepwise_norm import StepwiseNorm

KINDS = [(kind, power) for kind in ("layer", "rms") for power in (1, 2)]


@pytest.mark.parametrize("target", TARGETS)
def test_rows_up_to_it_are_finite_and_beyond_it_nothing_is_proved(target: str) -> None:
    device, rng = TARGETS[target], np.random.default_rng(0)
    for width in (1, 3, 64, 1000):
        for kind, power in KINDS:
            norm = replace(norm_named("n", kind == "layer"), width=width, epsilon_power=power)
            for scale in (1.0, 64.0):
                radius = safe_radius(norm, width, scale, device, Affine(1.5, 0.25))
                if radius is None:
                    assert not certify(
                        norm, Bound(2.0**-160), scale, device, Affine(1.5, 0.25)
                    ).certified
                    continue
                assert certify(norm, Bound(radius), scale, device, Affine(1.5, 0.25)).certified
                assert not certify(
                    norm, Bound(radius * 1.01), scale, device, Affine(1.5, 0.25)
                ).certified
                one_hot = np.eye(1, width)
                rows = np.concatenate([rng.standard_normal((20, width)), one_hot, -one_hot])
                rows *= radius * (1 - 2.0**-20) / np.linalg.norm(rows, axis=1, keepdims=True)
                bad = StepwiseNorm(norm, device, scale)(np.concatenate([rows, rows / 1e3])).bad
                assert set(bad) == {""}


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_that_is_lost_shows_by_its_sum_of_squares(target: str) -> None:
    """The check at run time: no step after the sum is the first that is inf or nan."""
    device, rng = TARGETS[target], np.random.default_rng(1)
    lost = 0
    for kind, power in KINDS:
        norm = replace(norm_named("n", kind == "layer"), width=96, epsilon_power=power)
        if device.variance == "one-pass" and norm.centred:
            continue
        radius = safe_radius(norm, 96, 8.0, device, Affine(1.5, 0.25))
        if radius is None:
            continue
        lengths = radius * 2.0 ** rng.uniform(-20, 20, (300, 1))
        rows = random_rows(rng, 96, 1.0, 300) * lengths
        bad = StepwiseNorm(norm, device, 8.0, 1.5, 0.25)(np.clip(rows, -3e38, 3e38)).bad
        assert set(bad) <= {"", "input", "mean", "centred", "square", "sum"}
        assert not any(b for b, at in zip(bad, lengths[:, 0], strict=True) if at < radius)
        lost += sum(map(bool, bad))
    assert lost > 0


UP_TO_THE_ROOT = ("mean_square", "variance", "deviation")


@pytest.mark.parametrize("others", [("square",), ("square", "mean_square")])
@pytest.mark.parametrize("sums", ["sequential", "pairwise", "fp32"])
def test_with_sums_left_in_fp32_a_lost_row_shows_by_its_root(
    sums: str, others: tuple[Step, ...]
) -> None:
    """The sum stays finite there; what overflows after it is infinite in the root as well."""
    device = replace(Accelerator(), fp32_steps=frozenset(("sum", *others))).summing(sums)
    rng, after = np.random.default_rng(2), 0
    for width in (1, 2, 16):
        norm = replace(norm_named("n"), width=width)
        radius = safe_radius(norm, width, 1.0, device, Affine(1.5, 0.25))
        assert radius is not None
        rows = random_rows(rng, width, 1.0, 300) * radius * 2.0 ** rng.uniform(-20, 20, (300, 1))
        bad = StepwiseNorm(norm, device, 1.0, 1.5, 0.25)(np.clip(rows, -3e38, 3e38)).bad
        assert set(bad) <= {"", "input", "square", "sum", *UP_TO_THE_ROOT}
        after += sum(step in UP_TO_THE_ROOT for step in bad)
    assert after > 0


def test_a_plain_sum_that_saturates_leaves_no_trace_in_the_squares() -> None:
    row, largest = np.full(1024, 65.0), 65504.0
    mean = min(float(row.sum()), largest) / 1024
    assert row.sum() > largest and ((row - mean) ** 2).sum() == pytest.approx(1089, rel=0.01)


@pytest.mark.parametrize("width", [64, 384, 1024])
@pytest.mark.parametrize("target", ["fp16-sequential", "fp16-pairwise", "fp16-fp32", "fp16-in-out"])
def test_it_is_not_much_shorter_than_a_row_that_is_lost(target: str, width: int) -> None:
    """Rows of one element, and rows of equal ones: the shortest that overflows, by NumPy."""
    device, norm = TARGETS[target], replace(norm_named("n"), width=width)
    radius = safe_radius(norm, width, 16.0, device, Affine(1.0, 0.0))
    assert radius is not None
    longer = radius * 2.0 ** np.arange(0.0, 1.0, 0.02)
    rows = np.concatenate([np.eye(1, width), np.ones((1, width)) / np.sqrt(width)])
    bad = [StepwiseNorm(norm, device, 16.0)(rows * length).bad for length in longer]
    first = next(length for length, b in zip(longer, bad, strict=True) if any(b))
    assert 1.0 < first / radius < 1.3


def test_a_larger_scale_allows_longer_rows() -> None:
    norm = norm_named("n")
    one, eight = (safe_radius(norm, 64, s, Accelerator(), Affine(1.0, 0.0)) for s in (1.0, 8.0))
    assert one is not None and eight == pytest.approx(8 * one, rel=2e-3)
    # The sum of squares of a row is all that it takes here: 65504 less what rounding adds.
    assert 0.9 * 65504 < one**2 < 65504


def test_no_radius_without_a_width_constants_or_an_epsilon() -> None:
    norm = norm_named("n")
    assert safe_radius(norm, None, 1.0, Accelerator(), Affine(1.0, 0.0)) is None
    assert safe_radius(norm, 64, 1.0, Accelerator(), None) is None
    assert safe_radius(replace(norm, epsilon=0.0), 64, 1.0, Accelerator(), Affine(1.0, 0.0)) is None


def test_every_norm_has_one_with_and_without_certificates() -> None:
    for certify_rule in ("auto", "off"):
        options = Options(estimate="weights", certify=certify_rule)
        for decided in compute_scales(four_norms(), options):
            assert decided.safe_radius is not None and decided.safe_radius > 0
    model = four_norms()
    for decided in protect(model, Options(estimate="weights", apply="fold")):
        scale = decided.scale if decided.status == "scaled" and decided.scale else 1.0
        again = safe_radius(decided.norm, decided.norm.width, scale, Accelerator(), decided.affine)
        assert decided.safe_radius == again


def test_no_certificate_where_a_caller_may_give_another_epsilon() -> None:
    """With -1 the root is of a negative number, whatever the row."""
    norm = norm_named("n")
    open_one = replace(norm, overridable_epsilon="eps")
    assert certify(norm, Bound(2.0, width=64), 1.0, Accelerator()).certified
    found = certify(open_one, Bound(2.0, width=64), 1.0, Accelerator())
    assert not found.certified and found.reason == Reason(Unproved.MAY_BE_GIVEN, ("eps",))
    assert safe_radius(open_one, 64, 1.0, Accelerator(), Affine(1.0, 0.0)) is None
