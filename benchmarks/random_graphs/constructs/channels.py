"""Channels: rows that hold a channel more than once, and rows that hold several positions."""

from __future__ import annotations

import numpy as np
from onnx import numpy_helper

from benchmarks.random_graphs.building import Building
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.plain import back


def sliced(g: Building, x: str, start: int, end: int, axis: int = -1, step: int = 1) -> str:
    return g.node("Slice", x, g.ints(start), g.ints(end), g.ints(axis), g.ints(step))


@construct("repeated_channels")
def one_channel_many_times(g: Building) -> None:
    channel = int(g.rng.integers(g.width))
    one = sliced(g, g.x, channel, channel + 1)
    times = int(g.one_of(2, g.width, 2 * g.width))
    g.x, g.width = g.node("Concat", g.x, *[one] * times, axis=-1), g.width + times


@construct("repeated_channels")
def gathered_channels(g: Building) -> None:
    index = np.sort(g.rng.integers(-g.width, g.width, g.width))
    index = g.one_of(index, np.zeros(g.width, int), np.arange(g.width)[::-1].copy())
    g.x = g.node("Gather", g.x, g.constant(index.astype(np.int64)), axis=g.one_of(-1, 2))


@construct("repeated_channels")
def gathered_elements(g: Building) -> None:
    index = g.node("Expand", g.constant(np.zeros((1, 1, 1), np.int64)), g.node("Shape", g.x))
    g.x = g.node("GatherElements", g.x, index, axis=2)


@construct("repeated_channels")
def tiled(g: Building) -> None:
    times = int(g.one_of(2, 3))
    g.x, g.width = g.node("Tile", g.x, g.ints(1, 1, times)), g.width * times


@construct("repeated_channels")
def repeated_heads(g: Building) -> None:
    five = g.node("Unsqueeze", g.reshape(g.x, 0, 0, 2, g.width // 2), g.ints(3))
    wide = g.node("Expand", five, g.ints(1, 1, 1, 3, 1))
    g.x, g.width = g.reshape(wide, 0, 0, 3 * g.width), 3 * g.width


@construct("repeated_channels", fixed=True)
def rows_half_as_long_again(g: Building) -> None:
    elements = int(g.length) * g.width
    wider = next((w for w in (3 * g.width // 2, 2 * g.width) if elements % w == 0), g.width)
    g.x = g.reshape(g.x, int(g.batch), elements // wider, wider)
    g.length, g.width = elements // wider, wider


@construct("repeated_channels")
def padded_with_channels(g: Building) -> None:
    mode = g.one_of("reflect", "edge")
    more = g.width - 2
    g.x = g.node("Pad", g.x, g.ints(0, 0, 0, 0, 0, more), mode=mode)
    g.width += more


@construct("repeated_channels")
def expanded_from_one(g: Building) -> None:
    one = sliced(g, g.x, 0, 1)
    g.x = g.node("Expand", one, g.ints(1, 1, g.width))


@construct("repeated_channels")
def broadcast_sum(g: Building) -> None:
    op = g.one_of("ReduceSum", "ReduceMax", "ReduceL2", "ReduceMean")
    total = g.reduce(op, g.x, -1)
    g.x = g.node("Add", g.x, total) if g.chance(0.5) else g.node("Mul", g.x, total)


@construct("repeated_channels")
def resized(g: Building) -> None:
    scales = g.constant(np.array([1, 1, 2], np.float32))
    g.x = g.node("Resize", g.x, "", scales, mode=g.one_of("nearest", "linear"))
    g.width *= 2


@construct("repeated_channels")
def outer_product(g: Building) -> None:
    left, right = g.node("Unsqueeze", g.x, g.ints(3)), g.node("Unsqueeze", g.x, g.ints(2))
    outer = g.reshape(g.node("Mul", left, right), 0, 0, g.width * g.width)
    g.x = back(g, outer, g.width * g.width) if g.chance(0.5) else outer
    g.width = g.width if g.x != outer else g.width * g.width


@construct("flatten_of_positions")
def norm_of_flat_positions(g: Building) -> None:
    flat = g.node("Flatten", g.x, axis=1) if g.chance(0.5) else g.reshape(g.x, 0, -1)
    scale = g.node("Mul", g.norm_by_hand(flat), g.constant(1.0))
    g.x = g.node("Reshape", scale, g.node("Shape", g.x))


@construct("flatten_of_positions", opset=17)
def layer_norm_of_flat_positions(g: Building) -> None:
    flat = g.reshape(g.x, 0, -1)
    made = g.node("LayerNormalization", flat, g.constant(np.ones(1)), axis=-1)
    g.x = g.node("Reshape", made, g.node("Shape", g.x))


@construct("flatten_of_positions")
def norm_along_positions(g: Building) -> None:
    turned = g.transpose(g.x, 0, 2, 1)
    g.x = g.transpose(g.norm_by_hand(turned), 0, 2, 1)


@construct("flatten_of_positions")
def norm_of_everything(g: Building) -> None:
    flat = g.reshape(g.x, 1, 1, -1)
    g.x = g.node("Reshape", g.norm_by_hand(flat), g.node("Shape", g.x))


@construct("flatten_of_positions")
def sum_of_positions(g: Building) -> None:
    total = g.reduce(g.one_of("ReduceSum", "ReduceL2", "ReduceL1"), g.x, 1)
    g.x = g.node("Add", g.x, total)


@construct("flatten_of_positions")
def running_sum(g: Building) -> None:
    axis = g.constant(g.one_of(1, 2, -1), np.int64)
    g.x = g.node("CumSum", g.x, axis, exclusive=g.one_of(0, 1), reverse=g.one_of(0, 1))


@construct("flatten_of_positions")
def products_of_positions(g: Building) -> None:
    gram = g.node("MatMul", g.transpose(g.x, 0, 2, 1), g.x)
    g.x = g.node("MatMul", g.x, gram)


@construct("flatten_of_positions")
def turned_and_reshaped(g: Building) -> None:
    turned = g.transpose(g.x, 0, 2, 1)
    g.x = g.node("Reshape", turned, g.node("Shape", g.x))


@construct("flatten_of_positions")
def softmax_over_positions(g: Building) -> None:
    g.x = g.node("Softmax", g.x, axis=1)


@construct("flatten_of_positions", opset=16)
def scattered_sum(g: Building) -> None:
    zeros = g.node("Mul", g.x, g.constant(0.0))
    shape = g.node("Shape", g.x)
    index = g.node("ConstantOfShape", shape, value=numpy_helper.from_array(np.zeros(1, np.int64)))
    g.x = g.node("ScatterElements", zeros, index, g.x, axis=1, reduction="add")
