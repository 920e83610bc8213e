"""A process that is stopped at one of the calls that change a file system."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from unittest.mock import patch

# What changes a file system, or holds on to a change. Opening to read does neither.
EVENTS = [
    "open",
    "write",
    "fsync",
    "replace",
    "rename",
    "unlink",
    "remove",
    "rmdir",
    "mkdir",
    "chmod",
    "link",
    "symlink",
    "copy_file_range",
    "sendfile",
    "truncate",
    "ftruncate",
]
How = Literal["kill", "interrupt", "full"]


class _Stop:
    """Notes events, and stops the process before one of them; a write gets half of its bytes."""

    def __init__(self, at: int, how: How) -> None:
        self.events: list[str] = []
        self._at, self._how = at, how

    def before(self, name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.events.append(name)
        if len(self.events) != self._at:
            return
        if name == "write":
            call(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if self._how == "kill":
            os._exit(9)
        if self._how == "interrupt":
            raise KeyboardInterrupt
        raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def stopped(at: int, how: How) -> Iterator[_Stop]:
    """Stop at an event, counted from 1; at 0, which never comes, they are only noted."""
    stop = _Stop(at, how)

    def watched(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def instead(*arguments: Any, **named: Any) -> Any:
            stop.before(name, call, arguments)
            return call(*arguments, **named)

        return instead

    patches = [patch.object(os, name, watched(name)) for name in EVENTS if hasattr(os, name)]
    for each in patches:
        each.start()
    try:
        yield stop
    finally:
        for each in patches:
            each.stop()


def each_once(events: Sequence[str]) -> list[int]:
    """The events, counted from 1, at each of which the files are in a state of another kind.

    Of writes that follow each other the first, of which half is done; and no other event behind a
    sync or a change of mode, which change no bytes.
    """
    quiet = ("fsync", "chmod")
    return [
        at
        for at, (last, name) in enumerate(zip(["", *events], events, strict=False), 1)
        if (last != "write" if name == "write" else last not in quiet)
    ]


def at_once(jobs: Sequence[Callable[[], int]]) -> list[int]:
    """The exit statuses of jobs that run at once, in processes that are as ready as this one."""
    children = []
    for job in jobs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, not used there
            child = os.fork()
        if child == 0:
            status = 99
            try:
                status = job()
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def in_a_child(job: Callable[[], int]) -> int:
    """The exit status of a job in a process of its own."""
    return at_once([job])[0]
