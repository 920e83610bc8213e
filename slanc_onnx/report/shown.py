"""Texts as a terminal may show them: no codes that it would obey, no word cut, no line too long."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence

from rich.cells import cell_len

_PART = re.compile(r"[/.:]*[^/.:]*[/.:]*")  # of a name: a word with what ends it
CUT = "…"
_LEAST_WORD = 12  # columns of a name


def printable(text: str) -> str:
    """A text whose characters all show; the others are written as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def wrapped(line: str, width: int) -> list[str]:
    """A line in lines of at most so many columns, broken between words; " | " begins a new one.

    A word that is longer than that, such as a path, stays whole.
    """
    if cell_len(line) <= width:
        return [line]
    first, *parts = line.split(" | ")
    lines = _broken(first, width)
    for part in parts:
        lines += _broken(f"| {part}", width)
    return lines


def _broken(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ) or [""]


def shortened(name: str, width: int) -> str:
    """A name in so many columns, without words of its middle: "/model/layers.3/…/Mul_1".

    Its last word is kept before its numbers, these before the words in front of them, these before
    the others from both ends. A last word that is too long alone loses characters of its middle.
    """
    if cell_len(name) <= width:
        return name
    parts = [part for part in _PART.findall(name) if part]
    last = len(parts) - 1
    numbers = [at for at in range(last) if any(c.isdigit() for c in parts[at])]
    inwards = [at for pair in zip(range(last), range(last)[::-1], strict=True) for at in pair]
    kept: set[int] = set()
    before = [max(at - 1, 0) for at in numbers]
    for at in dict.fromkeys([last, *numbers, *before, *inwards]):
        if cell_len(_joined(parts, kept | {at})) <= width:
            kept.add(at)
        elif not kept:
            break
    if last in kept:
        return _joined(parts, kept)
    room = max(width - 1, 0)
    return _beginning(name, room // 2) + CUT + _beginning(name[::-1], room - room // 2)[::-1]


def _joined(parts: Sequence[str], kept: Collection[int]) -> str:
    """The parts that are kept, with one mark for each run of others."""
    shown = [part if at in kept else CUT for at, part in enumerate(parts)]
    return "".join(
        text for at, text in enumerate(shown) if text != CUT or shown[at - 1 : at] != [CUT]
    )


def _beginning(text: str, room: int) -> str:
    """As much of the beginning of a text as fits."""
    end = len(text)
    while cell_len(text[:end]) > room:
        end -= 1
    return text[:end]


def short_words(text: str, width: int) -> str:
    """The first words of a text that fit in so many columns."""
    if cell_len(text) <= width:
        return text
    kept = ""
    for word in text.split():
        longer = f"{kept} {word}".strip()
        if cell_len(longer) > width - 2:
            room = width - 3 - cell_len(kept)
            if room >= _LEAST_WORD and cell_len(word) > room:
                kept = f"{kept} {shortened(word, room)}".strip()
            break
        kept = longer
    return f"{kept} {CUT}".strip()


def some(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
