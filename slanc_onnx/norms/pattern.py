"""A small matcher: patterns are data, built with `|`, and walk from a tensor to what made it.

    x = Var("x")
    square = Op("Pow", x, Scalar(value=2)) | Op("Mul", x, x)

Casts and identities are seen through, Add and Mul take their operands in either order, and a name
that occurs twice must stand for the same tensor both times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Scope, op_of, see_through

COMMUTATIVE = {"Add", "Mul", "Max"}


@dataclass(frozen=True)
class Read:
    """An input of a graphsurgeon node."""

    node: gs.Node
    position: int

    @property
    def tensor(self) -> gs.Tensor:
        """The tensor that the node reads there."""
        return self.node.inputs[self.position]


@dataclass(frozen=True)
class Match:
    """A match of a pattern: the nodes it covers, and the inputs that read each named value."""

    scope: Scope
    nodes: tuple[gs.Node, ...] = ()
    uses: tuple[tuple[str, Read], ...] = ()

    def places(self, name: str) -> list[Read]:
        """The distinct inputs that read the value called `name`."""
        found: dict[tuple[int, int], Read] = {}
        for key, use in self.uses:
            if key == name:
                found.setdefault((id(use.node), use.position), use)
        return list(found.values())

    def tensor(self, name: str) -> gs.Tensor | None:
        """The tensor called `name`, behind its casts."""
        places = self.places(name)
        return see_through(places[0].tensor) if places else None

    def values(self, name: str) -> list[float]:
        """The values of the scalar constants called `name`, which need not be the same."""
        found = (self.scope.scalar(place.tensor) for place in self.places(name))
        return [value for value in found if value is not None]

    def value(self, name: str) -> float | None:
        """The value of the scalar constant called `name`."""
        return next(iter(self.values(name)), None)


class Pattern:
    """Base of all patterns: a pattern matches a tensor by the nodes that made it."""

    def __or__(self, other: Pattern) -> Pattern:
        return Or((self, other))

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        """All extensions of `match` by which the tensor read at `use` fits the pattern."""
        return self.of(see_through(use.tensor), match)

    def of(self, tensor: gs.Tensor, match: Match) -> Iterator[Match]:
        """All extensions of `match` by which a tensor fits the pattern."""
        raise NotImplementedError


@dataclass(frozen=True)
class Or(Pattern):
    """Any of several patterns, tried in order."""

    options: tuple[Pattern, ...]

    def __or__(self, other: Pattern) -> Pattern:
        return Or((*self.options, other))

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        for option in self.options:
            yield from option.at(use, match)

    def of(self, tensor: gs.Tensor, match: Match) -> Iterator[Match]:
        for option in self.options:
            yield from option.of(tensor, match)


def _same(scope: Scope, one: gs.Tensor, other: gs.Tensor) -> bool:
    """Whether two tensors are one behind their casts, or one divided by the same constant.

    Scaling leaves such quotients where a norm reads its input in two element types.
    """
    one, other = see_through(one), see_through(other)
    if one is other:
        return True
    makers = [*one.inputs, *other.inputs]
    if [op_of(maker) for maker in makers] != ["Div", "Div"]:
        return False
    (x, divisor), (y, other_divisor) = (maker.inputs for maker in makers)
    value = scope.scalar(divisor)
    return value is not None and value == scope.scalar(other_divisor) and _same(scope, x, y)


@dataclass(frozen=True)
class Var(Pattern):
    """Any tensor, the same one wherever the name occurs."""

    name: str

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        bound = match.tensor(self.name)
        if bound is None or _same(match.scope, bound, use.tensor):
            yield replace(match, uses=(*match.uses, (self.name, use)))


@dataclass(frozen=True)
class Scalar(Pattern):
    """A constant with one element, optionally of a given value (within FP16's precision)."""

    name: str = ""
    value: float | None = None

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        found = match.scope.scalar(use.tensor)
        if found is None:
            return
        if self.value is None or math.isclose(found, self.value, rel_tol=2**-10):
            yield replace(match, uses=(*match.uses, (self.name, use)))


@dataclass(frozen=True)
class Absent(Pattern):
    """An optional input that is not there."""

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        if use.position >= len(use.node.inputs) or not use.tensor.name:
            yield match


class Op(Pattern):
    """A node of a given type whose first inputs fit; `check` may refuse it for another reason."""

    def __init__(
        self, op: str, *inputs: Pattern, check: Callable[[Scope, gs.Node], bool] | None = None
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.check = check

    def of(self, tensor: gs.Tensor, match: Match) -> Iterator[Match]:
        if not tensor.inputs or op_of(tensor.inputs[0]) != self.op:
            return
        node = tensor.inputs[0]
        if self.check is not None and not self.check(match.scope, node):
            return
        orders = [range(len(self.inputs))]
        if self.op in COMMUTATIVE:
            orders.append(range(len(self.inputs))[::-1])
        for order in orders:
            found = [replace(match, nodes=(*match.nodes, node))]
            for pattern, position in zip(self.inputs, order, strict=True):
                if position >= len(node.inputs) and not isinstance(pattern, Absent):
                    found = []
                found = [m for before in found for m in pattern.at(Read(node, position), before)]
            yield from found


@dataclass(frozen=True)
class Through(Pattern):
    """A pattern, possibly behind ops that only change the shape of a value per row."""

    inner: Pattern
    ops: tuple[str, ...] = ("Unsqueeze", "Squeeze", "Reshape", "Expand")

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        yield from self.inner.at(use, match)
        tensor = see_through(use.tensor)
        if tensor.inputs and op_of(tensor.inputs[0]) in self.ops:
            node = tensor.inputs[0]
            yield from self.at(Read(node, 0), replace(match, nodes=(*match.nodes, node)))


@dataclass(frozen=True)
class Constant(Pattern):
    """An initializer or Constant node's output of any size, the same wherever the name occurs."""

    name: str

    def at(self, use: Read, match: Match) -> Iterator[Match]:
        bound = match.tensor(self.name)
        same = bound is None or bound is see_through(use.tensor)
        if same and match.scope.constant(see_through(use.tensor)) is not None:
            yield replace(match, uses=(*match.uses, (self.name, use)))
