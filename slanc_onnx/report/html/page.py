"""The HTML report: one file with everything in it, that asks no network for anything."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

from slanc_onnx.graph import write_atomically
from slanc_onnx.report.html.plots import histograms, overview
from slanc_onnx.report.html.view import NormView, PageView, Spread, page_view
from slanc_onnx.report.outcome import Outcome

# By which a page is known again.
START = '<!doctype html>\n<html lang="en" data-by="slanc-onnx">'


class Column(NamedTuple):
    """One column of the table: what it shows of a norm, and by what it sorts."""

    title: str
    shown: Callable[[NormView], str]
    key: Callable[[NormView], object]
    style: str = ""


def write_html(outcome: Outcome, path: Path) -> None:
    """Write the page of an outcome, atomically; needs matplotlib."""
    write_atomically(path, page(page_view(outcome)).encode(errors="replace"))


def page(view: PageView) -> str:
    """The whole page as text."""
    text = (
        resources.files("slanc_onnx.report.html").joinpath("page.html").read_text(encoding="utf-8")
    )
    form, norms = str(view.accelerator.format), view.norms
    word, _, rest = view.line.partition(" | ")
    states = {None: "", True: "passed", False: "failed"}
    wide, narrow = (overview(norms, form, view.seen, small) for small in (False, True))
    kinds = {kind for norm in norms for kind in _kinds(norm)}
    choices = [("", "all norms"), *((k, words) for k, words in _CHOICES.items() if k in kinds)]
    pictures = histograms(norms)
    return Template(text).substitute(
        title=html.escape(f"{Path(view.model).name}: norms in {form}"),
        heading=html.escape(f"{Path(view.model).name} → {Path(view.output).name}"),
        sentence=html.escape(view.sentence),
        state=states[view.passed],
        line=f"<b>{html.escape(word)}</b>" + (f" | {html.escape(rest)}" if rest else ""),
        wide=wide,
        narrow=narrow,
        reading=html.escape(_reading(view)),
        perplexity=_perplexity(view),
        notes="".join(f'<p class="quiet">Note: {html.escape(note)}</p>' for note in view.notes),
        choices="".join(f'<option value="{k}">{words}</option>' for k, words in choices),
        columns="".join(
            f'<th scope="col" class="{c.style}"><button type="button">{c.title}</button></th>'
            for c in COLUMNS
        ),
        rows="\n".join(_row(norm) for norm in norms),
        details="\n".join(_details(n, p) for n, p in zip(norms, pictures, strict=True)),
    )


def _reading(view: PageView) -> str:
    return (
        f"Device: {view.accelerator}. A norm sums the squares of a row; over the solid line that "
        "sum is infinite and the row is lost, under the dashed line its mean square has few bits "
        "left. Scaling moves the hatched band into the plain one and changes no output."
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
    "overflowed": "overflowed as exported",
    "bad": "overflow or underflow now",
    "skipped": "skipped",
    "unproved": "not certified",
    "conditional": "certified on a condition",
}


def _kinds(norm: NormView) -> list[str]:
    """The classes of a norm's row, by which it is coloured and filtered."""
    known = {
        "overflowed": norm.overflows_before,
        "bad": norm.overflows_after or norm.underflowed > 0,
        "skipped": norm.decided.status == "skipped",
        "unproved": norm.certified == "no",
        "conditional": norm.certified.startswith("if "),
    }
    return [kind for kind, is_so in known.items() if is_so]


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _short(value: float) -> str:
    """Two digits: 1.3e4."""
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _bits(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _range(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return " · ".join(_short(v) for v in (spread.low, spread.middle, spread.high))


def _lost(norm: NormView) -> str:
    if not len(norm.rows_before):
        return ""
    lost = f"{norm.lost_before} → {norm.lost_after}" if norm.lost_before or norm.lost_after else "0"
    return lost + (f", {norm.underflowed} underflow" if norm.underflowed else "")


COLUMNS = (
    Column("#", lambda n: str(n.number), lambda n: n.number),
    Column(
        "norm",
        lambda n: f'<a href="#norm-{n.number}">{html.escape(n.name)}</a>',
        lambda n: n.name,
        "text",
    ),
    Column("status", lambda n: html.escape(_status(n)), lambda n: _status(n), "text"),
    Column("scale", lambda n: _number(n.decided.scale, 6), lambda n: n.decided.scale),
    Column("rows lost", _lost, lambda n: n.lost_before if len(n.rows_before) else None),
    Column("bits to overflow", lambda n: _bits(n.overflow_bits), lambda n: n.overflow_bits),
    Column("to underflow", lambda n: _bits(n.underflow_bits), lambda n: n.underflow_bits, "more"),
    Column("certified", lambda n: html.escape(n.certified), lambda n: n.certified),
    Column(
        "before: least · median · most",
        lambda n: _range(n.before),
        lambda n: n.before and n.before.high,
        "more",
    ),
    Column("after", lambda n: _range(n.after), lambda n: n.after and n.after.high, "more"),
)


def _status(norm: NormView) -> str:
    decided = norm.decided
    return f"{decided.status}: {decided.reason}" if decided.reason else decided.status


def _row(norm: NormView) -> str:
    text = " ".join((norm.name, norm.decided.norm.form, _status(norm), norm.decided.rule)).lower()
    cells = []
    for column in COLUMNS:
        key = column.key(norm)
        shown = "" if key is None else html.escape(str(key))
        cells.append(f'<td class="{column.style}" data-key="{shown}">{column.shown(norm)}</td>')
    return (
        f'<tr class="{" ".join(_kinds(norm))}" data-norm="norm-{norm.number}" '
        f'data-text="{html.escape(text)}">{"".join(cells)}</tr>'
    )


def _details(norm: NormView, picture: str) -> str:
    rows = "".join(f"<dt>{t}</dt><dd>{html.escape(v)}</dd>" for t, v in _facts(norm) if v)
    summary = f"{norm.number}. {html.escape(norm.name)}"
    word = norm.decided.status if norm.decided.scale is None else f"/ {norm.decided.scale:.6g}"
    if not picture and len(norm.rows_before):
        picture = '<p class="quiet">Left out to keep the page small: its histogram.</p>'
    return (
        f'<details id="norm-{norm.number}"><summary>{summary} <span class="quiet">'
        f'{html.escape(word)}</span></summary><div class="scroll">{picture}</div>'
        f"<dl>{rows}</dl></details>"
    )


def _audited(norm: NormView) -> str:
    audit = norm.audit
    if audit is None:
        return ""
    outside = f", {audit.above} above and {audit.below} below" if audit.coverage < 1 else ""
    return (
        f"{100 * audit.coverage:.4g} % of {audit.rows} rows inside the window{outside}; largest: "
        + "; ".join(map(str, audit.worst))
    )


def _facts(norm: NormView) -> Sequence[tuple[str, str]]:
    decided = norm.decided
    certificate = decided.certificate
    proved = "" if certificate is None else norm.certified
    if certificate is not None:
        if certificate.overflow_bits is not None:
            proved += f", {certificate.overflow_bits:+.1f} bits to overflow for the largest row"
        if certificate.bound.length is not None:
            proved += f", no row is longer than {certificate.bound.length:.4g}"
        if certificate.reason:
            proved += f": {certificate.reason}"
    predicted = ""
    if norm.typical is not None and decided.estimate is not None:
        predicted = (
            f"typical {norm.typical:.4g}, largest {norm.upper:.4g}, by {decided.estimate.by}"
        )
    return (
        ("status", _status(norm)),
        ("what was read", decided.rule),
        ("from", ", ".join(decided.sources)),
        ("form, width", f"{decided.norm.form}, {decided.norm.width or 'not known'}"),
        ("input", decided.norm.input),
        ("scale", _number(decided.scale, 10)),
        ("applied", norm.applied or ""),
        (
            "epsilon",
            f"{_number(decided.norm.epsilon, 6)} → {_number(decided.scaled_epsilon, 6)}"
            if decided.scaled_epsilon is not None
            else _number(decided.norm.epsilon, 6),
        ),
        ("predicted sums", predicted),
        ("before", _range(norm.before)),
        ("after", _range(norm.after)),
        ("bits to overflow", _bits(norm.overflow_bits)),
        ("bits to underflow", _bits(norm.underflow_bits)),
        ("rows lost", _lost(norm)),
        ("certified", proved),
        ("on your data", _audited(norm)),
    )
