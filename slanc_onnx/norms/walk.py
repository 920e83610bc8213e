"""The walk behind the input of a region: the degree of every tensor, until it is 0."""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence
from dataclasses import dataclass
from fractions import Fraction

import onnx_graphsurgeon as gs

from slanc_onnx.graph import SEE_THROUGH, Scope, constant_made, op_of, reads_value
from slanc_onnx.norms.averages import WEIGHTED, averages
from slanc_onnx.norms.constants import small_value
from slanc_onnx.norms.notes import SCALE_KEY, notes_of
from slanc_onnx.norms.reads import Read
from slanc_onnx.norms.region import Joined, Region
from slanc_onnx.norms.root_powers import RootPowers
from slanc_onnx.norms.sums import BY_POWER
from slanc_onnx.ops import (
    MOVES,
    QUANTISING,
    Degree,
    NoDegree,
    any_degree,
    degrees_of_outputs,
    tells_no_size,
)
from slanc_onnx.reasons import Reason, Untaken, reason

_MOST_NODES = 400  # of a walk
_WITH_ROOT = (*BY_POWER, "ReduceL2", "MeanVarianceNormalization", "BatchNormalization")
_TAKE_INTEGERS = {*(op for op in MOVES if MOVES[op].kind != "casts"), "DequantizeLinear"}


@dataclass(frozen=True)
class Surroundings:
    """What a region is looked for in.

    Attributes:
        scope: The graph.
        order: The places of its nodes in topological order, by id.
        root: The node that sums squares.
        squared: The tensor that is squared.
        weights: Whether products with weights may lie in it.
    """

    scope: Scope
    order: dict[int, int]
    root: gs.Node
    squared: gs.Tensor
    weights: bool


