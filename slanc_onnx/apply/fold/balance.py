"""Balance: between two weights, the power of two with which the fewest elements lose bits.

What stands between a matrix and the next may be divided by any power of two that fits: one matrix
is divided by it and the other is multiplied. The type to be written holds small numbers with fewer
bits, and that decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from slanc_onnx.apply.fold.along import Shifts, Ways
from slanc_onnx.apply.fold.bounds import Bounds, ends
from slanc_onnx.apply.fold.raising import move
from slanc_onnx.apply.fold.trial import Trial
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Tensor

# Of so many elements a bit has to save more than one: it takes room from what is between.
WORTH = 1 << 11
_FARTHEST = 30  # by which a group is moved
_ROUNDS = 4  # a weight that changes makes another way worth while
_MOST_TRIED = 3  # exponents per way, the best first: a weight may not take one

# The exponent of each weight that a move divides otherwise, and by how much a step changes it.
_Changes = dict[Tensor, tuple[int, int]]


def balance(trial: Trial, ways: Ways, bounds: Bounds) -> None:
    """Move groups without norms so that the fewest elements of weights lose bits when written.

    No node is inserted for that, and no tensor moves beyond its bounds.

    Args:
        trial: The exponents to start from, and afterwards those that were found.
        ways: How groups may move.
        bounds: The bounds of tensors; a group of which nothing was seen stays.
    """
    parts = trial.parts
    low, high = ends(parts, bounds.least, upper=False), ends(parts, bounds.most, upper=True)
    touching: dict[int, list[int]] = {}
    for index, groups in enumerate(parts.touched):
        for group in groups:
            touching.setdefault(group, []).append(index)
    known = [
        (shifts, sorted({index for g in shifts for index in touching.get(g, ())}))
        for shifts in _directions(ways, low)
    ]
    for _ in range(_ROUNDS):
        before = list(trial.groups)
        failed = set(trial.failed)
        for shifts, relations in known:
            if failed.isdisjoint(relations):
                changes = _changes(trial, shifts, relations)
                steps = _steps(trial.groups, shifts, low, high)
                _take_first(trial, shifts, _worth(trial.solver.weights, changes, steps))
        if trial.groups == before:
            return


def _directions(ways: Ways, known: Mapping[int, int]) -> list[Shifts]:
    """The ways in which groups may move by a step, each once, if something is known of them."""
    found: dict[frozenset[tuple[int, int]], Shifts] = {}
    for start in known:
        for shifts in ways.of({start: 1}) if ways.movable[start] else ():
            if known.keys() >= shifts.keys():
                found.setdefault(frozenset(shifts.items()), shifts)
    return list(found.values())


def _take_first(trial: Trial, shifts: Shifts, steps: Sequence[int]) -> None:
    """Make the first of some moves that inserts no node."""
    before = trial.cost
    for step in steps:
        move(trial, shifts, step)
        if trial.cost <= before:
            return
        move(trial, shifts, -step)


def _steps(
    groups: list[int], shifts: Shifts, low: Mapping[int, int], high: Mapping[int, int]
) -> range:
    """How far a move may go; nowhere if it begins outside of the bounds."""
    first, last = -_FARTHEST, _FARTHEST
    for group, shift in shifts.items():
        down = low[group] - groups[group]
        up = high.get(group, groups[group] + _FARTHEST) - groups[group]
        if shift < 0:
            down, up = -up, -down
        size = abs(shift)
        first, last = max(first, -(-down // size)), min(last, up // size)
    return range(first, last + 1) if first <= 0 <= last else range(0)


def _changes(trial: Trial, shifts: Shifts, relations: Collection[int]) -> _Changes:
    """The weights that a move divides otherwise; nothing if it divides one in two ways."""
    weights = trial.solver.weights
    found: _Changes = {}
    for index in relations:
        for tensor, change in _demands(trial, index, shifts):
            root = weights.root(tensor)
            if root is None or not change[1] or weights.is_zero(root):
                continue
            if found.setdefault(root, change) != change:
                return {}
    return found


def _demands(trial: Trial, index: int, shifts: Shifts) -> list[tuple[Tensor, tuple[int, int]]]:
    """The constants of a relation, with the exponent that it asks of each and how that changes.

    What is added to a tensor loses no more than the tensor itself may.
    """
    parts, groups = trial.parts, trial.groups
    tie, made = parts.relations[index], parts.made[index]
    out = parts.of_output[made[0]] if made and tie.kind != "absorb" else None
    product = (0, 0) if out is None else (groups[out], shifts.get(out, 0))
    terms = [parts.of_use[use] for use in parts.read[index]]
    left = product[0] - sum(groups[g] for g in terms)
    change = product[1] - sum(shifts.get(g, 0) for g in terms)
    tables = () if tie.terms or tie.factors else tie.addends
    asked = dict.fromkeys(tables, product)
    place = next(iter((*tie.factors, *tie.divisors)), None)
    if place is not None and tie.kind != "join":
        sign = 1 if tie.factors else -1
        asked[place] = (sign * left, sign * change)
    read = ((parts.flow.read(tie.use(p)), demand) for p, demand in asked.items())
    return [(tensor, demand) for tensor, demand in read if tensor is not None]


def _worth(weights: Weights, changes: _Changes, steps: range) -> list[int]:
    """How far to go, the best first: each bit has to save elements that lose bits."""
    bit = sum(map(weights.elements, changes)) / WORTH

    def cost(step: int) -> float:
        each = (weights.faint(root, e + step * c).elements for root, (e, c) in changes.items())
        return sum(each) + abs(step) * bit

    def fits(root: Tensor, exponent: int, change: int, step: int) -> bool:
        """Whether a weight stays in the format; a vector, which scales channels, loses nothing."""
        after = exponent + step * change
        if after < 0 and weights.overflows(root, after):
            return False
        return not (weights.is_vector(root) and weights.fades(root, after))

    now = cost(0)
    costs = {step: cost(step) for step in steps} if now > bit else {}
    better = [step for step, found in costs.items() if found < now]
    found = [s for s in better if all(fits(root, *by, s) for root, by in changes.items())]
    return sorted(found, key=lambda step: (costs[step], abs(step)))[:_MOST_TRIED]
