"""Isolated work: its result, its errors and its death come back, and it ends in time."""

import os
import select
import signal
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from slanc_onnx import SlancError
from slanc_onnx.graph import can_fork, kilobytes, lower_limit
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run.isolation import CannotRun, begun, isolated, memory_of_a_run
from slanc_onnx.run.session import Session

ENDLESS = """
    <ir_version: 8, opset_import: ["": 17]>
    m (float[2] x) => (float[2] y) <int64 trips = {9223372036854775807}, bool yes = {1}> {
        y = Loop(trips, yes, x) <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] z) {
            d = Identity(c)
            z = Cos(a)
        }>
    }
"""
forks = pytest.mark.skipif(not can_fork(), reason="this system has no fork that is safe here")


def test_what_the_work_gives_and_tells_comes_back() -> None:
    for apart in (False, True):
        told: list[tuple[str, float]] = []

        def work(progress: Progress) -> dict[str, np.ndarray]:
            progress("adding", 0.5)
            return {"sum": np.arange(3) + 1}

        done = isolated(work, lambda *seen: told.append(seen), None, apart=apart)  # noqa: B023
        assert np.array_equal(done["sum"], [1, 2, 3])
        assert told == [("adding", 0.5)]


@forks
def test_it_is_a_process_of_its_own() -> None:
    assert isolated(lambda _: os.getpid(), no_progress, None, apart=False) == os.getpid()
    assert isolated(lambda _: os.getpid(), no_progress, None, apart=True) != os.getpid()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("error", [SlancError("no"), CannotRun("not this"), MemoryError("full")])
def test_its_errors_are_raised_here(error: Exception, apart: bool) -> None:
    def work(_: Progress) -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        isolated(work, no_progress, 60.0, apart=apart)


@forks
def test_it_goes_on_beside_ours_and_ends_with_the_block() -> None:
    receive, send = os.pipe()

    def work(_: Progress) -> str:
        os.write(send, b"begun")
        return "done"

    with begun(work, no_progress, None, apart=True) as done:
        assert os.read(receive, 5) == b"begun"  # before anybody waits for it
        assert done() == "done"

    def endless(_: Progress) -> None:
        os.write(send, str(os.getpid()).encode().ljust(10))
        time.sleep(1000)

    with begun(endless, no_progress, None, apart=True):
        child = int(os.read(receive, 10))
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    os.close(receive)
    os.close(send)


def test_without_a_process_of_its_own_it_is_done_when_it_is_asked_for() -> None:
    seen = []
    with begun(lambda _: seen.append(1), no_progress, None, apart=False) as done:
        assert not seen
        done()
        assert seen == [1]


@forks
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_its_death_is_an_error(number: signal.Signals) -> None:
    def work(_: Progress) -> None:
        os.kill(os.getpid(), number)

    with pytest.raises(CannotRun, match=rf"ONNX Runtime died \({number.name}\)"):
        isolated(work, no_progress, 60.0, apart=True)


