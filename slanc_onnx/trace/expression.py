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
        take: Gives the rows (first axis) at some indices without reading the others.
        stored: The matrix in its file, to be read by blocks; None where it cannot be.
        quantised: Whether the values are integers that a DequantizeLinear behind makes numbers.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    take: Callable[[Array], Array] | None = None
    stored: Stored | None = None
    quantised: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes to read for all of it."""
        return 4 * math.prod(self.shape) if self.stored is None else self.stored.nbytes

    def blocks(self) -> Stored:
        """The matrix, to be read by blocks; it is read as a whole now where it has no `stored`."""
        return self.stored or whole(np.asarray(self.read()))

    def rows(self, indices: Array) -> Array:
        """Rows of a table of shape [rows, ...], FP32."""
        taken = self.take(indices) if self.take is not None else self.read()[indices]
        return np.asarray(taken, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Expr:
    """Base of all expressions.

    Attributes:
        channels: Elements of the row.
        serial: Unique number; a part has a smaller one than what is made of it.
    """

    channels: int
    serial: int = field(default_factory=lambda: next(_serial), init=False)

    @property
    def parts(self) -> tuple[Expr, ...]:
        """The expressions this one is made of."""
        return ()


@dataclass(frozen=True, eq=False)
class OfRow(Expr):
    """Base of expressions with one part, x."""

    x: Expr

    @property
    def parts(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class OfTwoRows(Expr):
    """Base of expressions with two parts, a and b."""

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
    """One row made of `positions` rows of x end to end, as a GroupNorm reads them."""

    positions: int


@dataclass(frozen=True, eq=False)
class Embedding(Expr):
    """A row of a table.

    Attributes:
        first: The row at position 0 where positions index the table; None where ids do.
        ids: The graph input that the ids come from; "" where that is not known.
    """

    table: Weight
    first: int | None = None
    ids: str = ""


@dataclass(frozen=True, eq=False)
class Input(Expr):
    """A row of a graph input. Floats are taken to have unit variance; others are ids and masks."""

    name: str
    floats: bool = True


CONDITION = "(condition)"  # the name of a comparison's result, 0 or 1, which no input can have


def is_ids(expr: Expr) -> bool:
    """Whether an expression stands for ids, indices or a mask, and not for numbers."""
    return isinstance(expr, Input) and not expr.floats


@dataclass(frozen=True, eq=False)
class Opaque(Expr):
    """A row that could not be read: `op` is the op that stopped the trace, `tensor` its output.

    Attributes:
        reads: The inputs of the op that are known; only their size is used.
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
    """x times one matrix of a stack [experts, x.channels, channels]; the data chooses which.

    A mixture of experts is a convex combination of such rows.
    """

    weight: Weight


@dataclass(frozen=True, eq=False)
class Convolution(OfRow):
    """The sum of x at neighbouring positions, each times its tap of the weight.

    Attributes:
        weight: Shape [channels, x.channels / groups, taps].
        groups: Blocks of channels that do not mix.
    """

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


@dataclass(frozen=True, eq=False)
class Shares(Expr):
    """The output of a softmax: `count` numbers of at least 0 that add up to at most 1."""

    count: int = 1


@dataclass(frozen=True, eq=False)
class Mix(OfRow):
    """A convex combination of rows of x at several positions.

    Attributes:
        heads: The head of each channel, [channels]: every head has shares of its own. None where
            all channels have the same shares.
    """

    heads: Array | None = None


@dataclass(frozen=True, eq=False)
class Pick(OfRow):
    """Channels of x in another order; some may be left out or repeated.

    Attributes:
        index: For each channel the one of x that it is, [channels].
    """

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
    """A row of one of several kinds: of a head, a class token or a patch, a branch.

    Attributes:
        kinds: Expressions with equally many channels.
        shares: The share of all rows that each kind has; they add up to 1.
    """

    kinds: tuple[Expr, ...]
    shares: tuple[float, ...]

    @property
    def parts(self) -> tuple[Expr, ...]:
        return self.kinds


@dataclass(frozen=True, eq=False)
class Mixture(Alternatives):
    """A mixture of experts: a convex combination of rows of several kinds, read as one of them."""


# The closed set of kinds, in three parts: expressions without rows to be made of, those made of one
# row, and those made of several. A reader matches on each part and ends in `assert_never`.
Source = Normalised | Embedding | Input | Opaque | Shares | Known
Mapped = Linear | Experts | Convolution | Apply | Mix | Pick | Pooled
Combined = Sum | Product | Select | Join | Alternatives


def kind_of(expr: Expr) -> Source | Mapped | Combined:
    """The expression as a member of the closed set of kinds.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(expr, (Source, Mapped, Combined)):
        return expr
    raise TypeError(f"{type(expr).__name__} is no kind of expression that readers know")


def walk(expr: Expr, stop: Callable[[Expr], bool] = lambda e: False) -> Iterator[Expr]:
    """The expression and its parts, each once; expressions that `stop` accepts are not entered."""
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
