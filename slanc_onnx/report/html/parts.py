"""Parts of the page: names that break where a reader would, and tables of which most is folded."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

OPEN, MOST = 10, 200  # rows that are shown at once, and at all; a report in JSON has them all
_SHORT = 12  # letters of a word that fits a column of a telephone
_BREAKS = re.compile(r"([/:]|\.(?=[^\W\d]))(?=[^/:])")


def name_text(name: str) -> str:
    """A name, escaped, that may be broken behind its separators and nowhere else if it can."""
    return _BREAKS.sub(r"\1<wbr>", html.escape(name))


def listing(
    caption: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: int = 0,
    bad: Sequence[bool] = (),
) -> str:
    """A table without empty columns, the rows behind the first few folded away; "" for no rows.

    Args:
        caption: What it is a table of.
        titles: Its headings.
        rows: A text per heading.
        numbers: How many columns at the end are numbers.
        bad: Which rows tell of something wrong; none by default.
    """
    if not rows:
        return ""
    told = [at for at in range(len(titles)) if any(row[at] for row in rows)]
    numbers = sum(at >= len(titles) - numbers for at in told)
    titles, rows = [titles[at] for at in told], [[row[at] for at in told] for row in rows]
    marked = list(zip(rows, bad or [False] * len(rows), strict=True))
    parts = [_table(caption, titles, marked[:OPEN], numbers)]
    more = marked[OPEN:MOST]
    if more:
        left = f", {len(rows) - MOST} smaller ones are left out" if len(rows) > MOST else ""
        rest = _table(f"{caption}, the rest", titles, more, numbers)
        parts.append(f"<details><summary>{len(more)} more{left}</summary>{rest}</details>")
    return "\n".join(parts)


def _table(
    caption: str, titles: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]], numbers: int
) -> str:
    styles = ["text"] * (len(titles) - numbers) + [""] * numbers
    heads = "".join(
        f'<th scope="col" class="{style}">{html.escape(title)}</th>'
        for title, style in zip(titles, styles, strict=True)
    )
    body = "\n".join(
        f'<tr class="{"bad" if bad else ""}">'
        + "".join(_cell(text, style) for text, style in zip(row, styles, strict=True))
        + "</tr>"
        for row, bad in rows
    )
    return (
        f"{scrolled(caption)}<table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str, style: str) -> str:
    """A cell; a short word, that of an op say, stays in one piece."""
    if style and text.isidentifier() and len(text) <= _SHORT:
        style = f"{style} word"
    return f'<td class="{style}">{name_text(text) if style else html.escape(text)}</td>'


def scrolled(label: str) -> str:
    """The beginning of what scrolls sideways where the screen is narrow, by the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">'
