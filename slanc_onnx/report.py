"""Report: the machine-readable file, and the table and verdict for people."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from rich.console import Console
from rich.table import Table

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.audit_report import audit_entries
from slanc_onnx.certificate import Certificate
from slanc_onnx.fold import Fold
from slanc_onnx.fold_report import fold_entry, fold_line
from slanc_onnx.observe import Audit
from slanc_onnx.save import write_atomically
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.validate import Observed, Validation

VERSION = "1"
MOST_TERMS = 4  # of a rule, in the table


class NormEntry(TypedDict):
    """One norm in the report; `README.md` says what each field means."""

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


def make_report(
    model: str,
    output: str,
    options: Mapping[str, Any],
    norms: Sequence[ScaledNorm],
    validation: Validation | None,
    seconds: Mapping[str, float],
    not_validated: str = "",
    notes: Sequence[str] = (),
    fold: Fold | None = None,
    audits: Sequence[Audit] = (),
) -> Report:
    """Collect what was done; see `Report`."""
    checked: dict[str, Any] | None = None if validation is None else _validation(validation)
    if not_validated:
        checked = _not_validated(not_validated)
    return Report(
        version=VERSION,
        model=model,
        output=output,
        options=dict(options),
        norms=[_norm(norm, validation, fold) for norm in norms],
        notes=list(notes),
        fold=None if fold is None else fold_entry(fold),
        audit=audit_entries(audits),
        validation=checked,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON, atomically."""
    write_atomically(path, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())


