"""Raising: groups that would leave the format to be written take exponents with which they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slanc_onnx.apply.fold.along import Shifts, Ways
from slanc_onnx.apply.fold.trial import Trial

_ROUNDS = 4  # a group that moved for one may be asked for more by another


def raise_groups(
    trial: Trial, ways: Ways, floors: Mapping[int, int], most: Mapping[int, int]
) -> None:
    """Give groups without norms their least exponents, in the way that inserts the fewest nodes.

    Args:
        trial: The exponents to start from, and afterwards those that were found.
        ways: How groups may move.
        floors: The least exponents of groups that would leave the format with 0.
        most: The exponents above which ordinary elements of groups become subnormal.
    """
    for _ in range(_ROUNDS):
        before = trial.cost
        for group, floor in sorted(floors.items(), key=lambda each: (-each[1], each[0])):
            missing = floor - trial.groups[group]
            if missing > 0:
                alone = {group: missing}
                _take_best(trial, [*ways.of(alone), alone], most)
        if trial.cost >= before:
            return


def move(trial: Trial, shifts: Shifts, times: int = 1) -> None:
    """Let groups take other exponents."""
    for group, shift in shifts.items():
        trial.move(group, trial.groups[group] + times * shift)


def _take_best(trial: Trial, moves: Sequence[Shifts], most: Mapping[int, int]) -> None:
    """Make the move that costs least; none if it costs no less than to stay."""
    stays = trial.cost
    costs = []
    for shifts in moves:
        move(trial, shifts)
        groups = trial.groups
        faint = sum(max(groups[g] - most[g], 0) for g in shifts if g in most)
        costs.append((*trial.cost, faint))
        move(trial, shifts, -1)
    best = min(range(len(moves)), key=costs.__getitem__)
    if costs[best][:2] < stays:
        move(trial, moves[best])
