"""Models in segments: the same numbers as in one piece, with one segment's weights at a time."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.load import Array
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.model import read_model
from slanc_onnx.options import Options
from slanc_onnx.run import float32 as float32_module
from slanc_onnx.run import segments as segments_module
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.segments import SegmentedSession, segments_of
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.scale.decide import compute_scales_in
from tests.models.small_graphs import Weights, graph, normal
from tests.oracles.llama_shape import Shape, build
from tests.places import SAMPLES

FEEDS = {"input_ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])}


@pytest.mark.parametrize("limit", [1, 100_000, 1 << 40])
def test_a_decoder_in_segments_gives_the_same_bits(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "SEGMENT", limit)
    model = onnx.load(SAMPLES / "llama_like.onnx")
    norms = find_norms_in(read_graph(model))
    shown = instrument(model, norms, keep_outputs=True)
    cuts = list(shown.sums.values())
    session = SegmentedSession(shown.model, None, cuts)
    whole = Session(shown.model, None).run(FEEDS)
    found = session.run(FEEDS)
    assert found.keys() == whole.keys() and len(found) == len(norms) + 1
    assert all(found[name].tobytes() == whole[name].tobytes() for name in whole)
    assert len(session.segments) == {1: 8, 1 << 40: 1}.get(limit, len(session.segments))
    weights = [set(segment.weights) for segment in session.segments]
    large = {t.name for t in model.graph.initializer if len(t.dims) == 2}
    assert sum(len(names & large) for names in weights) == len(large)  # none is in two


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_probe_decides_the_same_in_segments(
    dtype: Literal["float32", "float16"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    build(path, Shape(layers=2, width=128, vocabulary=64), dtype=dtype)
    read = read_model(onnx.load(path, load_external_data=False), tmp_path)

    def decided() -> list[object]:
        return [
            (d.scale, d.estimate)
            for d in compute_scales_in(read, Options(estimate="probe", certify="off"))
        ]

    at_once = decided()
    monkeypatch.setattr(float32_module, "MOST_AT_ONCE", 0)
    monkeypatch.setattr(segments_module, "SEGMENT", 1)
    assert decided() == at_once


def test_a_model_that_is_too_large_to_run_is_probed_only_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = read_model(onnx.load(SAMPLES / "llama_like.onnx"))
    for most, by in ((1 << 32, "probe"), (1000, "weights")):
        monkeypatch.setattr("slanc_onnx.run.float32.MOST_AT_ONCE", most)
        decided = compute_scales_in(read, Options(certify="off"))
        assert {d.estimate.by for d in decided if d.estimate is not None} == {by}


LATE = """
    a = MatMul(x, w)
    b = Add(a, late)
    y = Identity(b)
    late = Cast<to = 1>(half)
"""


def test_what_stands_at_the_end_goes_to_where_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """as_float32 puts its casts there."""
    w, half = normal(1, 4, 4), normal(2, 4).astype(np.float16)
    weights: Weights = {"w": w, "half": half}
    monkeypatch.setattr(segments_module, "SEGMENT", 1)
    model = graph(LATE, weights, "float[2, 4] x", "float[2, 4] y")
    (*_, last) = segments = segments_of(model, ["a"], 1)
    assert [[n.op_type for n in s.nodes] for s in segments] == [
        ["MatMul"],
        ["Cast", "Add", "Identity"],
    ]
    assert (last.reads, last.gives, last.weights) == (("a",), ("y",), ("half",))
    x = normal(3, 2, 4)
    wanted = x @ w + half.astype(np.float32)
    found = SegmentedSession(model, None, ["a"]).run({"x": x})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_segment_that_cannot_run_says_so() -> None:
    model = graph(
        "a = MatMul(x, w)  y = Identity(a)",
        {"w": normal(1, 5, 4)},
        "float[b, 4] x",
        "float[b, 4] y",
    )
    with pytest.raises(CannotRun):
        SegmentedSession(model, None, ["a"]).run({"x": normal(2, 3, 4)})


def test_specs_are_read_of_the_generated_model(tmp_path: Path) -> None:
    build(tmp_path / "m.onnx", Shape(layers=1, width=128, vocabulary=64))
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    (spec,) = input_specs(read_graph(model, tmp_path)[0])
    assert (spec.name, spec.rows) == ("input_ids", 64)


def test_nothing_of_a_session_outlives_its_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's arrays keep the memory of the session that made them."""
    model = graph(
        "a = MatMul(x, w)  y = MatMul(a, w)",
        {"w": normal(1, 4, 4)},
        "float[b, 4] x",
        "float[b, 4] y",
    )
    given: list[object] = []
    run = Session.run

    def spy(self: Session, feeds: Feeds) -> dict[str, Array]:
        made = run(self, feeds)
        given.extend(made.values())
        return made

    monkeypatch.setattr(Session, "run", spy)
    monkeypatch.setattr(segments_module, "SEGMENT", 1)
    session = SegmentedSession(model, None, ["a"])
    found = session.run({"x": normal(2, 3, 4)})["y"]
    assert len(session.segments) == len(given) == 2
    assert not any(np.shares_memory(found, array) for array in given)
