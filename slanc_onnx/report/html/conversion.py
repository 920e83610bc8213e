"""The page's part on a file of 16 bits: what has more bits and why, constants, tables, ranges."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

from slanc_onnx.apply.convert import Conversion, Counts
from slanc_onnx.apply.fold import Fold
from slanc_onnx.report.columns import bits
from slanc_onnx.report.conversion import conversion_lines
from slanc_onnx.report.html.parts import listing
from slanc_onnx.report.wording import reason_text


def conversion_section(conversion: Conversion | None, fold: Fold | None) -> str:
    """The sentences and the tables; "" where nothing was converted."""
    if conversion is None:
        return ""
    done, form = conversion.converted, str(conversion.converted.format)
    said = "".join(f"<li>{html.escape(line)}</li>" for line in conversion_lines(conversion, fold))
    tables = conversion.tables

    def told(below: int, positions: int) -> str:
        return f"{-below} to {positions - 1}" if positions else ""  # "" for one of constants

    return "\n".join(
        part
        for part in (
            f"<h2>Conversion to {html.escape(form)}</h2>\n<ul>{said}</ul>",
            *(
                listing(
                    f"Nodes that compute in {full}",
                    ("node", "op", "why"),
                    [(n.name, n.op, reason_text(n.why)) for n in done.nodes if n.wide == wide],
                )
                for full, wide in (("FP32", False), ("FP64", True))
            ),
            listing(
                f"Constants that {form} does not hold",
                ("constant", "what was done", "elements", "furthest before"),
                _changed(done.weights),
                2,
            ),
            listing(
                "Tables of angles",
                ("result", "op", "table", "of", "positions", "columns"),
                [
                    (t.tensor, t.op, t.name, t.source, told(t.below, t.positions), f"{t.columns}")
                    for t in tables.made
                ],
                2,
            ),
            listing(
                "Angles that stay in FP32",
                ("result", "why"),
                [(kept.tensor, reason_text(kept.why)) for kept in tables.kept],
            ),
            _groups(fold),
        )
        if part
    )


def _changed(weights: Mapping[str, Counts]) -> list[tuple[str, str, str, str]]:
    """Constants that were clipped to the largest number, or raised to the smallest that is kept."""
    clipped = [
        (n, "clipped", f"{c.clipped}", f"{c.largest:.3g}") for n, c in weights.items() if c.clipped
    ]
    raised = [
        (n, "raised", f"{c.raised}", f"{c.smallest:.3g}") for n, c in weights.items() if c.raised
    ]
    return clipped + raised


def _groups(fold: Fold | None) -> str:
    """The largest value of every group of tensors that are divided alike."""
    ranges = () if fold is None else fold.ranges
    rows = [
        (
            group.holds,
            "" if group.reason is None else reason_text(group.reason),
            f"{group.largest:.4g}",
            f"2^{group.exponent}" if group.exponent else "",
            f"{group.stored:.4g}",
            bits(math.log2(group.limit / group.stored)) if group.stored > 0 else "",
        )
        for group in ranges
    ]
    why = "why it leaves the format all the same"
    titles = ("tensor", why, "largest", "divided by", "stored", "bits to overflow")
    over = [group.stored > group.limit for group in ranges]
    return listing("Largest value of every group of tensors", titles, rows, 4, over)
