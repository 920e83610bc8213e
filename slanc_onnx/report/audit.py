"""An audit for people and for the report: coverage, worst rows, predicted over observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console

from slanc_onnx.report.fitting import MOST_LISTED, Fitted, print_fitted
from slanc_onnx.verify import Audit


def audit_entries(audits: Sequence[Audit]) -> list[dict[str, Any]]:
    """As the JSON report has them; a number that is not finite is null."""
    return [
        {
            "norm": audit.name,
            "rows": audit.rows,
            "above": audit.above,
            "below": audit.below,
            "coverage": audit.coverage,
            "typical_ratio": audit.typical_ratio,
            "upper_ratio": audit.upper_ratio,
            "worst": [
                {
                    "sum_of_squares": _finite(row.sum_of_squares),
                    "run": row.run,
                    "sequence": row.sequence,
                    "position": row.position,
                    "token": row.token,
                }
                for row in audit.worst
            ],
        }
        for audit in audits
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def print_audit(console: Console, audits: Sequence[Audit], verbose: bool = False) -> None:
    """One row per norm, those with rows outside first; of many norms those alone."""
    ordered = sorted(audits, key=lambda audit: not (audit.above or audit.below))
    if len(audits) > MOST_LISTED and not verbose:
        ordered = [audit for audit in ordered if audit.above or audit.below][:MOST_LISTED]
    if not ordered:
        return
    shown: tuple[tuple[str, str, int, Callable[[Audit], str]], ...] = (
        ("norm", "name", 0, lambda a: a.name),
        ("rows", "", 3, lambda a: str(a.rows)),
        ("inside", "", 0, lambda a: f"{100 * a.coverage:.4g} %"),
        ("above", "", 0, lambda a: str(a.above)),
        ("below", "", 0, lambda a: str(a.below)),
        ("typical", "", 2, lambda a: _ratio(a.typical_ratio)),
        ("upper", "", 1, lambda a: _ratio(a.upper_ratio)),
        ("largest row", "text", 4, lambda a: str(a.worst[0]) if a.worst else ""),
    )
    columns = [
        Fitted(title, [text(audit) for audit in ordered], style, leave)
        for title, style, leave, text in shown
    ]
    print_fitted(console, columns)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}x"


def audit_lines(audits: Sequence[Audit]) -> Iterator[str]:
    """The audit in a line or two; nothing without one."""
    if not audits:
        return
    rows = sum(a.rows for a in audits)
    outside = sum(a.above + a.below for a in audits)
    above, below = sum(a.above for a in audits), sum(a.below for a in audits)
    yield (
        f"observed: {100 * (1 - outside / rows):.6g} % of {rows} rows inside the windows, {above} "
        f"above, {below} below; {sum(_against(a) > 1 for a in audits)} of {len(audits)} "
        "norms had a row larger than predicted"
    )
    worst = max(audits, key=_against)
    if worst.upper_ratio is not None and worst.worst:
        yield (
            f"observed: largest row against its prediction: {worst.name!r}, "
            f"{_against(worst):.3g} of it, {worst.worst[0]}"
        )


def _against(audit: Audit) -> float:
    """Largest row over the predicted one: inf where FP32 does not hold it, 0 where none was."""
    if audit.upper_ratio is None:
        return 0.0
    return 1 / audit.upper_ratio if audit.upper_ratio else math.inf
