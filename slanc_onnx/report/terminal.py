"""What a person reads on a terminal: the table, the counts and the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from slanc_onnx.prove import Certificate
from slanc_onnx.report.fold import fold_line
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.shown import printable
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Observed, Validation

MOST_TERMS = 4  # of a rule, in the table


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
            printable(scaled.norm.name),
            printable(scaled.norm.form),
            printable(_short(scaled.rule)),
            "" if scaled.scale is None else f"{scaled.scale:.6g}",
            before,
            after,
            *([_margin(scaled.certificate)] if proved else []),
            printable(_status(scaled, seen)),
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


def print_summary(console: Console, outcome: Outcome) -> None:
    """Counts, notes, limits, the perplexity table, and the verdict in the last line."""
    for line in _summary(outcome):
        console.print(
            printable(line), soft_wrap=True
        )  # scripts read the last line: it stays one line


def _summary(outcome: Outcome) -> Iterator[str]:
    norms, validation, device = outcome.norms, outcome.validation, outcome.accelerator
    counts = {s: sum(n.status == s for n in norms) for s in ("scaled", "unchanged", "skipped")}
    by = sorted({n.estimate.by for n in norms if n.estimate is not None})
    yield (
        f"{len(norms)} norms: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + (f"; estimated by {' and '.join(by)}" if by else "")
    )
    if outcome.fold is not None:
        yield fold_line(len(norms), outcome.fold)
        yield from (f"note: {note}" for note in outcome.fold.notes)
    yield from (f"note: {note}" for note in outcome.notes)
    yield (
        f"limits of a sum of squares in {device.format}: {device.largest:g} largest, mean square "
        f"{device.smallest_normal:.2g} smallest normal; emulated: {device}"
    )
    if validation is not None and validation.perplexity is not None:
        what = validation.rounded
        words = {"fp32": "FP32", "fp16": what, "fp16_slanc": f"{what} + SLaNC"}
        figures = (f"{words[k]} {v:.4f}" for k, v in validation.perplexity.items())
        yield "perplexity: " + ", ".join(figures)
    conditions = {
        c
        for n in norms
        if n.certificate and n.certificate.certified
        for c in n.certificate.bound.conditions
    }
    yield from (f"certified if {condition}" for condition in sorted(conditions))
    yield final_line(outcome)


def final_line(outcome: Outcome) -> str:
    """The verdict with the certificates counted, as one line."""
    if outcome.not_validated:
        last = f"FAILED | not validated: {outcome.not_validated}"
    elif outcome.validation is None:
        last = "NOT VALIDATED | --no-validate was given"
    else:
        last = verdict(outcome.validation)
    return " | ".join([last, *counted(outcome.norms)])


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
        f"{validation.rounded_error_before:.3g} -> {validation.rounded_error_after:.3g}, RMS "
        f"{validation.rounded_rms_error:.3g} (tolerance {validation.rounded_tolerance:g})"
    )
    word = "PASSED" if validation.passed else "FAILED"
    apart = [f"not compared: {', '.join(validation.unstable)}"] if validation.unstable else []
    return " | ".join([word, fp32, fp16, *apart, *validation.failures])
