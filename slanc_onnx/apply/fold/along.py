"""Along: which groups take another exponent together, so that no node is needed between them.

A product of runtime tensors has no weight that could make up for a difference: where one of its
groups moves, another has to. A weight takes what is left at the ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slanc_onnx.apply.fold.groups import Partition
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.ops import Relation

MOST_WAYS = 16  # that are tried of a move
MOST_GROUPS = 64  # that move together

Shifts = Mapping[int, int]  # by how much the exponents of groups grow


@dataclass(frozen=True)
class _Tie:
    """A product that no weight satisfies: sum of coefficient * exponent over its groups is 0."""

    coefficients: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Ways:
    """How the groups of a model may move.

    Attributes:
        movable: Whether a group may move: it holds no norm, and all that makes or reads its tensors
            takes another exponent.
        ties: The products without a weight that could be divided, by group.
    """

    movable: tuple[bool, ...]
    ties: Mapping[int, tuple[_Tie, ...]]

    def of(self, start: Shifts) -> Iterator[dict[int, int]]:
        """Moves that hold those shifts, and others with which all products are satisfied."""
        for number, found in enumerate(self._completed(dict(start)), 1):
            yield found
            if number == MOST_WAYS:
                return

    def _completed(self, shifts: dict[int, int]) -> Iterator[dict[int, int]]:
        tie = next((t for g in shifts for t in self.ties.get(g, ()) if _missing(t, shifts)), None)
        if tie is None:
            yield shifts
            return
        if len(shifts) == MOST_GROUPS:
            return
        missing = _missing(tie, shifts)
        for group, coefficient in tie.coefficients:
            if group in shifts or not self.movable[group] or missing % coefficient:
                continue
            yield from self._completed({**shifts, group: -missing // coefficient})


def _missing(tie: _Tie, shifts: Shifts) -> int:
    return sum(coefficient * shifts.get(group, 0) for group, coefficient in tie.coefficients)


def ways_of(parts: Partition, weights: Weights) -> Ways:
    """How the groups of a model may move.

    Args:
        parts: The groups.
        weights: The model's weights.
    """
    flow = parts.flow
    movable = [True] * len(parts.sizes)
    made = set(parts.of_output)
    for use, group in parts.of_use.items():
        tensor = flow.reads[use]
        if tensor not in made or tensor.path != use.path:
            movable[group] = False
    for tensor, group in parts.of_output.items():
        read = all(use in parts.of_use for use in flow.uses.get(tensor, ()))
        if not read or tensor in flow.pinned:
            movable[group] = False
    for site in parts.sites:
        for use in site.uses:
            movable[parts.of_use[use]] = False
    ties: dict[int, list[_Tie]] = {}
    for tie, read_by, outputs in zip(parts.relations, parts.read, parts.made, strict=True):
        if tie.kind != "product" or not outputs or _takes(parts, weights, tie):
            continue
        coefficients = {parts.of_output[outputs[0]]: 1}
        for use in read_by:
            group = parts.of_use[use]
            coefficients[group] = coefficients.get(group, 0) - 1
        found = _Tie(tuple((g, c) for g, c in coefficients.items() if c))
        for group, _ in found.coefficients:
            ties.setdefault(group, []).append(found)
    return Ways(tuple(movable), {group: tuple(found) for group, found in ties.items()})


def _takes(parts: Partition, weights: Weights, tie: Relation) -> bool:
    """Whether a product has a weight that may be divided, whatever else reads it."""
    place = next(iter((*tie.factors, *tie.divisors)), None)
    tensor = None if place is None else parts.flow.read(tie.use(place))
    if tensor is None:
        return False
    return weights.root(tensor) is not None or weights.is_vector(tensor)
