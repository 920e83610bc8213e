"""Choose the exponent of every group, and the borders at which a stream is cut in two."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from slanc_onnx.apply.fold.along import ways_of
from slanc_onnx.apply.fold.balance import balance
from slanc_onnx.apply.fold.borders import promising
from slanc_onnx.apply.fold.bounds import NO_BOUNDS, Bounds, bounds_of, ends
from slanc_onnx.apply.fold.group_scale import ANY, FARTHEST, Window, choose
from slanc_onnx.apply.fold.groups import Partition, Site, added, parted, partition
from slanc_onnx.apply.fold.least import least_exponents
from slanc_onnx.apply.fold.push import push, pushed
from slanc_onnx.apply.fold.raising import raise_groups
from slanc_onnx.apply.fold.solve import Solved, Solver, solver_of
from slanc_onnx.apply.fold.trial import Trial
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.estimate import TensorRange
from slanc_onnx.graph import Flow, Tensor
from slanc_onnx.norms import Norm

_TRIES = 3  # to leave alone the weights that fade where they are divided


@dataclass(frozen=True)
class Exponents:
    """The exponents that were chosen for groups and norms, and the divisors that follow.

    Attributes:
        parts: The groups.
        groups: The exponent of each group.
        norms: The exponent of each norm's input, by norm name.
        solved: The divisors of tensors and weights.
        bounds: The bounds of tensors in the type to be written.
        unbalanced: The divisors of weights before they were balanced for that type.
    """

    parts: Partition
    groups: tuple[int, ...]
    norms: dict[str, int]
    solved: Solved
    bounds: Bounds = NO_BOUNDS
    unbalanced: Mapping[Tensor, int] = field(default_factory=dict)

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
    flow: Flow,
    norms: Sequence[Norm],
    windows: Mapping[str, Window],
    weights: Weights,
    ranges: Mapping[Tensor, TensorRange] | None = None,
) -> Exponents:
    """The exponents that keep tensors in the format, with the fewest nodes that do.

    Among those, they serve the norms best.

    Args:
        flow: The model's tensors.
        norms: The norms that may be scaled.
        windows: The window of each norm, by norm name.
        weights: The model's weights.
        ranges: How large tensors were, where they have to fit the format in which weights are
            written.
    """
    if weights.written is None:
        return _exponents(flow, norms, windows, weights, None)
    for _ in range(_TRIES):
        found = _exponents(flow, norms, windows, weights, ranges)
        only_added = added(found.parts)
        faded = {
            root
            for root, k in found.solved.divided.items()
            if not only_added.issuperset(weights.uses(root)) and weights.fades(root, k)
        }
        if faded <= weights.kept:
            break
        weights.kept.update(faded)
    return found


def _exponents(
    flow: Flow,
    norms: Sequence[Norm],
    windows: Mapping[str, Window],
    weights: Weights,
    ranges: Mapping[Tensor, TensorRange] | None,
) -> Exponents:
    uncut = partition(flow, norms)
    told = least_exponents(uncut, windows)
    bounds, raising = NO_BOUNDS, dict[Tensor, int]()
    if ranges is not None and weights.written is not None:
        bounds = bounds_of(uncut, weights, ranges, weights.written)
        raising = bounds.raising(uncut)
        told.update({tensor: max(k, told.get(tensor, k)) for tensor, k in raising.items()})
    solver = solver_of(uncut, weights, told)
    best = _with_borders(solver, uncut, windows, raising)
    return _fitted(best, solver, windows, bounds, raising) if bounds.ranges else best


def _fitted(
    best: Exponents,
    solver: Solver,
    windows: Mapping[str, Window],
    bounds: Bounds,
    raising: Mapping[Tensor, int],
) -> Exponents:
    """The exponents with groups without norms that fit the format to be written, and weights
    that lose the fewest elements to it."""
    parts = best.parts
    held = _norms_by_group(parts)
    floors = {g: k for g, k in ends(parts, raising, upper=False).items() if g not in held}
    trial = _trial(solver, parts, windows, best.groups)
    ways = ways_of(parts, solver.weights)
    raise_groups(trial, ways, floors, ends(parts, bounds.most, upper=True))
    push(trial, _free(parts))
    unbalanced = trial.solved(best.norms).divided
    balance(trial, ways, bounds)
    solved = trial.solved(best.norms)
    return Exponents(parts, tuple(trial.groups), best.norms, solved, bounds, unbalanced)


def _with_borders(
    solver: Solver,
    uncut: Partition,
    windows: Mapping[str, Window],
    raising: Mapping[Tensor, int],
) -> Exponents:
    """The best exponents with as many borders as save nodes."""
    best = _chosen(solver, uncut, windows, raising)
    while True:
        tried = [
            _chosen(solver, parted(best.parts, border), windows, raising, best)
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
    raising: Mapping[Tensor, int],
    known: Exponents | None = None,
) -> Exponents:
    """The best exponents of groups; those whose norms are a group of `known` keep its exponent."""
    by_group = _norms_by_group(parts)
    settled = {} if known is None else _settled(known)
    todo = {g: names for g, names in by_group.items() if tuple(names) not in settled}
    groups = [0] * len(parts.sizes)
    for group, names in by_group.items():
        groups[group] = settled.get(tuple(names), 0)
    free, floors = _free(parts), ends(parts, raising, upper=False)
    trial = _trial(solver, parts, windows, groups)
    for _ in range(2):  # groups that share weights see each other's exponents the second time
        before = list(trial.groups)
        for group, names in todo.items():
            asked = [windows[name] for name in names]
            wanted = [w.best for w in asked if w is not ANY]
            floor = floors.get(group, -FARTHEST)
            if not wanted:
                trial.move(group, max(floor, 0))
                continue
            middle = statistics.median_low(wanted) or 1
            overhead = _overhead(trial, free, group, middle)
            trial.move(group, choose(asked, overhead, floor).exponent)
        if trial.groups == before:
            break
    push(trial, free)
    exponents = _of_norms(parts, windows, trial.groups)
    return Exponents(parts, tuple(trial.groups), exponents, trial.solved(exponents))


def _trial(
    solver: Solver, parts: Partition, windows: Mapping[str, Window], groups: Sequence[int]
) -> Trial:
    alone = {s.norm.name: windows[s.norm.name].best for s in parts.sites}
    return Trial(solver, parts, groups, alone)


def _free(parts: Partition) -> list[bool]:
    """Whether a group has no norms."""
    held = {site.group for site in parts.sites}
    return [group not in held for group in range(len(parts.sizes))]


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