@pytest.mark.parametrize("apart", [False, True])
def test_a_loop_that_does_not_end_is_stopped(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself: long before it would be killed."""
    monkeypatch.setattr("slanc_onnx.run.isolation.GRACE", 120.0)
    model = onnx.parser.parse_model(ENDLESS)

    def work(_: Progress) -> None:
        Session(model, None).run({"x": np.zeros(2, np.float32)})

    started = time.monotonic()
    with pytest.raises(CannotRun, match=r"not done after 0\.5 s: .* --time-limit"):
        isolated(work, no_progress, 0.5, apart=apart)
    assert time.monotonic() - started < 100


@forks
def test_work_that_does_not_listen_is_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slanc_onnx.run.isolation.GRACE", 0.1)
    started = time.monotonic()
    with pytest.raises(CannotRun, match=r"not done after 0\.1 s"):
        isolated(lambda _: time.sleep(200), no_progress, 0.1, apart=True)
    assert time.monotonic() - started < 100


def test_a_run_that_ends_in_time_gives_what_it_gave_before() -> None:
    model = onnx.parser.parse_model(ENDLESS)
    trips = next(t for t in model.graph.initializer if t.name == "trips")
    trips.CopyFrom(numpy_helper.from_array(np.array(3), "trips"))
    feeds = {"x": np.ones(2, np.float32)}

    def work(_: Progress) -> np.ndarray:
        return Session(model, None).run(feeds)["y"]

    free = work(no_progress)
    for apart in (False, True):
        assert np.array_equal(isolated(work, no_progress, 60.0, apart=apart), free)


LARGE = """
    <ir_version: 8, opset_import: ["": 17]>
    m (int64[1] size) => (float[n] y) {
        z = ConstantOfShape(size)
        y = Cos(z)
    }
"""


@forks
@pytest.mark.parametrize("elements", [2**28, 2**45])
def test_more_memory_than_a_run_may_take_is_an_error(elements: int) -> None:
    model = onnx.parser.parse_model(LARGE)

    def fill(_: Progress) -> None:
        Session(model, None).run({"size": np.array([elements])})

    def read(_: Progress) -> None:
        np.ones(elements, np.float32)

    for work in (fill, read):
        with pytest.raises(CannotRun, match=r"more than 0\.5 GB of memory: .* --memory-limit"):
            isolated(work, no_progress, 60.0, apart=True, memory=500_000_000)


@forks
def test_work_that_tells_much_does_not_wait_for_a_reader() -> None:
    receive, send = os.pipe()

    def work(told: Progress) -> int:
        for i in range(5000):
            told("working", i / 5000)
        os.write(send, b"done")
        return 7

    seen: list[float] = []
    with begun(work, lambda _, share: seen.append(share), None, apart=True) as done:
        assert select.select([receive], [], [], 120.0)[0]  # before anybody asked for it
        assert done() == 7
    assert seen == sorted(seen) and 0 < len(seen) < 5000
    os.close(receive)
    os.close(send)


@forks
def test_a_process_that_has_been_waited_for_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be that of another process by then."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, _: killed.append(process))
    with pytest.raises(CannotRun, match="exit status 3"):
        isolated(lambda _: os._exit(3), no_progress, 60.0, apart=True)
    assert killed == []
    assert isolated(lambda _: 1, no_progress, 60.0, apart=True) == 1
    assert len(killed) == 1  # of which nobody knows that it ended


@forks
def test_memory_that_holds_no_thread_of_onnx_runtime_is_too_little() -> None:
    model = onnx.parser.parse_model(LARGE)

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("env.cc:327 PosixThread pthread_create failed, error code: 12")

    def begin(_: Progress) -> None:
        onnxruntime.InferenceSession = refused  # in this process, which ends with it
        Session(model, None)

    with pytest.raises(CannotRun, match=r"more than 0\.51 GB of memory: .* --memory-limit"):
        isolated(begin, no_progress, 60.0, apart=True, memory=510_000_000)


def test_a_run_may_take_more_for_a_larger_model() -> None:
    model = onnx.parser.parse_model(LARGE)
    small = memory_of_a_run(model, None)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1000, np.float32), "w"))
    assert memory_of_a_run(model, None) >= small + 16 * 4000
    assert memory_of_a_run(model, None, 2.5) == 2_500_000_000


@forks
def test_more_memory_than_the_machine_has_is_an_error() -> None:
    def work(_: Progress) -> None:
        np.zeros(2**46, np.uint8)

    with pytest.raises(MemoryError):
        isolated(work, no_progress, 60.0, apart=True)


@forks
@pytest.mark.parametrize(("kind", "used"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_a_limit_of_the_caller_is_not_said_to_be_that_of_the_option(kind: str, used: str) -> None:
    """That of `ulimit`: --memory-limit would not help."""
    import resource

    def work(_: Progress) -> None:
        np.ones(2**29, np.uint8)

    def limited(_: Progress) -> None:  # in a process whose limit it may be
        lower_limit(getattr(resource, kind), 1024 * kilobytes("self/status", used) + 2**28)
        isolated(work, no_progress, 60.0, apart=True, memory=2**30)

    with pytest.raises(MemoryError):
        isolated(limited, no_progress, 60.0, apart=True)


@pytest.mark.parametrize("apart", [False, True])
def test_a_library_that_finds_no_memory_is_no_error_of_ours(apart: bool) -> None:
    def work(_: Progress) -> None:
        raise ImportError("/x.so: failed to map segment from shared object")

    with pytest.raises(MemoryError, match="failed to map"):
        isolated(work, no_progress, 60.0, apart=apart)


@forks
@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_what_a_terminal_sends_to_all_its_processes_is_left_to_the_parent(name: str) -> None:
    def work(_: Progress) -> int:
        os.kill(os.getpid(), getattr(signal, name))
        return 7

    assert isolated(work, no_progress, 60.0, apart=True) == 7
