"""The table of norms on a terminal: those that need attention first, many others as counts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from slanc_onnx.report.attention import counted_together, in_order, reason_lines
from slanc_onnx.report.columns import COLUMNS
from slanc_onnx.report.fitting import MOST_LISTED, Fitted, print_fitted
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.rows import NormRow
from slanc_onnx.report.shown import printable, wrapped


def print_table(
    console: Console, outcome: Outcome, verbose: bool = False, wrap: bool = False
) -> None:
    """One row per norm: what was read, the scale, and the sums of squares before and after.

    Args:
        console: Where to; no line of the table is wider than it.
        outcome: What the job did.
        verbose: Whether every norm has a row, and every column is there that fits.
        wrap: Whether the lines below the table are broken as well.
    """
    urgent, others = in_order(outcome.rows, outcome.require)
    total = len(urgent) + len(others)
    listed = [*urgent, *others]
    lines: list[str] = []
    if total > MOST_LISTED and not verbose:
        listed = urgent[:MOST_LISTED]
        lines = list(_not_listed(urgent[MOST_LISTED:], others, total))
    if listed:
        left_out = print_fitted(console, _columns(outcome, listed, verbose))
        if left_out and verbose:
            lines.append(f"no room here for: {', '.join(left_out)}")
    lines += reason_lines(outcome.norms, skipped=False)
    print_lines(console, lines, wrap)


def _not_listed(urgent: Sequence[NormRow], others: Sequence[NormRow], total: int) -> Sequence[str]:
    """What there is to say of the norms without a row."""
    lines = []
    if urgent:
        lines.append(f"and {len(urgent)} more that need attention (-v lists every norm)")
    if others:
        first = f"the other {len(others)} norms" if len(others) < total else f"{total} norms"
        lines.append(f"{first}, of which none needs attention (-v lists every norm):")
        lines += [f"  {line}" for line in counted_together(others)]
    return lines


def _columns(outcome: Outcome, rows: Sequence[NormRow], verbose: bool) -> list[Fitted]:
    proved = any(row.decided.certificate is not None for row in outcome.rows)
    shown = [
        column.terminal
        for column in COLUMNS
        if column.terminal is not None
        and (proved or column.name != "certificate")
        and (verbose or not column.terminal.verbose)
    ]
    return [
        Fitted(
            column.title,
            [column.text(row) for row in rows],
            "name" if column.title == "norm" else column.style,
            column.leave,
        )
        for column in shown
    ]


def print_lines(console: Console, lines: Sequence[str], wrap: bool) -> None:
    """Lines of text: broken between words on a terminal, one line each for scripts."""
    for line in lines:
        text = printable(line)
        for part in wrapped(text, console.width) if wrap else [text]:
            console.print(part, soft_wrap=True)