def _norm(scaled: ScaledNorm, validation: Validation | None, fold: Fold | None) -> NormEntry:
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
    """"fold" or "div" for a norm that this run scaled. Without folding a scale of 1 needs neither;
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


def _validation(validation: Validation) -> dict[str, Any]:
    table = validation.perplexity
    return {
        "fp32_identical": validation.fp32_identical,
        "fp32_max_abs_error": _finite(validation.fp32_max_abs_error),
        "fp16": {
            "overflowed_before": validation.overflowed_before,
            "overflowed_after": validation.overflowed_after,
            "max_relative_error_before": _finite(validation.fp16_error_before),
            "max_relative_error_after": _finite(validation.fp16_error_after),
            "rms_relative_error_after": _finite(validation.fp16_rms_error),
        },
        "perplexity": None if table is None else {k: _finite(v) for k, v in table.items()},
        "unstable_outputs": validation.unstable,
        "failures": validation.failures,
        "passed": validation.passed,
    }


def _not_validated(reason: str) -> dict[str, Any]:
    counts = ("overflowed_before", "overflowed_after")
    errors = (
        "max_relative_error_before", "max_relative_error_after", "rms_relative_error_after",
    )  # fmt: skip
    return {
        "fp32_identical": None,
        "fp32_max_abs_error": None,
        "fp16": dict.fromkeys(counts + errors),
        "perplexity": None,
        "unstable_outputs": [],
        "failures": [reason],
        "passed": False,
    }


def print_table(
    console: Console, norms: Sequence[ScaledNorm], validation: Validation | None
) -> None:
    """One row per norm: what was read, the scale, and the sums of squares before and after."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("norm", "form", "rule"):
        table.add_column(name, overflow="fold")
    proved = any(scaled.certificate is not None for scaled in norms)
    for name in ("scale", "sum of squares", "after", *(["certified"] if proved else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    for scaled in norms:
        seen = None if validation is None else validation.observed.get(scaled.norm.name)
        before, after = _sums(scaled, seen)
        table.add_row(
            scaled.norm.name,
            scaled.norm.form,
            _short(scaled.rule),
            "" if scaled.scale is None else f"{scaled.scale:.6g}",
            before,
            after,
            *([_margin(scaled.certificate)] if proved else []),
            _status(scaled, seen),
        )
    console.print(table)


def _margin(certificate: Certificate | None) -> str:
    """What is left of the largest row that there can be to overflow."""
    if certificate is None or certificate.overflow_bits is None:
        return "no"
    bits = f"{certificate.overflow_bits:.1f} bits"
    conditional = certificate.bound.conditions and certificate.certified
    return f"if, {bits}" if conditional else bits if certificate.certified else f"no, {bits}"


def _short(rule: str) -> str:
    """A rule without the names, which the report has."""
    without_names = re.sub(r"\((?:[A-Z_]\w*=[^,;()]*(?:, )?)+; (eq\. \d+)\)", r"(\1)", rule)
    without_gamma = re.sub(r" Γ \(Γ=[^()]*\) of \S+", " Γ", without_names)
    terms = re.sub(r" = input of \S+", "", without_gamma).split(" + ")
    if len(terms) > MOST_TERMS:
        terms = [*terms[:MOST_TERMS], f"{len(terms) - MOST_TERMS} more"]
    return " + ".join(terms)


def _sums(scaled: ScaledNorm, seen: Observed | None) -> tuple[str, str]:
    if seen is not None:
        return _range(seen.sum_of_squares), _range(seen.scaled)
    if scaled.estimate is None or scaled.scale is None:
        return "", ""
    figures = np.array([scaled.estimate.typical, scaled.estimate.upper])
    return f"~{_range(figures)}", f"~{_range(figures / scaled.scale**2)}"


def _range(values: Any) -> str:
    return f"{np.min(values):.2g}..{np.max(values):.2g}" if len(values) else ""


def _status(scaled: ScaledNorm, seen: Observed | None) -> str:
    words: list[str] = [scaled.status]
    if seen is not None and seen.overflowed_before:
        words.append(f"{seen.overflowed_before} rows overflowed before")
    if seen is not None and seen.overflowed:
        words.append(f"{seen.overflowed} STILL OVERFLOW")
    if seen is not None and seen.underflowed:
        words.append(f"{seen.underflowed} underflow")
    if scaled.reason:
        words.append(scaled.reason)
    return ", ".join(words)


def print_summary(
    console: Console,
    norms: Sequence[ScaledNorm],
    validation: Validation | None,
    accelerator: Accelerator,
    not_validated: str = "",
    notes: Sequence[str] = (),
    fold: Fold | None = None,
) -> None:
    """Counts, notes, limits, the perplexity table, and the verdict in the last line."""
    for line in _summary(norms, validation, accelerator, not_validated, notes, fold):
        console.print(line, soft_wrap=True)  # scripts read the last line: it stays one line


def _summary(
    norms: Sequence[ScaledNorm],
    validation: Validation | None,
    accelerator: Accelerator,
    not_validated: str,
    notes: Sequence[str],
    fold: Fold | None,
) -> Iterator[str]:
    counts = {s: sum(n.status == s for n in norms) for s in ("scaled", "unchanged", "skipped")}
    form = str(accelerator.format)
    by = sorted({n.estimate.by for n in norms if n.estimate is not None})
    yield (
        f"{len(norms)} norms: " + ", ".join(f"{count} {status}" for status, count in counts.items())
        + (f"; estimated by {' and '.join(by)}" if by else "")
    )  # fmt: skip
    if fold is not None:
        yield fold_line(len(norms), fold)
        yield from (f"note: {note}" for note in fold.notes)
    yield from (f"note: {note}" for note in notes)
    yield (
        f"limits of a sum of squares in {form}: {accelerator.largest:g} largest, mean square "
        f"{accelerator.smallest_normal:.2g} smallest normal; emulated: {accelerator}"
    )
    if validation is not None and validation.perplexity is not None:
        what = validation.rounded
        words = {"fp32": "FP32", "fp16": what, "fp16_slanc": f"{what} + SLaNC"}
        figures = (f"{words[k]} {v:.4f}" for k, v in validation.perplexity.items())
        yield "perplexity: " + ", ".join(figures)
    conditions = {c for n in norms if n.certificate and n.certificate.certified
                  for c in n.certificate.bound.conditions}  # fmt: skip
    yield from (f"certified if {condition}" for condition in sorted(conditions))
    yield final_line(norms, validation, accelerator, not_validated)


def final_line(
    norms: Sequence[ScaledNorm],
    validation: Validation | None,
    accelerator: Accelerator,
    not_validated: str = "",
) -> str:
    """The verdict with the certificates counted, as one line."""
    if not_validated:
        last = f"FAILED | not validated: {not_validated}"
    elif validation is None:
        last = "NOT VALIDATED | --no-validate was given"
    else:
        last = verdict(validation)
    return " | ".join([last, *counted(norms)])


def counted(norms: Sequence[ScaledNorm]) -> list[str]:
    """How many norms no input can overflow; nothing where that was not asked for."""
    asked = [norm.certificate for norm in norms if norm.certificate is not None]
    if not asked:
        return []
    proved = [c for c in asked if c.certified]
    text = f"certified {len(proved)} of {len(norms)} norms"
    conditional = sum(bool(c.bound.conditions) for c in proved)
    return [f"{text}, {conditional} of them on a condition" if conditional else text]


def verdict(validation: Validation) -> str:
    """PASSED or FAILED with the measured errors and the tolerances."""
    if validation.fp32_identical:
        fp32 = "FP32 outputs bit-identical"
    else:
        fp32 = (
            f"FP32 max abs error {validation.fp32_max_abs_error:.3g}, relative "
            f"{validation.fp32_max_relative_error:.3g} (tolerance {validation.fp32_tolerance:g})"
        )
        if validation.rounded_epsilons:
            fp32 += f", {validation.rounded_epsilons} epsilons round in the file's FP16"
    fp16 = (
        f"{validation.rounded}: rows overflowed {validation.overflowed_before} -> "
        f"{validation.overflowed_after}, largest relative error "
        f"{validation.fp16_error_before:.3g} -> {validation.fp16_error_after:.3g}, RMS "
        f"{validation.fp16_rms_error:.3g} (tolerance {validation.fp16_tolerance:g})"
    )
    word = "PASSED" if validation.passed else "FAILED"
    apart = [f"not compared: {', '.join(validation.unstable)}"] if validation.unstable else []
    return " | ".join([word, fp32, fp16, *apart, *validation.failures])
