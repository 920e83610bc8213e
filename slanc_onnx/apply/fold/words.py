"""The account of a fold, per scale group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slanc_onnx.apply.fold.choose import Exponents
from slanc_onnx.apply.fold.solve import mismatches
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Tensor, Use
from slanc_onnx.ops import Relation


@dataclass(frozen=True)
class FoldedGroup:
    """A scale group that holds norms.

    Attributes:
        sigma: The divisor of all its tensors.
        tensors: The number of its tensors.
        folded: The norms with this scale.
        divided: The norms that keep a Div, because this scale does not serve them.
        enters: The weights or nodes that divide the terms of the group.
        leaves: The weights or nodes that undo the division for readers other than norms.
    """

    sigma: float
    tensors: int
    folded: tuple[str, ...]
    divided: tuple[str, ...]
    enters: tuple[str, ...]
    leaves: tuple[str, ...]


def folded_groups(chosen: Exponents, weights: Weights) -> tuple[FoldedGroup, ...]:
    """The groups that hold norms, in the order of their first norm."""
    parts = chosen.parts
    order = dict.fromkeys(s.group for s in parts.sites if s.group is not None)
    enters: dict[int, list[str]] = {group: [] for group in order}
    leaves: dict[int, list[str]] = {group: [] for group in order}
    for tie, read, made in zip(parts.relations, parts.read, parts.made, strict=True):
        inside = parts.of_output[made[0]] if made and tie.kind != "absorb" else None
        if inside in enters and (tie.kind == "product" or tie.addends):
            enters[inside].append(_place(chosen, weights, tie))
        for group in (parts.of_use[use] for use in read):
            if group in leaves and tie.kind != "join" and group != inside:
                leaves[group].append(_place(chosen, weights, tie))
    norms = {u for site in parts.sites for u in site.uses}
    cuts = mismatches(parts.flow, chosen.solved.produced, chosen.solved.needed)
    for (tensor, path, _), uses in cuts.items():
        read_in = {parts.of_use[u] for u in uses if u in parts.of_use}
        source = parts.of_output.get(tensor) if tensor.path == path else None
        for group in read_in & enters.keys():
            if source != group and any(u not in norms for u in uses):
                enters[group].append(f"one node after {tensor.name}")
        if source in leaves and not any(u in norms for u in uses):
            leaves[source].append(f"one node after {tensor.name}")
    return tuple(
        FoldedGroup(
            2.0 ** chosen.groups[group],
            parts.sizes[group],
            tuple(_names(chosen, group, inside=True)),
            tuple(_names(chosen, group, inside=False)),
            tuple(enters[group]),
            tuple(leaves[group]),
        )
        for group in order
    )


def _names(chosen: Exponents, group: int, *, inside: bool) -> Iterator[str]:
    for site in chosen.parts.sites:
        same = chosen.norms[site.norm.name] == chosen.groups[group]
        if site.group == group and same == inside:
            yield site.norm.name


def _place(chosen: Exponents, weights: Weights, tie: Relation) -> str:
    """Words for the divided weights of a relation, or for its node where none is divided."""
    solved, flow = chosen.solved, chosen.parts.flow
    found = []
    for position in tie.constants:
        use = tie.use(position)
        tensor = flow.read(use)
        root = None if tensor is None else weights.root(tensor)
        if root in solved.divided and root is not None:
            found.append(_factor(root.name, solved.divided[root]))
        elif tensor is not None and (use in solved.copied or use in solved.cut):
            found.append(_copied(tensor, use, chosen))
    node = flow.node(tie.path, tie.node)
    return ", ".join(found) or f"{node.op_type} {node.name or node.output[0]}"


def _copied(tensor: Tensor, use: Use, chosen: Exponents) -> str:
    solved = chosen.solved
    if use in solved.copied:
        return f"a copy of {_factor(tensor.name, solved.copied[use])}"
    return f"one node: {_factor(tensor.name, solved.cut[use])}"


def _factor(name: str, exponent: int) -> str:
    return f"{name} / {2.0**exponent:g}" if exponent > 0 else f"{name} * {2.0**-exponent:g}"
