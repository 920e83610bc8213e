"""Norms whose divisions `--merge division` defers: behind Skip ops, and behind what moves rows."""

from __future__ import annotations

import numpy as np

from benchmarks.random_graphs.building import Building
from benchmarks.random_graphs.constructs.attention import softmax
from benchmarks.random_graphs.constructs.construct import Construct
from benchmarks.random_graphs.constructs.plain import back

SPREADS = (0.5, 0.5, 2.0, 30.0, 1e3, 1e-4)
EPSILONS = (1e-5, 1e-5, 1e-6, 1e-3, 1e-9, 1e-12)


def _gamma(g: Building) -> str:
    return g.constant(g.rng.uniform(-2, 2, g.width) if g.chance(0.7) else np.ones(g.width))


def _weight(g: Building, columns: int) -> str:
    return g.matrix(g.width, columns, float(g.one_of(*SPREADS)))


def _skipped(g: Building, x: str) -> tuple[str, str]:
    """A Skip op of a row and a product of it; its norm, and its sum."""
    other = g.node("MatMul", x, _weight(g, g.width))
    parts = [x, other] if g.chance(0.5) else [other, x]
    layer, bias = g.chance(0.2), [g.vector()] if g.chance(0.4) else []
    row = g.name("row")
    names = [g.name("y"), "", "", row] if g.chance(0.8) else [g.name("y")]
    beta = [g.vector() if g.chance(0.3) else ""] if layer else []
    op = "SkipLayerNormalization" if layer else "SkipSimplifiedLayerNormalization"
    inputs = [*parts, _gamma(g), *(beta if bias or any(beta) else []), *bias]
    g.several(op, names, inputs, epsilon=float(g.one_of(*EPSILONS)))
    return names[0], row if len(names) > 1 else x


def _normed(g: Building) -> tuple[str, str]:
    """A norm of rows in any spelling, or a Skip op; its output, and the row that goes on."""
    if g.chance(0.4):
        return _skipped(g, g.x)
    x = g.x
    if g.chance(0.6):
        return g.norm_by_hand(x), x
    g.norm()
    normed, g.x = g.x, x
    return normed, x


def skip_of_a_stream(g: Building) -> None:
    """As decoders have it: a norm, products, and the sum that the next one adds to."""
    for _ in range(g.one_of(1, 2, 3)):
        y, g.x = _skipped(g, g.x)
        made = g.node("MatMul", y, _weight(g, g.width))
        g.x = g.node("Add", g.x, made)


def skip_before_gate_and_up(g: Building) -> None:
    y, row = _skipped(g, g.x)
    gate, up = (g.node("MatMul", y, _weight(g, 2 * g.width)) for _ in range(2))
    silu = g.node("Mul", gate, g.node("Sigmoid", gate))
    g.x = g.node("Add", row, back(g, g.node("Mul", silu, up), 2 * g.width))


def flat_rows(g: Building) -> None:
    """As GPT-2 has it: a Reshape, a Gemm with its bias, and a Reshape back."""
    y, row = _normed(g)
    flat = g.reshape(y, -1, g.width)
    shape = g.node("Shape", row)
    made = g.node("Gemm", flat, _weight(g, g.width), g.vector())
    g.x = g.node("Reshape", made, shape)


def turned_rows(g: Building) -> None:
    y, _ = _normed(g)
    turned = g.transpose(y, 1, 0, 2)
    q, k = (g.node("MatMul", turned, _weight(g, g.width)) for _ in range(2))
    scores = g.node("MatMul", q, g.transpose(k, 0, 2, 1))
    made = g.node("MatMul", softmax(g, scores), g.node("MatMul", turned, _weight(g, g.width)))
    g.x = g.transpose(made, 1, 0, 2)


def rows_of_one_more_axis(g: Building) -> None:
    y, row = _normed(g)
    wide = g.reshape(y, *((1, -1, g.width) if g.chance(0.5) else (1, -1, 1, g.width)))
    made = g.node("MatMul", wide, _weight(g, g.width))
    g.x = g.node("Reshape", made, g.node("Shape", row))


def rows_cut_in_half(g: Building) -> None:
    """No row is whole: the norm stays in front of it."""
    y, row = _normed(g)
    half = g.reshape(y, -1, g.width // 2)
    values = g.rng.standard_normal((g.width // 2, g.width // 2))
    g.x = g.node("Reshape", g.node("MatMul", half, g.constant(values)), g.node("Shape", row))


TO_MERGE = [
    Construct(build.__name__, "merged_divisions", build)
    for build in (
        skip_of_a_stream,
        skip_before_gate_and_up,
        flat_rows,
        turned_rows,
        rows_of_one_more_axis,
        rows_cut_in_half,
    )
]
