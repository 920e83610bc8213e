"""What a second attack on the rules of the proof broke."""

from __future__ import annotations

import numpy as np

from benchmarks.random_graphs.building import INT64, Building
from benchmarks.random_graphs.constructs.attention import mixed, scores_of, softmax
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.precision import BRAIN, HALF

BOOL = 9  # ONNX's number


@construct("softmax_nan", opset=14)
def hidden_by_data(g: Building) -> None:
    keep = g.node("Unsqueeze", g.input("mask", "mask", INT64, g.dims), g.ints(1))
    scores = scores_of(g)
    far = g.node("Greater", scores, g.constant(float(g.one_of(-1.0, 0.0, 3.0, 100.0))))
    both = g.one_of(
        lambda: g.node("And", far, g.node("Cast", keep, to=BOOL)),
        lambda: g.node("Cast", g.node("Mul", g.as_float(far), g.as_float(keep)), to=BOOL),
    )()
    mixed(g, softmax(g, g.node("Where", both, scores, g.constant(-np.inf))))


@construct("softmax_nan")
def low_without_a_mask(g: Building) -> None:
    keep = g.as_float(g.node("Unsqueeze", g.input("mask", "mask", INT64, g.dims), g.ints(1)))
    low = g.reduce("ReduceSum", g.node("Mul", g.x, g.x), -1)
    low = g.transpose(g.node("Mul", low, g.constant(-3e38)), 0, 2, 1)
    mixed(g, softmax(g, g.node("Add", low, keep)))


@construct("numbers_that_may_be_negative")
def ends_of_whole_numbers(g: Building) -> None:
    far = g.constant(np.array(2**62), np.int64)
    highest = g.reduce("ReduceMax", g.x, *range(3))
    number = g.node("Clip", g.node("Cast", highest, to=INT64), far, far)
    two = g.constant(np.array(2), np.int64)
    made = g.one_of(
        lambda: g.node("Add", number, number),
        lambda: g.node("Mul", number, two),
        lambda: g.node("Abs", g.node("Sub", g.node("Neg", number), number)),
    )()
    small = g.node("Mul", g.as_float(made), g.constant(1e-18))
    g.x = g.node("Mul", g.x, g.node("Sqrt", small))


@construct("norms_that_are_none")
def narrow_steps(g: Building) -> None:
    kind = int(g.one_of(HALF, BRAIN))
    at = g.one_of("square", "mean", "root")

    def step(name: str, made: str) -> str:
        return g.as_float(g.node("Cast", made, to=kind)) if name == at else made

    row = g.node("Mul", g.x, g.constant(float(g.one_of(1e-4, 1e-7, 1.0))))
    square = step("square", g.node("Mul", row, row))
    mean = step("mean", g.reduce("ReduceMean", square, -1))
    root = step("root", g.node("Sqrt", g.node("Add", mean, g.constant(1e-14))))
    g.x = g.node("Div", row, root)
