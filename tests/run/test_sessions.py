"""What a session gives outlives it, but keeps none of its memory; no collector has to end it."""

import gc
from collections.abc import Iterator
from pathlib import Path
from threading import get_ident
from typing import Any
from weakref import ref

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.run import Session
from tests.models.small_graphs import D, between, normal


def test_results_are_copies() -> None:
    session = Session(between("total = MatMul(x, w)", {"w": normal(1, D, D)}), None)
    values = session.run({"ids": np.zeros((1, 3), np.int64)})
    assert values and all(value.flags.owndata for value in values.values())


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A collection looks at every object of the caller's process: nothing may wait for one."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("options", [Options(), Options(to="fp16")], ids=["fp32", "fp16"])
def test_a_thread_has_one_session_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Options
) -> None:
    onnx.save(between("total = MatMul(x, w)", {"w": normal(1, D, D)}), tmp_path / "m.onnx")
    started: list[tuple[int, ref[Any]]] = []
    beside: list[int] = []  # how many of the same thread were there at each start
    make = ort.InferenceSession

    def counted(*given: Any, **more: Any) -> ort.InferenceSession:
        here = get_ident()
        beside.append(sum(thread == here and alive() is not None for thread, alive in started))
        session = make(*given, **more)
        started.append((here, ref(session)))
        return session

    monkeypatch.setattr(ort, "InferenceSession", counted)
    done = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx", options)
    assert done.validation is not None and len(started) >= 4
    assert beside == [0] * len(started)
    assert all(alive() is None for _, alive in started)
