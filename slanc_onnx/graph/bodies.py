"""Where values cross the border between a graph and the bodies of its If, Loop and Scan nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_graphsurgeon as gs

from slanc_onnx.graph.scope import Scope, op_of

# The first input that a body is given in order, and how many of its outputs stay inside.
_CARRIED = {"Loop": (2, 1), "Scan": (0, 0), "If": (None, 0)}


class Bodies:
    """The graphs of a model, as values pass between them."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._by_path = {scope.path: scope for scope in scopes}
        self._owners = {id(node): scope for scope in scopes for node in scope.graph.nodes}
        self._ends: dict[int, list[gs.Tensor]] = {}
        for scope in scopes:
            for tensor, outside in _results(scope):
                self._ends.setdefault(id(tensor), []).append(outside)

    def owner(self, node: gs.Node) -> Scope | None:
        """The graph that holds a node; None for one of another model."""
        return self._owners.get(id(node))

    def body(self, scope: Scope, node: gs.Node, attribute: str) -> Scope | None:
        """The graph in an attribute of a node; None for one that is told twice."""
        return self._by_path.get((*scope.path, (scope.index[id(node)], attribute)))

    def across(self, tensor: gs.Tensor) -> Iterator[gs.Tensor]:
        """The tensors of other graphs that have its value: what a body gets, and what it gives."""
        yield from self._ends.get(id(tensor), ())
        for node in tensor.outputs:
            first, _ = _CARRIED.get(op_of(node), (None, 0))
            scope = self._owners.get(id(node))
            if first is None or scope is None:
                continue
            body = self.body(scope, node, "body")
            for position, given in enumerate(node.inputs):
                if body is not None and given is tensor and position >= first:
                    yield from body.graph.inputs[position : position + 1]


def _results(scope: Scope) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """The outputs of a body, each with that of its node."""
    if scope.parent is None:
        return
    place, _ = scope.path[-1]
    node = scope.parent.graph.nodes[place]
    if op_of(node) in _CARRIED:
        kept = _CARRIED[op_of(node)][1]
        yield from zip(scope.graph.outputs[kept:], node.outputs, strict=False)
