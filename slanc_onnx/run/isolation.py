"""Work on ONNX Runtime with a time limit, in a process of its own where its death must not be ours.

A damaged model can end ONNX Runtime by a signal, or run for ever in a Loop of its own. A forked
child shares the memory of its parent and sends back what the work gives, which is small.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from slanc_onnx.errors import SlancError
from slanc_onnx.progress import Progress

T = TypeVar("T")
MOST = 1e6  # seconds of a limit; the system counts milliseconds in 31 bits
GRACE = 5.0  # seconds that a child has to notice by itself that its time is over
_deadline: ContextVar[tuple[float, float] | None] = ContextVar("deadline", default=None)


class CannotRun(SlancError):
    """ONNX Runtime refuses the model, fails on the inputs, dies, or does not end in time."""


def can_fork() -> bool:
    """Whether work can have a process of its own here."""
    return sys.platform == "linux"


def isolated(
    work: Callable[[Progress], T], progress: Progress, limit: float | None, *, apart: bool
) -> T:
    """What `work` gives.

    Args:
        work: Takes the progress; in a process of its own, its result has to be picklable.
        progress: Called as the work calls it.
        limit: Seconds after which it is stopped; None for no limit.
        apart: Whether it has a process of its own, where the system has `fork`.

    Raises:
        CannotRun: the time is over, or the process died.
    """
    if limit is not None and limit > MOST:
        limit = None
    if not apart or not can_fork():
        with _until(limit):
            return work(progress)
    receive, send = multiprocessing.Pipe(duplex=False)
    watched, alive = os.pipe()  # the child ends when the parent's end is closed
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # what the caller closed
            with contextlib.suppress(OSError):
                stream.flush()  # or the child has a copy of what is in the buffer
    with warnings.catch_warnings():
        # NumPy's threads hold no lock of Python, and the child starts threads of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(alive)
        _in_child(work, send, watched, limit)
    send.close()
    os.close(watched)
    try:
        done: T = _result(receive, child, progress, limit)
        return done
    finally:
        receive.close()
        os.close(alive)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _in_child(
    work: Callable[[Progress], Any], send: Connection, watched: int, limit: float | None
) -> None:
    """Do the work and send what comes of it; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
        _limit_memory()
        try:
            with _until(limit):
                done = work(lambda what, share: send.send(("progress", (what, share))))
            send.send(("done", pickle.dumps(done)))
        except BaseException as error:
            send.send(("failed", _picklable(error)))
        status = 0
    finally:
        os._exit(status)


def _limit_memory() -> None:
    """Let no more be allocated than the machine has: an error is better than the end of others."""
    import resource  # not on every system that has Python

    free = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    if free is not None:
        most = pages * resource.getpagesize() + 1024 * int(free[1])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        known = [limit for limit in (soft, hard, most) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(known), hard))


def _end_with(watched: int) -> None:
    os.read(watched, 1)
    os._exit(1)


def _picklable(error: BaseException) -> bytes:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data


def _result(receive: Connection, child: int, progress: Progress, limit: float | None) -> Any:
    end = None if limit is None else time.monotonic() + limit + GRACE
    while receive.poll(None if end is None else max(0.0, end - time.monotonic())):
        try:
            word, value = receive.recv()
        except EOFError:
            raise CannotRun(f"ONNX Runtime died ({_cause(child)})") from None
        if word == "progress":
            progress(*value)
        elif word == "failed":
            raise pickle.loads(value)
        else:
            return pickle.loads(value)
    assert limit is not None
    raise too_slow(limit)


def _cause(child: int) -> str:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.waitstatus_to_exitcode(status)}"


def too_slow(limit: float) -> CannotRun:
    """The error of work that took longer."""
    return CannotRun(
        f"ONNX Runtime was not done after {limit:g} s: give smaller inputs with --inputs, or more "
        "time with --time-limit"
    )


@contextlib.contextmanager
def _until(limit: float | None) -> Iterator[None]:
    token = _deadline.set(None if limit is None else (time.monotonic() + limit, limit))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextlib.contextmanager
def stopped_in_time(run_options: Any) -> Iterator[None]:
    """Stop the run of a session that has these options when the time of the work is over.

    Raises:
        CannotRun: it is.
    """
    end = _deadline.get()
    if end is None:
        yield
        return
    left = end[0] - time.monotonic()
    if left <= 0:
        raise too_slow(end[1])
    timer = threading.Timer(left, lambda: setattr(run_options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    except CannotRun:
        if time.monotonic() >= end[0]:
            raise too_slow(end[1]) from None
        raise
    finally:
        timer.cancel()
