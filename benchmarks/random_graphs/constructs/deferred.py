"""Norms of which products are divided, and not the row; and what only looks like one."""

from __future__ import annotations

import numpy as np

from benchmarks.random_graphs.building import FLOAT, Building
from benchmarks.random_graphs.constructs.attention import softmax
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.plain import back

SPREADS = (0.5, 0.5, 2.0, 30.0, 3e3, 1e-4)


def weight(g: Building, columns: int) -> str:
    """A matrix for rows of the graph: stored, turned, narrower, computed, stacked or given."""
    spread = float(g.one_of(*SPREADS))
    return str(
        g.one_of(
            *[lambda: g.matrix(g.width, columns, spread)] * 4,
            lambda: g.transpose(
                g.constant(g.rng.standard_normal((columns, g.width)) * spread), 1, 0
            ),
            lambda: (
                g.node("Cast", _narrow(g, columns), to=FLOAT) if not g.half else _narrow(g, columns)
            ),
            lambda: g.node("Mul", g.matrix(g.width, columns), g.constant(spread)),
            lambda: g.constant(g.rng.standard_normal((1, g.width, columns)) * spread),
            lambda: g.overridable(_numbers(g, columns, spread)),
        )()
    )


def _numbers(g: Building, columns: int, spread: float) -> np.ndarray:
    values = g.rng.standard_normal((g.width, columns)) * spread
    return values.astype(np.float16 if g.half else np.float32)


def _narrow(g: Building, columns: int) -> str:
    return g.constant(g.rng.standard_normal((g.width, columns)), np.float16)


def root_of(g: Building, x: str, axis: int = -1, keepdims: int = 1) -> str:
    """The root of the mean square of rows."""
    epsilon = g.constant(float(g.one_of(1e-5, 1e-5, 1e-6, 1e-12, 1e-3, 0.0)))
    square = g.node("Mul", x, x) if g.chance(0.5) else g.node("Pow", x, g.constant(2.0))
    mean = g.reduce("ReduceMean", square, axis, keepdims=keepdims)
    if g.chance(0.2):
        return g.node("Add", g.node("Sqrt", mean), epsilon)
    return g.node("Sqrt", g.node("Add", mean, epsilon))


def products(g: Building, columns: tuple[int, ...]) -> list[str]:
    """The products of the rows over their root, divided behind."""
    x = g.x
    if g.chance(0.25):
        x = g.node("Sub", x, g.reduce("ReduceMean", x, -1))
    early = [g.node("MatMul", x, weight(g, c)) for c in columns if g.chance(0.3)]
    root = root_of(g, x)
    made = early + [g.node("MatMul", x, weight(g, c)) for c in columns[len(early) :]]
    if g.chance(0.4):
        inverse = g.node("Reciprocal", root)
        return [g.node("Mul", *((p, inverse) if g.chance(0.5) else (inverse, p))) for p in made]
    return [g.node("Div", p, root) for p in made]


@construct("deferred_divisions")
def one_product(g: Building) -> None:
    (g.x,) = products(g, (g.width,))
    if g.chance(0.4):
        g.x = g.node("Add", g.x, g.vector())


@construct("deferred_divisions")
def a_product_that_may_not_fit(g: Building) -> None:
    product = g.node("MatMul", g.x, g.matrix(g.width, g.width, float(g.one_of(300.0, 3e3, 3e4))))
    g.x = g.node("Div", product, root_of(g, g.x))


@construct("deferred_divisions")
def gate_and_up(g: Building) -> None:
    gate, up = products(g, (g.width, g.width))
    silu = g.node("Mul", gate, g.node("Sigmoid", gate))
    g.x = back(g, g.node("Mul", silu, up), g.width)


@construct("deferred_divisions")
def query_key_value(g: Building) -> None:
    q, k, v = products(g, (g.width,) * 3)
    if g.chance(0.5):  # norms of both, right behind
        q, k = g.norm_by_hand(q), g.norm_by_hand(k)
    scores = g.node("MatMul", q, g.transpose(k, 0, 2, 1))
    g.x = g.node("MatMul", softmax(g, scores), v)


@construct("deferred_divisions")
def one_behind_another(g: Building) -> None:
    (g.x,) = products(g, (g.width,))
    (g.x,) = products(g, (g.width,))


@construct("deferred_divisions")
def one_product_of_two_norms(g: Building) -> None:
    product = g.node("MatMul", g.x, weight(g, g.width))
    parts = [g.node("Div", product, root_of(g, g.x)) for _ in range(2)]
    g.x = g.node("Add", *parts)


@construct("deferred_divisions")
def the_row_as_well(g: Building) -> None:
    root = root_of(g, g.x)
    product = g.node("Div", g.node("MatMul", g.x, weight(g, g.width)), root)
    g.x = g.node("Add", product, g.node("Div", g.x, root))


@construct("deferred_divisions")
def the_product_as_well(g: Building) -> None:
    product = g.node("MatMul", g.x, weight(g, g.width))
    divided = g.node("Div", product, root_of(g, g.x))
    g.x = g.node("Add", divided, g.node(g.one_of("Tanh", "Relu"), product))


@construct("deferred_divisions")
def the_root_of_another_row(g: Building) -> None:
    other = g.one_of(
        lambda: g.node("Tanh", g.x),
        lambda: g.node("Add", g.x, g.vector()),
        lambda: g.node("Mul", g.x, g.vector()),
    )()
    product = g.node("MatMul", g.x, weight(g, g.width))
    g.x = g.node("Div", product, root_of(g, other))


@construct("deferred_divisions")
def the_root_of_the_row_less_its_mean(g: Building) -> None:
    small = g.node("Mul", g.x, g.constant(float(g.one_of(1.0, 1e-2, 1e-3))))
    row = g.node("Add", small, g.constant(1.0))
    less = g.node("Sub", row, g.reduce("ReduceMean", row, -1))
    product = g.node("MatMul", row, g.matrix(g.width, g.width))
    g.x = g.node("Div", product, root_of(g, less))


@construct("deferred_divisions", fixed=True)
def the_root_of_another_axis(g: Building) -> None:
    root = root_of(g, g.x, axis=g.one_of(1, 0, -1), keepdims=g.one_of(0, 1))
    product = g.node("MatMul", g.x, weight(g, g.width))
    if g.batch == 1 or int(g.length) == g.width:  # where it fits, or by chance does
        g.x = g.node("Div", product, root)


@construct("deferred_divisions")
def a_factor_in_the_root(g: Building) -> None:
    factor = g.one_of(lambda: g.vector(), lambda: g.constant(0.01))()
    root = g.node("Mul", root_of(g, g.x), factor)
    g.x = g.node("Div", g.node("MatMul", g.x, weight(g, g.width)), root)
