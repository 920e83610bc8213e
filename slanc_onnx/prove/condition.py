"""Condition: what a bound asks of a graph input, or of a row inside the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, order=True)
class Condition:
    """A condition of a certificate.

    Attributes:
        input: The name of a graph input; for "length" that of a tensor inside the model; "" where
            it is about all inputs.
        kind: "range" for elements in [low, high]; "made" for past rows that this model made;
            "keeps" for a mask that leaves every query a position; "positions" for sizes in
            [low, high] of axes that are summed over; "length" for rows of an L2 norm in
            [low, high], which a norm without certificate reads.
        low: The least element, size or length.
        high: The largest.
    """

    input: str
    kind: Literal["range", "made", "keeps", "positions", "length"]
    low: float = 0.0
    high: float = 0.0
