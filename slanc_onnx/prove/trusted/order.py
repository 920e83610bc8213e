"""The order of the nodes that lead to norms, and what the norms ask of the tensors between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from onnx import NodeProto

from slanc_onnx.graph import SEE_THROUGH, Scope, reads
from slanc_onnx.norms import Norm
from slanc_onnx.prove.trusted.values import Constant

# Ops whose results do not depend on how long the rows are that they read.
_NO_ROWS = (
    *("Softmax", "Shape", "Size", "IsNaN"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)
_COUNTS = ("Shape", "Size")
_CASTS = ("Cast", "CastLike")


class Order:
    """The nodes of a graph that lead to norms, or to the results of a branch.

    Attributes:
        norm_at: The row norms, by the tensor after the division; the first one of several.
        deferred_at: The row norms whose products are divided, with the product, by what that makes.
        weights: The weights of those products.
        others: The other norms, by their inputs.
        by_ops: The names of norms whose ops are read like any other, by the tensor that they make.
        after: The outputs of row norms that come after the division.
        inside: The outputs of the nodes inside row norms.
        indices: The indices of the nodes, in topological order.
        plain: The tensors that lead to norms through shares alone, so that only elements matter.
    """

    def __init__(self, scope: Scope, norms: Sequence[Norm]) -> None:
        self._nodes = scope.proto.node
        own = [n for n in norms if n.path == scope.path and self._counts_elements(n)]
        rows = [norm for norm in own if norm.has_row_steps]
        self.norm_at = {norm.normalised: norm for norm in rows}
        self.deferred_at = {one.output: (norm, one) for norm in rows for one in norm.deferred}
        products = [self._nodes[one.product] for _, one in self.deferred_at.values()]
        self.weights = {product.input[1] for product in products}
        self.others = {norm.input: norm for norm in own if not norm.has_row_steps}
        self._makers = {name: node for node in self._nodes for name in node.output if name}
        here = [norm for norm in norms if norm.path == scope.path]
        self.by_ops = {n.normalised: n.name for n in here if n.normalised not in self.norm_at}
        self._results = {out.name for out in scope.proto.output} if scope.path else set()
        self._sorted = [scope.index[id(node)] for node in scope.sorted_nodes]
        views = zip(self._nodes, scope.graph.nodes, strict=True)
        self._reads = [[t.name for t in reads(v)] if n.attribute else n.input for n, v in views]
        self.after = {norm.output for norm in rows if norm.output != norm.normalised}
        self.inside = {name for norm in rows for name in self._inner_outputs(norm)}
        self.inside.update(product.output[0] for product in products)
        self.indices = self._needed(self._sorted)
        self.plain = self._elements_only()

    def _counts_elements(self, norm: Norm) -> bool:
        """Whether a mean is one, or the number that a sum is divided by was held against the width.

        Where the finder knew no width it had none to hold it against.
        """
        nodes = [self._nodes[index].op_type for index in norm.nodes]
        return norm.form != "decomposed" or norm.width is not None or "ReduceMean" in nodes

    def steps_of(self, norm: Norm) -> Iterator[int]:
        """The indices of the nodes inside a norm that work on its rows, up to the last division.

        Those that only count, from a shape, are walked like any other node.
        """
        rows = {norm.input}
        indices = set(norm.nodes if norm.form == "decomposed" else ())
        for index in (i for i in self._sorted if i in indices):
            node = self._nodes[index]
            if norm.normalised in node.output:
                return
            if node.op_type not in _COUNTS and rows.intersection(node.input):
                rows.update(node.output)
                yield index

    def casts_of(self, norm: Norm) -> list[NodeProto]:
        """The casts inside a norm up to its last division, and those by which it reads its input.

        Some of its nodes may read the input itself, and some what a cast makes of it.
        """
        views: dict[str, list[NodeProto]] = {norm.input: []}
        name, passed = norm.input, list[NodeProto]()
        while (maker := self._makers.get(name)) is not None and maker.op_type in SEE_THROUGH:
            passed.append(maker)
            name = maker.input[0]
            views[name] = list(passed)
        found: list[NodeProto] = []
        ends = {norm.normalised, *(one.output for one in norm.deferred)}
        for index in (i for i in self._sorted if i in norm.nodes):
            node = self._nodes[index]
            found += [node, *(n for name in node.input for n in self._back(name, views))]
            views.update((name, []) for name in node.output)
            ends.difference_update(node.output)
            if not ends:
                break
        return [node for node in found if node.op_type in _CASTS]

    def roots_of(self, norm: Norm) -> set[str]:
        """The roots inside a norm of what its epsilon was added to."""
        place = norm.epsilon_place
        if place is None or self._nodes[place.node].op_type != "Add":
            return set()
        (added,) = self._nodes[place.node].output
        inside = (self._nodes[index] for index in norm.nodes)
        return {n.output[0] for n in inside if n.op_type == "Sqrt" and n.input[0] == added}

    def _back(self, name: str, views: Mapping[str, Sequence[NodeProto]]) -> list[NodeProto]:
        """The nodes between a tensor and the view of a norm's input that it is made of."""
        passed: list[NodeProto] = []
        while name not in views:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in SEE_THROUGH:
                return []
            passed.append(maker)
            name = maker.input[0]
        return [*passed, *views[name]]

    def _inner_outputs(self, norm: Norm) -> Iterator[str]:
        for index in self.steps_of(norm):
            yield from (name for name in self._nodes[index].output if name)

    def _needed(self, order: Sequence[int]) -> list[int]:
        ends = {*self.norm_at, *self.others, *self.after, *self._results, *self.weights}
        kept: list[int] = []
        for index in reversed(order):
            node = self._nodes[index]
            if ends.intersection(node.output):
                ends.update(self._reads[index])
                kept.append(index)
        return kept[::-1]

    def _elements_only(self) -> set[str]:
        rows = {*self.others, *(norm.input for norm in self.norm_at.values()), *self.inside}
        rows |= self._results
        every: set[str] = set()
        for index in reversed(self.indices):
            node = self._nodes[index]
            every.update(node.output)
            read = rows.intersection(node.output) or self.norm_at.keys() & set(node.output)
            if read and node.op_type not in _NO_ROWS:
                rows.update(self._reads[index])
        return every - rows

    def last_reads(self) -> dict[int, list[str]]:
        """By the place of a node, the tensors that it, or its norm, is the last to read."""
        last: dict[str, int] = {}
        for at, index in enumerate(self.indices):
            node = self._nodes[index]
            norms = [self.norm_at[name] for name in node.output if name in self.norm_at]
            counts = [
                name for norm in norms for i in self.steps_of(norm) for name in self._reads[i]
            ]
            inputs = [norm.input for norm in norms]
            last.update(dict.fromkeys((*self._reads[index], *inputs, *counts), at))
        ends: dict[int, list[str]] = {}
        for name, at in last.items():
            if not (name in self.others or name in self._results or name in self.weights):
                ends.setdefault(at, []).append(name)
        return ends

    def told_widths(self, constant: Callable[[str], Constant | None]) -> dict[str, int]:
        """The last sizes of tensors that products with matrices of the file ask for.

        With another size a runtime refuses the product, so that there is no row at all.

        Args:
            constant: Gives a tensor whose numbers the file holds; None for any other.
        """
        told: dict[str, int] = {}
        for index in self.indices:
            node = self._nodes[index]
            product = node.op_type == "MatMul" and len(node.input) == 2
            known = constant(node.input[1]) if product else None
            if known is not None and len(known.dims) == 2:
                told[node.input[0]] = known.dims[0]
        return told
