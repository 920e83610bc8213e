"""What a third attack broke: readings of single ops, and numbers that the finder takes for others.

Their kinds are asked for by name, so that other numbers stay those of their graphs.
"""

from __future__ import annotations

import numpy as np

from benchmarks.random_graphs.building import Building
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.precision import HALF

BACKWARDS = (-100, -(2**62))  # from before the first place, to before it


@construct("numbers_of_the_finder")
def epsilon_in_a_narrow_type(g: Building) -> None:
    kind = int(g.one_of(HALF, 3, 6))  # FP16, and whole numbers of 8 and of 32 bits
    epsilon = g.node("Cast", g.constant(float(g.one_of(1e-8, 1e-12))), to=kind)
    zeros = g.node("Mul", g.x, g.constant(float(g.one_of(0.0, 1e-30))))
    g.x = g.norm_by_hand(zeros, g.as_float(epsilon))


@construct("numbers_of_the_finder", opset=18)
def axes_that_a_caller_gives(g: Building) -> None:
    axes = g.overridable(np.array([-1]))
    rows = g.node("Mul", g.x, g.constant(np.linspace(0.1, 30.0, g.width)))
    mean = g.node("ReduceMean", g.node("Mul", rows, rows), axes)
    root = g.node("Sqrt", g.node("Add", mean, g.constant(1e-5)))
    g.x = g.node("Div", rows, root)


@construct("slices_backwards")
def slice_from_before_the_first(g: Building) -> None:
    start, end = BACKWARDS
    places = g.ints(start), g.ints(end), g.ints(2), g.ints(int(g.one_of(-1, -2)))
    first = g.node("Slice", g.x, *places)
    far = g.node("Mul", g.reduce("ReduceSum", first, 2), g.constant(1e3))
    g.x = g.node("Add", g.x, far)


@construct("sums_on_the_way")
def infinite_on_the_way(g: Building) -> None:
    far, back = g.constant(3e38), g.constant(-3e38)
    small = g.node("Sigmoid", g.reduce("ReduceMax", g.x, -1))
    total = g.node("Sum", *g.one_of((far, far, small, back, back), (small, far, far, back, back)))
    g.x = g.node("Add", g.node(g.one_of("Sin", "Cos"), total), g.constant(np.zeros(g.width)))


@construct("scores_in_fp16", opset=23)
def attention_in_fp16(g: Building) -> None:
    half = g.node("Cast", g.x, to=HALF)
    rows = g.node("Mul", half, g.node("Cast", g.constant(float(g.one_of(300.0, 3e3))), to=HALF))
    made = g.node("Attention", rows, rows, half, q_num_heads=1, kv_num_heads=1)
    g.x = g.as_float(made)
