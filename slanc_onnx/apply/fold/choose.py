"""Choose the exponent of every group, and the tensors at which a stream is cut in two."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slanc_onnx.apply.fold.group_scale import ANY, Window, choose
from slanc_onnx.apply.fold.groups import Partition, Site, partition
from slanc_onnx.apply.fold.solve import Solved, solve
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Flow, Tensor
from slanc_onnx.norms import Norm
from slanc_onnx.reasons import Undivided

PUSHES = 6  # groups without norms through which an exponent is handed on to a weight
_FARTHEST = 30  # exponent of a group without norms: two of them are 2^60 apart
# Exponents of groups -> exponents of norms that all follow their groups.
_Following = Callable[[Sequence[int]], dict[str, int]]
TRIED_CUTS = 4  # the most promising tensors at which a stream may be cut


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
    def cost(self) -> tuple[int, int]:
        """Nodes inserted, then bytes rewritten."""
        return self.solved.cost


def choose_exponents(
    flow: Flow, norms: Sequence[Norm], windows: Mapping[str, Window], weights: Weights
) -> Exponents:
    """The exponents that insert the fewest nodes and, among those, serve the norms best.

    Args:
        flow: The model's tensors.
        norms: The norms that may be scaled.
        windows: The window of each norm, by norm name.
        weights: The model's weights.
    """
    best = _chosen(partition(flow, norms), windows, weights)
    while True:
        tried = [
            _chosen(partition(flow, norms, {*best.parts.cuts, tensor}), windows, weights, best)
            for tensor in _promising(best, windows)
        ]
        better = min(tried, key=lambda c: c.cost, default=best)
        if better.cost[0] >= best.cost[0]:
            return best
        best = better


def _chosen(
    parts: Partition,
    windows: Mapping[str, Window],
    weights: Weights,
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

    def following(exponents: Sequence[int]) -> dict[str, int]:
        return {
            s.norm.name: exponents[s.group] if s.group is not None else windows[s.norm.name].best
            for s in parts.sites
        }

    def tried(group: int, exponent: int) -> Solved:
        trial = [*groups[:group], exponent, *groups[group + 1 :]]
        return _pushed(parts, weights, trial, following, free)[1]

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
    groups, _ = _pushed(parts, weights, groups, following, free)
    exponents = {}
    for site in parts.sites:
        name = site.norm.name
        here = None if site.group is None else groups[site.group]
        served = here is not None and (here in windows[name])
        exponents[name] = here if served and here is not None else windows[name].best
    return Exponents(parts, tuple(groups), exponents, solve(parts, weights, groups, exponents))


def _settled(known: Exponents) -> dict[tuple[str, ...], int]:
    """The exponents of groups, by the names of their norms."""
    names: dict[int, list[str]] = {}
    for site in known.parts.sites:
        if site.group is not None:
            names.setdefault(site.group, []).append(site.norm.name)
    return {tuple(found): known.groups[group] for group, found in names.items()}


def _pushed(
    parts: Partition,
    weights: Weights,
    groups: Sequence[int],
    following: _Following,
    free: Sequence[bool],
) -> tuple[list[int], Solved]:
    """Exponents with fewer nodes: a group without norms takes one that a weight can make up for.

    Args:
        parts: The groups.
        weights: The model's weights.
        groups: The exponents to start from.
        following: Gives the exponents of norms that follow their groups.
        free: Whether a group has no norms.
    """
    best = list(groups)
    solved = solve(parts, weights, best, following(best))
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
                other = solve(parts, weights, trial, following(trial))
                if other.nodes < solved.nodes:
                    best, solved, improved = trial, other, True
                    break
        if not improved:
            break
    return best, solved


def _promising(chosen: Exponents, windows: Mapping[str, Window]) -> list[Tensor]:
    """Inputs of norms at which a cut may save more nodes than the one it costs, best first.

    Norms are in topological order: those before a cut come before it in the list.
    """
    parts = chosen.parts
    scored: list[tuple[int, Tensor]] = []
    for group in {s.group for s in parts.sites if s.group is not None}:
        sites = [s for s in parts.sites if s.group == group]
        asked = [windows[s.norm.name] for s in sites]
        whole = choose(asked, lambda _: 0)
        overhead = 1 if whole.exponent else 0
        now = whole.nodes + overhead
        if len(sites) < 2 or now < 2:
            continue
        for i, site in enumerate(sites):
            tensor = parts.flow.read(site.uses[0])
            if tensor is None or tensor in parts.cuts:
                continue
            for split in (i, i + 1):
                first, rest = asked[:split], asked[split:]
                cost = min(
                    choose(first, lambda _: 1).nodes + choose(rest, lambda _: 0).nodes + 1, now
                )  # the first part has the beginning of the stream
                if cost < now:
                    scored.append((cost, tensor))
    ranked = dict.fromkeys(tensor for _, tensor in sorted(scored))
    return list(ranked)[:TRIED_CUTS]
