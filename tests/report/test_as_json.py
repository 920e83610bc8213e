"""The JSON report: exactly its keys, strict numbers, and a file that is whole at any moment."""

import json
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, protect_file
from slanc_onnx.report.as_json import REPORT_START, write_report
from tests.conftest import Run
from tests.models.four_norms import four_norms

REPORT = [
    "version",
    "model",
    "output",
    "options",
    "norms",
    "notes",
    "fold",
    "audit",
    "validation",
    "seconds",
]
NORM = [
    "name",
    "kind",
    "form",
    "input",
    "width",
    "rule",
    "sources",
    "scale",
    "epsilon",
    "scaled_epsilon",
    "predicted_sum_of_squares",
    "estimate",
    "reason",
    "reasons",
    "observed",
    "certificate",
    "applied",
    "status",
]
CERTIFICATE = [
    "certified",
    "bound",
    "conditions",
    "overflow_bits",
    "underflow_bits",
    "upper_limit",
    "loose",
    "reason",
]
OBSERVED = ["sum_of_squares", "scaled", "overflowed", "underflowed", "overflowed_before"]
VALIDATION = [
    "fp32_identical",
    "fp32_max_abs_error",
    "fp16",
    "perplexity",
    "unstable_outputs",
    "failures",
    "passed",
]
FP16 = [
    "overflowed_before",
    "overflowed_after",
    "max_relative_error_before",
    "max_relative_error_after",
    "rms_relative_error_after",
]


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def read(path: str = "report.json") -> dict[str, Any]:
    """A report, read as strictly as JSON is defined."""
    text = Path(path).read_text(encoding="utf-8")
    report: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return report


def test_it_has_exactly_its_keys(run: Run) -> None:
    onnx.save(four_norms(), "model.onnx")
    assert run("model.onnx", "--report", "report.json", "-qq")[0] == 1
    report = read()
    assert list(report) == REPORT
    assert (report["version"], report["model"]) == ("1", "model.onnx")
    assert report["output"] == "model.slanc.onnx"
    assert report["options"]["accelerator"] == Accelerator(name="fp16-sequential").as_dict()
    for norm in report["norms"]:
        assert list(norm) == NORM
        assert list(norm["certificate"]) == CERTIFICATE
    assert list(report["norms"][0]["predicted_sum_of_squares"]) == ["typical", "upper"]
    assert list(report["norms"][0]["observed"]) == OBSERVED
    assert list(report["validation"]) == VALIDATION
    assert list(report["validation"]["fp16"]) == FP16
    assert set(report["seconds"]) == {"find", "scale", "write", "validate", "total"}


def test_it_tells_each_norm_in_topological_order(run: Run) -> None:
    onnx.save(four_norms(), "model.onnx")
    run("model.onnx", "--report", "report.json", "-qq")
    hot, mild, plain, inner = read()["norms"]
    assert [n["name"] for n in (hot, mild, plain, inner)] == ["hot", "mild", "plain", "inner"]
    assert [n["status"] for n in (hot, mild, plain)] == ["scaled", "scaled", "skipped"]
    assert [n["kind"] for n in (hot, mild, plain)] == ["layer", "layer", "rms"]
    assert [n["form"] for n in (mild, plain)] == ["LayerNormalization", "decomposed"]
    assert (hot["input"], hot["width"], hot["sources"]) == ("h", 32, ["table"])
    assert hot["rule"] == "rows of table"
    assert hot["scaled_epsilon"] == hot["epsilon"] / hot["scale"] ** 2
    assert (mild["scale"], mild["scaled_epsilon"]) == (1.0, mild["epsilon"])
    assert mild["reason"] == "1 is the best scale: nothing to insert"
    assert (plain["scale"], plain["scaled_epsilon"]) == (None, None)
    assert plain["reason"] == "its inner value 'deviation' is a graph output"
    assert inner["observed"]["overflowed_before"] == 16


def test_a_norm_in_a_branch_that_is_not_taken_was_not_observed(run: Run) -> None:
    np.savez("in.npz", ids=np.array([[4, 9, 2]]), deep=np.array(False))
    run("model.onnx", "--inputs", "in.npz", "--report", "report.json", "-qq")
    assert [n["name"] for n in read()["norms"] if n["observed"] is None] == ["inner"]


