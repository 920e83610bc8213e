"""Positions: what is zero at length 1, and grows with the length or the place in the sequence."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from benchmarks.random_graphs.building import FLOAT, Building
from benchmarks.random_graphs.constructs.construct import construct

LARGE = (1e3, 1e6, 30.0)


def beyond_one(g: Building) -> str:
    """(length - 1) times a large number, FP32 without axes: 0 at length 1."""
    more = g.node("Sub", g.length_now(), g.constant(1, np.int64))
    return g.node("Mul", g.as_float(more), g.constant(float(g.one_of(*LARGE))))


def places(g: Building) -> str:
    """0, 1, ... length - 1 as floats, [length, 1]."""
    zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
    counted = g.node("Range", zero, g.length_now(), one)
    return g.node("Unsqueeze", g.as_float(counted), g.ints(1))


@construct("zero_at_length_one")
def added(g: Building) -> None:
    g.x = g.node("Add", g.x, beyond_one(g))


@construct("zero_at_length_one")
def where_blank(g: Building) -> None:
    positive = g.node("Greater", g.x, g.constant(float(g.one_of(0.0, -100.0, 1.0))))
    g.x = g.node("Where", positive, g.x, beyond_one(g))


@construct("zero_at_length_one")
def pad_value(g: Building) -> None:
    g.x = g.node("Pad", g.x, g.ints(0, 0, 0, 0, 0, 4), beyond_one(g))
    g.width += 4


@construct("zero_at_length_one")
def expanded_weight(g: Building) -> None:
    one = g.node("Unsqueeze", g.length_now(), g.ints(0))
    shape = g.node("Concat", one, g.ints(g.width), axis=0)
    expanded = g.node("Expand", g.constant(np.ones((1, g.width))), shape)
    total = g.reduce(g.one_of("ReduceSum", "ReduceSum", "ReduceL1"), expanded, 0, keepdims=0)
    g.x = g.node("Add", g.x, total)


@construct("zero_at_length_one")
def places_added(g: Building) -> None:
    g.x = g.node("Add", g.x, g.node("Mul", places(g), g.constant(float(g.one_of(*LARGE)))))


@construct("zero_at_length_one")
def turned_by_place(g: Building) -> None:
    angle = g.node("Mul", places(g), g.vector())
    g.x = g.node("Mul", g.x, g.node(g.one_of("Cos", "Sin", "Tan", "Exp"), angle))


@construct("zero_at_length_one")
def places_of_a_table(g: Building) -> None:
    table = g.rng.standard_normal((400, g.width)) * np.linspace(0, 100, 400)[:, None]
    zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
    counted = g.node("Range", zero, g.length_now(), one)
    g.x = g.node("Add", g.x, g.node("Gather", g.constant(table), counted))


@construct("zero_at_length_one")
def difference_of_positions(g: Building) -> None:
    first = g.node("Slice", g.x, g.ints(0), g.ints(1), g.ints(1))
    away = g.node("Sub", g.x, first)
    g.x = g.node("Mul", away, g.constant(float(g.one_of(*LARGE))))


@construct("zero_at_length_one")
def largest_less_least(g: Building) -> None:
    spread = g.node("Sub", g.reduce("ReduceMax", g.x, 1), g.reduce("ReduceMin", g.x, 1))
    g.x = g.node("Add", g.x, g.node("Mul", spread, g.constant(float(g.one_of(*LARGE)))))


@construct("zero_at_length_one")
def distances_as_bias(g: Building) -> None:
    place = places(g)
    distance = g.node("Sub", place, g.transpose(place, 1, 0))
    far = g.node("Mul", distance, g.constant(float(g.one_of(*LARGE))))
    if g.chance(0.5):
        far = g.node("Softmax", far, axis=-1)
    g.x = g.node("MatMul", far, g.x)


@construct("zero_at_length_one", opset=14)
def above_the_diagonal(g: Building) -> None:
    length = g.node("Unsqueeze", g.length_now(), g.ints(0))
    square = g.node("Concat", length, length, axis=0)
    ones = g.node("Expand", g.constant(np.ones((1, 1))), square)
    upper = g.node("Trilu", ones, g.constant(g.one_of(0, 1), np.int64), upper=g.one_of(0, 1))
    g.x = g.node("MatMul", upper, g.x)


@construct("zero_at_length_one")
def looked_up_by_length(g: Building) -> None:
    values = np.array([1.0] * 2 + [1e6] * 400)
    g.x = g.node("Mul", g.x, g.node("Gather", g.constant(values), g.length_now()))


@construct("zero_at_length_one")
def power_of_length(g: Building) -> None:
    power = g.node("Pow", g.as_float(g.length_now()), g.constant(float(g.one_of(2.0, 3.0, 0.5))))
    g.x = g.node(g.one_of("Mul", "Mul", "Div"), g.x, power)


@construct("zero_at_length_one")
def slice_by_length(g: Building) -> None:
    end = g.node("Unsqueeze", g.length_now(), g.ints(0))
    part = g.node("Slice", g.constant(np.full(400, 100.0)), g.ints(0), end, g.ints(0))
    g.x = g.node("Add", g.x, g.reduce("ReduceSum", part, 0))


@construct("zero_at_length_one")
def running_sum(g: Building) -> None:
    axis = g.constant(g.one_of(1, 2), np.int64)
    g.x = g.node("CumSum", g.x, axis, exclusive=g.one_of(0, 1), reverse=g.one_of(0, 1))


@construct("zero_at_length_one")
def largest_nearby(g: Building) -> None:
    if g.half:
        return running_sum(g)
    turned = g.transpose(g.x, 0, 2, 1)
    g.x = g.transpose(g.node("MaxPool", turned, kernel_shape=[3], pads=[1, 1]), 0, 2, 1)
    return None


@construct("flatten_of_positions")
def compressed(g: Building) -> None:
    shape = g.node("Shape", g.x)
    flat = g.reshape(g.x, -1)
    ordered = g.outputs("TopK", 2, flat, g.node("ReduceProd", shape, keepdims=1), axis=0)[0]
    g.x = g.node("Reshape", ordered, shape)


@construct("flatten_of_positions")
def scan_over_positions(g: Building) -> None:
    total, row, out = g.name("total"), g.name("row"), g.name("out")
    body = helper.make_graph(
        [
            helper.make_node("Add", [total, row], [f"{out}_next"]),
            helper.make_node("Identity", [f"{out}_next"], [f"{out}_row"]),
        ],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in (total, row)],
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
            for n in (f"{out}_next", f"{out}_row")
        ],
    )
    start = g.node("Mul", g.reduce("ReduceMax", g.x, 1, keepdims=0), g.constant(0.0))
    made = g.outputs(
        "Scan",
        2,
        start,
        g.x,
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    g.x = made[1]


@construct("zero_at_length_one")
def loop_of_length(g: Building) -> None:
    step, going, value, after = (g.name(n) for n in ("step", "going", "value", "after"))
    body = helper.make_graph(
        [
            helper.make_node("Identity", [going], [f"{going}_on"]),
            helper.make_node("Add", [value, value], [after]),
        ],
        "body",
        [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(value, FLOAT, None),
        ],
        [
            helper.make_tensor_value_info(f"{going}_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info(after, FLOAT, None),
        ],
    )
    count = g.node("Sub", g.length_now(), g.constant(g.one_of(0, 1), np.int64))
    g.x = g.node("Loop", count, "", g.x, body=body)
