"""Expressions over weights: what a tensor of the graph is, from the norms that feed it.

An expression stands for one row of activations, a vector with `channels` elements. The paper's
three blocks are three shapes of it:

    attention     Linear(Mix(Linear(x Γ, W_V)), P) + x Γ              equation 10
    MLP           Linear(F(Linear(x Γ, E)), G) + x Γ                  equation 5
    gated MLP     Linear(F(Linear(x Γ, E)) * Linear(x Γ, B), G) + x Γ equation 8

with x = Normalised(...), and in a pre-LN network the residual is the earlier norm's input itself.
Expressions share parts and are compared by identity; a part is made before what uses it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.weights import Stored, whole

_serial = itertools.count()


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant tensor of the model that is read when it is needed.

    Attributes:
        name: The initializer it comes from.
        shape: Its shape after the constant ops that the graph applies to it.
        read: Gives the values, FP32 or FP64.
        take: Gives the rows (first axis) of the given indices without reading the others.
        stored: A matrix as it is stored, of which blocks can be read; None where it is not.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    take: Callable[[Array], Array] | None = None
    stored: Stored | None = None

    @property
    def nbytes(self) -> int:
        """How much there is to read."""
        return 4 * math.prod(self.shape) if self.stored is None else self.stored.nbytes

    def blocks(self) -> Stored:
        """A matrix of which blocks can be read; it is read now where it is not stored as one."""
        return self.stored or whole(np.asarray(self.read()))

    def rows(self, indices: Array) -> Array:
        """Rows of a table of shape [rows, ...], FP32."""
        taken = self.take(indices) if self.take is not None else self.read()[indices]
        return np.asarray(taken, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Expr:
    """Base of all expressions. `serial` grows with creation: parts have smaller ones."""

    channels: int
    serial: int = field(default_factory=lambda: next(_serial), init=False)

    @property
    def parts(self) -> tuple[Expr, ...]:
        """The expressions this one is made of."""
        return ()


@dataclass(frozen=True, eq=False)
class OfRow(Expr):
    """Base of what is made of one row."""

    x: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class OfTwoRows(Expr):
    """Base of what is made of two rows."""

    a: Expr
    b: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, eq=False)
class Normalised(Expr):
    """A norm's output before gamma: a row of length sqrt(channels)."""

    norm: str
    centred: bool
    input: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.input,)


@dataclass(frozen=True, eq=False)
class Pooled(OfRow):
    """A row that runs over `positions` rows of x, as that of a GroupNorm does."""

    positions: int


@dataclass(frozen=True, eq=False)
class Embedding(Expr):
    """A row of a table: any one, or the one at a position, which is `first` at position 0."""

    table: Weight
    first: int | None = None


@dataclass(frozen=True, eq=False)
class Input(Expr):
    """A row of a graph input. Floats are taken to have unit variance; others are ids and masks."""

    name: str
    floats: bool = True


CONDITION = "(condition)"  # the name of a comparison's result, 0 or 1, which no input can have


def is_ids(expr: Expr) -> bool:
    """Whether a value is ids, indices or a mask that the data gives."""
    return isinstance(expr, Input) and not expr.floats


@dataclass(frozen=True, eq=False)
class Opaque(Expr):
    """A row that could not be read: `op` is the op that stopped the trace, `tensor` its output.

    Attributes:
        reads: What the op reads, as far as that is known; its size is all that is taken from it.
    """

    op: str
    tensor: str
    reads: tuple[Expr, ...] = ()

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.reads


@dataclass(frozen=True, eq=False)
class Known(Expr):
    """A row of constants: a bias, gamma, beta, or one number (channels = 1, which broadcasts)."""

    weight: Weight


@dataclass(frozen=True, eq=False)
class Linear(OfRow):
    """x W, with W of shape [x.channels, channels]."""

    weight: Weight


@dataclass(frozen=True, eq=False)
class Experts(OfRow):
    """x times one matrix of a stack [experts, x.channels, channels], which the data chooses.

    A mixture of experts is a convex combination of such rows.
    """

    weight: Weight


@dataclass(frozen=True, eq=False)
class Convolution(OfRow):
    """x at neighbouring positions, each times its tap of a weight [channels, in / groups, taps]."""

    weight: Weight
    groups: int


@dataclass(frozen=True, eq=False)
class Sum(OfTwoRows):
    """The sum of two rows."""


@dataclass(frozen=True, eq=False)
class Product(OfTwoRows):
    """The elementwise product of two rows: a diagonal (gamma), a scalar, or a gate."""


@dataclass(frozen=True, eq=False)
class Apply(Expr):
    """An elementwise function, by the name of its ONNX op and its attributes."""

    function: str
    x: Expr
    parameters: tuple[float | str, ...] = ()

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Select(Expr):
    """Elements of one row where a condition (0 or 1) holds, and of another where it does not."""

    condition: Expr
    a: Expr
    b: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.condition, self.a, self.b)


# Comparisons of a row with one number, as functions of the row.
COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


