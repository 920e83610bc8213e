"""Work of onnx in a process of its own, which a damaged model may end, or take all memory for."""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_SECONDS, _MEMORY = 10, 2**30  # of processor time, and bytes beside what the process has


class Lost(Exception):
    """The process ended without a result."""


def can_fork() -> bool:
    """Whether a process of its own can be had without a new interpreter."""
    return sys.platform == "linux"


def apart(work: Callable[[], bytes], isolate: bool) -> bytes:
    """What `work` gives, in a forked process if that is asked for and there can be one.

    Raises:
        Lost: it raised an error there, died, or took too much time or memory.
    """
    if not isolate or not can_fork():
        return work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _send(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            result = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        raise Lost
    return result


def _send(work: Callable[[], bytes], pipe: int) -> None:
    """Write what comes of the work into a pipe; never returns."""
    status = 1
    try:
        import resource  # not on every system that has Python

        begin_child()
        lower_limit(resource.RLIMIT_CORE, 0)
        lower_limit(resource.RLIMIT_CPU, _SECONDS)
        lower_limit(resource.RLIMIT_AS, 1024 * kilobytes("self/status", "VmSize") + _MEMORY)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a failed assertion has much to say
        with os.fdopen(pipe, "wb") as written:
            written.write(work())
        status = 0
    finally:
        os._exit(status)


def begin_child() -> None:
    """Let a process that was just forked leave to its parent what belongs to that."""
    gc.freeze()  # to look through what the parent made would copy all of it
    faulthandler.disable()  # the parent tells how it ended
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):  # sent to all of a terminal: the parent decides
        signal.signal(number, signal.SIG_IGN)


def lower_limit(kind: int, most: int) -> int:
    """Let this process have no more of a resource.

    Returns:
        What it may have: it may have had less already.
    """
    import resource

    soft, hard = resource.getrlimit(kind)
    known = [value for value in (soft, hard, most) if value != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(known), hard))
    return min(known)


def kilobytes(file: str, field: str) -> int:
    """What a file in /proc says of memory; very much where it does not."""
    told = Path("/proc", file).read_text(encoding="utf-8", errors="replace")  # our name is in it
    found = re.search(rf"^{field}:\s+(\d+) kB", told, re.M)
    return int(found[1]) if found is not None else 2**40
