"""Solve: from the exponents of groups and norms to the divisors of all tensors and weights.

Where no weight can make up for the difference between two groups, a node does, at a cut: behind the
product whose weight cannot, or in front of it where the product would leave the format. Each block
is settled once for the same exponents.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from slanc_onnx.apply.fold.blocks import Block, blocks, whole
from slanc_onnx.apply.fold.groups import Partition
from slanc_onnx.apply.fold.settle import NOTHING, Asked, Divisors, Settled, settle
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Flow, GraphPath, Tensor, Use
from slanc_onnx.reasons import Reason

_Key = tuple[Block, tuple[int, ...], tuple[int, ...]]  # a block, exponents of groups and of norms


@dataclass(frozen=True)
class Solved(Divisors):
    """All divisors of a model.

    Attributes:
        failed: Positions of the relations that no weight could satisfy.
        refused: Weights that a relation asked to divide, and why they are not divided.
        overflow: The bits, in sum, by which tensors in front of norms are taken to leave the format
            as their nodes make them.
    """

    failed: tuple[int, ...]
    refused: dict[Tensor, Reason]
    overflow: int

    @property
    def cost(self) -> tuple[int, int, int]:
        """Bits by which tensors leave the format, then nodes inserted, then bytes rewritten."""
        return self.overflow, self.nodes, self.bytes


@dataclass(frozen=True, eq=False)
class Solver:
    """What stays the same over all exponents and borders that are tried.

    Attributes:
        weights: The model's weights.
        least: The least exponents of the tensors that would leave the format undivided.
        blocks: The relations and norms, by what weights they share.
        known: Known results of `settled`.
    """

    weights: Weights
    least: Mapping[Tensor, int]
    blocks: tuple[Block, ...]
    known: dict[_Key, Settled] = field(default_factory=dict)

    def settled(self, block: Block, slots: Sequence[int], asked: Asked) -> Settled:
        """How a block meets the exponents, worked out once for those that it depends on.

        Args:
            block: The block.
            slots: The groups of what it reads and makes, as `blocks.slots` gives them.
            asked: The exponents of groups and norms.
        """
        groups, sites = asked.groups, asked.parts.sites
        here = tuple([groups[slot] for slot in slots])
        norms = tuple([asked.norms[sites[i].norm.name] for i in block.sites])
        if not any(here) and not any(norms):
            return NOTHING
        key = (block, here, norms)
        if key not in self.known:
            self.known[key] = settle(asked, self.weights, self.least, block)
        return self.known[key]


def solver_of(parts: Partition, weights: Weights, least: Mapping[Tensor, int]) -> Solver:
    """The solver of a model.

    Args:
        parts: The groups, of which only the relations and the norms count.
        weights: The model's weights.
        least: The least exponents of the tensors that would leave the format undivided.
    """
    return Solver(weights, least, blocks(parts, weights))


def solve(solver: Solver, asked: Asked, slots: Sequence[Sequence[int]]) -> Solved:
    """Satisfy all relations, by weights where possible and by nodes elsewhere.

    Args:
        solver: The solver of the model.
        asked: The exponents of groups and norms.
        slots: The groups on which each block depends.
    """
    parts = asked.parts
    found = [
        solver.settled(block, groups, asked)
        for block, groups in zip(solver.blocks, slots, strict=True)
    ]
    failed = {index: level for settled in found for index, level in settled.failed.items()}
    all_of_it = settle(asked, solver.weights, solver.least, whole(parts), failed)
    produced, needed = all_of_it.produced, all_of_it.needed
    return Solved(
        produced,
        needed,
        all_of_it.divided,
        all_of_it.copied,
        all_of_it.cut,
        all_of_it.nodes + len(mismatches(parts.flow, produced, needed)),
        all_of_it.bytes,
        tuple(sorted(failed)),
        refused(found),
        sum(max(bits - produced.get(t, 0), 0) for t, bits in solver.least.items()),
    )


def refused(found: Collection[Settled]) -> dict[Tensor, Reason]:
    """Weights that were not divided, and why, up to the last relation that failed each round.

    Args:
        found: All blocks that refused a weight or in which a relation failed.
    """
    why: dict[Tensor, Reason] = {}
    for number in range(max((len(settled.rounds) for settled in found), default=0)):
        rounds = [settled.rounds[min(number, len(settled.rounds) - 1)] for settled in found]
        last = max(r.failed for r in rounds)
        refusals = (refusal for r in rounds for refusal in r.refusals if refusal.relation <= last)
        for refusal in sorted(refusals, key=lambda refusal: refusal.relation):
            why[refusal.weight] = refusal.why
    return why


class Cut(NamedTuple):
    """A tensor, a graph that reads it, and the exponent that the reads need but it has not."""

    tensor: Tensor
    path: GraphPath
    exponent: int


def mismatches(
    flow: Flow, produced: Mapping[Tensor, int], needed: Mapping[Use, int]
) -> dict[Cut, list[Use]]:
    """The reads for which tensors have to be divided or multiplied; each key costs one node."""
    tensors = {t for t, e in produced.items() if e}
    tensors |= {t for use, e in needed.items() if e and (t := flow.read(use)) is not None}
    found: dict[Cut, list[Use]] = {}
    for tensor in sorted(tensors):
        found |= mismatches_of(flow, tensor, produced, needed)
    return found


def mismatches_of(
    flow: Flow, tensor: Tensor, produced: Mapping[Tensor, int], needed: Mapping[Use, int]
) -> dict[Cut, list[Use]]:
    """The reads for which one tensor has to be divided or multiplied; each key costs one node.

    A graph output, or a tensor that a subgraph reads, has to have exponent 0. Its node may have an
    empty list of reads.
    """
    found: dict[Cut, list[Use]] = {}
    made = produced.get(tensor, 0)
    for use in flow.uses.get(tensor, ()):
        wanted = needed.get(use, 0)
        if wanted != (made if use.path == tensor.path else 0):
            found.setdefault(Cut(tensor, use.path, wanted), []).append(use)
    if made and tensor in flow.pinned:
        found.setdefault(Cut(tensor, tensor.path, 0), [])
    return found
