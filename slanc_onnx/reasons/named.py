"""The base of all kinds of reasons."""

from __future__ import annotations

from enum import Enum


class Named(Enum):
    """An enum whose values are its names in lower case; unlike strings, no two kinds are equal."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name.lower()