def test_what_was_observed_is_what_the_rows_are(run: Run) -> None:
    ids = np.array([[4, 9, 2]])
    np.savez("inputs.npz", ids=ids, deep=np.array(False))
    run("model.onnx", "--inputs", "inputs.npz", "--report", "report.json", "-qq")
    table = next(t for t in four_norms().graph.initializer if t.name == "table")
    rows = onnx.numpy_helper.to_array(table)[ids[0]].astype(np.float64)
    squares = np.sort(((rows - rows.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    hot, _, plain, _ = read()["norms"]
    assert hot["observed"]["sum_of_squares"] == pytest.approx(squares, rel=1e-6)
    assert hot["observed"]["scaled"] == pytest.approx(squares / hot["scale"] ** 2, rel=1e-6)
    squares = np.sort((rows**2).sum(axis=1))
    assert plain["observed"]["sum_of_squares"] == pytest.approx(squares, rel=1e-6)
    for norm in (hot, plain):
        observed = norm["observed"]
        assert (observed["overflowed_before"], observed["overflowed"]) == (3, 0)
        assert observed["underflowed"] == 0
    assert read()["validation"]["fp16"]["overflowed_before"] == 6


def test_an_earlier_run_is_told(run: Run) -> None:
    run("model.onnx", "--report", "report.json", "-qq")
    first = read()["norms"][0]
    run("model.slanc.onnx", "--report", "report.json", "-qq")
    again = read()["norms"][0]
    assert (again["status"], again["reason"]) == ("unchanged", "scaled by an earlier run")
    assert again["scale"] == first["scale"]
    assert again["epsilon"] == again["scaled_epsilon"] == pytest.approx(first["scaled_epsilon"])


def test_without_validation_it_is_null(run: Run) -> None:
    run("model.onnx", "--report", "report.json", "-qq", "--no-validate")
    report = read()
    assert report["validation"] is None
    assert [norm["observed"] for norm in report["norms"]] == [None] * 4


def test_a_model_that_cannot_run_has_all_keys_of_validation(run: Run) -> None:
    model = four_norms(leaky=False)
    model.graph.node[0].domain = "nobody.implements.this"
    model.opset_import.add(domain="nobody.implements.this", version=1)
    onnx.save(model, "model.onnx")
    assert run("model.onnx", "--report", "report.json", "-qq")[0] == 1
    validation = read()["validation"]
    assert list(validation) == VALIDATION
    assert list(validation["fp16"]) == FP16
    assert not validation["passed"]
    assert validation["failures"][0].startswith("ONNX Runtime cannot load the model")


def test_a_model_without_norms_has_an_empty_list(run: Run) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) { y = Neg(x) }""")
    onnx.save(model, "other.onnx")
    assert run("other.onnx", "--report", "report.json")[0] == 0
    assert (read()["norms"], read()["validation"]) == ([], None)


def test_what_is_not_finite_is_null(run: Run) -> None:
    model = four_norms()
    gamma = next(t for t in model.graph.initializer if t.name == "gamma")
    gamma.CopyFrom(onnx.numpy_helper.from_array(np.full(32, 3e38, np.float32), "gamma"))
    onnx.save(model, "model.onnx")  # its rows after "hot" are infinite
    run("model.onnx", "--estimate", "probe", "--report", "report.json", "-qq")
    mild = read()["norms"][1]
    assert mild["status"] == "skipped"
    assert mild["observed"]["sum_of_squares"] == [None, None, None]
    run("model.onnx", "--scale", "paper", "--no-validate", "--report", "report.json", "-qq")
    assert read()["norms"][1]["scale"] == 2.0**127  # the largest power of two in FP32


def test_a_report_of_an_earlier_run_is_replaced_and_nothing_else_is_left(run: Run) -> None:
    Path("report.json").write_text(REPORT_START + '1"}')
    run("model.onnx", "--report", "report.json", "-qq")
    assert list(read()) == REPORT
    assert sorted(os.listdir()) == ["model.onnx", "model.slanc.onnx", "report.json"]


def test_an_interrupted_write_leaves_the_older_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(four_norms(), tmp_path / "model.onnx")
    options = Options(validate=False, accelerator=Accelerator("pairwise"))
    outcome = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    path = tmp_path / "report.json"
    path.write_text("{}")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slanc_onnx.graph.save.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(outcome.report, path)
    assert path.read_text() == "{}"
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "report.json"]
