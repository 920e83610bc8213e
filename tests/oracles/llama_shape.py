"""A decoder of the shape of Llama-2-7B with random weights, written in constant memory.

    python -m tests.oracles.llama_shape OUT.onnx [--layers N] [--width N] [--norms fused]

The weights go straight to external data, one matrix at a time and each in pieces: 13.5 GB of FP16
at 32 layers and width 4096. Other widths keep the proportions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from sample_models import decoder_parts as parts
from sample_models.graph_builder import FloatName, GraphBuilder, Norms

VOCABULARY, HEAD, EPSILON, THETA = 32_000, 128, 1e-5, 10_000.0
PIECE = 1 << 22  # elements that are drawn at a time
Drawn = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama decoder: layers, hidden width, width of the MLP, and rows of the table."""

    layers: int = 32
    width: int = 4096
    vocabulary: int = VOCABULARY

    @property
    def mlp(self) -> int:
        """8/3 of the width, rounded up to a multiple of 256, as in Llama: 11008 for 4096."""
        return -(-self.width * 8 // 3 // 256) * 256

    @property
    def heads(self) -> parts.Heads:
        count = max(1, self.width // HEAD)
        return parts.Heads(count, count, self.width // count)


def build(
    path: Path, shape: Shape, norms: Norms = "decomposed", dtype: FloatName = "float16"
) -> None:
    """Write the model to `path` and its weights to `<path>.data`.

    The weights of layer i depend on i alone, so that a model with fewer layers is the start of one
    with more.
    """
    g = GraphBuilder(norms=norms, dtype=dtype)
    width = shape.width

    def weight(name: str, rows: int, columns: int, spread: float) -> str:
        return g.initializer(name, _drawn(name, rows, columns, spread, dtype))

    def gamma(name: str) -> str:
        rng = np.random.default_rng(_seed(name))
        return g.initializer(name, rng.uniform(0.5, 1.5, width).astype(dtype))

    ids = g.input("input_ids", "int64", ["batch", "sequence"])
    table = weight("model.embed_tokens.weight", shape.vocabulary, width, 0.02)
    residual = g.node("Gather", [table, ids])
    position = parts.positions(g, ids)
    mask = parts.causal_mask(g, position)
    rotary = parts.rotary_tables(g, position, THETA, shape.heads.size)
    block: str | None = None
    for i in range(shape.layers):
        name = f"model.layers.{i}"
        with g.scope(name):
            first = gamma(f"{name}.input_layernorm.weight")
            if block is None:
                x = g.rms_norm(residual, first, EPSILON)
            else:
                x, residual = g.add_rms_norm(block, residual, first, EPSILON)
            q, k, v, o = (
                weight(f"{name}.self_attn.{p}_proj.weight", width, width, width**-0.5)
                for p in "qkvo"
            )
            q, k, v = (
                parts.heads_first(g, parts.split_heads(g, g.linear(x, matrix), shape.heads.size))
                for matrix in (q, k, v)
            )
            q, k = (parts.rotate(g, part, rotary, shape.heads.size) for part in (q, k))
            mixed = parts.attend(g, q, k, v, mask, shape.heads)
            block = g.linear(mixed, o)
            second = gamma(f"{name}.post_attention_layernorm.weight")
            x, residual = g.add_rms_norm(block, residual, second, EPSILON)
            gate, up = (
                g.linear(x, weight(f"{name}.mlp.{p}_proj.weight", width, shape.mlp, width**-0.5))
                for p in ("gate", "up")
            )
            inner = g.node("Mul", [g.node("Mul", [gate, g.node("Sigmoid", [gate])]), up])
            down = weight(f"{name}.mlp.down_proj.weight", shape.mlp, width, shape.mlp**-0.5)
            block = g.linear(inner, down)
    assert block is not None
    x, _ = g.add_rms_norm(block, residual, gamma("model.norm.weight"), EPSILON)
    logits = g.linear(x, weight("lm_head.weight", width, shape.vocabulary, width**-0.5))
    g.output("logits", logits, dtype, ["batch", "sequence", shape.vocabulary])
    g.save(path, external=True)


def _seed(name: str) -> list[int]:
    return list(name.encode())


def _drawn(
    name: str, rows: int, columns: int, spread: float, dtype: FloatName
) -> Callable[[], Drawn]:
    """Normal numbers, a piece at a time."""

    def draw() -> Drawn:
        rng = np.random.default_rng(_seed(name))
        values: Drawn = np.empty(rows * columns, dtype)
        for start in range(0, values.size, PIECE):
            piece = rng.standard_normal(min(PIECE, values.size - start), dtype=np.float32)
            values[start : start + PIECE] = piece * np.float32(spread)
        return values.reshape(rows, columns)

    return draw


def main() -> int:
    """Write the model and print its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--norms", choices=get_args(Norms), default="decomposed")
    parser.add_argument("--dtype", choices=get_args(FloatName), default="float16")
    args = parser.parse_args()
    build(args.out, Shape(args.layers, args.width, args.vocabulary), args.norms, args.dtype)
    size = args.out.with_name(args.out.name + ".data").stat().st_size
    print(f"{args.out}: {size / 1e9:.2f} GB of weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
