"""Texts as a terminal may show them: names in a file can hold codes that it would obey."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text whose characters all show; the others are written as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
