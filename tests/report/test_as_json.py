"""The JSON report: exactly its keys, strict numbers, and a file that is whole at any moment."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, protect_file
from slanc_onnx.apply.fold import Fold
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.graph import Edits
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import Certificate
from slanc_onnx.reasons import Failure, Reason, Unproved
from slanc_onnx.report.as_json import REPORT_START, norm_entry, validation_entry, write_report
from slanc_onnx.report.rows import norm_rows
from slanc_onnx.report.wording import reason_text
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify.beyond import Beyond
from slanc_onnx.verify.compare import Difference
from slanc_onnx.verify.left import Left
from slanc_onnx.verify.observed import Observed
from slanc_onnx.verify.tensor_sizes import TensorSize
from slanc_onnx.verify.validation import Validation
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.models.growing import decoder
from tests.oracles.named_norm import norm_named

REPORT = [
    "version",
    "model",
    "output",
    "options",
    "norms",
    "suspects",
    "notes",
    "fold",
    "merge",
    "conversion",
    "audit",
    "first_rows",
    "advice",
    "fp32_nodes",
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
    "safe_radius",
    "most_elements",
    "assumed_inputs",
    "first_row",
    "applied",
    "status",
]
CERTIFICATE = [
    "certified",
    "bound",
    "conditions",
    "epsilon_at_least",
    "overflow_bits",
    "underflow_bits",
    "upper_limit",
    "loose",
    "certified_with",
    "reason",
]
OBSERVED = ["sum_of_squares", "scaled", "overflowed", "underflowed", "overflowed_before"]
VALIDATION = [
    *("fp32_identical", "fp32_max_abs_error", "fp32_rms_error"),
    "fp32_default_level",
    "as_they_round_rms_error",
    "fp16",
    "tensors",
    "perplexity",
    "unstable_outputs",
    "failures",
    "tried",
    "inconclusive",
    "passed",
]
FP16 = [
    *("lost_before", "overflowed_before", "overflowed_after"),
    *("max_relative_error_before", "max_relative_error_after", "rms_relative_error_after"),
    *("first_out_of_range", "first_out_of_range_before"),
    *("constants_beyond", "inputs_beyond", "outside_beyond"),
    "beside_fold",
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
    assert set(report["seconds"]) == {"find", "scale", "fold", "write", "validate", "total"}


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


def test_a_div_is_applied_where_a_node_was_inserted(run: Run) -> None:
    run("model.onnx", "--report", "report.json", "-qq")
    told = {norm["name"]: (norm["scale"], norm["applied"]) for norm in read()["norms"]}
    nodes = onnx.load("model.slanc.onnx").graph.node
    divided = {node.input[0] for node in nodes if node.op_type == "Div"}
    assert told["hot"][0] > 1.0
    assert told["hot"][1] == "div" and "h" in divided
    assert told["mild"] == (1.0, None) and "halved" not in divided
    run("model.slanc.onnx", "--report", "report.json", "-qq")
    assert {norm["applied"] for norm in read()["norms"]} == {None}  # by an earlier run
    folded = entry(decided(2.0), None, of_groups({"n": "fold"}))
    assert folded["applied"] == "fold"
    assert entry(decided(2.0), None, of_groups({"n": "div"}))["applied"] == "div"
    assert entry(decided(2.0), None, of_groups({}))["applied"] is None
    assert entry(decided(2.0), None, None)["applied"] == "div"
    for status in ("skipped", "unchanged"):
        assert entry(replace(decided(2.0), status=status), None, None)["applied"] is None


def entry(scaled: ScaledNorm, validation: Validation | None, fold: Fold | None) -> dict[str, Any]:
    (row,) = norm_rows([scaled], Accelerator(), validation, fold, [])
    return norm_entry(row)


def of_groups(applied: dict[str, str]) -> Fold:
    return Fold(Edits(), {}, (), applied, 0, 0, 0)


def decided(scale: float, certificate: Certificate | None = None) -> ScaledNorm:
    estimate = Estimate(3.0, 5.0, 2.0, "probe")
    return ScaledNorm(norm_named("n"), scale, estimate, (), [], "scaled", (), certificate)


@pytest.mark.parametrize("proved", [True, False])
def test_the_limit_of_the_window_is_the_bound_where_that_is_proved(proved: bool) -> None:
    certificate = Certificate(
        proved, Reason(Unproved.NO_EPSILON), Bound(7.0, loose=True), 1.5, 2.5, scale=2.0
    )
    told = entry(decided(2.0, certificate), None, None)["certificate"]
    assert told == {
        "certified": proved,
        "bound": 7.0,
        "conditions": [],
        "epsilon_at_least": None,
        "overflow_bits": 1.5,
        "underflow_bits": 2.5,
        "upper_limit": "bound" if proved else "estimate",
        "loose": True,
        "certified_with": [],
        "reason": reason_text(Reason(Unproved.NO_EPSILON)),
    }


def seen(overflowed: int, before: int) -> Observed:
    return Observed(np.array([4.0, 1.0, 2.0]), np.array([0.5, 1.5]), overflowed, 9, before, 1, 2)


LEVEL = {"identical": False, "max_abs_error": 10.0, "max_relative_error": 11.0}
BEYOND = {
    "names": ["c", "d"],
    "value": -1e9,
    "rms_relative_error_as_infinite": None,
    "first_nan": {"tensor": "p", "op": "Softmax"},
}


def test_each_figure_of_a_validation_has_its_own_key() -> None:
    validation = Validation(
        fp32_tolerance=1.0,
        fp32_identical=False,
        fp32_max_abs_error=2.0,
        fp32_max_relative_error=3.0,
        rounded_error_before=4.0,
        rounded_error_after=5.0,
        rounded_rms_error=6.0,
        observed={"n": seen(10, 30), "m": seen(1, 2)},
        perplexity={"fp32": 7.0, "fp16": 8.0, "fp16_slanc": math.nan},
        unstable=["cache"],
        at_default=Difference(False, 10.0, 11.0, 12.0),
        beyond=Beyond(("c", "d"), -1e9, Difference(False, 1.0, 1.0, math.inf), "Softmax", "p"),
        first_out=Left("t", "MatMul", 9.0),
        first_out_before=Left("h", "Mul", 8e4, "n", "read"),
        inputs_beyond={"x": 7e4},
        tensors=(TensorSize("m", "mul", "Mul", 70000.0, 65504.0, True),),
        failures=[Reason(Failure.OUTPUTS_OFF)],
    )
    assert validation_entry(validation, None) == {
        "fp32_identical": False,
        **{"fp32_max_abs_error": 2.0, "fp32_rms_error": 0.0},
        "fp32_default_level": LEVEL,
        "as_they_round_rms_error": None,
        "fp16": {
            "lost_before": 36,
            "overflowed_before": 32,
            "overflowed_after": 11,
            **{"max_relative_error_before": 4.0, "max_relative_error_after": 5.0},
            "rms_relative_error_after": 6.0,
            "first_out_of_range": {"tensor": "t", "op": "MatMul", "value": 9.0},
            "first_out_of_range_before": {"tensor": "h", "op": "Mul", "value": 8e4},
            **{"constants_beyond": BEYOND, "inputs_beyond": {"x": 7e4}},
            **{"outside_beyond": [], "beside_fold": None},
        },
        "tensors": [
            {
                "name": "m",
                "node": "mul",
                "op": "Mul",
                "largest": 70000.0,
                "limit": 65504.0,
                "left": True,
            }
        ],
        "perplexity": {"fp32": 7.0, "fp16": 8.0, "fp16_slanc": None},
        "unstable_outputs": ["cache"],
        "failures": [reason_text(Reason(Failure.OUTPUTS_OFF))],
        "tried": [],
        "inconclusive": False,
        "passed": False,
    }
    assert entry(decided(2.0), validation, None)["observed"] == {
        "sum_of_squares": [1.0, 2.0, 4.0],
        "scaled": [0.5, 1.0, 1.5],
        "overflowed": 10,
        "underflowed": 9,
        "overflowed_before": 30,
    }


def test_scaling_takes_the_error_of_the_outputs_away(run: Run) -> None:
    run("model.onnx", "--report", "report.json", "-qq")
    found = read()["validation"]["fp16"]
    assert found["max_relative_error_before"] > 0.5 > 0.01 > found["max_relative_error_after"] > 0
    assert (found["overflowed_before"], found["overflowed_after"]) == (48, 0)


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
    model = decoder(1)
    up = next(t for t in model.graph.initializer if t.name == "up0")
    up.CopyFrom(onnx.numpy_helper.from_array(np.full((8, 8), -np.inf, np.float32), "up0"))
    onnx.save(model, "model.onnx")
    run("model.onnx", "--scale", "paper", "--no-validate", "--report", "report.json", "-qq")
    assert [reason["facts"] for reason in read()["norms"][1]["reasons"]] == [[None]]


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
    fail = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("slanc_onnx.graph.save.os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(outcome.report, path)
    assert path.read_text() == "{}"
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "out.onnx", "report.json"]
