"""What is allowed follows from the format, and is what it always was for FP16."""

import itertools
import math

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx import Accelerator, Options, protect, validate
from slanc_onnx.targets import TARGETS
from slanc_onnx.verify.tolerance import perplexity_tolerance, rounding_tolerance
from tests.places import SAMPLES

COARSE = ["fp8-e4m3", "fp8-e4m3-flush", "fp8-e5m2", "fp8-e5m2-flush"]


@given(st.sampled_from(list(TARGETS.values())), st.integers(1, 10_000))
def test_fp16_keeps_its_tolerance_and_a_lost_row_fails_everywhere(
    device: Accelerator, norms: int
) -> None:
    tolerance = rounding_tolerance(device, norms)
    assert 0.1 <= tolerance <= 0.5
    assert tolerance == 0.1 or device.name.startswith(("fp8", "bf16"))
    assert rounding_tolerance(device, norms + 1) >= tolerance


@pytest.mark.parametrize(
    ("name", "norms", "tolerance"),
    [
        ("bf16", 61, 0.1),
        ("fp8-e4m3", 4, 0.25),
        ("fp8-e5m2", 2, 2**-2 * math.sqrt(2)),
        ("fp8-e5m2", 61, 0.5),
    ],
)
def test_it_is_two_roundoffs_times_the_root_of_the_norms(
    name: str, norms: int, tolerance: float
) -> None:
    assert rounding_tolerance(TARGETS[name], norms) == pytest.approx(tolerance, rel=1e-12)
    assert perplexity_tolerance(tolerance) == pytest.approx(tolerance / 10, rel=1e-12)


KINDS = ["bf16", "bf16-fp32", "fp16-in-out", *COARSE]
QUICK = [("bert_like", name) for name in KINDS]
QUICK += [("llama_like", "fp8-e4m3"), ("sandwich_like", "fp8-e5m2-flush")]
CASES = [
    pytest.param(*case, marks=() if case in QUICK else (pytest.mark.slow,))
    for case in itertools.product(["bert_like", "llama_like", "sandwich_like"], KINDS)
]


@pytest.mark.parametrize(("model", "name"), CASES)
def test_the_sample_models_pass_on_every_kind_of_target(model: str, name: str) -> None:
    options = Options(accelerator=TARGETS[name])
    original, rewritten = (onnx.load(SAMPLES / f"{model}.onnx") for _ in range(2))
    protect(rewritten, options)
    result = validate(original, rewritten, options)
    assert result.failures == []
    assert result.fp32_identical
    assert result.overflowed_after == 0
    if name in COARSE:
        assert result.overflowed_before > 0
        assert not validate(original, original, options).passed
