"""Report: the machine-readable file. `report.schema.json` beside this file is its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from slanc_onnx.graph import write_atomically
from slanc_onnx.norms import Suspect
from slanc_onnx.reasons import Reason
from slanc_onnx.report.columns import COLUMNS, finite, reason_entry
from slanc_onnx.report.inputs import trial_entries
from slanc_onnx.report.rows import NormRow
from slanc_onnx.report.wording import reason_text
from slanc_onnx.verify import FirstRows, Left, TensorSize, Validation

VERSION = "1"
REPORT_START = '{\n "version": "'  # by which one is known again


class Report(TypedDict):
    """The whole report. Numbers that are not finite are null."""

    version: str
    model: str
    output: str | None
    options: dict[str, Any]
    norms: list[dict[str, Any]]
    suspects: list[dict[str, Any]]
    notes: list[str]
    fold: dict[str, Any] | None
    merge: dict[str, Any] | None
    conversion: dict[str, Any] | None
    audit: list[dict[str, Any]]
    first_rows: dict[str, Any] | None
    advice: dict[str, int]
    fp32_nodes: dict[str, Any] | None
    validation: dict[str, Any] | None
    seconds: dict[str, float]


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report, or a sidecar, as JSON, atomically."""
    write_atomically(path, report_text(report).encode())


def report_text(report: Mapping[str, Any]) -> str:
    """A report as JSON; numbers that are not finite are null."""
    return json.dumps(_strict(report), indent=1, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    text = Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _strict(value: Any) -> Any:
    """A value of the report whose numbers are those of JSON; a reason may tell of others."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return finite(value) if isinstance(value, float) else value


def norm_entry(row: NormRow) -> dict[str, Any]:
    """One norm: the fields of `COLUMNS`; `docs/report.md` says what each means."""
    return {column.name: column.value(row) for column in COLUMNS if column.value is not None}


def suspect_entry(suspect: Suspect, excluded: bool) -> dict[str, Any]:
    """What looks like a norm and was not taken for one."""
    return {
        "name": suspect.name,
        "op": suspect.op,
        "reason": reason_text(suspect.reason),
        "reasons": [reason_entry(suspect.reason)],
        "excluded": excluded,
    }


def first_rows_entry(rows: FirstRows | None) -> dict[str, Any] | None:
    """How many tokens were run alone, and what the other inputs were; None for no such run."""
    return None if rows is None else {"tokens": rows.tokens, "inputs": dict(rows.others)}


def validation_entry(
    validation: Validation | None, not_validated: Reason | None
) -> dict[str, Any] | None:
    """The `validation` object: None where it was not asked for, null where it could not be done."""
    if not_validated is not None:
        return _not_validated(not_validated)
    if validation is None:
        return None
    table, own = validation.perplexity, validation.as_they_round
    return {
        "fp32_identical": validation.fp32_identical,
        "fp32_max_abs_error": finite(validation.fp32_max_abs_error),
        "fp32_rms_error": finite(validation.fp32_rms_error),
        "fp32_default_level": _default_level(validation),
        "as_they_round_rms_error": None if own is None else finite(own.rms),
        "fp16": {
            "lost_before": validation.lost_before,
            "overflowed_before": validation.overflowed_before,
            "overflowed_after": validation.overflowed_after,
            "max_relative_error_before": finite(validation.rounded_error_before),
            "max_relative_error_after": finite(validation.rounded_error_after),
            "rms_relative_error_after": finite(validation.rounded_rms_error),
            "first_out_of_range": _left(validation.first_out),
            "first_out_of_range_before": _left(validation.first_out_before),
            "constants_beyond": _beyond(validation),
            "inputs_beyond": dict(validation.inputs_beyond),
            "outside_beyond": [
                {"tensor": one.tensor, "op": one.op, "largest": one.value}
                for one in validation.outside_beyond
            ],
            "beside_fold": _beside_fold(validation),
            **_conversion(validation),
        },
        "tensors": [_tensor(size) for size in validation.tensors],
        "perplexity": None if table is None else {k: finite(v) for k, v in table.items()},
        "unstable_outputs": validation.unstable,
        "failures": [reason_text(reason) for reason in validation.failures],
        "tried": trial_entries(validation.trials),
        "inconclusive": validation.inconclusive,
        "passed": validation.passed,
    }


def _tensor(size: TensorSize) -> dict[str, Any]:
    return {
        "name": size.tensor,
        "node": size.node,
        "op": size.op,
        "largest": size.largest,
        "limit": size.limit,
        "left": size.left,
    }


def _default_level(validation: Validation) -> dict[str, Any] | None:
    found = validation.at_default
    if found is None:
        return None
    return {
        "identical": found.identical,
        "max_abs_error": finite(found.absolute),
        "max_relative_error": finite(found.relative),
    }


def _conversion(validation: Validation) -> dict[str, Any]:
    """Of a file of 16 bits: its least cosine, and how it runs as it is; {} for others."""
    if validation.cosine is None:
        return {}
    ran = validation.as_written
    return {
        "least_cosine": finite(validation.cosine),
        "as_written_max_abs_error": None if ran is None else finite(ran.absolute),
        "as_written_lacks_kernel": validation.no_kernel,
    }


def _left(left: Left | None) -> dict[str, Any] | None:
    if left is None:
        return None
    return {"tensor": left.tensor, "op": left.op, "value": finite(left.value)}


def _beyond(validation: Validation) -> dict[str, Any] | None:
    found = validation.beyond
    if found is None:
        return None
    off = found.difference
    return {
        "names": list(found.names),
        "value": found.value,
        "rms_relative_error_as_infinite": None if off is None else finite(off.rms),
        "first_nan": {"tensor": found.tensor, "op": found.op} if found.tensor else None,
    }


def _beside_fold(validation: Validation) -> dict[str, Any] | None:
    found = validation.beside_fold
    if found is None:
        return None
    table = found.perplexity
    return {
        "rms_difference": finite(found.difference),
        "rms_noise": finite(found.noise),
        "rms_moves": finite(found.moves),
        "rms_relative_error_of_fold": finite(found.error),
        "rms_relative_errors_otherwise": [finite(error) for error in found.ways],
        "within": found.within,
        "perplexity": None if table is None else {k: finite(v) for k, v in table.items()},
    }


def _not_validated(reason: Reason) -> dict[str, Any]:
    counts = ("lost_before", "overflowed_before", "overflowed_after")
    errors = (
        "max_relative_error_before",
        "max_relative_error_after",
        "rms_relative_error_after",
        "first_out_of_range",
        "first_out_of_range_before",
        "constants_beyond",
        "inputs_beyond",
        "outside_beyond",
        "beside_fold",
    )
    return {
        "fp32_identical": None,
        "fp32_max_abs_error": None,
        "fp32_rms_error": None,
        "fp32_default_level": None,
        "as_they_round_rms_error": None,
        "fp16": dict.fromkeys(counts + errors),
        "tensors": [],
        "perplexity": None,
        "unstable_outputs": [],
        "failures": [reason_text(reason)],
        "tried": [],
        "inconclusive": False,
        "passed": False,
    }
