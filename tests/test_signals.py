"""Signals: whichever ends the command, it leaves nothing behind, and its status says which."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from slanc_onnx.cli import main
from tests.models.four_norms import four_norms
from tests.places import ROOT

posix = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")

WAITS = """
import os, signal, sys, time
from pathlib import Path
from slanc_onnx import cli, graph, job, run

def wait(*arguments):
    Path("ready").touch()
    for _ in range(60_000):  # Python sees a signal that comes just before a sleep after it
        if Path("go").exists():
            return goes_on(*arguments)
        time.sleep(0.01)

goes_on, {patch} = {patch}, wait
{more}
sys.exit(cli.main(sys.argv[1:]))
"""
AGAIN = """
def again(draft, *end):
    os.kill(os.getpid(), signal.SIGHUP)
    return tidies(draft, *end)

tidies, graph.Draft.__exit__ = graph.Draft.__exit__, again
"""
PLACES = {
    "in the run of a model": "run.session.Session.run",
    "before the model is there": "job.draft._validate",
    "after": "cli.tell.write_report",
}


def waiting(place: str, more: str = "") -> list[str]:
    """A command that says that it is `ready` at a place and waits there; the arguments follow."""
    return [sys.executable, "-c", WAITS.format(patch=PLACES[place], more=more)]


def heeds_signals() -> None:
    """As a program that a shell starts in a terminal, whatever this one ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_for(file: Path) -> None:
    until = time.monotonic() + 300
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.02)


@posix
@pytest.mark.parametrize(
    ("name", "status", "word", "place"),
    [
        ("SIGTERM", 143, "terminated", "in the run of a model"),
        ("SIGTERM", 143, "terminated", "before the model is there"),
        ("SIGTERM", 143, "terminated", "after"),
        ("SIGINT", 130, "interrupted", "before the model is there"),
        ("SIGINT", 130, "interrupted", "after"),
        ("SIGHUP", 129, "the terminal was closed", "in the run of a model"),
    ],
)
def test_a_signal_ends_it_without_left_overs(
    tmp_path: Path, name: str, status: int, word: str, place: str
) -> None:
    """During validation nothing is written; while a report is, the model is there."""
    onnx.save(four_norms(leaky=False), tmp_path / "model.onnx")
    with subprocess.Popen(
        [*waiting(place), "model.onnx", "-o", "new/folder/out.onnx", "--report", "r.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_signals,
    ) as process:
        wait_for(tmp_path / "ready")
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (status, "", f"ERROR: {word}\n")
    new = ["new"] if place == "after" else []
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", *new, "ready"]
    assert not new or os.listdir(tmp_path / "new" / "folder") == ["out.onnx"]


@posix
@pytest.mark.parametrize("place", ["in the run of a model", "after"])
def test_a_closed_terminal_ends_it_without_left_overs(tmp_path: Path, place: str) -> None:
    """Its streams are gone then, and the signal comes to all processes of the terminal."""
    import fcntl
    import pty
    import termios

    def in_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        heeds_signals()

    onnx.save(four_norms(leaky=False), tmp_path / "model.onnx")
    watching, terminal = pty.openpty()
    with subprocess.Popen(
        [*waiting(place), "model.onnx", "--report", "r.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=in_terminal,
    ) as process:
        os.close(terminal)
        wait_for(tmp_path / "ready")
        os.close(watching)
        assert process.wait(timeout=300) == 129
    new = ["model.slanc.onnx"] if place == "after" else []
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", *new, "ready"]


@posix
def test_with_nohup_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    """Nor the process that runs models."""
    onnx.save(four_norms(leaky=False), tmp_path / "model.onnx")
    with subprocess.Popen(
        [*waiting("in the run of a model"), "model.onnx", "-qq", "--report", "r.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        wait_for(tmp_path / "ready")
        os.killpg(process.pid, signal.SIGHUP)
        (tmp_path / "go").touch()
        assert process.wait(timeout=300) == 0
    assert (tmp_path / "model.slanc.onnx").exists()


@posix
def test_a_signal_that_comes_again_does_not_stop_the_tidying(tmp_path: Path) -> None:
    """A shell that goes sends SIGHUP to its jobs, and its terminal sends it again."""
    onnx.save(four_norms(leaky=False), tmp_path / "model.onnx")
    with subprocess.Popen(
        [*waiting("before the model is there", AGAIN), "model.onnx"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_signals,
    ) as process:
        wait_for(tmp_path / "ready")
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (129, "ERROR: the terminal was closed\n")
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "ready"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_handler_of_the_caller_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"no {name} here")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(number)
    for handler in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(number, handler)
        try:
            assert main(["no.onnx"]) == 2
            assert signal.getsignal(number) is handler
        finally:
            signal.signal(number, before)
