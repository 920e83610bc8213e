"""Norms over positions: for how long rows a scale holds, against NumPy in FP64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.conftest import Run
from tests.models.small_graphs import Weights, graph, normal

CHANNELS, GROUPS = 8, 2
LIMIT = 65504.0
LAYERS = {
    "a GroupNorm": "cut = Reshape(h, grouped) n = InstanceNormalization(cut, ones, zeros) "
    "shape = Shape(h) y = Reshape(n, shape)",
    "an InstanceNorm": "y = InstanceNormalization(h, gamma, beta)",
    "a LayerNorm over positions": "m = ReduceMean<axes = [2, 3]>(h) c = Sub(h, m) q = Mul(c, c) "
    "v = ReduceMean<axes = [2, 3]>(q) e = Add(v, eps) s = Sqrt(e) y = Div(c, s)",
}


def model_of(nodes: str) -> onnx.ModelProto:
    weights: Weights = {
        "w": normal(1, CHANNELS, 4, 1, 1, spread=0.5),
        "grouped": np.array([0, GROUPS, -1]),
        "ones": np.ones(GROUPS, np.float32),
        "zeros": np.zeros(GROUPS, np.float32),
        "gamma": np.ones(CHANNELS, np.float32),
        "beta": np.zeros(CHANNELS, np.float32),
        "eps": np.array(1e-5, np.float32),
    }
    return graph(f"h = Conv(x, w) {nodes}", weights, "float[b, 4, height, width] x")


def sums(model: onnx.ModelProto, x: NDArray[np.float64], per_row: int) -> NDArray[np.float64]:
    """Largest plain sum of magnitudes and largest centred sum of squares of the rows."""
    [w] = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w"]
    h = np.einsum("oc,bchw->bohw", w[:, :, 0, 0].astype(np.float64), x)
    rows = h.reshape(-1, per_row)
    centred = rows - rows.mean(axis=1, keepdims=True)
    return np.array([np.abs(rows).sum(axis=1).max(), (centred**2).sum(axis=1).max()])


def report() -> Any:
    return json.loads(Path("r.json").read_text())


@pytest.mark.parametrize("name", LAYERS)
def test_the_longest_rows_are_told(run: Run, name: str) -> None:
    model = model_of(LAYERS[name])
    onnx.save(model, "m.onnx")
    said = ("--feed", "x=normal(0,1)", "--accumulate", "pairwise")
    status, out, _ = run("m.onnx", *said, "--report", "r.json")
    assert status == 0, out
    [norm] = report()["norms"]
    last = out.splitlines()[-1]
    per_position = CHANNELS // GROUPS if name == "a GroupNorm" else 1
    most, seen = norm["most_elements"], 64 * 256 * per_position  # the larger of both sizes
    assert f"hold up to {most} elements per row (seen: {seen})" in last
    side = int(np.sqrt(most / per_position))
    x = np.random.default_rng(1).standard_normal((1, 4, side, side))
    plain, squares = sums(model, x, side * side * per_position)
    scale = norm["scale"]
    assert plain / scale < LIMIT and squares / scale**2 < LIMIT  # still fits there
    x = np.random.default_rng(1).standard_normal((1, 4, 3 * side, 3 * side))
    plain, squares = sums(model, x, 9 * side * side * per_position)
    assert max(plain / scale, squares / scale**2) > LIMIT  # and not far beyond


def test_sizes_that_are_said_move_the_scale(run: Run) -> None:
    onnx.save(model_of(LAYERS["a GroupNorm"]), "m.onnx")
    found = []
    for size in (16, 512):
        sizes = ("--dim", f"height={size}", "--dim", f"width={size}")
        said = ("--feed", "x=normal(0,1)", "--accumulate", "pairwise", *sizes)
        status, out, _ = run("m.onnx", *said, "--report", "r.json")
        assert status == 0, out
        assert f"on x [1, 4, {size}, {size}]" in out.splitlines()[-1]
        [norm] = report()["norms"]
        assert norm["most_elements"] >= size * size * CHANNELS // GROUPS
        found.append(norm["scale"])
    assert found[0] < found[1]


def test_a_norm_of_fixed_rows_says_nothing(run: Run) -> None:
    model = graph(
        "[n] y = LayerNormalization(x, g)", {"g": np.ones(64, np.float32)}, "float[b, t, 64] x"
    )
    onnx.save(model, "m.onnx")
    _, out, _ = run("m.onnx", "--report", "r.json")
    assert report()["norms"][0]["most_elements"] is None and "hold up to" not in out
