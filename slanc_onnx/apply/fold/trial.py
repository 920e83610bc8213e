"""Trial: what exponents of groups cost, kept up to date as single groups take other ones.

A change is as much work as what it reaches: the blocks that read or make tensors of the group, and
the reads of those tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from slanc_onnx.apply.fold.blocks import Block, slots
from slanc_onnx.apply.fold.groups import Partition
from slanc_onnx.apply.fold.settle import NOTHING, Asked, Settled
from slanc_onnx.apply.fold.solve import Solved, Solver, mismatches_of, refused, solve
from slanc_onnx.graph import Tensor, Use
from slanc_onnx.reasons import Reason


class Trial:
    """Exponents of groups that norms follow, and their cost.

    Attributes:
        solver: The solver of the model.
        parts: The groups.
        groups: The exponent of each group.
        overflow: As in `Solved`.
        nodes: As in `Solved`.
    """

    def __init__(
        self, solver: Solver, parts: Partition, groups: Sequence[int], alone: Mapping[str, int]
    ) -> None:
        """Start from exponents.

        Args:
            solver: The solver of the model.
            parts: The groups.
            groups: The exponent of each group.
            alone: The exponents of norms that belong to no group, by norm name.
        """
        self.groups = list(groups)
        self.overflow = sum(solver.least.values())
        self.nodes = 0
        self.solver, self.parts = solver, parts
        self._norms = {
            s.norm.name: alone[s.norm.name] if s.group is None else self.groups[s.group]
            for s in parts.sites
        }
        self._asked = Asked(parts, self.groups, self._norms)
        self._slots = [slots(parts, block) for block in solver.blocks]
        self._reached = self._blocks_of_groups(solver.blocks)
        self._settled: dict[int, Settled] = {}  # by block, those with an exponent other than 0
        self._produced: dict[Tensor, int] = {}
        self._needed: dict[Use, int] = {}
        self._cuts: dict[Tensor, int] = {}  # nodes at a tensor
        self._settle(range(len(solver.blocks)))

    def _blocks_of_groups(self, blocks: Sequence[Block]) -> list[list[int]]:
        found: list[dict[int, None]] = [{} for _ in self.groups]
        for number, block in enumerate(blocks):
            for group in self._slots[number]:
                found[group][number] = None
            for site in (self.parts.sites[i] for i in block.sites):
                if site.group is not None:
                    found[site.group][number] = None
        self._sites: list[list[str]] = [[] for _ in self.groups]
        for site in self.parts.sites:
            if site.group is not None:
                self._sites[site.group].append(site.norm.name)
        return [list(numbers) for numbers in found]

    def solved(self, norms: Mapping[str, int]) -> Solved:
        """The divisors that follow where norms have exponents of their own, by norm name."""
        asked = Asked(self.parts, self.groups, norms)
        return solve(self.solver, asked, self._slots)

    @property
    def cost(self) -> tuple[int, int]:
        """Bits by which tensors leave the format, then nodes inserted."""
        return self.overflow, self.nodes

    @property
    def failed(self) -> list[int]:
        """Positions of the relations that no weight could satisfy."""
        return sorted(index for settled in self._settled.values() for index in settled.failed)

    @property
    def refused(self) -> dict[Tensor, Reason]:
        """Weights that a relation asked to divide, and why they are not divided."""
        return refused(self._settled.values())

    def move(self, group: int, exponent: int) -> None:
        """Give a group another exponent."""
        if self.groups[group] != exponent:
            self.groups[group] = exponent
            self._norms.update(dict.fromkeys(self._sites[group], exponent))
            self._settle(self._reached[group])

    def restore(self, groups: Sequence[int]) -> None:
        """Give all groups the exponents that they had before."""
        for group, (now, then) in enumerate(zip(self.groups, groups, strict=True)):
            if now != then:
                self.move(group, then)

    def _settle(self, numbers: Iterable[int]) -> None:
        touched: dict[Tensor, None] = {}
        for number in numbers:
            block = self.solver.blocks[number]
            new = self.solver.settled(block, self._slots[number], self._asked)
            old = self._settled.get(number, NOTHING)
            if new is old:
                continue
            self.nodes += new.nodes - old.nodes
            self._needed_by(old, new, touched)
            self._produced_by(old, new, touched)
            if new is NOTHING:
                del self._settled[number]
            else:
                self._settled[number] = new
        flow = self.parts.flow
        for tensor in touched:
            count = len(mismatches_of(flow, tensor, self._produced, self._needed))
            self.nodes += count - self._cuts.get(tensor, 0)
            self._cuts[tensor] = count

    def _needed_by(self, old: Settled, new: Settled, touched: dict[Tensor, None]) -> None:
        """Take over what a block needs, and note the tensors of reads that change."""
        reads = self.parts.flow.reads
        for use in old.needed.keys() - new.needed.keys():
            touched[reads[use]] = None
            del self._needed[use]
        for use, exponent in new.needed.items():
            if old.needed.get(use, 0) != exponent:
                touched[reads[use]] = None
                self._needed[use] = exponent

    def _produced_by(self, old: Settled, new: Settled, touched: dict[Tensor, None]) -> None:
        """Take over what a block makes, and note the tensors that change."""
        least = self.solver.least
        for tensor in old.produced.keys() | new.produced.keys():
            before, after = old.produced.get(tensor, 0), new.produced.get(tensor, 0)
            if before != after:
                touched[tensor] = None
                self._produced[tensor] = after
                if tensor in least:
                    bits = least[tensor]
                    self.overflow += max(bits - after, 0) - max(bits - before, 0)
