"""The longest row that a search finds behind a block: what its bound is held against."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.norm import Norm
from slanc_onnx.prove.bound import Bound, bounds_of
from slanc_onnx.trace.tracing import Trace
from tests.oracles.blocks import Block, Floats, Rng, Source

RESTARTS, STEPS = 6, 40


STEP = 1e-6  # of the difference quotients


def norm_named(name: str, centred: bool = False) -> Norm:
    """A norm as the finder gives it."""
    op = "LayerNormalization" if centred else "SimplifiedLayerNormalization"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[rows, 4] x, float[4] g) => (float[rows, 4] y) {{ y = {op}<axis = -1>(x, g) }}
    """)
    (norm,) = find_norms_in(read_graph(model))
    return replace(norm, name=name)


def bound_of(block: Block, exact: bool = False) -> Bound:
    """What the bound of the block's next norm is; its graph input is within [-1, 1]."""
    trace = Trace({"next": block.expr}, {})
    norms = [norm_named("next", block.centred)]
    return bounds_of(trace, norms, ranges={"pixels": (-1.0, 1.0)}, exact=exact)["next"]


def allowed(kind: Source, rows: Floats) -> Floats:
    """The nearest rows that an input can be."""
    if kind == "free":
        return rows
    if kind == "box":
        return np.clip(rows, -1, 1)
    if kind == "layer":
        rows = rows - rows.mean(axis=-1, keepdims=True)
    length = np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return np.asarray(rows / length * math.sqrt(rows.shape[-1]))


def longest_row(block: Block, rng: Rng, restarts: int = RESTARTS, steps: int = STEPS) -> Floats:
    """The longest row of the next norm's input that gradient ascent finds, [channels]."""
    sizes = [positions * width for _, positions, width in block.inputs]
    points = rng.standard_normal((restarts, sum(sizes)))
    points = _project(block, points)
    longest = np.zeros(block.expr.channels)
    for step in range(steps):
        nudged = points[:, None, :] + STEP * np.eye(sum(sizes))
        candidates = np.concatenate([points[:, None, :], nudged], axis=1)
        rows = _rows(block, candidates.reshape(-1, sum(sizes)))
        lengths = np.linalg.norm(_seen(block, rows), axis=-1)
        here = lengths.reshape(restarts, -1, lengths.shape[-1])
        at = np.unravel_index(np.argmax(here[:, 0]), here[:, 0].shape)
        found = rows.reshape(*here.shape, -1)[at[0], 0, at[1]]
        if np.linalg.norm(_seen(block, found)) > np.linalg.norm(_seen(block, longest)):
            longest = found
        best = here[:, 0].argmax(axis=-1)
        mine = np.take_along_axis(here, best[:, None, None], axis=2)[..., 0]
        slope = (mine[:, 1:] - mine[:, :1]) / STEP
        slope /= np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-300)
        reach = 2.0 * 0.9**step * math.sqrt(sum(sizes) / 4)
        points = _project(block, points + reach * slope)
    return np.asarray(longest)


def _seen(block: Block, rows: Floats) -> Floats:
    return rows - rows.mean(axis=-1, keepdims=True) if block.centred else rows


def _split(block: Block, points: Floats) -> list[Floats]:
    ends = np.cumsum([positions * width for _, positions, width in block.inputs])[:-1]
    parts = np.split(points, ends, axis=-1)
    shapes = [(len(points), positions, width) for _, positions, width in block.inputs]
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _project(block: Block, points: Floats) -> Floats:
    kinds = [kind for kind, _, _ in block.inputs]
    parts = zip(kinds, _split(block, points), strict=True)
    flat = [allowed(kind, part).reshape(len(points), -1) for kind, part in parts]
    return np.concatenate(flat, axis=1)


def _rows(block: Block, points: Floats) -> Floats:
    return block.rows(*_split(block, _project(block, points)))
