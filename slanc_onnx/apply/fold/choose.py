"""Choose the exponent of every group, and the borders at which a stream is cut in two."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slanc_onnx.apply.fold.borders import promising
from slanc_onnx.apply.fold.group_scale import ANY, Window, choose
from slanc_onnx.apply.fold.groups import Partition, Site, parted, partition
from slanc_onnx.apply.fold.least import least_exponents
from slanc_onnx.apply.fold.solve import Solved, solve
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Flow, Tensor
from slanc_onnx.norms import Norm
from slanc_onnx.reasons import Undivided

PUSHES = 6  # groups without norms through which an exponent is handed on to a weight
_FARTHEST = 30  # exponent of a group without norms: two of them are 2^60 apart


@dataclass(frozen=True)
class Exponents:
    """The exponents that were chosen for groups and norms, and the divisors that follow.

    Attributes:
        parts: The groups.
        groups: The exponent of each group.
        norms: The exponent of each norm's input, by norm name.
        solved: The divisors of tensors and weights.
    """

    parts: Partition
    groups: tuple[int, ...]
    norms: dict[str, int]
    solved: Solved

    @property
    def applied(self) -> dict[str, str]:
        """By norm name, "fold" for a norm with its group's scale, else "div"."""
        return {s.norm.name: "fold" if self._is_folded(s) else "div" for s in self.parts.sites}

    def _is_folded(self, site: Site) -> bool:
        if not site.uses:  # a constant is all that it reads
            return not any(use in self.solved.cut for use in site.addends)
        return site.group is not None and self.groups[site.group] == self.norms[site.norm.name]

    @property
    def cost(self) -> tuple[int, int, int]:
        """Bits by which tensors leave the format, then nodes inserted, then bytes rewritten."""
        return self.solved.cost


def choose_exponents(
    flow: Flow, norms: Sequence[Norm], windows: Mapping[str, Window], weights: Weights
) -> Exponents:
    """The exponents that keep tensors in the format, with the fewest nodes that do.

    Among those, they serve the norms best.

    Args:
        flow: The model's tensors.
        norms: The norms that may be scaled.
        windows: The window of each norm, by norm name.
        weights: The model's weights.
    """
    whole = partition(flow, norms)
    least = least_exponents(whole, windows)
    best = _chosen(whole, windows, weights, least)
    while True:
        tried = [
            _chosen(parted(best.parts, border), windows, weights, least, best)
            for border in promising(best.parts, windows)
        ]
        better = min(tried, key=lambda c: c.cost, default=best)
        if better.cost[:2] >= best.cost[:2]:
            return best
        best = better


def _chosen(
    parts: Partition,
    windows: Mapping[str, Window],
    weights: Weights,
    least: Mapping[Tensor, int],
    known: Exponents | None = None,
) -> Exponents:
    """The best exponents of groups; those whose norms are a group of `known` keep its exponent."""
    by_group: dict[int, list[str]] = {}
    for site in parts.sites:
        if site.group is not None:
            by_group.setdefault(site.group, []).append(site.norm.name)
    groups = [0] * len(parts.sizes)
    free = [group not in by_group for group in range(len(groups))]
    settled = _settled(known) if known is not None else {}
    todo = {g: names for g, names in by_group.items() if tuple(names) not in settled}
    for group, names in by_group.items():
        groups[group] = settled.get(tuple(names), 0)

    def solved_at(exponents: Sequence[int]) -> Solved:
        """All norms follow their groups."""
        norms = {
            s.norm.name: exponents[s.group] if s.group is not None else windows[s.norm.name].best
            for s in parts.sites
        }
        return solve(parts, weights, exponents, norms, least)

    def tried(group: int, exponent: int) -> Solved:
        trial = [*groups[:group], exponent, *groups[group + 1 :]]
        return _pushed(parts, solved_at, trial, free)[1]

    def overhead(group: int, middle: int) -> Callable[[int], int]:
        """The nodes that an exponent inserts at the ends of a group, as a function of the exponent.

        It is constant unless some weights stay exact for a few exponents only.
        """
        none, usual = tried(group, 0).nodes, tried(group, middle)
        if any(why.kind is Undivided.LOSES_BITS for why in usual.refused.values()):
            return functools.cache(lambda exponent: tried(group, exponent).nodes - none)
        return lambda exponent: usual.nodes - none

    for _ in range(2):  # groups that share weights see each other's exponents the second time
        before = list(groups)
        for group, names in todo.items():
            asked = [windows[name] for name in names]
            wanted = [w.best for w in asked if w is not ANY]
            if not wanted:
                continue
            middle = statistics.median_low(wanted) or 1
            groups[group] = choose(asked, overhead(group, middle)).exponent
        if groups == before:
            break
    groups, _ = _pushed(parts, solved_at, groups, free)
    exponents = _of_norms(parts, windows, groups)
    solved = solve(parts, weights, groups, exponents, least)
    return Exponents(parts, tuple(groups), exponents, solved)


def _of_norms(
    parts: Partition, windows: Mapping[str, Window], groups: Sequence[int]
) -> dict[str, int]:
    """The exponent of each norm: its group's if that serves it, else its own."""
    exponents = {}
    for site in parts.sites:
        alone = windows[site.norm.name]
        here = alone.best if site.group is None else groups[site.group]
        exponents[site.norm.name] = here if here in alone else alone.best
    return exponents


def _settled(known: Exponents) -> dict[tuple[str, ...], int]:
    """The exponents of groups, by the names of their norms."""
    names: dict[int, list[str]] = {}
    for site in known.parts.sites:
        if site.group is not None:
            names.setdefault(site.group, []).append(site.norm.name)
    return {tuple(found): known.groups[group] for group, found in names.items()}


def _pushed(
    parts: Partition,
    solved_at: Callable[[Sequence[int]], Solved],
    groups: Sequence[int],
    free: Sequence[bool],
) -> tuple[list[int], Solved]:
    """Exponents with fewer nodes: a group without norms takes one that a weight can make up for.

    Args:
        parts: The groups.
        solved_at: Gives the divisors that follow from exponents of groups.
        groups: The exponents to start from.
        free: Whether a group has no norms.
    """
    best = list(groups)
    solved = solved_at(best)
    for _ in range(PUSHES):
        improved = False
        for index in solved.failed:
            tie = parts.relations[index]
            if tie.kind != "product":
                continue
            terms = [parts.of_use[tie.use(p)] for p in tie.terms]
            made = parts.made[index]
            if not made:
                continue
            output = parts.of_output[made[0]]
            total = sum(best[g] for g in terms)
            moves = [(output, total)] if free[output] else []
            moves += [(g, best[output] - total + best[g]) for g in terms if free[g]]
            for group, exponent in moves:
                if abs(exponent) > _FARTHEST:
                    continue
                trial = [*best[:group], exponent, *best[group + 1 :]]
                other = solved_at(trial)
                if other.cost[:2] < solved.cost[:2]:
                    best, solved, improved = trial, other, True
                    break
        if not improved:
            break
    return best, solved
