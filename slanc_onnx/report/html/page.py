"""The HTML report: one file with everything in it, that asks no network for anything."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from slanc_onnx.apply.merge import Part
from slanc_onnx.graph import write_atomically
from slanc_onnx.report.columns import (
    COLUMNS,
    Shown,
    bits,
    certified_text,
    lost_text,
    number,
    spread_text,
    status_text,
)
from slanc_onnx.report.digits import above, below, bits_below
from slanc_onnx.report.html.parts import name_text, scrolled
from slanc_onnx.report.html.plots import histograms, overview
from slanc_onnx.report.html.tensors import tensor_section
from slanc_onnx.report.html.view import PageView, page_view
from slanc_onnx.report.merge import merged_text
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.rows import NormRow
from slanc_onnx.report.terms import rule_text
from slanc_onnx.report.wording import reason_text

# By which a page is known again.
START = '<!doctype html>\n<html lang="en" data-by="slanc-onnx">'


def write_html(outcome: Outcome, path: Path) -> None:
    """Write the page of an outcome, atomically; needs matplotlib."""
    write_atomically(path, page(page_view(outcome)).encode(errors="replace"))


def page(view: PageView) -> str:
    """The whole page as text."""
    text = (
        resources.files("slanc_onnx.report.html").joinpath("page.html").read_text(encoding="utf-8")
    )
    form, norms = str(view.accelerator.format), view.norms
    states = {None: "", True: "passed", False: "failed"}
    wide, narrow = (overview(norms, form, view.seen, small) for small in (False, True))
    urgent = {number: place for place, number in enumerate(view.urgent)}
    listed = sorted(norms, key=lambda norm: urgent.get(norm.number, len(norms)))
    kinds = {kind for norm in norms for kind in _kinds(norm)} | ({"urgent"} if urgent else set())
    choices = [("", "all norms"), *((k, words) for k, words in _CHOICES.items() if k in kinds)]
    pictures = histograms(norms)
    shown = [column for column in SHOWN if any(column.text(norm) for norm in norms)]
    return Template(text).substitute(
        title=html.escape(f"{view.heading}: norms in {form}"),
        heading=name_text(view.heading),
        paths=name_text(f"{view.model} → {view.output}" if view.output else view.model),
        sentence=html.escape(view.sentence),
        state=states[view.passed],
        line=_line(view.line),
        scrolled=scrolled("Norms"),
        folded="" if norms else "folded",
        facts="".join(f"<div><dt>{t}</dt><dd>{name_text(v)}</dd></div>" for t, v in view.facts),
        suspects=view.sections.suspects,
        conversion=view.sections.conversion,
        conditions=view.sections.conditions,
        wide=wide,
        narrow=narrow,
        reading=html.escape(_reading(view)),
        perplexity=_perplexity(view),
        tensors=tensor_section(view.tensors, view.tensors_said),
        notes=_notes(view.notes),
        choices="".join(f'<option value="{k}">{words}</option>' for k, words in choices),
        columns="".join(
            f'<th scope="col" class="{c.style}"><button type="button">{c.title}</button></th>'
            for c in shown
        ),
        rows="\n".join(_row(norm, shown, norm.number in urgent) for norm in listed),
        details="\n".join(_details(n, p) for n, p in zip(norms, pictures, strict=True)),
    )


def _line(parts: Sequence[str]) -> str:
    """The word, and below it what that rests on; "" where nothing was done."""
    if not parts:
        return ""
    rests = "".join(f"<li>{html.escape(part)}</li>" for part in parts[1:])
    return f"<p><strong>{html.escape(parts[0])}</strong></p>" + (rests and f"<ul>{rests}</ul>")


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return items and f"<h2>Notes</h2>\n<ul>{items}</ul>"


def _reading(view: PageView) -> str:
    exact = " and changes no output" if view.exact else ""
    return (
        f"Device: {view.accelerator}. A norm sums the squares of a row; over the solid line that "
        "sum is infinite and the row is lost, under the dashed line its mean square has few bits "
        f"left. Scaling moves the hatched band into the plain one{exact}."
    )


def _perplexity(view: PageView) -> str:
    if view.perplexity is None:
        return ""
    form = str(view.accelerator.format)
    words = {
        "fp32": "FP32",
        "fp16": f"{form} norms as exported",
        "fp16_slanc": f"{form} norms with the scales",
    }
    cells = ", ".join(f"{words[k]} <b>{v:.4f}</b>" for k, v in view.perplexity.items())
    return f"<p>Perplexity: {cells}</p>"


_CHOICES = {
    "urgent": "need attention",
    "overflowed": "overflowed as exported",
    "bad": "overflow or underflow now",
    "skipped": "skipped",
    "unproved": "not certified",
    "conditional": "certified on a condition",
}


def _kinds(norm: NormRow) -> list[str]:
    """The classes of a norm's row, by which it is coloured and filtered."""
    certificate = norm.decided.certificate
    known = {
        "overflowed": norm.overflows_before,
        "bad": norm.overflows_after or norm.underflowed > 0,
        "skipped": norm.decided.status == "skipped",
        "unproved": certificate is not None and not certificate.certified,
        "conditional": certificate is not None and certificate.conditional,
    }
    return [kind for kind, is_so in known.items() if is_so]


