"""Norms that are none: a constant, an axis, a count, a cast or a power away from one."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from benchmarks.random_graphs.building import Building
from benchmarks.random_graphs.constructs.construct import construct


def divided(g: Building, x: str, variance: str, epsilon: float = 1e-5) -> None:
    """x / sqrt(variance + epsilon)."""
    root = g.node("Sqrt", g.node("Add", variance, g.constant(epsilon)))
    g.x = g.node("Div", x, root)


def mean_square(g: Building, x: str, *axes: int, keepdims: int = 1) -> str:
    return g.reduce("ReduceMean", g.node("Mul", x, x), *(axes or (-1,)), keepdims=keepdims)


@construct("norms_that_are_none")
def times_a_constant(g: Building) -> None:
    factor = g.constant(float(g.one_of(1e-4, 1e-8, 0.5)))
    divided(g, g.x, g.node("Mul", mean_square(g, g.x), factor), 1e-12)


def of_unread_width(g: Building) -> None:
    """Make x anew by a shape that the finder does not follow, and the proof does."""
    g.x = g.node("Reshape", g.x, g.node("Shape", g.x))


@construct("norms_that_are_none")
def wrong_count(g: Building) -> None:
    of_unread_width(g)
    total = g.reduce("ReduceSum", g.node("Mul", g.x, g.x), -1)
    divided(g, g.x, g.node("Div", total, g.constant(1e6)), 1e-12)


@construct("norms_that_are_none")
def wrong_count_of_centred(g: Building) -> None:
    centred = g.node("Sub", g.x, g.reduce("ReduceMean", g.x, -1))
    total = g.reduce("ReduceSum", g.node("Mul", centred, centred), -1)
    divided(g, centred, g.node("Div", total, g.constant(16.0 * g.width)), 1e-12)


@construct("norms_that_are_none")
def wrong_share(g: Building) -> None:
    total = g.reduce("ReduceSum", g.node("Mul", g.x, g.x), -1)
    divided(g, g.x, g.node("Mul", total, g.constant(1 / 16 / g.width)), 1e-12)


@construct("norms_that_are_none")
def mean_of_other_axis(g: Building) -> None:
    divided(g, g.x, mean_square(g, g.x, g.one_of(1, 0)))


@construct("norms_that_are_none")
def mean_of_both_axes(g: Building) -> None:
    divided(g, g.x, mean_square(g, g.x, 1, 2))


@construct("norms_that_are_none", fixed=True)
def axis_dropped(g: Building) -> None:
    square = mean_square(g, g.x, -1, keepdims=0)
    if int(g.length) != g.width or g.chance(0.5):
        square = g.node("Unsqueeze", square, g.ints(g.one_of(-1, 0, 2)))
    if int(g.length) == g.width or int(g.batch) == int(g.length) == 1:
        return divided(g, g.x, square)
    return divided(g, g.x, mean_square(g, g.x))


@construct("norms_that_are_none")
def other_power(g: Building) -> None:
    power = g.node("Pow", g.x, g.constant(float(g.one_of(2.0015, 4.0, 1.999, 2.0001))))
    divided(g, g.x, g.reduce("ReduceMean", power, -1))


@construct("norms_that_are_none")
def cast_inside(g: Building) -> None:
    kind = g.one_of(TensorProto.INT32, TensorProto.INT8, TensorProto.FLOAT16, TensorProto.UINT8)
    cut = g.as_float(g.node("Cast", g.x, to=int(kind)))
    divided(g, g.x, mean_square(g, cut), 1e-6)


@construct("norms_that_are_none")
def of_another_tensor(g: Building) -> None:
    other = g.node(g.one_of("Relu", "Sigmoid", "Neg", "Floor"), g.x)
    divided(g, g.x, mean_square(g, other))


@construct("norms_that_are_none")
def mean_of_another_axis(g: Building) -> None:
    away = g.node("Sub", g.x, g.reduce("ReduceMean", g.x, 1))
    divided(g, g.x, mean_square(g, away))


@construct("norms_that_are_none")
def epsilon_subtracted(g: Building) -> None:
    less = g.node("Sub", mean_square(g, g.x), g.constant(float(g.one_of(1e-5, 0.5, 1.0))))
    g.x = g.node("Div", g.x, g.node("Sqrt", less))


@construct("norms_that_are_none")
def capped_variance(g: Building) -> None:
    op = g.one_of("Min", "Clip")
    capped = g.node("Min", mean_square(g, g.x), g.constant(1e-3))
    if op == "Clip":
        capped = g.node("Clip", mean_square(g, g.x), g.constant(0.0), g.constant(1e-3))
    divided(g, g.x, capped)


@construct("norms_that_are_none")
def root_of_root(g: Building) -> None:
    root = g.node("Sqrt", g.node("Sqrt", g.node("Add", mean_square(g, g.x), g.constant(1e-5))))
    g.x = g.node("Div", g.x, root)


@construct("norms_that_are_none")
def with_training_dropout(g: Building) -> None:
    inputs = g.x, g.constant(0.9), g.constant(np.array(True))
    divided(g, g.x, mean_square(g, g.node("Dropout", *inputs)))


@construct("norms_that_are_none")
def of_a_part(g: Building) -> None:
    part = g.node("Slice", g.x, g.ints(0), g.ints(g.width // 2), g.ints(-1))
    divided(g, g.x, mean_square(g, part))


@construct("norms_that_are_none")
def one_for_all_rows(g: Building) -> None:
    first = g.node("Slice", mean_square(g, g.x), g.ints(0), g.ints(1), g.ints(1))
    divided(g, g.x, first)


@construct("norms_that_are_none")
def mean_of_squares_less_square(g: Building) -> None:
    mean = g.reduce("ReduceMean", g.x, -1)
    variance = g.node("Sub", mean_square(g, g.x), g.node("Mul", mean, mean))
    x = g.node("Sub", g.x, mean) if g.chance(0.5) else g.x
    divided(g, x, variance, float(g.one_of(1e-5, 1e-12)))


@construct("scalar_gamma_width")
def scalar_gamma_first(g: Building) -> None:
    root = g.node("Sqrt", g.node("Add", mean_square(g, g.x), g.constant(1e-5)))
    gamma = g.constant(np.array([float(g.one_of(1.0, 1e3))]))
    g.x = g.node("Div", g.node("Mul", g.x, gamma), root)


@construct("scalar_gamma_width")
def scalar_gamma_of_positions(g: Building) -> None:
    turned = g.transpose(g.x, 0, 2, 1)
    root = g.node("Sqrt", g.node("Add", mean_square(g, turned), g.constant(1e-5)))
    scaled = g.node("Mul", turned, g.constant(np.array([1.0])))
    g.x = g.transpose(g.node("Div", scaled, root), 0, 2, 1)


@construct("scalar_gamma_width")
def scalar_gamma_last(g: Building) -> None:
    of_unread_width(g)
    root = g.node("Sqrt", g.node("Add", mean_square(g, g.x), g.constant(1e-5)))
    shape = g.one_of((1,), (), (1, 1), (1, 1, 1))
    g.x = g.node("Mul", g.node("Div", g.x, root), g.constant(np.full(shape, 500.0)))


@construct("overridable_epsilon")
def epsilon_given(g: Building) -> None:
    g.x = g.norm_by_hand(g.x, g.overridable(np.array(1e-5, np.float32)))


@construct("overridable_epsilon")
def gamma_given(g: Building) -> None:
    gamma = g.overridable(np.ones(g.width, np.float32))
    op = "SimplifiedLayerNormalization"
    g.x = g.node(op, g.x, gamma, axis=-1, epsilon=1e-5)


@construct("overridable_epsilon")
def weight_given(g: Building) -> None:
    size = g.one_of((g.width, g.width), (g.width,), ())
    values = g.overridable(g.rng.standard_normal(size).astype(np.float32))
    g.x = g.node("MatMul" if len(size) == 2 else "Mul", g.x, values)
