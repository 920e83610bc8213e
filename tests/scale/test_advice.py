"""Which single change of the target would certify more: held against that target itself.

A norm that is said to be certified with a change is, on the changed target; and rows at its bound
are finite at every step there, which NumPy emulates.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, ScaledNorm, compute_scales, protect_file
from slanc_onnx.prove import Proof
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.report.proof_lines import advice_text
from slanc_onnx.scale.advice import certifying_changes
from slanc_onnx.targets import TARGETS, Change, changes
from tests.conftest import Run
from tests.models.small_graphs import between, normal
from tests.oracles.adversarial import adversarial_rows
from tests.oracles.named_norm import norm_named
from tests.oracles.stepwise_norm import StepwiseNorm


def stretched() -> onnx.ModelProto:
    """Large terms that cancel, which no bound knows: no scale serves that and the rows that are."""
    large = normal(1, 8, 8, spread=3000.0)
    nodes = "a = MatMul(x, w) b = MatMul(x, minus_w) both = Add(a, b) total = Add(x, both)"
    return between(nodes, {"w": large, "minus_w": -large})


def decided_for(model: onnx.ModelProto, device: Accelerator) -> dict[str, ScaledNorm]:
    options = Options(estimate="weights", accelerator=device)
    return {each.norm.name: each for each in compute_scales(model, options)}


@pytest.mark.parametrize("target", TARGETS)
def test_the_changed_target_certifies_what_is_said(target: str) -> None:
    device, rng = TARGETS[target], np.random.default_rng(0)
    models = [stretched(), between("total = MatMul(x, w)", {"w": normal(1, 8, 8, spread=300.0)})]
    for model in models:
        found = decided_for(model, device)
        for change, other in changes(device).items():
            again = decided_for(model, other)
            for name, each in again.items():
                if change not in found[name].certified_with:
                    continue
                assert each.certificate is not None and each.certificate.certified
                assert each.certificate.bound.length is not None and each.affine is not None
                rows = adversarial_rows(rng, 8, each.certificate.bound.length, None)
                norm = StepwiseNorm(each.norm, other, float(each.scale or 1.0), *each.affine[:2])
                assert set(norm(rows).bad) == {""}, (change, name)


def test_a_wide_range_needs_statistics_in_fp32() -> None:
    device = TARGETS["fp16-sequential"]
    found = decided_for(stretched(), device)["last"]
    assert found.certificate is not None and not found.certificate.certified
    assert found.certified_with == (Change.FP32_STATISTICS,)
    length = found.certificate.bound.length
    assert length is not None
    rows = adversarial_rows(np.random.default_rng(0), 8, length, None)
    assert "square" in StepwiseNorm(found.norm, device, float(found.scale or 1.0))(rows).bad


def test_each_change_is_one_that_the_target_does_not_have_yet() -> None:
    for device in TARGETS.values():
        for change, other in changes(device).items():
            assert other != device
            kept = {
                Change.KEEP_SUBNORMALS: not other.flush_subnormals,
                Change.PAIRWISE_SUMS: other.sum_order == "pairwise",
                Change.FP32_SUMS: other.accumulator.name == "float32",
                Change.FP32_STATISTICS: {"square", "mean_square"} <= other.fp32_steps,
            }
            assert kept[change]
    assert changes(TARGETS["fp16-in-out"]) == {}
    assert list(changes(TARGETS["fp16-sequential-flush"])) == list(Change)


def test_a_change_that_makes_rows_longer_is_left_out() -> None:
    """Bounds that start at norms' outputs on one device hold for no device with longer ones."""
    device = TARGETS["fp16-sequential"]
    proof = Proof(norm_named("n"), Bound(1.0, width=4000), Affine())
    found = certifying_changes(device, [proof], lambda _: ["n"])["n"]
    assert found == (Change.PAIRWISE_SUMS, Change.FP32_SUMS, Change.FP32_STATISTICS)
    pairwise = certifying_changes(TARGETS["fp16-pairwise"], [proof], lambda _: ["n"])["n"]
    assert Change.PAIRWISE_SUMS not in pairwise


def test_words_name_the_most_first_and_nothing_that_certifies_no_more() -> None:
    certified = {Change.PAIRWISE_SUMS: 3, Change.FP32_SUMS: 2, Change.FP32_STATISTICS: 9}
    line = (
        "of 9 norms at least 9 with all statistics in FP32, 3 with pairwise sums would be certified"
    )
    assert advice_text(certified, 2, 9) == line
    assert advice_text(certified, 9, 9) == advice_text({}, 0, 9) == ""


def test_terminal_report_and_page_say_it(run: Run) -> None:
    onnx.save(stretched(), "model.onnx")
    line = "of 2 norms at least 2 with all statistics in FP32 would be certified"
    given = ("model.onnx", "--estimate", "weights", "--no-validate", "-o", "out.onnx")
    _, out, _ = run(*given, "--report", "r.json", "--html", "r.html")
    assert line in out.splitlines()
    report = json.loads(Path("r.json").read_text())
    assert report["advice"]["fp32_statistics"] == 2
    assert report["norms"][1]["certificate"]["certified_with"] == ["fp32_statistics"]
    assert line in Path("r.html").read_text()
    for more in (["--certify", "off"], ["--apply", "fold"], ["--target", "fp16-in-out"]):
        _, out, _ = run(*given, "--report", "r.json", *more)
        assert "would be certified" not in out
        assert json.loads(Path("r.json").read_text())["advice"] == {}


def test_nothing_is_advised_where_all_is_certified(tmp_path: Path) -> None:
    model = between("total = MatMul(x, w)", {"w": normal(1, 8, 8)})
    onnx.save(model, tmp_path / "m.onnx")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "o.onnx", Options(validate=False))
    assert outcome.advice == {} and outcome.advice_line == ""
