"""The JSON Schemas that the wheel has: real reports and sidecars of every mode keep to them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

from slanc_onnx import protect_file
from slanc_onnx.report import report_text
from slanc_onnx.report.as_json import schema as report_schema
from slanc_onnx.report.sidecar import schema as sidecar_schema
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.places import SAMPLES

LLAMA = str(SAMPLES / "llama_like.onnx")
UNPROVED = ("--certify", "off")  # where proofs, which the first has, say nothing of the part
# Mode -> the options, and a part of the report that is there with these alone.
MODES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "div": ((), ("validation", "fp16")),
    "fold": (("--apply", "fold", "--no-validate"), ("fold", "groups")),
    "to fp16": (("--to", "fp16", *UNPROVED), ("conversion", "groups")),
    "to bf16": (("--to", "bf16", "--no-validate"), ("conversion", "tables")),
    "observe": (
        ("--observe", "ids.npy", "--sequence-length", "16", "--no-validate"),
        ("audit",),
    ),
    "calibrated": (
        ("--scale", "calibrated", "--tokens", "ids.npy", "--sequence-length", "16"),
        ("validation", "perplexity"),
    ),
    "merged": (("--apply", "fold", "--merge", "all"), ("merge", "norms")),
    "paper": (("--scale", "paper", "--no-validate"), ("norms",)),
    "dry run": (("--dry-run",), ("norms",)),
    "tokens alone": (("--certify", "tokens", "--no-validate"), ("first_rows", "tokens")),
    "everything": (("--emulate", "all", *UNPROVED), ("validation", "tensors")),
    "fp32 nodes": (("--fp32-nodes", "nodes.txt", *UNPROVED), ("fp32_nodes", "text")),
    "not validated": (("--time-limit", "0.001"), ("validation", "failures")),
    "no proof": (("--certify", "off", "--no-validate"), ("norms",)),
}


def faults(found: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    check = jsonschema.Draft202012Validator(schema)
    return [f"{list(error.absolute_path)}: {error.message}" for error in check.iter_errors(found)]


@pytest.mark.parametrize("mode", MODES)
def test_a_report_and_a_sidecar_keep_to_their_schemas(run: Run, mode: str) -> None:
    options, part = MODES[mode]
    np.save("ids.npy", np.arange(64) % 200)
    written = ("--report", "r.json", "--sidecar", "s.json", "-o", "out.onnx", "-qq")
    status, _, err = run(LLAMA, *options, *written)
    assert status in (0, 1), err  # 1 for what could not be validated
    report = json.loads(Path("r.json").read_text())
    assert faults(report, report_schema()) == []
    assert faults(json.loads(Path("s.json").read_text()), sidecar_schema()) == []
    found = report
    for name in part:
        found = found[name]
    assert found not in (None, [], {})
    assert report["options"]["accelerator"]


def test_a_report_with_skipped_norms_and_one_of_the_library_keep_to_it(tmp_path: Path) -> None:
    onnx.save(four_norms(), tmp_path / "m.onnx")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx")
    report = json.loads(report_text(outcome.report))
    assert {norm["status"] for norm in report["norms"]} == {"scaled", "skipped"}
    assert faults(report, report_schema()) == []


@pytest.mark.parametrize("schema", [report_schema, sidecar_schema])
def test_a_schema_names_every_field_and_refuses_others(schema: Any, run: Run) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    file = "r.json" if schema is report_schema else "s.json"
    assert run(LLAMA, "--dry-run", "--report", "r.json", "--sidecar", "s.json", "-qq")[0] == 0
    text = Path(file).read_text()
    assert faults(json.loads(text), schema()) == []

    def spoilt(*path: object, value: object = None) -> dict[str, Any]:
        """The same with another value at a place, or without what stands there."""
        found: dict[str, Any] = json.loads(text)
        place: Any = found
        for step in path[:-1]:
            place = place[step]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return found

    for bad in (
        spoilt("model"),
        spoilt("odd", value=1),
        spoilt("norms", 0, "status", value="perhaps"),
        spoilt("norms", 0, "scale", value="2"),
        spoilt("norms", 0, "safe_radius"),
        spoilt("norms", 0, "odd", value=1),
    ):
        assert len(faults(bad, schema())) == 1
