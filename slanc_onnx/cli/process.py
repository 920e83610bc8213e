"""The process: its exit statuses, the streams that it writes to, and the signals that end it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from slanc_onnx.report import printable

PASSED, FAILED, BAD_INPUT, NOT_WRITTEN, BUG, INTERRUPTED = 0, 1, 2, 3, 4, 130
# The signals that end the command, and the exit status of each: that of a program that they kill.
# SIGBREAK is Windows': Ctrl-Break, or its window closed.
_STOPS = {"SIGTERM": 143, "SIGHUP": 129, "SIGBREAK": 143}


class Stopped(BaseException):
    """A signal that ends the command, as an exception: it leaves as little behind as Ctrl-C.

    Attributes:
        status: The exit status.
        told: What the message says.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.status = _STOPS[name]
        self.told = "the terminal was closed" if name == "SIGHUP" else "terminated"


def reason(error: OSError) -> str:
    return error.strerror or str(error)


def fail(status: int, message: str) -> int:
    """Say on stderr, if it is there, why the status is not 0."""
    if sys.stderr is not None:
        try:
            print(f"ERROR: {printable(message)}", file=sys.stderr, flush=True)
        except OSError:
            silence(sys.stderr)
    return status


def bug(error: Exception, traceback_too: bool) -> str:
    """What is said of an exception that should not be, as one line."""
    if traceback_too and sys.stderr is not None:
        with suppress(OSError):
            traceback.print_exception(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    node = _node_at_hand(error)
    where = f" at node {node!r}" if node else ""
    return (
        f"this is a bug in slanc-onnx: {text}{where}. Report it where you got slanc-onnx from, "
        "with this line and, if you may, the model; --traceback shows where it happened"
    )


def _node_at_hand(error: Exception) -> str:
    """The name of the node, or the norm, that the innermost function worked on."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if type(value).__name__ in ("NodeProto", "Node", "Norm") and value.name:
                found = str(value.name)
    return found


def lost_on_stdout() -> OSError | None:
    """Why what was printed did not arrive, if it did not."""
    if sys.stdout is None:
        return OSError("it is closed")
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)
        return None if isinstance(error, BrokenPipeError) else error
    return None


@contextmanager
def on_stdout() -> Iterator[None]:
    """What is printed inside may be read to its end or not.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # whoever read the results has seen enough
        silence(sys.stdout)
    except OSError:
        silence(sys.stdout)
        raise


def silence(stream: TextIO | None) -> None:
    """Let what is still to be written to a stream go nowhere, so that its end does not fail."""
    if stream is None:
        return
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_standard_files() -> None:
    """Open what the caller closed, or the next file that is opened takes its place, and warnings
    of ONNX Runtime end up in a model."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def stops_raised() -> Iterator[None]:
    """The first signal of `_STOPS` as `Stopped`, each unless somebody else handles or ignores it.

    Those that come after it are ignored: a shell that goes sends SIGHUP, and its terminal again.
    """
    numbers = {name: getattr(signal, name) for name in _STOPS if hasattr(signal, name)}
    if threading.current_thread() is not threading.main_thread():
        numbers = {}
    mine = {at: name for name, at in numbers.items() if signal.getsignal(at) is signal.SIG_DFL}

    def stop(number: int, _: object) -> None:
        for other in mine:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(mine[number])

    try:
        for number in mine:
            signal.signal(number, stop)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def no_stop_passed_over() -> Iterator[None]:
    """Ctrl-C and signals that come where Python passes over exceptions are raised at the end."""
    stops: list[BaseException] = []
    told = sys.unraisablehook

    def keep(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, (KeyboardInterrupt, Stopped)):
            stops.append(unraisable.exc_value)
        else:
            told(unraisable)

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = told
    if stops:
        raise stops[0]