@dataclass(frozen=True, eq=False)
class Shares(Expr):
    """The output of a softmax: `count` numbers of at least 0 that add up to at most 1."""

    count: int = 1


@dataclass(frozen=True, eq=False)
class Mix(OfRow):
    """A convex combination of rows of x at several positions.

    Attributes:
        heads: Of each channel its head, [channels]: every head has shares of its own. None where
            all channels have the same.
    """

    heads: Array | None = None


@dataclass(frozen=True, eq=False)
class Pick(OfRow):
    """Channels of x in another order, some left out or repeated. index: [channels]."""

    index: Array


@dataclass(frozen=True, eq=False)
class Join(Expr):
    """Rows end to end."""

    pieces: tuple[Expr, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.pieces


@dataclass(frozen=True, eq=False)
class Alternatives(Expr):
    """Rows of several kinds, each with its share: heads, class token and patches, branches."""

    kinds: tuple[Expr, ...]
    shares: tuple[float, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.kinds


@dataclass(frozen=True, eq=False)
class Mixture(Alternatives):
    """A convex combination of rows of several kinds, read as one of them: a mixture of experts."""


def walk(expr: Expr, stop: Callable[[Expr], bool] = lambda e: False) -> Iterator[Expr]:
    """The expression and its parts, each once, not going into what `stop` names."""
    seen: set[int] = set()
    stack = [expr]
    while stack:
        here = stack.pop()
        if here.serial in seen:
            continue
        seen.add(here.serial)
        yield here
        if not stop(here):
            stack.extend(reversed(here.parts))


def sources(expr: Expr) -> list[Expr]:
    """What an expression starts from: norms, tables, graph inputs, and what could not be read."""
    kinds = (Normalised, Embedding, Input, Opaque)
    return [e for e in walk(expr, lambda e: isinstance(e, kinds)) if isinstance(e, kinds)]


# Functions with |F(z)| <= |z|.
CONTRACTIONS = {
    "Relu",
    "Gelu",
    "FastGelu",
    "QuickGelu",
    "BiasGelu",
    "Tanh",
    "Swish",
    "HardSwish",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Erf",
    "Mish",
    "Abs",
    "Neg",
    "Sin",
    "Softsign",
    "Celu",
}
_RANGES = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Erf": (-1.0, 1.0),
    "Sin": (-1.0, 1.0),
    "Cos": (-1.0, 1.0),
    "Softsign": (-1.0, 1.0),
}


def value_range(expr: Expr) -> tuple[float, float] | None:
    """Bounds that hold for every element whatever the data, None where there are none.

    This is how an activation written out is seen: z * 0.5 * (1 + erf(z / sqrt 2)) is z times a
    factor in [0, 1], and so is z * sigmoid(z).
    """
    if isinstance(expr, Apply):
        return (0.0, 1.0) if expr.function in COMPARISONS else _RANGES.get(expr.function)
    if isinstance(expr, Shares):
        return (0.0, 1.0)
    if isinstance(expr, Known):
        if expr.channels != 1:
            return None
        value = float(np.asarray(expr.weight.read()).reshape(-1)[0])
        return (value, value)
    if isinstance(expr, (Pick, Mix)):
        return value_range(expr.x)
    if isinstance(expr, (Sum, Product)):
        a, b = value_range(expr.a), value_range(expr.b)
        if a is None or b is None:
            return None
        if isinstance(expr, Sum):
            return (a[0] + b[0], a[1] + b[1])
        corners = [p * q for p in a for q in b]
        return (min(corners), max(corners))
    return None


def constant_values(expr: Expr) -> Array | None:
    """The values of an expression made of constants alone, FP64, [1, channels]; else None."""
    match expr:
        case Known():
            return np.asarray(expr.weight.read(), dtype=np.float64).reshape(1, -1)
        case Pick():
            values = constant_values(expr.x)
            return None if values is None else values[:, expr.index]
        case Apply(function="Reciprocal"):
            values = constant_values(expr.x)
            return None if values is None else 1 / values
        case Sum() | Product():
            a, b = constant_values(expr.a), constant_values(expr.b)
            if a is not None and b is not None:
                return a + b if isinstance(expr, Sum) else a * b
    return None


def is_nonlinear(expr: Expr) -> bool:
    """Whether an activation function lies between the expression and its linear maps."""
    while True:
        if isinstance(expr, Apply):
            return True
        if isinstance(expr, Product):
            if value_range(expr.a) is not None or value_range(expr.b) is not None:
                nonlinear = [e for e in (expr.a, expr.b) if not isinstance(e, Known)]
                return len(nonlinear) == 2 or is_nonlinear(nonlinear[0])
            return is_nonlinear(expr.a) or is_nonlinear(expr.b)
        if isinstance(expr, (Pick, Mix)):
            expr = expr.x
        elif isinstance(expr, Sum):
            return is_nonlinear(expr.a) or is_nonlinear(expr.b)
        else:
            return False
