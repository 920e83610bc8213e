"""How much tighter the joint bound of gated MLPs is, and how far above the longest output found.

    python -m benchmarks.joint MODEL.onnx NAME... [--layers 0,1,2]

NAME are the patterns of the weights of G, U, D and of gamma, with {} for the layer, for example
model.layers.{}.mlp.gate_proj.weight. Weights are [in, out], as of a MatMul.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.missing import told
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import load_model, read_tensor
from slanc_onnx.prove.joint import GatedMlp, joint_bound
from slanc_onnx.prove.sets import Bounded, Ellipsoids, Gate, ball

Double = NDArray[np.float64]


def apart(mlp: GatedMlp, rows: Ellipsoids) -> float:
    """The bound without it: G x and U x as independent rows."""
    gate, up = rows.through(mlp.gate, True), rows.through(mlp.up, True)
    activated = Bounded(gate.each, gate, 1.0)
    return Gate(gate.each * up.each, activated, up).through(mlp.down, True).length()


def gelu(values: Double) -> tuple[Double, Double]:
    """Tanh's GELU and its slope."""
    inner = 0.7978845608 * (values + 0.044715 * values**3)
    tanh = np.tanh(inner)
    slope = 0.7978845608 * (1 + 3 * 0.044715 * values**2) * (1 - tanh**2)
    return values * (1 + tanh) / 2, (1 + tanh) / 2 + values * slope / 2


def longest(mlp: GatedMlp, scale: Double, starts: int, rng: np.random.Generator) -> float:
    """The longest output that gradient ascent over rows x = scale * v, |v| = 1, finds."""
    gate, up = scale[:, None] * mlp.gate, scale[:, None] * mlp.up
    rows = rng.standard_normal((starts, len(scale)))
    best = 0.0
    for step in range(150):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        opened, slope = gelu(rows @ gate)
        raised = rows @ up
        out = (opened * raised) @ mlp.down
        lengths = np.linalg.norm(out, axis=1, keepdims=True)
        best = max(best, float(lengths.max()))
        back = (out / np.maximum(lengths, 1e-300)) @ mlp.down.T
        ascent = (back * raised * slope) @ gate.T + (back * opened) @ up.T
        ascent /= np.maximum(np.linalg.norm(ascent, axis=1, keepdims=True), 1e-300)
        rows = rows + ascent * 2.0 / (1 + step / 20)
    return best


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per layer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("names", nargs=4, metavar="NAME")
    parser.add_argument("--layers", default="0")
    parser.add_argument("--one-plus", action="store_true", help="gamma is stored as gamma - 1")
    options = parser.parse_args(arguments)
    model = load_model(options.model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    print("| layer | apart | joint | found | apart / joint | joint / found | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    for layer in options.layers.split(","):
        gate, up, down, gamma = (
            _read(_named(tensors, name.format(layer)), options.model.parent)
            for name in options.names
        )
        mlp = GatedMlp(gate, up, down, (0.0, 1.0))
        scale = np.abs(gamma.reshape(-1) + options.one_plus)
        rows = ball(len(scale), math.sqrt(len(scale))).scaled(scale)
        start = time.process_time()
        joint = joint_bound(mlp, rows)
        seconds = time.process_time() - start
        found = longest(mlp, scale * math.sqrt(len(scale)), 8, np.random.default_rng(0))
        free = apart(mlp, rows)
        print(
            f"| {layer} | {free:.4g} | {joint:.4g} | {found:.4g} | {free / joint:.2f} "
            f"| {joint / found:.2f} | {seconds:.2f} |",
            flush=True,
        )
    return 0


def _named(tensors: Mapping[str, onnx.TensorProto], name: str) -> onnx.TensorProto:
    if name in tensors:
        return tensors[name]
    near = difflib.get_close_matches(name, tensors, 1, 0.0)
    raise SlancError(f"no initializer is named {name!r}. The most similar name is {near[0]!r}.")


def _read(tensor: onnx.TensorProto, folder: Path) -> Double:
    return np.asarray(read_tensor(tensor, folder)).astype(np.float64)


if __name__ == "__main__":
    sys.exit(told(main))
