"""Scale groups: the tensors that have to be divided together.

Tensors that are added or rearranged into each other form a group: if one is stored as t / 2^k, all
are. Other nodes tie the exponents of several groups together (`ops/relations.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from slanc_onnx.apply.fold.disjoint_sets import DisjointSets
from slanc_onnx.graph import Flow, GraphPath, Tensor, Use
from slanc_onnx.norms import Norm
from slanc_onnx.ops import FUSED, Relation, relation

# The reads behind which a stream may go on in another group, at the price of a node.
Border = frozenset[Use]
# A tensor in a graph, as its readers behind so many borders read it; its node is behind none.
_Vertex = tuple[Tensor, GraphPath, int]


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
        read: The runtime inputs of each relation's node whose exponents count.
        made: The tensors that each relation's node makes.
        touched: The groups of what each relation reads and makes.
        sites: The norms that can be scaled.
        of_use: The group of an input as a relation or a norm reads it.
        of_output: The group of a tensor as its node makes it.
        sizes: Tensors per group.
        borders: The reads behind which another group begins, border by border.
    """

    flow: Flow
    relations: tuple[Relation, ...]
    read: tuple[tuple[Use, ...], ...]
    made: tuple[tuple[Tensor, ...], ...]
    touched: tuple[tuple[int, ...], ...]
    sites: tuple[Site, ...]
    of_use: dict[Use, int]
    of_output: dict[Tensor, int]
    sizes: tuple[int, ...]
    borders: tuple[Border, ...]


def partition(flow: Flow, norms: Sequence[Norm]) -> Partition:
    """The groups of a model.

    Args:
        flow: Its tensors.
        norms: The norms whose input may have any exponent, because epsilon follows it.
    """
    ties, sites = _relations(flow, norms)
    read = tuple(tuple([tie.use(p) for p in tie.terms]) for tie in ties)
    made = tuple(tuple(_outputs(flow, tie)) for tie in ties)
    return _grouped(Partition(flow, tuple(ties), read, made, (), tuple(sites), {}, {}, (), ()))


def parted(parts: Partition, border: Border) -> Partition:
    """The groups with one more border, which may have other numbers."""
    return _grouped(replace(parts, borders=(*parts.borders, border)))


def _grouped(parts: Partition) -> Partition:
    """The groups that follow from relations, norms and borders."""
    joins = _Joins(parts.flow, parts.borders)
    for tie, read, made in zip(parts.relations, parts.read, parts.made, strict=True):
        joins.relation(tie, read, made)
    for site in parts.sites:
        joins.site(site)
    of_use, of_output, sizes = joins.numbered()
    touched = []
    for tie, read, made in zip(parts.relations, parts.read, parts.made, strict=True):
        groups = dict.fromkeys([of_use[use] for use in read])
        if tie.kind != "absorb":
            groups.update(dict.fromkeys([of_output[tensor] for tensor in made]))
        touched.append(tuple(groups))
    placed = []
    for site in parts.sites:
        around = {of_use[use] for use in site.uses}
        placed.append(replace(site, group=around.pop() if len(around) == 1 else None))
    return replace(
        parts,
        touched=tuple(touched),
        sites=tuple(placed),
        of_use=of_use,
        of_output=of_output,
        sizes=sizes,
    )


class _Joins:
    """DisjointSets of vertices that relations and norms join; each set is a group."""

    def __init__(self, flow: Flow, borders: Sequence[Border]) -> None:
        self._flow = flow
        self._behind = Counter(use for border in borders for use in border)
        self._sets: DisjointSets[_Vertex] = DisjointSets()
        self._reads: dict[Use, _Vertex] = {}
        self._made: dict[Tensor, _Vertex] = {}

    def relation(self, tie: Relation, read: Sequence[Use], made: Sequence[Tensor]) -> None:
        """Add the tensors that a node reads and makes; a join puts them into one group."""
        vertices = [self._read(use) for use in read]
        if tie.kind != "absorb":
            vertices += [self._make(tensor) for tensor in made]
        if tie.kind == "join":
            self._sets.join(vertices)

    def site(self, site: Site) -> None:
        """Add the tensors that a norm reads, and the sum that a Skip op gives out, in one group."""
        vertices = [self._read(use) for use in site.uses]
        if site.residual is not None:
            vertices.append(self._make(site.residual))
        if site.norm.residual is not None:
            self._sets.join(vertices)

    def numbered(self) -> tuple[dict[Use, int], dict[Tensor, int], tuple[int, ...]]:
        """The group numbers of reads and of made tensors, and the number of tensors per group."""
        numbers: dict[_Vertex, int] = {}
        for vertex in (*self._reads.values(), *self._made.values()):
            numbers.setdefault(self._sets.root(vertex), len(numbers))
        sizes = [0] * len(numbers)
        for vertex in self._sets:
            sizes[numbers[self._sets.root(vertex)]] += 1
        of_use = {use: numbers[self._sets.root(vertex)] for use, vertex in self._reads.items()}
        of_output = {made: numbers[self._sets.root(vertex)] for made, vertex in self._made.items()}
        return of_use, of_output, tuple(sizes)

    def _read(self, use: Use) -> _Vertex:
        tensor = self._flow.read(use)
        assert tensor is not None
        vertex = self._reads[use] = (tensor, use.path, self._behind[use])
        return self._sets.add(vertex)

    def _make(self, tensor: Tensor) -> _Vertex:
        vertex = self._made[tensor] = (tensor, tensor.path, 0)
        return self._sets.add(vertex)


def added(parts: Partition) -> set[Use]:
    """The reads of constants that are added to what depends on the inputs.

    Rounded in a format that such a sum fits, they are off by no more than the sum.
    """
    sums = [tie for tie in parts.relations if tie.terms or tie.factors]
    return {tie.use(p) for tie in sums for p in tie.addends}


def _outputs(flow: Flow, tie: Relation) -> list[Tensor]:
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
