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
