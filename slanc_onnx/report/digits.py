"""Digits of numbers that are claims: rounded to the side on which the claim is the smaller one."""

from __future__ import annotations

import math


def below(value: float | None) -> str:
    """A positive number with four digits, rounded down; "" for None."""
    return "" if value is None else f"{value * (1 - 5e-4):.4g}"


def above(value: float) -> str:
    """A positive number with four digits, rounded up."""
    return f"{value * (1 + 5.01e-4):.4g}"


def bits_below(value: float) -> float:
    """A margin in bits to one decimal, rounded down."""
    return math.floor(value * 10) / 10 if math.isfinite(value) else value
