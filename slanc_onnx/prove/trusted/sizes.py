"""Sizes of axes: numbers, and symbols for what the file leaves open.

A symbol that begins with "$" is above zero wherever each input has an element.
"""

from __future__ import annotations

from collections.abc import Sequence

from slanc_onnx.prove.bound import NoBound
from slanc_onnx.reasons import Unproved, reason

Dim = int | str


def size_of(dim: Dim) -> int:
    """A size that has to be a number.

    Raises:
        NoBound: it is open.
    """
    if not isinstance(dim, int):
        raise NoBound(reason(Unproved.SIZE_OPEN, dim))
    return dim


def merged(dims: Sequence[Dim], symbol: str) -> str:
    """A new symbol for the product of open sizes; it tells of how many of the inputs' own."""
    product = f"{symbol}^{max(1, sum(factors_in(dim) for dim in dims))}"
    return product if any(map(may_be_none, dims)) else above_none(product)


def factors_in(dim: Dim) -> int:
    """Of how many open sizes a size is the product, as far as that is known; 0 for a number."""
    if isinstance(dim, int):
        return 0
    return max(int(part.rpartition("^")[2]) if "^" in part else 1 for part in dim.split("|"))


def may_be_none(dim: Dim) -> bool:
    """Whether a size may be 0 although each input has an element, or is a symbol of no size."""
    if isinstance(dim, int):
        return dim < 1
    return not all(part.startswith("$") for part in dim.split("|"))


def above_none(symbol: str) -> str:
    """A new symbol for a size that is above zero; no input has a name like it."""
    return f"${symbol}"
