"""Models that are too large to be run as a whole are validated in segments, to the same end."""

import itertools
from pathlib import Path

import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.options import ApplyRule, EmulateRule
from slanc_onnx.run import float32 as float32_module
from slanc_onnx.run import segments as segments_module
from tests.places import SAMPLES

QUICK = [(each, "div", "norms") for each in ("bert_like", "llama_like", "sandwich_like")]
QUICK += [("bert_like", "fold", "all")]
NAMES = [sample.stem for sample in sorted(SAMPLES.glob("*.onnx"))]
EACH = itertools.product(NAMES, ["div", "fold"], ["norms", "all"])
CASES = [pytest.param(*case, marks=() if case in QUICK else (pytest.mark.slow,)) for case in EACH]


@pytest.mark.parametrize(("sample", "apply", "emulate"), CASES)
def test_a_validation_in_segments_finds_the_same(
    sample: str,
    apply: ApplyRule,
    emulate: EmulateRule,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = Options(apply=apply, estimate="weights", certify="off", emulate=emulate)
    found = []
    for most in (1 << 32, 0):
        monkeypatch.setattr(float32_module, "MOST_AT_ONCE", most)
        monkeypatch.setattr(segments_module, "SEGMENT", 1)
        found.append(
            protect_file(SAMPLES / f"{sample}.onnx", tmp_path / f"{most}.onnx", options).validation
        )
    whole, in_segments = found
    assert whole is not None and in_segments is not None
    assert in_segments.failures == whole.failures
    assert in_segments.fp32_identical is whole.fp32_identical
    assert in_segments.rounded_error_after == whole.rounded_error_after
    assert in_segments.rounded_error_before == whole.rounded_error_before
    for name, seen in whole.observed.items():
        assert seen.overflowed == in_segments.observed[name].overflowed
    assert whole.at_default is not None and in_segments.at_default is None
