"""Find every norm of a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Scope, op_of
from slanc_onnx.norms.decomposed import decomposed_norm
from slanc_onnx.norms.fused import fused_norms
from slanc_onnx.norms.norm import Norm
from slanc_onnx.norms.row_axes import RowAxes
from slanc_onnx.norms.spellings import reduced_axes


def find_norms_in(scopes: Sequence[Scope]) -> list[Norm]:
    """Every norm of some scopes, in topological order; a subgraph's follow the node that has it."""
    by_path = {scope.path: scope for scope in scopes}

    def of(scope: Scope) -> list[Norm]:
        found: list[Norm] = []
        claimed: set[int] = set()
        for node in scope.sorted_nodes:
            norms = fused_norms(scope, node)
            if not norms and scope.index[id(node)] not in claimed:
                norms = [n for n in [decomposed_norm(scope, node)] if n is not None]
            found += norms
            claimed.update(index for norm in norms for index in norm.nodes)
            for attribute, value in node.attrs.items():
                if isinstance(value, gs.Graph):
                    found += of(by_path[(*scope.path, (scope.index[id(node)], attribute))])
        return found

    return _unique_names(of(by_path[()]))


def unmatched_means(scopes: Sequence[Scope], norms: Sequence[Norm]) -> list[str]:
    """Names of the means over a last axis that belong to no norm.

    A norm may hide there: an optimiser or a quantiser can leave it in a spelling without pattern.
    """
    claimed = {(norm.path, index) for norm in norms for index in norm.nodes}
    return [
        node.name or node.outputs[0].name
        for scope in scopes
        for node in scope.graph.nodes
        if op_of(node) == "ReduceMean"
        and node.outputs
        and (scope.path, scope.index[id(node)]) not in claimed
        and _may_be_over_rows(scope, node)
    ]


def _may_be_over_rows(scope: Scope, node: gs.Node) -> bool:
    axes = reduced_axes(scope, node)
    return axes == RowAxes() or (axes is None and node.inputs[0].shape is None)


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
