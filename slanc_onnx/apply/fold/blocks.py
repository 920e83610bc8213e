"""Blocks: the relations that can be satisfied without a look at any other.

What a relation needs follows from the exponents of its groups, unless it reads a weight that others
read too. Relations and norms that share a weight form a block; most relations are one by
themselves. A block depends on no border, so that one list serves every partition.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from slanc_onnx.apply.fold.disjoint_sets import DisjointSets
from slanc_onnx.apply.fold.groups import Partition, Site
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Tensor, Use


@dataclass(frozen=True, eq=False)
class Block:
    """Relations and norms that share weights.

    Attributes:
        relations: Positions of relations in a partition, in topological order.
        sites: Positions of norms there.
    """

    relations: tuple[int, ...]
    sites: tuple[int, ...] = ()


def whole(parts: Partition) -> Block:
    """All relations and norms of a model as one block."""
    return Block(tuple(range(len(parts.relations))), tuple(range(len(parts.sites))))


def blocks(parts: Partition, weights: Weights) -> tuple[Block, ...]:
    """The blocks of a model, in the order of what comes first in them.

    Args:
        parts: The groups, of which only the relations and the norms count.
        weights: The model's weights.
    """
    ties, sites = parts.relations, parts.sites
    sets: DisjointSets[Hashable] = DisjointSets()
    for member, tie in enumerate(ties):
        read = (*parts.read[member], *(tie.use(p) for p in tie.constants))
        links = _links(weights, read, parts.made[member])
        sets.join([sets.add(member), *map(sets.add, links)])
    for member, site in enumerate(sites, start=len(ties)):
        links = _links(weights, (*site.uses, *site.addends), _made(site))
        sets.join([sets.add(member), *map(sets.add, links)])
    members: dict[Hashable, list[int]] = {}
    for member in range(len(ties) + len(sites)):
        members.setdefault(sets.root(member), []).append(member)
    return tuple(
        Block(
            tuple(m for m in found if m < len(ties)),
            tuple(m - len(ties) for m in found if m >= len(ties)),
        )
        for found in members.values()
    )


def _made(site: Site) -> tuple[Tensor, ...]:
    return () if site.residual is None else (site.residual,)


def _links(weights: Weights, read: tuple[Use, ...], made: tuple[Tensor, ...]) -> Iterator[Hashable]:
    """What a relation or a norm may share with others: reads, results and weights."""
    yield from made
    flow = weights.flow
    for use in read:
        yield use
        tensor = flow.read(use)
        if tensor is not None and tensor in flow.constants:
            yield tensor
            root = weights.root(tensor)
            if root is not None:
                yield root


def slots(parts: Partition, block: Block) -> tuple[int, ...]:
    """The group of each tensor that the relations of a block read or make, in a fixed order.

    A group stands there once per tensor, so that exponents in this order mean the same whatever
    borders there are.
    """
    found: list[int] = []
    for index in block.relations:
        found += [parts.of_use[use] for use in parts.read[index]]
        if parts.relations[index].kind != "absorb":
            found += [parts.of_output[tensor] for tensor in parts.made[index]]
    return tuple(found)
