"""The page's parts on what is left open: suspects, and what certificates rest on."""

from __future__ import annotations

import html
from collections.abc import Sequence

from slanc_onnx.report.html.parts import OPEN
from slanc_onnx.report.html.parts import listing as table
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.wording import condition_text, reason_text


def suspect_section(outcome: Outcome) -> str:
    """What looks like a norm and was not taken, with the reason; "" for nothing."""
    if not outcome.suspects:
        return ""
    rows = [
        (s.name, s.op, reason_text(s.reason), "left out" if s.name in outcome.accepted else "open")
        for s in outcome.suspects
    ]
    count = len(outcome.not_understood)
    said = (
        f"{count} of {len(rows)} not understood: norms perhaps, and not safe then. Look at the "
        "reason; --exclude REGEX accepts what is no norm."
        if count
        else "All of these were left out by --exclude or --only."
    )
    titles = ("node", "op", "why it was not taken for a norm", "state")
    bad = [s.name not in outcome.accepted for s in outcome.suspects]
    listed = table("What looks like a norm", titles, rows, bad=bad)
    return f"<h2>Suspects</h2>\n<p>{html.escape(said)}</p>\n{listed}"


def condition_section(outcome: Outcome) -> str:
    """What certificates ask of inputs and of the device; "" for nothing."""
    texts = [outcome.epsilon_line] if outcome.epsilon_line else []
    texts += [f"certified if {condition_text(condition)}" for condition in outcome.conditions]
    if not texts:
        return ""
    parts = ["<h2>What certificates rest on</h2>", _items(texts[:OPEN])]
    if texts[OPEN:]:
        more = _items(texts[OPEN:])
        parts.append(f"<details><summary>{len(texts) - OPEN} more</summary>{more}</details>")
    return "\n".join(parts)


def _items(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"
