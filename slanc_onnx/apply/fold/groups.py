"""Scale groups: the tensors that have to be divided together.

Tensors that are added or rearranged into each other form a group: if one is stored as t / 2^k, all
are. Other nodes tie the exponents of several groups together (`ops/relations.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from slanc_onnx.graph import Flow, GraphPath, Tensor, Use
from slanc_onnx.norms import Norm
from slanc_onnx.ops import FUSED, Relation, relation

# A tensor in a graph: as its node makes it, or (True, at a cut) as its readers read it.
_Vertex = tuple[Tensor, GraphPath, bool]


@dataclass(frozen=True)
class Site:
    """A norm in its group.

    Attributes:
        norm: The norm.
        uses: Its reads of runtime tensors.
        addends: Its reads of constants, which a Skip op adds before it normalises.
        residual: The output with the sum of a Skip op, where something reads it.
        group: The group of all its inputs; None where they lie in several, or it has none.
    """

    norm: Norm
    uses: tuple[Use, ...]
    addends: tuple[Use, ...]
    residual: Tensor | None
    group: int | None


@dataclass(frozen=True, eq=False)
class Partition:
    """The groups of a model, numbered from 0.

    Attributes:
        flow: Its tensors.
        relations: How nodes tie exponents, in topological order.
        made: The tensors that each relation's node makes.
        sites: The norms that can be scaled.
        of_use: The group of an input as a relation or a norm reads it.
        of_output: The group of a tensor as its node makes it.
        sizes: Tensors per group.
        cuts: Tensors behind which another group begins.
    """

    flow: Flow
    relations: tuple[Relation, ...]
    made: tuple[tuple[Tensor, ...], ...]
    sites: tuple[Site, ...]
    of_use: dict[Use, int]
    of_output: dict[Tensor, int]
    sizes: tuple[int, ...]
    cuts: frozenset[Tensor]


def partition(
    flow: Flow, norms: Sequence[Norm], cuts: Collection[Tensor] = frozenset()
) -> Partition:
    """The groups of a model.

    Args:
        flow: Its tensors.
        norms: The norms whose input may have any exponent, because epsilon follows it.
        cuts: Tensors behind which another group may begin, at the price of one node.
    """
    relations, sites = _relations(flow, norms)
    joins = _Joins(flow, cuts)
    for tie in relations:
        joins.relation(tie)
    for site in sites:
        joins.site(site)
    of_use, of_output, sizes = joins.numbered()
    placed = []
    for site in sites:
        groups = {of_use[use] for use in site.uses}
        group = groups.pop() if len(groups) == 1 else None
        placed.append(Site(site.norm, site.uses, site.addends, site.residual, group))
    made = tuple(tuple(outputs(flow, tie)) for tie in relations)
    return Partition(
        flow, tuple(relations), made, tuple(placed), of_use, of_output, sizes, frozenset(cuts)
    )


class _Joins:
    """Sets of vertices that relations and norms join, as trees; each tree is a group."""

    def __init__(self, flow: Flow, cuts: Collection[Tensor]) -> None:
        self._flow, self._cuts = flow, cuts
        self._parents: dict[_Vertex, _Vertex] = {}
        self._reads: dict[Use, _Vertex] = {}
        self._made: dict[Tensor, _Vertex] = {}

    def relation(self, tie: Relation) -> None:
        """Add the tensors that a node reads and makes; a join puts them into one group."""
        vertices = [self._read(tie.use(position)) for position in tie.terms]
        if tie.kind != "absorb":
            vertices += [self._make(tensor) for tensor in outputs(self._flow, tie)]
        if tie.kind == "join":
            self._join(vertices)

    def site(self, site: Site) -> None:
        """Add the tensors that a norm reads, and the sum that a Skip op gives out, in one group."""
        vertices = [self._read(use) for use in site.uses]
        if site.residual is not None:
            vertices.append(self._make(site.residual))
        if site.norm.residual is not None:
            self._join(vertices)

    def numbered(self) -> tuple[dict[Use, int], dict[Tensor, int], tuple[int, ...]]:
        """The group numbers of reads and of made tensors, and the number of tensors per group."""
        numbers: dict[_Vertex, int] = {}
        for vertex in (*self._reads.values(), *self._made.values()):
            numbers.setdefault(self._root(vertex), len(numbers))
        sizes = [0] * len(numbers)
        for vertex in self._parents:
            sizes[numbers[self._root(vertex)]] += 1
        of_use = {use: numbers[self._root(vertex)] for use, vertex in self._reads.items()}
        of_output = {made: numbers[self._root(vertex)] for made, vertex in self._made.items()}
        return of_use, of_output, tuple(sizes)

    def _read(self, use: Use) -> _Vertex:
        tensor = self._flow.read(use)
        assert tensor is not None
        vertex = self._reads[use] = (tensor, use.path, tensor in self._cuts)
        self._parents.setdefault(vertex, vertex)
        return vertex

    def _make(self, tensor: Tensor) -> _Vertex:
        vertex = self._made[tensor] = (tensor, tensor.path, False)
        self._parents.setdefault(vertex, vertex)
        return vertex

    def _join(self, vertices: Sequence[_Vertex]) -> None:
        for vertex in vertices:
            self._parents[self._root(vertex)] = self._root(vertices[0])

    def _root(self, vertex: _Vertex) -> _Vertex:
        parents = self._parents
        while parents[vertex] != vertex:
            parents[vertex] = parents[parents[vertex]]
            vertex = parents[vertex]
        return vertex


def outputs(flow: Flow, tie: Relation) -> list[Tensor]:
    """The tensors that a relation's node makes."""
    names = flow.node(tie.path, tie.node).output
    return [Tensor(tie.path, names[p]) for p in tie.outputs if names[p]]


def _relations(flow: Flow, norms: Sequence[Norm]) -> tuple[list[Relation], list[Site]]:
    inside = {(norm.path, index) for norm in norms for index in norm.nodes}
    ends = {(norm.path, norm.nodes[-1]): norm for norm in norms}
    ties = []
    for path, index in flow.order:
        norm = ends.get((path, index))
        found = norm_relation(norm) if norm is not None else None
        if norm is None and (path, index) not in inside:
            found = relation(flow, path, index)
        if found is not None:
            ties.append(found)
    return ties, [_site(flow, norm) for norm in norms]


def _site(flow: Flow, norm: Norm) -> Site:
    runtime: list[Use] = []
    constant: list[Use] = []
    for place in sorted(set(norm.places)):
        use = Use(norm.path, place.node, place.position)
        (constant if flow.read(use) in flow.constants else runtime).append(use)
    residual = None
    if norm.residual is not None and norm.form in FUSED:
        names = flow.node(norm.path, norm.nodes[-1]).output
        name = names[norm.residual] if norm.residual < len(names) else ""
        tensor = Tensor(norm.path, name)
        if name and (tensor in flow.uses or tensor in flow.pinned):
            residual = tensor
    return Site(norm, tuple(runtime), tuple(constant), residual, None)


def norm_relation(norm: Norm) -> Relation | None:
    """The relation of a fused norm's output, a product with gamma plus beta; None for others."""
    form = FUSED.get(norm.form)
    if form is None or norm.silu or norm.form == "decomposed":
        return None
    beta = (form.beta,) if norm.beta is not None else ()
    return Relation("product", norm.path, norm.nodes[-1], (), (0,), (form.gamma,), (), beta)
