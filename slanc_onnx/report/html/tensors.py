"""The page's part on tensors: the largest of them against the limit, most of them folded away."""

from __future__ import annotations

import html
from collections.abc import Sequence

from slanc_onnx.report.columns import bits
from slanc_onnx.verify import TensorSize

OPEN, MOST = 10, 200  # rows that are shown at once, and at all; a report in JSON has them all


def tensor_section(sizes: Sequence[TensorSize], said: str) -> str:
    """The sentence and the table; "" for no tensors.

    Args:
        sizes: The largest first.
        said: What they say in a sentence.
    """
    if not sizes:
        return ""
    more = sizes[OPEN:MOST]
    parts = ["<h2>Tensors</h2>", f"<p>{html.escape(said)}</p>", _table(sizes[:OPEN])]
    if more:
        left = f", {len(sizes) - MOST} smaller ones are left out" if len(sizes) > MOST else ""
        summary = f"{len(more)} more{left}"
        parts.append(f"<details><summary>{summary}</summary>{_table(more)}</details>")
    return "\n".join(parts)


def _table(sizes: Sequence[TensorSize]) -> str:
    titles = ("tensor", "op", "largest in FP32", "bits to overflow", "rounded")
    heads = "".join(
        f'<th scope="col" class="{"text" if title in ("tensor", "op") else ""}">{title}</th>'
        for title in titles
    )
    rows = "\n".join(_row(size) for size in sizes)
    return (
        f'<div class="scroll"><table class="tensors"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(size: TensorSize) -> str:
    cells = (
        ("text", size.tensor),
        ("text", size.op),
        ("", f"{size.largest:.4g}"),
        ("", bits(size.bits)),
        ("", "leaves the format" if size.left else ""),
    )
    row = "".join(f'<td class="{style}">{html.escape(text)}</td>' for style, text in cells)
    return f'<tr class="{"bad" if size.left else ""}">{row}</tr>'
