"""Tables that fit a terminal: columns that a narrow one leaves out, names without their middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from slanc_onnx.report.shown import printable, short_words, shortened

MOST_LISTED = 40  # norms of a model that are listed one by one without --verbose
GAP = 2
LEAST_NAME, MOST_WORDS = 20, 44  # of a name before columns are left out; of a text


@dataclass(frozen=True)
class Fitted:
    """A column of a table.

    Attributes:
        title: Its heading.
        cells: One text per row.
        style: "name" for what may lose its middle, "text" for words, "" for numbers.
        leave: Which is left out first where the terminal is narrow: the highest; 0 for never.
    """

    title: str
    cells: Sequence[str]
    style: str = ""
    leave: int = 0

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.title, *self.cells)))


def print_fitted(console: Console, columns: Sequence[Fitted]) -> list[str]:
    """Print one line per row, none wider than the console, and no column without a word.

    Returns:
        The titles of what was left out.
    """
    columns = [_shown(column, None) for column in columns if any(column.cells)]
    if sum(c.width for c in columns) + GAP * (len(columns) - 1) > console.width:
        columns = [_shown(column, MOST_WORDS) for column in columns]
    kept = list(columns)
    while _least(kept) > console.width and any(column.leave for column in kept):
        kept.remove(max(kept, key=lambda column: column.leave))
    room = console.width - sum(c.width for c in kept if c.style != "name") - GAP * (len(kept) - 1)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    texts = []
    for column in kept:
        wide = min(column.width, max(room, 1)) if column.style == "name" else column.width
        table.add_column(
            column.title,
            justify="left" if column.style else "right",
            no_wrap=True,
            width=wide,
        )
        named = column.style == "name"
        texts.append([shortened(cell, wide) if named else cell for cell in column.cells])
    for row in zip(*texts, strict=True):
        table.add_row(*row)
    console.print(table)
    return [column.title for column in columns if column not in kept]


def _shown(column: Fitted, most: int | None) -> Fitted:
    """The column in characters that show, its texts with at most so many columns."""
    cells = [printable(cell).replace("\n", " ") for cell in column.cells]
    if column.style == "text" and most is not None:
        cells = [short_words(cell, most) for cell in cells]
    return Fitted(column.title, cells, column.style, column.leave)


def _least(columns: Sequence[Fitted]) -> int:
    """Columns that these take at the least."""
    widths = (min(c.width, LEAST_NAME) if c.style == "name" else c.width for c in columns)
    return sum(widths) + GAP * (len(columns) - 1)
