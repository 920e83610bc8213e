"""How the stages tell what they are at."""

from __future__ import annotations

import time
from collections.abc import Callable

# Called with what is being done and the finished share, 0 to 1.
Progress = Callable[[str, float], None]


def no_progress(what: str, done: float) -> None:
    """Progress that nobody watches."""


class Meter:
    """Tells how many bytes are done, of how many, and how many per second."""

    def __init__(self, what: str, total: int, progress: Progress) -> None:
        self._what, self._total, self._progress = what, max(total, 1), progress
        self._done, self._started = 0, time.monotonic()

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        self._done += count
        rate = self._done / max(time.monotonic() - self._started, 1e-3)
        amount = f"{self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB, {rate / 1e9:.2f} GB/s"
        self._progress(f"{self._what}: {amount}", self._done / self._total)


class Clock:
    """Seconds that each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
        self.seconds["total"] = now - self._start
