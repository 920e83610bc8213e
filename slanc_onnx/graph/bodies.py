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
        self._starts: dict[int, list[gs.Tensor]] = {}
        for scope in scopes:
            for tensor, other in (*_results(scope), *_given(scope)):
                self._ends.setdefault(id(tensor), []).append(other)
                self._starts.setdefault(id(other), []).append(tensor)

    def owner(self, node: gs.Node) -> Scope | None:
        """The graph that holds a node; None for one of another model."""
        return self._owners.get(id(node))

    def body(self, scope: Scope, node: gs.Node, attribute: str) -> Scope | None:
        """The graph in an attribute of a node; None for one that is told twice."""
        return self._by_path.get((*scope.path, (scope.index[id(node)], attribute)))

    def across(self, tensor: gs.Tensor) -> Sequence[gs.Tensor]:
        """The tensors of other graphs that have its value: what a body gets, and what it gives."""
        return self._ends.get(id(tensor), ())

    def behind(self, tensor: gs.Tensor) -> Sequence[gs.Tensor]:
        """The tensors of other graphs whose value it has; what a body gives to its next run too."""
        return self._starts.get(id(tensor), ())


def _node_of(scope: Scope) -> gs.Node | None:
    """The If, Loop or Scan of which a graph is the body."""
    if scope.parent is None:
        return None
    node = scope.parent.graph.nodes[scope.path[-1][0]]
    return node if op_of(node) in _CARRIED else None


def _results(scope: Scope) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """The outputs of a body, each with that of its node."""
    node = _node_of(scope)
    if node is not None:
        kept = _CARRIED[op_of(node)][1]
        yield from zip(scope.graph.outputs[kept:], node.outputs, strict=False)


def _given(scope: Scope) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """What a node gives its body, and the body its next run, each with the input of the body."""
    node = _node_of(scope)
    first, kept = _CARRIED[op_of(node)] if node is not None else (None, 0)
    if node is None or first is None:
        return
    yield from zip(node.inputs[first:], scope.graph.inputs[first:], strict=False)
    carried = len(node.inputs) - first - int(node.attrs.get("num_scan_inputs", 0))
    results = scope.graph.outputs[kept : kept + carried]
    yield from zip(results, scope.graph.inputs[first:], strict=False)
