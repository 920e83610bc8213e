"""Inputs that are made: one size per named axis, and indices that always fit."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from slanc_onnx import Options
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.job import protect_file
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.sizes import Sizes
from tests.models.small_graphs import D, Weights, graph, normal


def made(model: onnx.ModelProto, sizes: Sizes | None = None) -> dict[str, NDArray[Any]]:
    specs = input_specs(read_graph(model)[0])
    return make_feeds(specs, np.random.default_rng(0), sizes or Sizes())


def test_an_axis_has_one_size_wherever_its_name_stands() -> None:
    inputs = (
        "float[batch, time, 8] x, float[1, batch, 8] state, int64[batch, time] ids, "
        "float[layers, batch, 8] more, int64[batch, other] lengths"
    )
    feeds = made(
        graph("y = Identity(x) e = Gather(table, ids)", {"table": normal(0, 5, D)}, inputs)
    )
    assert feeds["x"].shape == (1, 16, 8)
    assert feeds["state"].shape == (1, 1, 8)
    assert feeds["ids"].shape == (1, 16)
    assert feeds["more"].shape == (1, 1, 8)
    assert feeds["lengths"].shape == (1, 16)


def test_axes_without_a_name_and_past_lengths_are_their_own() -> None:
    inputs = (
        "int64[batch, sequence] ids, float[batch, 2, past_sequence, width] past, "
        "int64[batch, past_sequence] mask"
    )
    model = graph("y = Gather(table, ids)", {"table": normal(0, 5, D)}, inputs)
    feeds = made(model, Sizes(batch=3, sequence=7))
    assert feeds["past"].shape == (3, 2, 0, 7)
    assert feeds["ids"].shape == (3, 7)


LSTM = """
    t = Transpose<perm = [1, 0, 2]>(x)
    all, , = LSTM<hidden_size = 8>(t, w, r, , , state, state)
    one = Squeeze(all, first)
    [n] y = LayerNormalization(one, g)
"""


def test_a_recurrent_model_runs_without_the_users_inputs(tmp_path: Path) -> None:
    weights: Weights = {
        "w": normal(1, 1, 32, 8),
        "r": normal(2, 1, 32, 8),
        "first": np.array([1]),
        "g": np.ones(8, np.float32),
    }
    inputs = "float[batch, time, 8] x, float[1, batch, 8] state"
    model = graph(LSTM, weights, inputs, "float[time, batch, c] y")
    onnx.save(model, tmp_path / "model.onnx")
    done = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", Options(isolate=False))
    assert done.passed, done.not_validated


def test_indices_are_zeros_and_flags_are_ones() -> None:
    nodes = """
        i = Reshape(batch, last)
        s = ScatterElements<axis = 0, reduction = "add">(zeros, i, ones)
        c = Cast<to = 1>(mask)
        y = Mul(s, c)
    """
    weights: Weights = {
        "zeros": np.zeros(3, np.float32),
        "ones": np.ones(4, np.float32),
        "last": np.array([-1]),
    }
    model = graph(nodes, weights, "int64[4] batch, int64[3] mask", "float[3] y", opset=18)
    feeds = made(model)
    assert (feeds["batch"] == 0).all() and (feeds["mask"] == 1).all()


def test_pixels_and_sound_of_narrow_integers_may_be_any_of_their_type() -> None:
    """Ones, as masks are, would say that no norm behind raw pixels overflows."""
    inputs = "uint8[1, h, w, 3] image, int16[1, n] sound, uint8[1, 4] mask, uint8[1, 2] ids"
    nodes = "y = Cast<to = 1>(image) i = Cast<to = 7>(ids) e = Gather(table, i)"
    model = graph(nodes, {"table": normal(0, 5, D)}, inputs)
    feeds = made(model)
    assert feeds["image"].shape == (1, 32, 128, 3) and feeds["sound"].shape == (1, 4000)
    assert (feeds["image"].min(), feeds["image"].max()) == (0, 255)
    assert feeds["sound"].min() < -30_000 and feeds["sound"].max() > 30_000
    assert (feeds["mask"] == 1).all() and feeds["ids"].max() < 5


def test_a_norm_behind_raw_pixels_is_scaled_for_them(tmp_path: Path) -> None:
    nodes = """
        f = Cast<to = 1>(image)
        r = Reshape(f, rows)
        x = MatMul(r, w)
        [n] y = SimplifiedLayerNormalization<axis = -1>(x, g)
    """
    weights: Weights = {
        "rows": np.array([1, -1, 64]),
        "w": normal(3, 64, 64, spread=0.125),
        "g": np.ones(64, np.float32),
    }
    onnx.save(graph(nodes, weights, "uint8[1, 3, 32, 32] image"), tmp_path / "model.onnx")
    done = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", Options(isolate=False))
    pixels = np.random.default_rng(1).integers(180, 256, (1, 48, 64))  # a bright picture
    rows = pixels.astype(np.float64) @ weights["w"].astype(np.float64)
    (norm,) = done.norms
    assert (rows**2).sum(-1).max() > 65504  # as exported they overflow
    assert norm.scale is not None and ((rows / norm.scale) ** 2).sum(-1).max() < 65504
    assert done.passed and done.validation is not None and done.validation.lost_before > 0


EDGES = """
    i = Gather<axis = 0>(edges, first)
    h = MatMul(x, w)
    one = Gather<axis = 0>(h, i)
    [n] y = SimplifiedLayerNormalization<axis = -1>(one, g)
"""


def test_an_index_that_the_file_does_not_tell_of_is_zero_where_one_does_not_fit(
    tmp_path: Path,
) -> None:
    weights: Weights = {"first": np.array(0), "w": normal(1, D, D), "g": np.ones(D, np.float32)}
    model = graph(EDGES, weights, f"float[nodes, {D}] x, int64[2, e] edges", f"float[e, {D}] y")
    onnx.save(model, tmp_path / "model.onnx")
    done = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", Options(isolate=False))
    assert done.passed and done.validation is not None
    told = {fed.name: str(fed.feed) for fed in done.validation.trials[0].fed}
    assert told == {"x": "normal(0, 1)", "edges": "range(0, 0)"}


def test_a_refusal_suggests_what_the_input_may_take(tmp_path: Path) -> None:
    """Not what was fed already, and not an input whose name is part of a word of the message."""
    nodes = EDGES.replace("x, w", "d, w")
    weights: Weights = {"first": np.array(0), "w": normal(1, D, D), "g": np.ones(D, np.float32)}
    model = graph(nodes, weights, f"float[0, {D}] d, int64[2, e] edges", f"float[e, {D}] y")
    onnx.save(model, tmp_path / "model.onnx")
    done = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", Options(isolate=False))
    assert done.not_validated is not None
    told = str(done.not_validated.facts[0])
    assert "edges int64 [2, e] as [2, 16] of range(1, 1)" in told
    assert "--feed 'edges=ids(0,N)' or --dim e=N" in told
