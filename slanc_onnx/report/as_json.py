"""Report: the machine-readable file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from slanc_onnx.apply.fold import Fold
from slanc_onnx.graph import write_atomically
from slanc_onnx.prove import Certificate
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Observed, Validation

VERSION = "1"
REPORT_START = '{\n "version": "'  # by which one is known again


class NormEntry(TypedDict):
    """One norm in the report; `docs/report.md` says what each field means."""

    name: str
    kind: str
    form: str
    input: str
    width: int | None
    scale: float | None
    rule: str
    sources: list[str]
    epsilon: float | None
    scaled_epsilon: float | None
    predicted_sum_of_squares: dict[str, float] | None
    estimate: str | None
    status: str
    reason: str
    certificate: dict[str, Any] | None
    applied: str | None
    observed: dict[str, Any] | None


class Report(TypedDict):
    """The whole report. Numbers that are not finite are null."""

    version: str
    model: str
    output: str
    options: dict[str, Any]
    norms: list[NormEntry]
    notes: list[str]
    fold: dict[str, Any] | None
    audit: list[dict[str, Any]]
    validation: dict[str, Any] | None
    seconds: dict[str, float]


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON, atomically."""
    write_atomically(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def norm_entry(scaled: ScaledNorm, validation: Validation | None, fold: Fold | None) -> NormEntry:
    """One norm, with what validation saw of it and how folding applied its scale."""
    norm, estimate = scaled.norm, scaled.estimate
    seen = None if validation is None else validation.observed.get(norm.name)
    predicted = None
    if estimate is not None:
        predicted = {"typical": estimate.typical, "upper": estimate.upper}
        if estimate.error:
            predicted["standard_error"] = estimate.error
    return NormEntry(
        name=norm.name,
        kind=norm.kind,
        form=norm.form,
        input=norm.input,
        width=norm.width,
        scale=scaled.scale,
        rule=scaled.rule,
        sources=scaled.sources,
        epsilon=norm.epsilon,
        scaled_epsilon=scaled.scaled_epsilon,
        predicted_sum_of_squares=predicted,
        estimate=None if estimate is None else estimate.by,
        status=scaled.status,
        reason=scaled.reason,
        certificate=None if scaled.certificate is None else _certificate(scaled.certificate),
        applied=_applied(scaled, fold),
        observed=None if seen is None else _observed(seen),
    )


def _certificate(certificate: Certificate) -> dict[str, Any]:
    bound = certificate.bound
    return {
        "certified": certified(certificate),
        "bound": bound.length,
        "overflow_bits": certificate.overflow_bits,
        "underflow_bits": certificate.underflow_bits,
        "upper_limit": "bound" if certificate.certified else "estimate",
        "loose": bound.loose,
        "reason": certificate.reason,
    }


def certified(certificate: Certificate) -> bool | str:
    """True, False, or the condition on which it is: "if pixel_values in [-3, 3]"."""
    if not certificate.certified or not certificate.bound.conditions:
        return certificate.certified
    return f"if {' and '.join(certificate.bound.conditions)}"


def _applied(scaled: ScaledNorm, fold: Fold | None) -> str | None:
    """ "fold" or "div" for a norm that this run scaled. Without folding a scale of 1 needs neither;
    in a group it is the group's, or takes a node that keeps the norm out of it."""
    if scaled.status != "scaled" or scaled.scale is None:
        return None
    if fold is not None:
        return fold.applied.get(scaled.norm.name)
    return None if scaled.scale == 1.0 else "div"


def _observed(seen: Observed) -> dict[str, Any]:
    return {
        "sum_of_squares": _spread(seen.sum_of_squares),
        "scaled": _spread(seen.scaled),
        "overflowed": seen.overflowed,
        "underflowed": seen.underflowed,
        "overflowed_before": seen.overflowed_before,
    }


def _spread(values: Any) -> list[float | None]:
    if not len(values):
        return [None, None, None]
    return [_finite(v) for v in (np.min(values), np.median(values), np.max(values))]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def validation_entry(validation: Validation | None, not_validated: str) -> dict[str, Any] | None:
    """The `validation` object: None where it was not asked for, null where it could not be done."""
    if not_validated:
        return _not_validated(not_validated)
    if validation is None:
        return None
    table = validation.perplexity
    return {
        "fp32_identical": validation.fp32_identical,
        "fp32_max_abs_error": _finite(validation.fp32_max_abs_error),
        "fp16": {
            "overflowed_before": validation.overflowed_before,
            "overflowed_after": validation.overflowed_after,
            "max_relative_error_before": _finite(validation.rounded_error_before),
            "max_relative_error_after": _finite(validation.rounded_error_after),
            "rms_relative_error_after": _finite(validation.rounded_rms_error),
        },
        "perplexity": None if table is None else {k: _finite(v) for k, v in table.items()},
        "unstable_outputs": validation.unstable,
        "failures": validation.failures,
        "passed": validation.passed,
    }


def _not_validated(reason: str) -> dict[str, Any]:
    counts = ("overflowed_before", "overflowed_after")
    errors = (
        "max_relative_error_before",
        "max_relative_error_after",
        "rms_relative_error_after",
    )
    return {
        "fp32_identical": None,
        "fp32_max_abs_error": None,
        "fp16": dict.fromkeys(counts + errors),
        "perplexity": None,
        "unstable_outputs": [],
        "failures": [reason],
        "passed": False,
    }
