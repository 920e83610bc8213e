"""The columns of a report: what JSON, the terminal and the page show of each fact of a norm.

A new column is one entry of `COLUMNS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.prove import Certificate
from slanc_onnx.reasons import Reason
from slanc_onnx.report.digits import below, bits_below
from slanc_onnx.report.inputs import assumed_entries, assumed_text
from slanc_onnx.report.rows import NormRow, Spread
from slanc_onnx.report.terms import rule_text, short_rule_text
from slanc_onnx.report.wording import (
    condition_text,
    reason_text,
    reasons_text,
)
from slanc_onnx.scale import to_json
from slanc_onnx.verify import Observed

MOST_TERMS = 4  # of a rule, on a terminal


@dataclass(frozen=True)
class Shown:
    """A column as people see it.

    Attributes:
        title: Its heading.
        text: What it shows of a norm.
        style: "text" for names and sentences, "words" for a few words, "more" for what a narrow
            page leaves out, "less" for what a phone does, "" for numbers.
        sort: By what the page sorts; None for the text.
        first: Whether it stands before the columns that do not.
        verbose: Whether a terminal shows it with --verbose alone.
        leave: Which column a narrow terminal leaves out first: the highest; 0 for never.
    """

    title: str
    text: Callable[[NormRow], str]
    style: str = ""
    sort: Callable[[NormRow], object] | None = None
    first: bool = False
    verbose: bool = False
    leave: int = 0

    def key(self, row: NormRow) -> object:
        """What the page sorts a norm by."""
        return self.text(row) if self.sort is None else self.sort(row)


@dataclass(frozen=True)
class Column:
    """A fact of a norm: its field in JSON, and its column on a terminal and on the page.

    Attributes:
        name: Its name, which is that of the field.
        value: The field; None for a column without one.
        terminal: None where the terminal does not show it.
        page: None where the page's table does not show it.
    """

    name: str
    value: Callable[[NormRow], Any] | None = None
    terminal: Shown | None = None
    page: Shown | None = None


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits; "" for None."""
    return "" if value is None else f"{value:.{digits}g}"


def bits(value: float | None) -> str:
    """A margin in bits with its sign; "" for None."""
    return "" if value is None else f"{value:+.1f}"


def spread_text(spread: Spread | None) -> str:
    """Least, median and largest with two digits each: 1.3e4."""
    if spread is None:
        return ""
    return " · ".join(_short(v) for v in (spread.low, spread.middle, spread.high))


def _short(value: float) -> str:
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def status_text(row: NormRow) -> str:
    """The status and the reasons for it."""
    told = reasons_text(row.decided.reasons)
    return f"{row.decided.status}: {told}" if told else row.decided.status


def lost_text(row: NormRow) -> str:
    """Rows that overflowed before and after, and those that underflow; "" where it was not run."""
    if not len(row.rows_before):
        return ""
    lost = f"{row.lost_before} → {row.lost_after}" if row.lost_before or row.lost_after else "0"
    return lost + (f", {row.underflowed} underflow" if row.underflowed else "")


def certified_text(certificate: Certificate | None) -> str:
    """ "yes", "no", or the condition; "" where no certificate was asked for."""
    if certificate is None:
        return ""
    words = certified(certificate)
    return words if isinstance(words, str) else "yes" if words else "no"


def proved_text(certificate: Certificate | None) -> str:
    """The same in few words, without the condition."""
    if certificate is not None and certificate.conditional:
        return "on a condition"
    return certified_text(certificate)


def certified(certificate: Certificate) -> bool | str:
    """True, False, or the condition on which it is: "if pixel_values in [-3, 3]"."""
    if not certificate.conditional:
        return certificate.certified
    return f"if {' and '.join(map(condition_text, certificate.conditions))}"


def reason_entry(reason: Reason) -> dict[str, Any]:
    """A reason for programs: its kind and facts, the op that it is about, the reason behind it."""
    form: dict[str, Any] = to_json(reason, finite)
    return form