class Walk:
    """The degrees of the tensors behind the input of a region."""

    def __init__(self, around: Surroundings, x: gs.Tensor) -> None:
        self._scope, self._order, self._x = around.scope, around.order, x
        self._root, self._squared, self._weights = around.root, around.squared, around.weights
        self.degrees: dict[int, Degree] = {id(x): Fraction(1)}
        self._from_root: set[int] = set()
        self._rooted: set[int] = set()
        self._powers = RootPowers(self._root)
        self._same = {id(x)}  # the input, its casts, and what an earlier run made of it
        self._exits: list[gs.Tensor] = []
        self._passed: dict[int, tuple[gs.Node, tuple[Joined, ...]]] = {}
        self._gone: set[int] = set()  # nodes whose outputs all have degree 0
        self._integers: set[int] = set()
        self._refused: list[tuple[gs.Node, Reason]] = []
        self._ends = {id(t) for t in around.scope.graph.outputs}

    def run(self) -> None:
        """Walk until no tensor has a degree any more."""
        heap: list[int] = []
        by_place: dict[int, gs.Node] = {}

        def enter(tensor: gs.Tensor) -> None:
            for node in tensor.outputs:
                place = self._order.get(id(node))
                read = any(t is tensor for t in _valued(node))
                if read and place is not None and place not in by_place:
                    by_place[place] = node
                    heapq.heappush(heap, place)

        enter(self._x)
        while heap and len(self._passed) < _MOST_NODES:
            node = by_place[heapq.heappop(heap)]
            try:
                degrees, joined = self._step(node)
            except NoDegree as why:
                self._refused.append((node, why.reason))
                continue
            self._passed[id(node)] = node, joined
            self._mark(node, degrees)
            self._note_integers(node)
            if not any(degrees):
                self._gone.add(id(node))
            if self._is_input(node):
                self._same.add(id(node.outputs[0]))
            for tensor, degree in zip(node.outputs, degrees, strict=False):
                if degree and tensor.name:
                    self.degrees[id(tensor)] = degree
                    enter(tensor)

    def _note_integers(self, node: gs.Node) -> None:
        """Note which outputs are integers that stand for numbers: their scale alone is divided."""
        op = op_of(node)
        moved = op in MOVES and id(node.inputs[0]) in self._integers
        if op in QUANTISING and op != "DequantizeLinear":
            self._integers.add(id(node.outputs[0]))
        elif moved:
            self._integers.update(id(t) for t in node.outputs)

    def _is_input(self, node: gs.Node) -> bool:
        """Whether a node gives the input in another type, or divided by an earlier run."""
        if not node.inputs or id(node.inputs[0]) not in self._same:
            return False
        if op_of(node) == "Div":
            proto = self._scope.proto.node[self._scope.index[id(node)]]
            return SCALE_KEY in notes_of(proto)
        return op_of(node) in SEE_THROUGH

    def _step(self, node: gs.Node) -> tuple[tuple[Degree, ...], tuple[Joined, ...]]:
        """The degrees of a node's outputs, and the constants that it joins to them."""
        op, scope = op_of(node), self._scope
        # Any other op reads integers as they are.
        kept = self._integers if op not in _TAKE_INTEGERS else ()
        degrees = self._degrees_read(node, kept)
        if not self._weights and self._by_weight(node):
            raise NoDegree(Reason(Untaken.WEIGHTS_INSIDE))
        if scope.fault(node) is not None:
            op = ""

        def number(position: int) -> float | None:
            value = small_value(scope, node.inputs[position])
            return None if value is None or value.size != 1 else float(value.reshape(-1)[0])

        used = [p for p, t in enumerate(node.outputs) if self._is_read(t)]
        passed = degrees_of_outputs(op, node.attrs, degrees, max(used, default=0) + 1, number)
        joined = []
        for position, degree in passed.joined:
            if position < 0:
                joined.append(Joined(Read(node, position), degree))
                continue
            tensor = node.inputs[position]
            if not tensor.name or (op not in ("Add", "Sub") and self._has_any_degree(tensor)):
                continue
            joined += self._joinable(Read(node, position), degree)
        return passed.outputs, tuple(joined)

    def _degrees_read(self, node: gs.Node, kept: Container[int] = ()) -> list[Degree | None]:
        """The degrees of a node's inputs; None for what is not made of the row, or is kept."""
        return [
            self.degrees.get(id(t)) if reads_value(node, p) and id(t) not in kept else None
            for p, t in enumerate(node.inputs)
        ]

    def _joinable(self, read: Read, degree: Degree) -> list[Joined]:
        """The constant to divide so that a tensor comes to have a degree; none where it is zero.

        It may be a factor of a tensor that nothing else reads, as in eps / max(|x|)^2.

        Raises:
            NoDegree: there is none.
        """
        scope, first = self._scope, read
        while not constant_made(scope, read.tensor):
            tensor = read.tensor
            node = tensor.inputs[0] if tensor.inputs else None
            alone = len(tensor.outputs) == 1 and id(tensor) not in self._ends
            inside = node is not None and id(node) in scope.index and alone
            position = _factor(scope, node) if node is not None and inside else None
            if node is None or position is None:
                raise NoDegree(reason(Untaken.JOINED_WITH_DATA, str(degree), first.tensor.name))
            degree = -degree if op_of(node) == "Div" and position == 1 else degree
            read = Read(node, position)
        zero = read is not first and self._has_any_degree(read.tensor)
        return [] if zero else [Joined(read, degree)]

    def _has_any_degree(self, tensor: gs.Tensor) -> bool:
        value = small_value(self._scope, tensor)
        if value is None or value.dtype.kind not in "fiuV":
            return False
        return any_degree([float(v) for v in value.reshape(-1)])

    def _is_read(self, tensor: gs.Tensor) -> bool:
        return bool(tensor.name) and (bool(tensor.outputs) or id(tensor) in self._ends)

    def _mark(self, node: gs.Node, degrees: Sequence[Degree]) -> None:
        """Note what is made from the root, and from a root of it; and the exits."""
        op = op_of(node)
        self._powers.note(node, self._degrees_read(node), degrees)
        if node is not self._root and all(id(t) not in self._from_root for t in _valued(node)):
            return
        inputs = [d for t in node.inputs if (d := self.degrees.get(id(t)))]
        total = self.degrees.get(id(self._root.outputs[0]), Fraction(0))
        halved = op in _WITH_ROOT or (  # of this sum, not of one that squares it once more
            op in ("Sqrt", "Pow")
            and inputs
            and abs(degrees[0]) < min(abs(inputs[0]), abs(total) or abs(inputs[0]))
        )
        rooted = halved or any(id(t) in self._rooted for t in _valued(node))
        for tensor, degree in zip(node.outputs, degrees, strict=False):
            self._from_root.add(id(tensor))
            if rooted:
                self._rooted.add(id(tensor))
            if degree == 0 and rooted and tensor.name:
                self._exits.append(tensor)

    def region(self) -> Region | None:
        """The region that the walk found; None where the root divides nothing of its size."""
        if all(tells_no_size(op_of(t.inputs[0])) for t in self._exits) or self._is_no_square():
            return None
        if all(self._powers.multiplies(t) for t in self._exits):  # the root of another norm divides
            return None
        inside: dict[int, gs.Node] = {}
        waiting = [t.inputs[0] for t in self._exits]
        while waiting:
            node = waiting.pop()
            if id(node) in inside:
                continue
            inside[id(node)] = node
            kept = [t for t in _valued(node) if id(t) in self.degrees and id(t) not in self._same]
            waiting += [t.inputs[0] for t in kept]
            # What compares values inside reads them divided too.
            gone = (r for t in (*kept, *node.outputs) for r in t.outputs if id(t) in self.degrees)
            waiting += [r for r in gone if id(r) in self._gone]
        nodes = sorted(inside.values(), key=lambda n: self._order[id(n)])
        reads = [
            Read(node, position)
            for node in nodes
            for position, tensor in enumerate(node.inputs)
            if id(tensor) in self._same and reads_value(node, position)
        ]
        others = [t for n in nodes if id(n) in self._gone for t in n.outputs if self._is_read(t)]
        exits = {id(t): t for t in (*self._exits, *others)}
        joined = [j for n in nodes for j in self._passed[id(n)][1] if j.degree]
        return Region(
            self._x,
            self._root,
            tuple(nodes),
            tuple(reads),
            tuple(exits.values()),
            tuple(joined),
            self.degrees,
            beside=self._beside(nodes),
        )

    def _beside(self, nodes: Sequence[gs.Node]) -> gs.Tensor | None:
        """The input, or what it is a cast of, where nodes read what a weight makes of that."""
        read = {id(t) for node in nodes for t in node.inputs}
        by_weight = (n for n, why in self._refused if why.kind is Untaken.WEIGHTS_INSIDE)
        if any(id(t) in read for node in by_weight for t in node.outputs):
            return self._x
        tensor = self._x
        while tensor.inputs and op_of(tensor.inputs[0]) in SEE_THROUGH and tensor.inputs[0].inputs:
            tensor = tensor.inputs[0].inputs[0]
            weighted = (n for n in tensor.outputs if self._by_weight(n))
            if any(id(t) in read for node in weighted for t in node.outputs):
                return tensor
        return None

    def _by_weight(self, node: gs.Node) -> bool:
        """Whether a node is a product with a weight, and no sum."""
        constant = any(constant_made(self._scope, t) for t in node.inputs[:2])
        return op_of(node) in WEIGHTED and constant and not averages(self._scope, node)

    def _is_no_square(self) -> bool:
        """Whether a product, as of a row with one that is normalised, is none of equal degrees."""
        total, one = (self.degrees.get(id(t)) for t in (self._root.outputs[0], self._squared))
        inside = op_of(self._root) in _WITH_ROOT
        return not inside and None not in (total, one) and total != 2 * (one or 0)

    def why(self) -> Reason | None:
        """Why no region closes: the first node behind the root at which the walk stopped."""
        behind = [
            (node, why)
            for node, why in self._refused
            if node is self._root or any(id(t) in self._from_root for t in node.inputs)
        ]
        for node, _ in self._passed.values():
            if op_of(node) == "Div" and node.outputs and id(node.outputs[0]) in self._rooted:
                degree = self.degrees.get(id(node.outputs[0]), Fraction(0))
                behind.append((node, reason(Untaken.ANOTHER_DEGREE, str(degree))))
        if not behind:
            return None
        node, why = min(behind, key=lambda pair: self._order[id(pair[0])])
        return why.at(node.op, node.outputs[0].name if node.outputs else "")


def _factor(scope: Scope, node: gs.Node) -> int | None:
    """The input of a node that divides its output where it is divided; None for none."""
    if op_of(node) in MOVES:
        return 0
    constants = [p for p, t in enumerate(node.inputs) if constant_made(scope, t)]
    return constants[0] if op_of(node) in ("Mul", "Div") and len(constants) == 1 else None


def _valued(node: gs.Node) -> list[gs.Tensor]:
    """The inputs whose values a node reads."""
    return [t for position, t in enumerate(node.inputs) if reads_value(node, position)]