_SHOWN = [column.page for column in COLUMNS if column.page is not None]
SHOWN = [shown for first in (True, False) for shown in _SHOWN if shown.first is first]


def _row(norm: NormRow, columns: Sequence[Shown], urgent: bool) -> str:
    text = " ".join(
        (norm.name, norm.decided.norm.form, status_text(norm), rule_text(norm.decided.rule))
    ).lower()
    cells = []
    for column in columns:
        key = column.key(norm)
        shown = "" if key is None else html.escape(str(key))
        style = "text name" if column.title == "norm" else column.style
        cells.append(f'<td class="{style}" data-key="{shown}">{_cell(column, norm)}</td>')
    kinds = [*_kinds(norm), *["urgent"] * urgent]
    return (
        f'<tr class="{" ".join(kinds)}" data-norm="norm-{norm.number}" '
        f'data-text="{html.escape(text)}">{"".join(cells)}</tr>'
    )


def _cell(column: Shown, norm: NormRow) -> str:
    text = (
        name_text(column.text(norm)) if column.style == "text" else html.escape(column.text(norm))
    )
    return f'<a href="#norm-{norm.number}">{text}</a>' if column.title == "norm" else text


def _details(norm: NormRow, picture: str) -> str:
    rows = "".join(f"<dt>{t}</dt><dd>{html.escape(v)}</dd>" for t, v in _facts(norm) if v)
    summary = f"{norm.number}. {name_text(norm.name)}"
    word = norm.decided.status if norm.decided.scale is None else f"/ {norm.decided.scale:.6g}"
    if picture:
        picture = f"{scrolled(f'Histogram of {norm.name}')}{picture}</div>"
    elif len(norm.rows_before):
        picture = '<p class="quiet">Left out to keep the page small: its histogram.</p>'
    return (
        f'<details id="norm-{norm.number}"><summary>{summary} <span class="quiet">'
        f"{html.escape(word)}</span></summary>{picture}<dl>{rows}</dl></details>"
    )


def _audited(norm: NormRow) -> str:
    audit = norm.audit
    if audit is None:
        return ""
    outside = f", {audit.above} above and {audit.below} below" if audit.coverage < 1 else ""
    return (
        f"{100 * audit.coverage:.4g} % of {audit.rows} rows inside the window{outside}; largest: "
        + "; ".join(map(str, audit.worst))
    )


def _facts(norm: NormRow) -> Sequence[tuple[str, str]]:
    decided = norm.decided
    certificate, merged = decided.certificate, norm.merged
    form = decided.norm.form
    if merged is not None and merged.form != form:
        form += f" → {merged.form}"
    centred = merged is not None and merged.mean == Part("merged")
    proved = certified_text(certificate)
    if certificate is not None:
        if certificate.overflow_bits is not None:
            margin = bits_below(certificate.overflow_bits)
            proved += f", {margin:+.1f} bits to overflow for the largest row"
        if certificate.bound.length is not None:
            row = "row less its mean" if centred else "row"
            proved += f", no {row} is longer than {above(certificate.bound.length)}"
        if certificate.reason is not None:
            proved += f": {reason_text(certificate.reason)}"
    predicted = ""
    if norm.typical is not None and decided.estimate is not None:
        predicted = (
            f"typical {norm.typical:.4g}, largest {norm.upper:.4g}, by {decided.estimate.by}"
        )
    return (
        ("status", status_text(norm)),
        ("what was read", rule_text(decided.rule)),
        ("from", ", ".join(decided.sources)),
        ("form, width", f"{form}, {decided.norm.width or 'not known'}"),
        ("input", decided.norm.input),
        ("scale", number(decided.scale, 10)),
        ("applied", norm.applied or ""),
        ("merged", "" if merged is None else merged_text(merged)),
        (
            "epsilon",
            f"{number(decided.norm.epsilon, 6)} → {number(decided.scaled_epsilon, 6)}"
            if decided.scaled_epsilon is not None
            else number(decided.norm.epsilon, 6),
        ),
        ("predicted sums", predicted),
        ("before", spread_text(norm.before)),
        ("after", spread_text(norm.after)),
        ("safe radius", below(decided.safe_radius)),
        ("bits to overflow", bits(norm.overflow_bits)),
        ("bits to underflow", bits(norm.underflow_bits)),
        ("rows lost", lost_text(norm)),
        ("certified", proved),
        ("on your data", _audited(norm)),
    )
