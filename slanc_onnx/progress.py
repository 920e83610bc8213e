"""How the stages tell what they are at."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is being done and the finished share, 0 to 1.
Progress = Callable[[str, float], None]


def no_progress(what: str, done: float) -> None:
    """Progress that nobody watches."""
