"""Constants that ops compute, with attributes and types that decide their value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto

from benchmarks.random_graphs.building import FLOAT, Building
from benchmarks.random_graphs.constructs.construct import construct

Made = Callable[[Building], str]
_FOLDED: list[tuple[int, Made]] = []


def folded(opset: int = 13) -> Callable[[Made], Made]:
    """Enter a way to compute one float, or as many as a row has, from constants alone."""

    def enter(made: Made) -> Made:
        _FOLDED.append((opset, made))
        return made

    return enter


def through_float(g: Building, x: str) -> str:
    return g.node("Cast", x, to=FLOAT)


def whole(g: Building, *values: int, dtype: Any = np.int64) -> str:
    return g.constant(np.array(values if len(values) > 1 else values[0], dtype))


@folded()
def clip_from_below(g: Building) -> str:
    return g.node("Clip", g.constant(1e-3), g.constant(1e3))


@folded()
def clip_with_bounds_crossed(g: Building) -> str:
    return g.node("Clip", g.constant(1.0), g.constant(500.0), g.constant(100.0))


@folded()
def pad_with_value(g: Building) -> str:
    short = g.constant(np.ones(g.width - 3))
    return g.node("Pad", short, g.ints(0, 3), g.constant(1e3))


@folded()
def pad_with_whole_value(g: Building) -> str:
    short = g.constant(np.ones(g.width - 3, np.int64))
    return through_float(g, g.node("Pad", short, g.ints(1, 2), g.constant(1000, np.int64)))


@folded()
def pad_by_wrapping(g: Building) -> str:
    short = g.constant(np.r_[1e-3, np.full(g.width - 4, 1e3)])
    mode = g.one_of("reflect", "edge", *(["wrap"] if g.opset >= 19 else []))
    return g.node("Pad", short, g.ints(0, 3), mode=mode)


@folded()
def cast_that_wraps(g: Building) -> str:
    kind = g.one_of(TensorProto.UINT8, TensorProto.UINT16, TensorProto.BOOL, TensorProto.UINT8)
    return through_float(g, g.node("Cast", whole(g, -1), to=int(kind)))


@folded()
def cast_that_cuts(g: Building) -> str:
    cut = g.node("Cast", g.constant(0.999), to=int(TensorProto.INT64))
    return g.node("Div", g.constant(1.0), g.node("Add", through_float(g, cut), g.constant(1e-4)))


@folded()
def power_of_whole_base(g: Building) -> str:
    power = g.node("Pow", whole(g, 2), g.constant(0.5))
    return g.node("Reciprocal", g.node("Sub", through_float(g, power), g.constant(0.999)))


@folded()
def power_of_negative(g: Building) -> str:
    return through_float(g, g.node("Pow", whole(g, 3), g.constant(2.5)))


@folded()
def running_sum(g: Building) -> str:
    values = g.constant(np.geomspace(1e-2, 1e3, g.width))
    axis = g.constant(0, np.int64)
    return g.node("CumSum", values, axis, exclusive=g.one_of(0, 1), reverse=g.one_of(0, 1))


@folded()
def remainder(g: Building) -> str:
    if g.chance(0.5):
        return g.node("Mod", g.constant(-999.5), g.constant(1000.0), fmod=1)
    return through_float(g, g.node("Mod", whole(g, -1), whole(g, 1000), fmod=g.one_of(0, 1)))


@folded()
def whole_division(g: Building) -> str:
    return through_float(g, g.node("Div", whole(g, -2001), whole(g, 2)))


@folded()
def sum_of_no_axes(g: Building) -> str:
    values = g.constant(np.full(g.width, 100.0))
    empty = g.constant(np.zeros(0, np.int64))
    inputs = [values, empty] if g.chance(0.7) else [values]
    kept = g.one_of(0, 1)
    return g.node("ReduceSum", *inputs, noop_with_empty_axes=kept, keepdims=g.one_of(0, 1))


@folded(18)
def square_sum_of_no_axes(g: Building) -> str:
    values = g.constant(np.full(g.width, 100.0))
    op = g.one_of("ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "ReduceProd", "ReduceL1")
    return g.node(op, values, g.constant(np.zeros(0, np.int64)), noop_with_empty_axes=1)


@folded()
def matrix_product(g: Building) -> str:
    row, square = (
        g.constant(np.ones((1, g.width))),
        g.constant(np.eye(g.width) + np.eye(g.width)[0]),
    )
    alpha, flip = float(g.one_of(1.0, 100.0)), g.one_of(0, 1)
    made = g.node("Gemm", row, square, alpha=alpha, transB=flip, beta=0.5)
    return g.reshape(made, -1)


@folded()
def rounded(g: Building) -> str:
    return g.node(g.one_of("Round", "Ceil", "Floor"), g.constant(float(g.one_of(2.5, -0.5, 1.5))))


@folded()
def one_hot(g: Building) -> str:
    depth, values = whole(g, g.width), g.constant(np.array([0.0, 1e3], np.float32))
    return g.reshape(g.node("OneHot", g.ints(-1), depth, values), -1)


@folded()
def index_of_largest(g: Building) -> str:
    values = g.constant(np.array([0.0] + [5.0] * 99, np.float32))
    op = g.one_of("ArgMax", "ArgMin")
    index = g.node(op, values, axis=0, keepdims=0, select_last_index=g.one_of(0, 1))
    return through_float(g, index)


@folded()
def negative_steps(g: Building) -> str:
    values = g.constant(np.geomspace(1e-3, 1e3, 2 * g.width))
    steps = [g.ints(-1), g.ints(-(2**40)), g.ints(0), g.ints(-2)]
    return g.node("Slice", values, *steps)


@folded()
def largest_of_sorted(g: Building) -> str:
    values = g.constant(np.geomspace(1e-3, 1e3, 2 * g.width))
    count, largest = g.ints(g.width), g.one_of(0, 1)
    return g.outputs("TopK", 2, values, count, axis=0, largest=largest)[0]


@folded(16)
def scattered(g: Building) -> str:
    indices = g.constant(np.zeros((4, 1), np.int64))
    updates = g.constant(np.full(4, 50.0))
    how = g.one_of("none", "add", "mul", *(["max"] if g.opset >= 18 else []))
    start = g.constant(np.ones(g.width))
    return g.node("ScatterND", start, indices, updates, reduction=how)


@folded(15)
def part_of_a_shape(g: Building) -> str:
    shape = g.node("Shape", g.constant(np.ones((1, 900, 2))), start=1, end=g.one_of(2, -1))
    return g.node("Squeeze", through_float(g, shape))


@folded()
def counted(g: Building) -> str:
    counts = g.node("Range", whole(g, 900), whole(g, 900 - 2 * g.width), whole(g, -2))
    return through_float(g, counts)


@folded()
def shifted_bits(g: Building) -> str:
    bits = g.constant(np.array(200, np.uint8)), g.constant(np.array(g.one_of(1, 3), np.uint8))
    return through_float(g, g.node("BitShift", *bits, direction=g.one_of("LEFT", "RIGHT")))


@folded()
def overflowing_product(g: Building) -> str:
    kind = g.one_of(np.int32, np.uint8, np.int64)
    most = np.iinfo(kind).max
    added = g.node("Add", g.constant(most, kind), g.constant(2, kind))
    return g.node("Mul", through_float(g, added), g.constant(1.0 / float(most)))


@folded()
def half_of_a_large_number(g: Building) -> str:
    half = g.node("Cast", g.constant(float(g.one_of(7e4, 65520.0, 6e4))), to=10)
    return through_float(g, half)


@folded(19)
def narrow_float(g: Building) -> str:
    kind = g.one_of(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)
    narrow = g.node("Cast", g.constant(1e6), to=int(kind), saturate=g.one_of(0, 1))
    return through_float(g, narrow)


@folded()
def chosen(g: Building) -> str:
    flag = g.node("Not", g.constant(np.array(g.chance(0.5))))
    return g.node("Where", flag, g.constant(1e3), g.constant(1e-3))


@folded()
def dequantised(g: Building) -> str:
    stored = g.constant(np.array(g.one_of(0, 255), np.uint8))
    return g.node("DequantizeLinear", stored, g.constant(10.0), g.constant(128, np.uint8))


@folded()
def selected(g: Building) -> str:
    values = g.constant(np.r_[np.ones(g.width), 1e3])
    index = g.one_of(np.array(-1), np.full(g.width, -1), np.arange(g.width))
    return g.node("Gather", values, g.constant(index.astype(np.int64)), axis=0)


@construct("constant_folding")
def times_a_constant(g: Building) -> None:
    made = [make for opset, make in _FOLDED if opset <= g.opset]
    constant = made[int(g.rng.integers(len(made)))](g)
    g.x = g.node(g.one_of("Mul", "Mul", "Add"), g.x, constant)


@construct("constant_folding")
def times_two_constants(g: Building) -> None:
    times_a_constant(g)
    times_a_constant(g)
