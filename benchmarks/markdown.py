"""Markdown as the pages hold it: the tables that benchmarks print, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, without a line break at its end.

    Raises:
        ValueError: a row has more or fewer cells than the header, which would shift its columns.
    """
    lines = [heading(header)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells in a table of {len(header)} columns: {row}")
        lines.append(line(row))
    return "\n".join(lines)


def heading(header: Sequence[object]) -> str:
    """The first two lines of a table whose rows follow one by one, as they are measured."""
    return f"{line(header)}\n|{'---|' * len(header)}"


def line(cells: Sequence[object]) -> str:
    """One row of a table."""
    texts = (str(cell).replace("\n", " ").replace("|", "\\|") for cell in cells)
    return "".join(f"| {text} " if text else "| " for text in texts) + "|"


def number(value: float) -> str:
    """Two or three digits of a number that is not negative: 8.3, 1 860, 1.3e5."""
    if not math.isfinite(value) or value < 999.5:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    if int(exponent) < 5:
        return count(round(float(f"{value:.2e}")))
    return f"{float(mantissa):.1f}e{int(exponent)}"


def count(value: int) -> str:
    """A whole number, its thousands apart: 1 600 000."""
    return f"{value:,}".replace(",", " ")


def size(count_of_bytes: int) -> str:
    """Bytes as the pages write them: 0.28 MB, 538 MB, 13.5 GB."""
    if count_of_bytes >= 1e9:
        return f"{count_of_bytes / 1e9:.1f} GB"
    megabytes = count_of_bytes / 1e6
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"


def of(part: int, whole: int) -> str:
    """A share as the pages write it: `737 of 737`, or `705 of 708 (99.6 %)`."""
    percent = "" if part == whole else f" ({100 * part / whole:.1f} %)"
    return f"{part} of {whole}{percent}"


def span(values: Sequence[int]) -> str:
    """The least and the most of some whole numbers: `5 to 7`, or `7`."""
    least, most = min(values), max(values)
    return str(least) if least == most else f"{least} to {most}"
