"""Push: groups without norms take exponents that weights further on can make up for."""

from __future__ import annotations

from collections.abc import Sequence

from slanc_onnx.apply.fold.trial import Trial
from slanc_onnx.reasons import Undivided

# Reasons that some exponents give and others do not.
DEPEND = (Undivided.LOSES_BITS, Undivided.FADES)
PUSHES = 6  # groups without norms through which an exponent is handed on to a weight
_FARTHEST = 30  # exponent of a group without norms: two of them are 2^60 apart


def push(trial: Trial, free: Sequence[bool]) -> None:
    """Give groups without norms exponents with fewer nodes: ones that a weight can make up for.

    Args:
        trial: The exponents to start from, and afterwards those that were found.
        free: Whether a group has no norms.
    """
    for _ in range(PUSHES):
        improved = False
        for index in trial.failed:
            before = trial.cost
            for group, exponent in _moves(trial, free, index):
                kept = trial.groups[group]
                trial.move(group, exponent)
                if trial.cost < before:
                    improved = True
                    break
                trial.move(group, kept)
        if not improved:
            break


def pushed(trial: Trial, free: Sequence[bool], group: int, exponent: int) -> tuple[int, bool]:
    """What an exponent of a group costs; the trial itself stays as it is.

    Args:
        trial: The exponents of all groups.
        free: Whether a group has no norms.
        group: The group that takes another exponent.
        exponent: That exponent.

    Returns:
        The nodes, and whether a weight is not divided because that would lose bits.
    """
    before = list(trial.groups)
    trial.move(group, exponent)
    push(trial, free)
    nodes = trial.nodes
    loses_bits = any(why.kind in DEPEND for why in trial.refused.values())
    trial.restore(before)
    return nodes, loses_bits


def _moves(trial: Trial, free: Sequence[bool], index: int) -> list[tuple[int, int]]:
    """Exponents of groups with which what a product makes has the exponent of what it reads."""
    parts, groups = trial.parts, trial.groups
    tie, made = parts.relations[index], parts.made[index]
    if tie.kind != "product" or not made:
        return []
    terms = [parts.of_use[use] for use in parts.read[index]]
    output = parts.of_output[made[0]]
    missing = groups[output] - sum(groups[g] for g in terms)
    moves = [(output, groups[output] - missing)] if free[output] else []
    moves += [(g, groups[g] + missing) for g in terms if free[g]]
    return [(group, exponent) for group, exponent in moves if abs(exponent) <= _FARTHEST]
