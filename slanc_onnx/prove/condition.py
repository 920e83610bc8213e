"""Condition: what a bound asks of a graph input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, order=True)
class Condition:
    """A condition on a graph input.

    Attributes:
        input: Its name.
        kind: "range" for elements in [low, high], "made" for past rows that this model made.
        low: The least element.
        high: The largest element.
    """

    input: str
    kind: Literal["range", "made"]
    low: float = 0.0
    high: float = 0.0
