"""Work on ONNX Runtime with a time limit, in a process of its own where its death must not be ours.

A damaged model can end ONNX Runtime by a signal, run for ever in a Loop of its own, or ask for all
of the memory. A forked child shares the memory of its parent and sends back what the work gives,
which is small.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import onnx

from slanc_onnx.errors import SlancError, is_no_memory
from slanc_onnx.graph import begin_child, can_fork, kilobytes, lower_limit, stored_bytes
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.run.aligned import weights_kept

T = TypeVar("T")
MOST = 1e6  # seconds of a limit; the system counts milliseconds in 31 bits
GRACE = 5.0  # seconds that a child has to notice by itself that its time is over
LEAST_MEMORY = 1_500_000_000  # bytes that a run may take, whatever the model
# Weights are of FP16 or of 4 bits in a file and of FP32 in memory, twice: packed for kernels too.
MEMORY_PER_BYTE = 16
_PER_PROCESSOR = 2**24  # bytes: the stack of a thread of ONNX Runtime, and what it works with
_deadline: ContextVar[tuple[float, float] | None] = ContextVar("deadline", default=None)
_memory: ContextVar[int | None] = ContextVar("memory", default=None)


class CannotRun(SlancError):
    """ONNX Runtime refuses the model, fails on the inputs, dies, or does not end in time."""


def memory_of_a_run(
    model: onnx.ModelProto, folder: Path | None, gigabytes: float | None = None
) -> int:
    """The bytes that a run of a model may take, if `gigabytes` does not say."""
    if gigabytes is not None:
        return int(min(gigabytes, MOST) * 1e9)
    return LEAST_MEMORY + MEMORY_PER_BYTE * stored_bytes(model, folder)


def run_apart(
    work: Callable[[Progress], T],
    progress: Progress,
    options: Options,
    model: onnx.ModelProto,
    folder: Path | None,
) -> T:
    """What work that runs a model gives, as `isolated` says, within the limits of the options."""
    with running_apart(work, progress, options, model, folder) as done:
        return done()


def running_apart(
    work: Callable[[Progress], T],
    progress: Progress,
    options: Options,
    model: onnx.ModelProto,
    folder: Path | None,
) -> contextlib.AbstractContextManager[Callable[[], T]]:
    """Work that runs a model, as `begun` says, within the limits of the options."""
    memory = memory_of_a_run(model, folder, options.memory_limit)

    def on_kept_weights(progress: Progress) -> T:
        with weights_kept():
            return work(progress)

    limit = options.time_limit
    return begun(on_kept_weights, progress, limit, apart=options.isolate, memory=memory)


def isolated(
    work: Callable[[Progress], T],
    progress: Progress,
    limit: float | None,
    *,
    apart: bool,
    memory: int | None = None,
) -> T:
    """What `work` gives; see `begun`."""
    with begun(work, progress, limit, apart=apart, memory=memory) as done:
        return done()


@contextlib.contextmanager
def begun(
    work: Callable[[Progress], T],
    progress: Progress,
    limit: float | None,
    *,
    apart: bool,
    memory: int | None = None,
) -> Iterator[Callable[[], T]]:
    """Work that goes on beside the caller's, in a process of its own, until the block is left.

    Without such a process it is done when it is asked for.

    Args:
        work: Takes the progress; in a process of its own, its result has to be picklable.
        progress: Called as the work calls it.
        limit: Seconds after which it is stopped; None for no limit.
        apart: Whether it has a process of its own, where the system has `fork`.
        memory: Bytes that this process may take; None for what the machine has.

    Returns:
        What waits for the work and gives what it gave. It raises `CannotRun` where the time is
        over, or the process died or needs more memory, and `MemoryError` where the machine has not
        enough.
    """
    if limit is not None and limit > MOST:
        limit = None
    if not apart or not can_fork():
        yield partial(_at_once, work, progress, limit)
        return
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
        _in_child(work, send, watched, limit, memory)
    send.close()
    os.close(watched)
    end = None if limit is None else time.monotonic() + limit + GRACE
    process = _Process(child)
    try:
        yield partial(_result, receive, process, progress, (limit, end))
    finally:
        receive.close()
        os.close(alive)
        process.end()


class _Process:
    """A child, which is waited for once: its number may be another's as soon as it was."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._status: int | None = None

    def end(self) -> None:
        """Kill it, unless it has been waited for."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):  # whoever ignores SIGCHLD has no zombies
                os.kill(self._number, signal.SIGKILL)
            self.cause()

    def cause(self) -> str:
        """Wait for its end, and say how it ended."""
        if self._status is None:
            try:
                _, self._status = os.waitpid(self._number, 0)
            except ChildProcessError:
                self._status = 0  # nobody knows any more
        if os.WIFSIGNALED(self._status):
            return signal.Signals(os.WTERMSIG(self._status)).name
        return f"exit status {os.waitstatus_to_exitcode(self._status)}"


def _at_once(work: Callable[[Progress], T], progress: Progress, limit: float | None) -> T:
    with _until(limit), _shortage_told():
        return work(progress)


@contextlib.contextmanager
def _shortage_told() -> Iterator[None]:
    """A lack of memory, by whatever error, as `short_of_memory` says or as a `MemoryError`."""
    try:
        yield
    except Exception as error:
        if not is_no_memory(error):
            raise
        raise short_of_memory() or MemoryError(str(error)) from error


def _in_child(
    work: Callable[[Progress], Any],
    send: Connection,
    watched: int,
    limit: float | None,
    memory: int | None,
) -> None:
    """Do the work and send what comes of it; never returns."""
    status = 1
    try:
        begin_child()
        try:
            with _until(limit), _shortage_told():
                threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
                _memory.set(_limit_memory(memory))
                done = pickle.dumps(work(partial(_tell, send)))
            send.send(("done", done))
        except BaseException as error:
            send.send(("failed", _picklable(error)))
        status = 0
    finally:
        os._exit(status)


def _tell(send: Connection, what: str, share: float) -> None:
    """Tell the parent, which may be at something else, how far the work is, if there is room."""
    poll = select.poll()
    poll.register(send.fileno(), select.POLLOUT)
    if poll.poll(0):  # then for a message of this length
        send.send(("progress", (what, share)))


def _limit_memory(memory: int | None) -> int | None:
    """Let no more be allocated: an error is better than the end of others.

    Returns:
        `memory`, if that is less than what the machine has, or the caller's limits leave.
    """
    import resource  # not on every system that has Python

    size, data = (1024 * kilobytes("self/status", field) for field in ("VmSize", "VmData"))
    free = (
        lower_limit(resource.RLIMIT_AS, size + 1024 * kilobytes("meminfo", "MemAvailable")) - size
    )
    if memory is None or memory > free:
        return None
    # Of address space threads reserve more than they use, so what can be written is counted.
    wanted = data + memory + _PER_PROCESSOR * (os.cpu_count() or 1)
    return memory if lower_limit(resource.RLIMIT_DATA, wanted) == wanted else None


def short_of_memory() -> CannotRun | None:
    """The error of work that needs more memory than it may have; None where it may have all."""
    memory = _memory.get()
    if memory is None:
        return None
    return CannotRun(
        f"it needs more than {memory / 1e9:.3g} GB of memory: give smaller inputs with --inputs, "
        "or more memory with --memory-limit"
    )


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


def _result(
    receive: Connection,
    child: _Process,
    progress: Progress,
    until: tuple[float | None, float | None],
) -> Any:
    """What a child sends; `until` has its seconds and the moment at which they are over."""
    limit, end = until
    while receive.poll(None if end is None else max(0.0, end - time.monotonic())):
        try:
            word, value = receive.recv()
        except EOFError:
            raise CannotRun(f"ONNX Runtime died ({child.cause()})") from None
        if word == "progress":
            progress(*value)
        elif word == "failed":
            raise pickle.loads(value)
        else:
            return pickle.loads(value)
    assert limit is not None
    raise too_slow(limit)


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
    with _shortage_told():  # no memory for its stack
        timer.start()
    try:
        yield
    except CannotRun:
        if time.monotonic() >= end[0]:
            raise too_slow(end[1]) from None
        raise
    finally:
        timer.cancel()
