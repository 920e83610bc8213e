"""Find every norm of a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Bodies, Scope, op_of
from slanc_onnx.norms.fused import fused_norms
from slanc_onnx.norms.norm import Norm
from slanc_onnx.norms.notes import APPLIED_KEY, notes_of
from slanc_onnx.norms.region_norms import region_norms
from slanc_onnx.norms.root_axes import axes_of
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.norms.suspects import Suspect


@dataclass(frozen=True)
class Found:
    """The norms of a model, and what looks like one and was not taken; in topological order."""

    norms: list[Norm]
    suspects: list[Suspect]


def find_norms_in(scopes: Sequence[Scope]) -> list[Norm]:
    """Every norm of some scopes, in topological order; a subgraph's follow the node that has it."""
    return find_in(scopes).norms


def find_in(scopes: Sequence[Scope]) -> Found:
    """The norms and the suspects of some scopes."""
    bodies = Bodies(scopes)

    def of(scope: Scope) -> list[Norm | Suspect]:
        found: list[tuple[int, Norm | Suspect]] = []
        claimed: set[int] = set()
        for place, node in enumerate(scope.sorted_nodes):
            norms = fused_norms(scope, node)
            found += [(place, norm) for norm in norms]
            claimed.update(index for norm in norms for index in norm.nodes)
            for attribute, value in node.attrs.items():
                body = bodies.body(scope, node, attribute) if isinstance(value, gs.Graph) else None
                if body is not None:
                    found += [(place, one) for one in of(body)]
        regions, suspects = region_norms(scope, claimed, bodies)
        claimed.update(i for _, norm in regions if not norm.by_ops for i in norm.nodes)
        taken = [p for p in regions if not p[1].by_ops or claimed.isdisjoint(p[1].nodes)]
        found += taken
        claimed.update(index for _, norm in taken for index in norm.nodes)
        found += [pair for pair in suspects if pair[1].node not in claimed]
        return [one for _, one in sorted(found, key=lambda pair: pair[0])]

    every = of(scopes[0])
    norms = [one for one in every if isinstance(one, Norm)]
    return Found(_unique_names(norms), [one for one in every if isinstance(one, Suspect)])


def unmatched_means(
    scopes: Sequence[Scope], norms: Sequence[Norm], suspects: Sequence[Suspect] = ()
) -> list[str]:
    """Names of the means over a last axis that belong to no norm and to no suspect.

    A norm may hide there: an optimiser or a quantiser can leave it in ops that nobody knows.
    """
    claimed = {(norm.path, index) for norm in norms for index in norm.nodes}
    claimed |= {(suspect.path, suspect.node) for suspect in suspects}
    return [
        node.name or node.outputs[0].name
        for scope in scopes
        for node in scope.graph.nodes
        if op_of(node) == "ReduceMean"
        and node.outputs
        and not _is_ours(scope, node)
        and (scope.path, scope.index[id(node)]) not in claimed
        and _may_be_over_rows(scope, node)
    ]


def _is_ours(scope: Scope, node: gs.Node) -> bool:
    """Whether an earlier run put a node in, to centre a stream."""
    return APPLIED_KEY in notes_of(scope.proto.node[scope.index[id(node)]])


def _may_be_over_rows(scope: Scope, node: gs.Node) -> bool:
    axes = axes_of(scope, node)
    rows = None if axes is None else axes.rows
    return rows == RowAxes() or (rows is None and node.inputs[0].shape is None)


def _unique_names(norms: list[Norm]) -> list[Norm]:
    seen: set[str] = set()
    result = []
    for norm in norms:
        numbered = (f"{norm.output}#{i}" for i in range(2, 10_000))
        candidates = itertools.chain((norm.name, norm.output), numbered)
        name = next(c for c in candidates if c and c not in seen)
        seen.add(name)
        result.append(replace(norm, name=name))
    return result
