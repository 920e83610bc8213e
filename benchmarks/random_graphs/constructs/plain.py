"""What models have between norms: projections, gates, residuals, branches, positions."""

from __future__ import annotations

from benchmarks.random_graphs.building import Building
from benchmarks.random_graphs.constructs.construct import construct

ACTIVATIONS = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Elu",
    "HardSigmoid",
    "Softsign",
    "Erf",
    "Abs",
)


def projected(g: Building, x: str, columns: int, spread: float = 0.5) -> str:
    """Rows of width `g.width` times a matrix."""
    return g.node("MatMul", x, g.matrix(g.width, columns, spread))


def back(g: Building, x: str, rows: int) -> str:
    """Rows times a matrix that gives them the width of `x` again."""
    values = g.rng.standard_normal((rows, g.width)) * 0.5
    return g.node("MatMul", x, g.constant(values))


@construct("plain")
def linear(g: Building) -> None:
    g.x = g.node("Add", projected(g, g.x, g.width), g.vector())


@construct("plain")
def gated_mlp(g: Building) -> None:
    inner = 2 * g.width
    gate, up = projected(g, g.x, inner), projected(g, g.x, inner)
    silu = g.node("Mul", gate, g.node("Sigmoid", gate))
    g.x = back(g, g.node("Mul", silu, up), inner)


@construct("plain")
def mlp(g: Building) -> None:
    hidden = g.node(g.one_of(*ACTIVATIONS[:7]), projected(g, g.x, g.width))
    g.x = back(g, hidden, g.width)


@construct("plain")
def gelu(g: Building) -> None:
    inner = projected(g, g.x, g.width)
    erf = g.node("Erf", g.node("Div", inner, g.constant(2.0**0.5)))
    one = g.node("Add", erf, g.constant(1.0))
    g.x = g.node("Mul", g.node("Mul", inner, one), g.constant(0.5))


@construct("plain")
def elementwise(g: Building) -> None:
    g.x = g.node(g.one_of(*ACTIVATIONS[:7], "Neg", "Abs"), g.x)


@construct("plain")
def scaled(g: Building) -> None:
    g.x = g.node(g.one_of("Mul", "Div"), g.x, g.constant(float(g.one_of(0.1, 3.0, 100.0, -7.0))))


@construct("plain")
def split_and_joined(g: Building) -> None:
    half = g.width // 2
    halves = g.outputs("Split", 2, g.x, g.ints(half, half), axis=-1)
    g.x = g.node("Concat", g.node("Neg", halves[1]), halves[0], axis=-1)


@construct("plain")
def sliced_channels(g: Building) -> None:
    kept = g.node("Slice", g.x, g.ints(1), g.ints(g.width), g.ints(-1), g.ints(1))
    first = g.node("Slice", g.x, g.ints(0), g.ints(1), g.ints(-1))
    g.x = g.node("Concat", kept, first, axis=2)


@construct("plain")
def heads_and_back(g: Building) -> None:
    four = g.reshape(g.x, 0, 0, 2, g.width // 2)
    turned = g.transpose(four, 0, 2, 1, 3)
    g.x = g.reshape(g.transpose(turned, 0, 2, 1, 3), 0, 0, g.width)


@construct("plain")
def mean_of_positions(g: Building) -> None:
    g.x = g.node("Sub", g.x, g.reduce("ReduceMean", g.x, 1))


@construct("plain")
def largest_of_positions(g: Building) -> None:
    g.x = g.node("Add", g.x, g.reduce(g.one_of("ReduceMax", "ReduceMin"), g.x, 1))


@construct("plain")
def first_position(g: Building) -> None:
    index = g.constant(g.one_of(0, -1), "int64")
    first = g.node("Gather", g.x, index, axis=1)
    g.x = g.node("Add", g.x, g.node("Unsqueeze", first, g.ints(1)))


@construct("plain")
def clipped(g: Building) -> None:
    g.x = g.node("Clip", g.x, g.constant(-1.5), g.constant(2.5))


@construct("plain")
def chosen_by_data(g: Building) -> None:
    larger = g.node(g.one_of("Greater", "Less", "GreaterOrEqual"), g.x, g.constant(0.0))
    g.x = g.node("Where", larger, g.x, projected(g, g.x, g.width))


@construct("plain")
def larger_of_two(g: Building) -> None:
    g.x = g.node(g.one_of("Max", "Min"), g.x, projected(g, g.x, g.width))


@construct("plain")
def convolved(g: Building) -> None:
    channels_first = g.transpose(g.x, 0, 2, 1)
    kernel = g.constant(g.rng.standard_normal((g.width, g.width, 3)) * 0.3)
    made = g.node("Conv", channels_first, kernel, pads=[1, 1], kernel_shape=[3])
    g.x = g.transpose(made, 0, 2, 1)


@construct("plain")
def einsum(g: Building) -> None:
    g.x = g.node("Einsum", g.x, g.matrix(g.width, g.width), equation="bsc,cd->bsd")


@construct("plain")
def product_of_two(g: Building) -> None:
    g.x = g.node("Mul", g.x, projected(g, g.x, g.width))
