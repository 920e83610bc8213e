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
from slanc_onnx.apply.fold.push import push, pushed
from slanc_onnx.apply.fold.solve import Solved, Solver, solver_of
from slanc_onnx.apply.fold.trial import Trial
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Flow
from slanc_onnx.norms import Norm


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

    @functools.cached_property
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
    uncut = partition(flow, norms)
    solver = solver_of(uncut, weights, least_exponents(uncut, windows))
    best = _chosen(solver, uncut, windows)
    while True:
        tried = [
            _chosen(solver, parted(best.parts, border), windows, best)
            for border in promising(best.parts, windows)
        ]
        better = min(tried, key=lambda c: c.cost, default=best)
        if better.cost[:2] >= best.cost[:2]:
            return best
        best = better


def _chosen(
    solver: Solver,
    parts: Partition,
    windows: Mapping[str, Window],
    known: Exponents | None = None,
) -> Exponents:
    """The best exponents of groups; those whose norms are a group of `known` keep its exponent."""
    by_group = _norms_by_group(parts)
    settled = {} if known is None else _settled(known)
    todo = {g: names for g, names in by_group.items() if tuple(names) not in settled}
    groups = [0] * len(parts.sizes)
    for group, names in by_group.items():
        groups[group] = settled.get(tuple(names), 0)
    free = [group not in by_group for group in range(len(groups))]
    alone = {s.norm.name: windows[s.norm.name].best for s in parts.sites}
    trial = Trial(solver, parts, groups, alone)
    for _ in range(2):  # groups that share weights see each other's exponents the second time
        before = list(trial.groups)
        for group, names in todo.items():
            asked = [windows[name] for name in names]
            wanted = [w.best for w in asked if w is not ANY]
            if not wanted:
                continue
            middle = statistics.median_low(wanted) or 1
            overhead = _overhead(trial, free, group, middle)
            trial.move(group, choose(asked, overhead).exponent)
        if trial.groups == before:
            break
    push(trial, free)
    exponents = _of_norms(parts, windows, trial.groups)
    return Exponents(parts, tuple(trial.groups), exponents, trial.solved(exponents))


def _overhead(trial: Trial, free: Sequence[bool], group: int, middle: int) -> Callable[[int], int]:
    """The nodes that an exponent inserts at the ends of a group, as a function of the exponent.

    It is constant unless some weights stay exact for a few exponents only.

    Args:
        trial: The exponents of all other groups.
        free: Whether a group has no norms.
        group: The group.
        middle: An exponent that its norms ask for.
    """
    none, _ = pushed(trial, free, group, 0)
    usual, loses_bits = pushed(trial, free, group, middle)
    if loses_bits:
        return functools.cache(lambda exponent: pushed(trial, free, group, exponent)[0] - none)
    return lambda exponent: usual - none


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


def _norms_by_group(parts: Partition) -> dict[int, list[str]]:
    """The names of the norms of each group that has any."""
    names: dict[int, list[str]] = {}
    for site in parts.sites:
        if site.group is not None:
            names.setdefault(site.group, []).append(site.norm.name)
    return names


def _settled(known: Exponents) -> dict[tuple[str, ...], int]:
    """The exponents of groups, by the names of their norms."""
    by_group = _norms_by_group(known.parts)
    return {tuple(names): known.groups[group] for group, names in by_group.items()}
