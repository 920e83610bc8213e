"""Functions of one number, on the edge of where they are defined and beyond it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.random_graphs.building import Building
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.plain import back, projected

_PLAIN = [
    "Sqrt",
    "Log",
    "Asin",
    "Acos",
    "Acosh",
    "Atanh",
    "Reciprocal",
    "Exp",
    "Tan",
    "Cosh",
    "Sinh",
    "Asinh",
    "Atan",
    "Sin",
    "Cos",
    "Round",
    "Sign",
    "Floor",
    "Selu",
    "HardSigmoid",
]
# With attributes that are unusual, as (op, attributes, lowest opset).
_WITH: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("Celu", {"alpha": -0.1}, 13),
    ("Celu", {"alpha": 0.01}, 13),
    ("Elu", {"alpha": 1e4}, 13),
    ("Elu", {"alpha": -3.0}, 13),
    ("LeakyRelu", {"alpha": 1e3}, 13),
    ("LeakyRelu", {"alpha": -2.0}, 13),
    ("Selu", {"alpha": 1e3, "gamma": 5.0}, 13),
    ("HardSigmoid", {"alpha": 1e3, "beta": -7.0}, 13),
    ("ThresholdedRelu", {"alpha": -5.0}, 13),
    ("Shrink", {"bias": 1e3, "lambd": 0.1}, 13),
    ("Shrink", {"bias": -1e3, "lambd": -0.1}, 13),
    ("Gelu", {"approximate": "tanh"}, 20),
    ("Mish", {}, 18),
    ("LpNormalization", {"axis": -1, "p": 1}, 13),
    ("LpNormalization", {"axis": 1, "p": 2}, 13),
    ("Hardmax", {"axis": 1}, 13),
    ("Softmax", {"axis": 2}, 13),
    ("MeanVarianceNormalization", {"axes": [2]}, 13),
    ("MeanVarianceNormalization", {"axes": [1]}, 13),
)


@construct("domain_of_functions")
def plain_function(g: Building) -> None:
    g.x = g.node(g.one_of(*_PLAIN), g.x)


@construct("domain_of_functions")
def of_numbers_below_zero(g: Building) -> None:
    g.x = g.node(g.one_of("Sqrt", "Log"), g.x)


@construct("domain_of_functions")
def function_of_a_projection(g: Building) -> None:
    spread = float(g.one_of(0.5, 10.0, 100.0))
    made = g.node(g.one_of(*_PLAIN), projected(g, g.x, g.width, spread))
    g.x = back(g, made, g.width) if g.chance(0.5) else made


@construct("domain_of_functions")
def function_with_attributes(g: Building) -> None:
    allowed = [each for each in _WITH if each[2] <= g.opset]
    op, attributes, _ = allowed[int(g.rng.integers(len(allowed)))]
    g.x = g.node(op, g.x, **attributes)


@construct("domain_of_functions")
def power(g: Building) -> None:
    exponent = g.constant(float(g.one_of(0.5, 1.5, -1.0, 3.0, 0.0, -2.0, 2.0, 1 / 3)))
    g.x = g.node("Pow", g.x, exponent)


@construct("domain_of_functions")
def shares_of_relu(g: Building) -> None:
    op = g.one_of("Relu", "Relu", "Sigmoid", "Abs", "Identity", "Softplus")
    kept = g.node(op, g.x)
    shares = g.node("Div", kept, g.reduce("ReduceSum", kept, -1))
    g.x = back(g, shares, g.width) if g.chance(0.5) else shares


@construct("domain_of_functions")
def shares_of_exp(g: Building) -> None:
    exp = g.node("Exp", projected(g, g.x, 4, float(g.one_of(1.0, 30.0, 300.0))))
    shares = g.node("Div", exp, g.reduce("ReduceSum", exp, -1))
    g.x = back(g, shares, 4)


@construct("domain_of_functions")
def over_its_own_size(g: Building) -> None:
    size = g.one_of(
        lambda: g.node("Abs", g.x),
        lambda: g.reduce("ReduceMax", g.x, -1),
        lambda: g.reduce("ReduceL1", g.x, -1),
        lambda: g.reduce("ReduceL2", g.x, -1),
        lambda: g.reduce("ReduceMean", g.x, -1),
    )()
    g.x = g.node("Div", g.x, size)


@construct("domain_of_functions")
def clipped_the_wrong_way(g: Building) -> None:
    g.x = g.node("Clip", g.x, g.constant(float(g.one_of(50.0, -1.0))), g.constant(2.0))


@construct("domain_of_functions")
def slopes(g: Building) -> None:
    g.x = g.node("PRelu", g.x, g.constant(g.rng.standard_normal(g.width) * 30))


@construct("domain_of_functions")
def remainder(g: Building) -> None:
    g.x = g.node("Mod", g.x, g.constant(float(g.one_of(0.7, -3.0, 1e-3))), fmod=1)


@construct("domain_of_functions")
def log_of_sum_of_exp(g: Building) -> None:
    op = g.one_of("ReduceLogSumExp", "ReduceLogSum", "ReduceSumSquare", "ReduceProd")
    g.x = g.node("Sub", g.x, g.reduce(op, g.x, -1))


@construct("domain_of_functions")
def inverse_of_a_distance(g: Building) -> None:
    first = g.node("Gather", g.x, g.constant(0, np.int64), axis=1)
    away = g.node("Sub", g.x, g.node("Unsqueeze", first, g.ints(1)))
    size = g.reduce("ReduceL2", away, -1)
    g.x = g.node("Div", away, size) if g.chance(0.5) else g.node("Div", g.x, size)


@construct("domain_of_functions")
def dropout(g: Building) -> None:
    ratio, training = g.constant(0.9), g.constant(np.array(g.chance(0.7)))
    g.x = g.node("Dropout", g.x, ratio, training)
