"""What an attack on every rule of the proof once broke: each kind is one rule that was wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import helper

from benchmarks.random_graphs.building import INT64, Building
from benchmarks.random_graphs.constructs.attention import mixed, scores_of, softmax
from benchmarks.random_graphs.constructs.channels import sliced
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.precision import BRAIN, HALF, branch


@construct("channels_that_broadcast")
def one_channel_times_a_row(g: Building) -> None:
    one = sliced(g, g.x, 0, 1)
    row = g.one_of(lambda: g.vector(3.0), lambda: g.node("Sigmoid", g.x), lambda: g.x)()
    g.x = g.node("Mul", *g.one_of((one, row), (row, one)))


@construct("channels_that_broadcast")
def one_channel_with_a_row(g: Building) -> None:
    one = sliced(g, g.x, 0, 1)
    op = g.one_of("Add", "Sub", "Max", "Min")
    g.x = g.node(op, one, g.one_of(lambda: g.vector(3.0), lambda: g.x)())


@construct("moved_nan_tests", opset=14)
def nan_tests_elsewhere(g: Building) -> None:
    given = g.input("mask", "mask", INT64, g.dims)
    keep = g.node("Unsqueeze", g.node("Cast", given, to=9), g.ints(1))
    scores = g.node("Where", keep, scores_of(g), g.constant(-np.inf))
    shares = softmax(g, scores)
    test = g.node("IsNaN", shares)
    moved = g.one_of(
        lambda: g.node("Trilu", test, upper=int(g.one_of(0, 1))),
        lambda: g.node("Pad", test, g.ints(0, 1, 0, 0, -1, 0)),
        lambda: g.node("Expand", test, g.node("Shape", shares)),
        lambda: test,
    )()
    mixed(g, g.node("Where", moved, g.constant(0.0), shares))


@construct("rounded_to_16_bits")
def rounded_again_and_again(g: Building) -> None:
    kind, unit = g.one_of((HALF, 2.0**-11), (BRAIN, 2.0**-8))
    op, by = g.one_of(("Mul", 1 + unit * 1.02), ("Add", unit * 1.02))
    step = g.constant(by)
    made = g.node("Clip", g.reduce("ReduceMax", g.x, -1), g.constant(1.0), g.constant(1.0))
    for _ in range(24):
        made = g.as_float(g.node("Cast", g.node(op, made, step), to=kind))
    g.x = g.node("Mul", made, g.constant(np.ones(g.width)))


@construct("rounded_to_16_bits")
def lost_in_fp16(g: Building) -> None:
    small = g.node("Exp", g.node("Mul", g.node("Abs", g.x), g.constant(-8.0)))
    held = g.as_float(g.node("Cast", small, to=HALF))
    op = g.one_of("Log", "Reciprocal")
    g.x = g.node("Mul", g.node(op, held), g.constant(1e-7))


@construct("rounded_to_16_bits", fixed=True)
def shares_in_bf16(g: Building) -> None:
    zero = g.node("Mul", g.x, g.constant(0.0))
    scores = g.node("MatMul", zero, g.transpose(g.x, 0, 2, 1))
    held = g.as_float(g.node("Cast", softmax(g, scores), to=BRAIN))
    g.x = g.node("MatMul", held, g.node("Add", zero, g.constant(np.ones(g.width))))


@construct("sums_that_cancel")
def far_apart_and_back(g: Building) -> None:
    far = float(g.one_of(1e8, 3e7, 1e9))
    near = g.node("Add", g.node("Sigmoid", g.x), g.constant(1.0))
    made = g.node("Sum", g.constant(far), near, g.constant(-far))
    g.x = g.node(g.one_of("Reciprocal", "Log"), made)


@construct("sums_that_cancel")
def exponentials_less_one(g: Building) -> None:
    op, attributes = g.one_of(("Elu", {}), ("Selu", {}), ("Celu", {"alpha": 1e6}))
    small = 0.03 if op == "Celu" else 1.2e-8
    g.x = g.node(op, g.node("Mul", g.x, g.constant(small)), **attributes)


@construct("odd_attributes")
def attributes_beyond_all(g: Building) -> None:
    op, name = g.one_of(
        ("LeakyRelu", "alpha"),
        ("Elu", "alpha"),
        ("Celu", "alpha"),
        ("Selu", "gamma"),
        ("HardSigmoid", "alpha"),
        ("HardSigmoid", "beta"),
    )
    value: Any = float(g.one_of(math.nan, math.inf, -math.inf, 1e-45))
    g.x = g.node(op, g.x, **{name: value})


@construct("random_constants")
def random_like_a_constant(g: Building) -> None:
    base = g.constant(np.zeros((1, 1, g.width)))
    made = g.node(g.one_of("RandomNormalLike", "RandomUniformLike"), base)
    g.x = g.node("Add", g.node("Mul", g.x, g.constant(0.0)), made)


@construct("counts_by_a_shape")
def mean_by_a_shape(g: Building) -> None:
    shape = g.node("Shape", g.x)
    count = g.one_of(
        lambda: g.node("Gather", shape, g.constant(int(g.one_of(0, 1, 2)), np.int64)),
        lambda: g.node("Size", g.x),
    )()
    total = g.reduce("ReduceSum", g.node("Mul", g.x, g.x), -1)
    mean = g.node("Div", total, g.as_float(count))
    g.x = g.node("Div", g.x, g.node("Sqrt", g.node("Add", mean, g.constant(1e-6))))


@construct("numbers_that_may_be_negative")
def a_number_like_a_size(g: Building) -> None:
    given = g.input("number", "mask", INT64, (1,))
    joined = g.node("Concat", given, g.ints(5), axis=0)
    told = g.node("Gather", g.node("Equal", joined, g.ints(-1)), g.constant(0, np.int64))
    names, large = (g.name("then"), g.name("else")), g.constant(1000.0)
    g.x = g.node(
        "If",
        told,
        then_branch=branch(g, "then", helper.make_node("Mul", [g.x, large], [names[0]])),
        else_branch=branch(g, "else", helper.make_node("Identity", [g.x], [names[1]])),
    )


@construct("constants_of_two_runtimes")
def resized(g: Building) -> None:
    small = g.constant(np.linspace(0, 50, 3).reshape(1, 1, 3))
    sizes = g.constant(np.array([1, 1, (g.width - 0.5) / 3], np.float32))
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    made = g.node("Resize", small, "", sizes, **how)
    g.x = g.node("Add", g.node("Mul", g.x, g.constant(0.0)), sliced(g, made, -1, 2**40))


@construct("constants_of_two_runtimes")
def beyond_whole_numbers(g: Building) -> None:
    far, one = g.constant(np.full(g.width, 1e10)), g.constant(1.0)
    steps = g.node("DequantizeLinear", g.node("QuantizeLinear", far, one), one)
    g.x = g.node("Add", g.x, steps)
