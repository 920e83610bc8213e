"""Progress as people see it: a bar on a terminal, elsewhere a line for each stage."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console

from slanc_onnx.progress import Progress

UNSEEN = 10.0  # seconds of work of which nothing is said where nobody watches a terminal
_FIGURE = re.compile(r"\b\d")  # how far a stage is; FP32 has none


class Stages:
    """A line for each stage, once: in the log, or said where the work takes long."""

    def __init__(self, say: Callable[[str], None], long: Callable[[], bool]) -> None:
        self._say, self._long = say, long
        self._said: set[str] = set()
        self._log = logging.getLogger(__name__)

    def __call__(self, what: str, done: float) -> None:
        self._log.debug("%s %.0f %%", what, 100 * done)
        stage = _FIGURE.split(what)[0].rstrip(" :,")
        if stage in self._said:
            return
        if self._log.isEnabledFor(logging.INFO):
            self._log.info("%s", stage)
        elif self._long():
            self._say(f"{stage} ...")
        else:
            return  # a stage that is still at work when it has been long is said then
        self._said.add(stage)


@contextmanager
def watched(console: Console, say: Callable[[str], None], quiet: bool) -> Iterator[Progress]:
    """Progress for work longer than a second, as a bar if the console is a terminal; elsewhere what
    has been at work for longer than `UNSEEN` is said, a line a stage.

    Args:
        console: Where the bar stands.
        say: Says a line where there is no bar.
        quiet: Whether neither is wanted.
    """
    from rich.progress import Progress as Bar  # of no use to --help and to whoever pipes stderr

    started = time.monotonic()
    if quiet or not console.is_terminal:
        yield Stages(say, lambda: not quiet and time.monotonic() - started > UNSEEN)
        return
    bar = Bar(console=console, transient=True)
    task = bar.add_task("", total=1.0)

    def show(what: str, done: float) -> None:
        with suppress(OSError):  # whoever watches may leave
            if time.monotonic() - started > 1.0:
                bar.start()
            bar.update(task, description=what, completed=done)

    try:
        yield show
    finally:
        with suppress(OSError):
            bar.stop()
