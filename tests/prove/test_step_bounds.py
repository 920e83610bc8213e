"""Step bounds against the same theorems worked out by hand, step by step, format by format."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slanc_onnx.accelerator import STEPS, Accelerator, Format, Step
from slanc_onnx.norms.norm import Norm
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import certify
from slanc_onnx.prove.step_bounds import Arithmetic, StepFails, output_radius, rounding_to
from slanc_onnx.reasons import Unproved
from slanc_onnx.report.wording import reason_text
from tests.oracles.named_norm import norm_named
from tests.oracles.steps_by_hand import FACTS, ByHand

NARROW = ["float16", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
Case = tuple[Norm, int, Accelerator, float, float, tuple[float, float]]


def drawn(seed: int) -> Case:
    """A norm, its width, a device, a scale, a length, and gamma with beta.

    Often all steps but one or two stay in FP32, so that each gets its turn to overflow.
    """
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.3, 0.7])
    in_fp32 = {step for step in STEPS if rng.random() < share}
    if rng.random() < 0.6:
        in_fp32 = set(STEPS) - {STEPS[i] for i in rng.choice(len(STEPS), rng.integers(1, 3))}
    stored = str(rng.choice(NARROW))
    sums = str(rng.choice(["sequential", "pairwise", "fp32"]))
    device = Accelerator(
        flush_subnormals=bool(rng.random() < 0.5),
        format=Format.named(str(rng.choice(NARROW))),
        input_format=Format.named(stored) if rng.random() < 0.3 else None,
        fp32_steps=frozenset(in_fp32),
    ).summing(sums)
    centred = bool(rng.random() < 0.6)
    norm = replace(
        norm_named("n", centred),
        width=None,
        epsilon=float(10.0 ** rng.uniform(-13, 5)) * (rng.random() < 0.95),
        epsilon_power=int(rng.choice([1, 2])),
        unbiased=bool(rng.random() < 0.3),
        one_pass=centred and bool(rng.random() < 0.5),
    )
    width = int(rng.choice([1, 2, 3, 8, 33, 768]))
    scale = 2.0 ** int(rng.choice([0, 1, 6, -9, 41], p=[0.4, 0.2, 0.2, 0.18, 0.02]))
    length = float(10.0 ** rng.uniform(-9, 9)) * scale
    gamma, beta = 10.0 ** rng.uniform(-3, 7, 2)
    return norm, width, device, scale, length, (float(gamma), float(beta))


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_step_is_as_large_as_the_theorems_say_and_named_where_it_overflows(seed: int) -> None:
    norm, width, device, scale, length, affine = drawn(seed)
    hand = ByHand(norm, width, device, scale)
    found = certify(norm, Bound(length, width=width), scale, device, Affine(*affine))
    told = "" if found.reason is None else reason_text(found.reason)
    assert told == hand.reason(length, *affine)
    if found.overflow_bits is not None:
        least = hand.overflow_bits() - 2.0**-30  # for what a logarithm may be off by
        assert found.overflow_bits == pytest.approx(least, rel=1e-13, abs=1e-13)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_the_output_radius_is_that_of_the_theorems(seed: int, at_all_scales: bool) -> None:
    norm, width, device, scale, _, _ = drawn(seed)
    given_scale = None if at_all_scales else scale
    found = output_radius(norm, width, device, given_scale)
    assert found == pytest.approx(ByHand(norm, width, device, given_scale).radius(), rel=1e-12)


@pytest.mark.parametrize("name", FACTS)
def test_formats_are_what_the_oracle_has_in_numbers(name: str) -> None:
    form = Format.named(name)
    numbers = form.largest, form.smallest_normal, form.smallest_subnormal, form.unit_roundoff
    assert numbers == FACTS[name]


def test_the_least_that_rounding_leaves() -> None:
    """Normal numbers lose a unit roundoff, others the spacing of subnormals or all they are."""
    unit = (1 + 2.0**-11) * (1 + 2.0**-23) - 1
    for flush in (True, False):
        half = rounding_to(Format.named("float16"), flush)
        assert half.least(3.0) == pytest.approx(3 * (1 - unit), rel=1e-15)
        assert half.least(2.0**-14) == 2.0**-14  # never below the smallest normal number
        assert half.least(2.0**-15) == (0.0 if flush else 2.0**-15 - 2.0**-25)
        assert half.least(2.0**-26) == 0.0


def test_the_largest_number_fits_and_nan_does_not() -> None:
    steps = Arithmetic(norm_named("n"), 4, Accelerator(fp32_steps=frozenset({"mean"})), 1.0)
    steps.fits(65504.0, "sum")
    steps.fits(65505.0, "mean")
    for value in (65505.0, np.inf, np.nan):
        with pytest.raises(StepFails) as told:
            steps.fits(value, "sum")
        assert told.value.reason.kind is Unproved.STEP_OVERFLOWS
        assert told.value.reason.facts[0] == "sum"


TURNS = [step for step in STEPS if step != "normalised"]


@pytest.mark.parametrize("step", TURNS)
def test_a_step_alone_in_a_narrow_format_is_the_one_that_overflows(step: Step) -> None:
    """At some length or epsilon; else the tests above would hold nothing of it."""
    in_fp32 = frozenset(set(STEPS) - {step})
    device = Accelerator(format=Format.named("float8_e4m3fn"), fp32_steps=in_fp32)
    told = set()
    for length in np.geomspace(1e-3, 1e6, 40):
        for epsilon in (1e-12, 1e-5, 1e6):
            for power in (1, 2):
                norm = replace(norm_named("n", True), epsilon=epsilon, epsilon_power=power)
                norm = replace(norm, width=8)
                found = certify(norm, Bound(float(length)), 1.0, device, Affine(500.0, 50.0))
                if found.reason is not None:
                    told.add((found.reason.kind, *found.reason.facts[:1]))
    kinds = {kind for kind, *_ in told}
    if step in ("square", "mean_square"):  # part of what the sum has room for
        assert Unproved.SUM_OVERFLOWS in kinds
    else:
        assert (Unproved.STEP_OVERFLOWS, step) in told