def _predicted(row: NormRow) -> dict[str, float] | None:
    estimate = row.decided.estimate
    if estimate is None:
        return None
    figures = {"typical": estimate.typical, "upper": estimate.upper}
    return {**figures, "standard_error": estimate.error} if estimate.error else figures


def _certificate(row: NormRow) -> dict[str, Any] | None:
    certificate = row.decided.certificate
    if certificate is None:
        return None
    bound, why = certificate.bound, certificate.reason
    return {
        "certified": certified(certificate),
        "bound": bound.length,
        "conditions": to_json(certificate.conditions, finite),
        "epsilon_at_least": certificate.epsilon_at_least,
        "overflow_bits": certificate.overflow_bits,
        "underflow_bits": certificate.underflow_bits,
        "upper_limit": "bound" if certificate.certified else "estimate",
        "loose": bound.loose,
        "certified_with": [change.value for change in row.decided.certified_with],
        "reason": "" if why is None else reason_text(why),
    }


def _observed(seen: Observed | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {
        "sum_of_squares": _extremes(seen.sum_of_squares),
        "scaled": _extremes(seen.scaled),
        "overflowed": seen.overflowed,
        "underflowed": seen.underflowed,
        "overflowed_before": seen.overflowed_before,
    }


def _extremes(values: Array) -> list[float | None]:
    if not len(values):
        return [None, None, None]
    return [finite(v) for v in (np.min(values), np.median(values), np.max(values))]


def finite(value: float) -> float | None:
    """A number as JSON holds it: null where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _first_row(row: NormRow) -> dict[str, Any] | None:
    if row.first is None:
        return None
    return {
        "length": finite(row.first.length),
        "token": row.first.token,
        "within": row.first_within,
    }


def _first_text(row: NormRow) -> str:
    """The longest row of a token alone, and the token."""
    if row.first is None:
        return ""
    by = "" if row.first.token is None else f" by id {row.first.token}"
    return f"{row.first.length:.4g}{by}{'' if row.first_within else ', beyond the safe radius'}"


def _margin(row: NormRow) -> str:
    """What is left of the largest row that there can be to overflow."""
    certificate = row.decided.certificate
    if certificate is None:
        return ""
    if certificate.overflow_bits is None:
        return "no"
    text = f"{bits_below(certificate.overflow_bits):.1f} bits"
    return (
        f"if, {text}"
        if certificate.conditional
        else text
        if certificate.certified
        else f"no, {text}"
    )


def _sums(row: NormRow, after: bool) -> str:
    """Least and largest sum of squares that was seen, or "~" and what is predicted."""
    if row.seen is not None:
        values = row.seen.scaled if after else row.seen.sum_of_squares
        return f"{_short(np.min(values))}..{_short(np.max(values))}" if len(values) else ""
    estimate, scale = row.decided.estimate, row.decided.scale
    if estimate is None or scale is None:
        return ""
    factor = scale**2 if after else 1.0
    return f"~{_short(estimate.typical / factor)}..{_short(estimate.upper / factor)}"


def _lost(row: NormRow) -> str:
    """Rows that overflowed before and after, in ASCII; "" where none did."""
    return f"{row.lost_before} -> {row.lost_after}" if row.lost_before or row.lost_after else ""


def _events(row: NormRow) -> str:
    """The status, and what is wrong with rows now."""
    words: list[str] = [row.decided.status]
    if row.lost_after:
        words.append(f"{row.lost_after} STILL OVERFLOW")
    if row.underflowed:
        words.append(f"{row.underflowed} underflow")
    return ", ".join(words)


COLUMNS: tuple[Column, ...] = (
    Column(
        "number",
        None,
        Shown("#", lambda r: str(r.number)),
        Shown("#", lambda r: str(r.number), "", lambda r: r.number, True),
    ),
    Column(
        "name",
        lambda r: r.decided.norm.name,
        Shown("norm", lambda r: r.name, "text"),
        Shown("norm", lambda r: r.name, "text", first=True),
    ),
    Column("kind", lambda r: r.decided.norm.kind),
    Column(
        "form",
        lambda r: r.decided.norm.form,
        Shown("form", lambda r: r.decided.norm.form, "text", leave=5),
    ),
    Column("input", lambda r: r.decided.norm.input),
    Column("width", lambda r: r.decided.norm.width),
    Column(
        "rule",
        lambda r: rule_text(r.decided.rule),
        Shown("rule", lambda r: short_rule_text(r.decided.rule, MOST_TERMS), "text", leave=4),
    ),
    Column("sources", lambda r: list(r.decided.sources)),
    Column(
        "scale",
        lambda r: r.decided.scale,
        Shown("scale", lambda r: number(r.decided.scale, 6)),
        Shown("scale", lambda r: number(r.decided.scale, 6), "", lambda r: r.decided.scale),
    ),
    Column("epsilon", lambda r: r.decided.norm.epsilon),
    Column("scaled_epsilon", lambda r: r.decided.scaled_epsilon),
    Column("predicted_sum_of_squares", _predicted),
    Column("estimate", lambda r: r.decided.estimate and r.decided.estimate.by),
    Column("reason", lambda r: reasons_text(r.decided.reasons)),
    Column("reasons", lambda r: [reason_entry(reason) for reason in r.decided.reasons]),
    Column(
        "observed",
        lambda r: _observed(r.seen),
        Shown("rows lost", _lost),
        Shown("rows lost", lost_text, "", lambda r: r.lost_before if len(r.rows_before) else None),
    ),
    Column(
        "overflow_bits",
        None,
        None,
        Shown(
            "bits to overflow", lambda r: bits(r.overflow_bits), "less", lambda r: r.overflow_bits
        ),
    ),
    Column(
        "before",
        None,
        Shown("sum of squares", lambda r: _sums(r, False), leave=2),
        Shown(
            "before: least · median · most",
            lambda r: spread_text(r.before),
            "more",
            lambda r: r.before and r.before.high,
        ),
    ),
    Column(
        "after",
        None,
        Shown("after", lambda r: _sums(r, True), leave=3),
        Shown("after", lambda r: spread_text(r.after), "more", lambda r: r.after and r.after.high),
    ),
    Column(
        "certificate",
        _certificate,
        Shown("certified", _margin, leave=1),
        Shown("certified", lambda r: proved_text(r.decided.certificate), "words"),
    ),
    Column(
        "safe_radius",
        lambda r: r.decided.safe_radius,
        Shown("safe radius", lambda r: below(r.decided.safe_radius), verbose=True, leave=6),
        Shown(
            "safe radius",
            lambda r: below(r.decided.safe_radius),
            "more",
            lambda r: r.decided.safe_radius,
        ),
    ),
    Column(
        "most_elements",
        lambda r: r.decided.most_elements,
        Shown("holds up to", lambda r: number(r.decided.most_elements, 6), verbose=True, leave=7),
        Shown("holds up to (elements per row)", lambda r: number(r.decided.most_elements, 6)),
    ),
    Column(
        "assumed_inputs",
        lambda r: assumed_entries(r.decided.assumed),
        Shown("assumed", lambda r: assumed_text(r.decided.assumed), "text", verbose=True, leave=8),
        Shown("assumed of inputs", lambda r: assumed_text(r.decided.assumed), "text"),
    ),
    Column(
        "first_row",
        _first_row,
        Shown("longest first row", _first_text, verbose=True, leave=9),
        Shown("longest first row", _first_text, "more", lambda r: r.first and r.first.length),
    ),
    Column("applied", lambda r: r.applied),
    Column(
        "status",
        lambda r: r.decided.status,
        Shown("status", _events, "text"),
        Shown("status", status_text, "text", first=True),
    ),
)
