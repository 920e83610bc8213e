"""Blocks between two norms with random weights: as expressions, and again in NumPy alone.

The expression is what a bound is made from. `rows` computes the same block in FP64 with explicit
positions and softmax, from the rows that the earlier norms give; it shares no code with the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slanc_onnx.trace.expression import (
    Alternatives,
    Apply,
    Expr,
    Input,
    Known,
    Linear,
    Mix,
    Normalised,
    Pick,
    Product,
    Sum,
    Weight,
)

Floats = NDArray[np.float64]
Rng = np.random.Generator
# "rms" and "layer" are a norm's output before gamma, "box" a graph input in [-1, 1], "free" any
# numbers at all (logits).
Source = Literal["rms", "layer", "box", "free"]

D, HEADS, POSITIONS, WIDE = 6, 2, 3, 8


@dataclass(frozen=True)
class Block:
    """What lies between some norms and the next one.

    Attributes:
        expr: The next norm's input.
        inputs: Of each input what it is, how many rows it has (positions), and how wide they are.
        rows: From the inputs, each [batch, positions, width], to rows of the next norm's input,
            [batch, any, channels].
        centred: Whether the next norm subtracts the mean.
    """

    expr: Expr
    inputs: tuple[tuple[Source, int, int], ...]
    rows: Callable[..., Floats]
    centred: bool = False


class Draw:
    """Weights of one style from one generator, in FP32 as a model has them."""

    def __init__(self, rng: Rng, style: str = "gaussian") -> None:
        self.rng, self.style = rng, style

    def __call__(self, *shape: int) -> Floats:
        values = self.rng.standard_normal(shape)
        if self.style == "outliers":
            values *= np.exp(1.5 * self.rng.standard_normal(shape[-1]))
        if self.style == "sparse":
            values *= self.rng.random(shape) < 0.4
        if self.style == "one direction" and len(shape) > 1:
            values = 0.05 * values + np.outer(
                values[..., 0].reshape(-1), self.rng.standard_normal(shape[-1])
            ).reshape(shape)
        return values.astype(np.float32).astype(np.float64)


STYLES = ("gaussian", "outliers", "sparse", "one direction")


def weight(values: Floats) -> Weight:
    return Weight("w", values.shape, lambda: values)


def known(values: Floats) -> Known:
    return Known(values.size, weight(values.reshape(-1)))


def number(value: float) -> Known:
    return known(np.array([value]))


def linear(x: Expr, matrix: Floats, bias: Floats | None = None) -> Expr:
    y = Linear(matrix.shape[1], x, weight(matrix))
    return y if bias is None else plus(y, known(bias))


def plus(*parts: Expr) -> Expr:
    total = parts[0]
    for part in parts[1:]:
        total = Sum(max(total.channels, part.channels), total, part)
    return total


def times(a: Expr, b: Expr) -> Expr:
    return Product(max(a.channels, b.channels), a, b)


def norm_of(source: Source = "rms", name: str = "first", channels: int = D) -> Expr:
    return Normalised(channels, name, source == "layer", Input(channels, "anything"))


def heads_of(channels: int, heads: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(heads), channels // heads)


def attend(x: Floats, q: Floats, k: Floats, v: Floats, heads: int) -> Floats:
    """Softmax attention of values of every position, [batch, positions, width of v]."""

    def split(rows: Floats) -> Floats:
        return rows.reshape(*rows.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    scores = split(x @ q) @ split(x @ k).transpose(0, 1, 3, 2)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = shares @ split(v)
    return np.asarray(mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1))


def sigmoid(z: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


_erf = np.vectorize(math.erf, otypes=[np.float64])
# By ONNX op, its attributes, and the function by its definition.
ACTIVATIONS: Mapping[str, tuple[tuple[float | str, ...], Callable[[Floats], Floats]]] = {
    "Relu": ((), lambda z: np.where(z > 0, z, 0)),
    "Gelu": ((), lambda z: z * (1 + _erf(z / math.sqrt(2))) / 2),
    "FastGelu": (
        (),
        lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
    ),
    "QuickGelu": ((1.702,), lambda z: z * sigmoid(1.702 * z)),
    "Swish": ((1.0,), lambda z: z * sigmoid(z)),
    "HardSwish": ((), lambda z: z * np.clip(z / 6 + 0.5, 0, 1)),
    "Mish": ((), lambda z: z * np.tanh(np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0))),
    "LeakyRelu": ((-1.5,), lambda z: np.where(z > 0, z, -1.5 * z)),
    "Elu": ((2.0,), lambda z: np.where(z > 0, z, 2 * np.expm1(np.minimum(z, 0)))),
    "Celu": ((0.5,), lambda z: np.where(z > 0, z, 0.5 * np.expm1(np.minimum(z, 0) / 0.5))),
    "Selu": ((1.7, 1.1), lambda z: 1.1 * np.where(z > 0, z, 1.7 * np.expm1(np.minimum(z, 0)))),
    "Tanh": ((), np.tanh),
    "Erf": ((), _erf),
    "Softsign": ((), lambda z: z / (1 + np.abs(z))),
    "Sin": ((), np.sin),
    "Cos": ((), np.cos),
    "Abs": ((), np.abs),
    "Neg": ((), np.negative),
    "Sigmoid": ((), sigmoid),
    "HardSigmoid": ((0.2, 0.5), lambda z: np.clip(0.2 * z + 0.5, 0, 1)),
    "Softplus": ((), lambda z: np.logaddexp(z, 0)),
    "Exp": ((), np.exp),
    "Greater": ((0.5,), lambda z: np.where(z > 0.5, 1.0, 0.0)),
}


def mlp(draw: Draw, name: str = "Gelu", source: Source = "layer") -> Block:
    """F(x Γ E + b) G + c + x Γ."""
    parameters, function = ACTIVATIONS[name]
    gamma, e, b, g, c = draw(D), draw(D, WIDE), draw(WIDE), draw(WIDE, D), draw(D)
    if name == "Exp":
        e, b = np.tanh(e) / 4, np.tanh(b) / 4
    x = times(norm_of(source), known(gamma))
    inner = Apply(WIDE, name, linear(x, e, b), parameters)
    return Block(
        plus(linear(inner, g, c), x),
        ((source, 1, D),),
        lambda x: function(x * gamma @ e + b) @ g + c + x * gamma,
        centred=source == "layer",
    )


def gated_mlp(draw: Draw) -> Block:
    gamma, e, u, g = draw(D), draw(D, WIDE), draw(D, WIDE), draw(WIDE, D)
    x = times(norm_of(), known(gamma))
    gate = times(Apply(WIDE, "Swish", linear(x, e), (1.0,)), linear(x, u))

    def rows(x: Floats) -> Floats:
        y = x * gamma
        return np.asarray(y @ e * sigmoid(y @ e) * (y @ u) @ g + y)

    return Block(plus(linear(gate, g), x), (("rms", 1, D),), rows)


def relu_squared(draw: Draw) -> Block:
    gamma, e, g = draw(D), draw(D, WIDE), draw(WIDE, D)
    x = times(norm_of(), known(gamma))
    r = Apply(WIDE, "Relu", linear(x, e))
    return Block(
        linear(times(r, r), g),
        (("rms", 1, D),),
        lambda x: np.maximum(x * gamma @ e, 0) ** 2 @ g,
    )


def attention(draw: Draw) -> Block:
    """Post-LN: concat(S_h x Γ W_V^h) P + x Γ, with gamma, beta and biases."""
    gamma, beta, v, b, p, c = draw(D), draw(D), draw(D, D), draw(D), draw(D, D), draw(D)
    q, k = draw(D, D), draw(D, D)
    x = plus(times(norm_of("layer"), known(gamma)), known(beta))
    mixed = Mix(D, linear(x, v, b), heads_of(D, HEADS))

    def rows(x: Floats) -> Floats:
        y = x * gamma + beta
        return np.asarray(attend(y, q, k, y @ v + b, HEADS) @ p + c + y)

    return Block(plus(linear(mixed, p, c), x), (("layer", POSITIONS, D),), rows, centred=True)


def grouped_attention(draw: Draw) -> Block:
    """Four heads of queries share two of values, each with shares of its own."""
    gamma, v, p = draw(D), draw(D, D), draw(2 * D, D)
    q, k = draw(D, 2 * D), draw(D, 2 * D)
    half = D // 2
    index = np.array([*range(half), *range(half), *range(half, D), *range(half, D)])
    x = times(norm_of(), known(gamma))
    repeated = Pick(2 * D, linear(x, v), index)
    mixed = Mix(2 * D, repeated, heads_of(2 * D, 4))

    def rows(x: Floats) -> Floats:
        y = x * gamma
        return np.asarray(attend(y, q, k, (y @ v)[..., index], 4) @ p + y)

    return Block(plus(linear(mixed, p), x), (("rms", POSITIONS, D),), rows)


def query_norm(draw: Draw) -> Block:
    """Each head of the queries is a row of the next norm."""
    gamma, q, b = draw(D), draw(D, D), draw(D)
    queries = linear(times(norm_of(), known(gamma)), q, b)
    heads = np.arange(D).reshape(HEADS, -1)
    kinds = tuple(Pick(D // HEADS, queries, head) for head in heads)
    return Block(
        Alternatives(D // HEADS, kinds, (1 / HEADS,) * HEADS),
        (("rms", 1, D),),
        lambda x: (x * gamma @ q + b).reshape(len(x), HEADS, -1),
    )
