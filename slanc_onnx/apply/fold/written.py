"""What the type to be written makes of a fold: how large each group is, and what weights lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from slanc_onnx.apply.fold.binades import Faint
from slanc_onnx.apply.fold.bounds import SPARE, Bounds
from slanc_onnx.apply.fold.choose import Exponents
from slanc_onnx.apply.fold.weights import Weights
from slanc_onnx.graph import Tensor
from slanc_onnx.reasons import Reason, Unraised


@dataclass(frozen=True)
class GroupRange:
    """How large the tensors of a scale group were on the inputs of the probe.

    Attributes:
        exponent: k of the 2^k that divides the group.
        tensors: The names of those that were seen; one that no group holds stands alone.
        largest: The largest |x| of the model as it was.
        stored: The largest |x| of the folded model.
        holds: The tensor that has it.
        limit: The largest number of the format to be written.
        norms: The number of norms in the group.
        reason: Why it leaves the format all the same; None where it does not.
    """

    exponent: int
    tensors: tuple[str, ...]
    largest: float
    stored: float
    holds: str
    limit: float
    norms: int
    reason: Reason | None

    @property
    def raised(self) -> bool:
        """Whether it is divided because it would leave the format, and no norm asks for that."""
        near = self.largest > self.limit / 2**SPARE
        return near and self.exponent > 0 and not self.norms


@dataclass(frozen=True)
class FaintWeight:
    """A weight that a fold divides, and what the type to be written does not hold of it in full.

    Attributes:
        name: Its name.
        elements: How many it has.
        exponent: k of the 2^k that divides it.
        undivided: Of the weight as it was.
        unbalanced: Of the weight as norms and ranges alone would divide it.
        divided: Of the weight as it is divided.
    """

    name: str
    elements: int
    exponent: int
    undivided: Faint
    unbalanced: Faint
    divided: Faint


def group_ranges(chosen: Exponents, bounds: Bounds) -> tuple[GroupRange, ...]:
    """The groups of which something was seen, the largest first."""
    parts = chosen.parts
    stuck = {parts.of_output.get(tensor, tensor): why for tensor, why in bounds.stuck.items()}
    members: dict[int | Tensor, list[Tensor]] = {}
    for tensor in bounds.ranges:
        members.setdefault(parts.of_output.get(tensor, tensor), []).append(tensor)
    norms = [site.group for site in parts.sites]
    found = []
    for group, tensors in members.items():
        exponent = chosen.groups[group] if isinstance(group, int) else 0
        stored = {t: _stored(chosen, bounds, t) for t in tensors}
        holds = max(tensors, key=stored.__getitem__)
        found.append(
            GroupRange(
                exponent,
                tuple(tensor.name for tensor in tensors),
                max(bounds.ranges[t].largest for t in tensors),
                stored[holds],
                holds.name,
                bounds.form.largest,
                norms.count(group) if isinstance(group, int) else 0,
                _why(bounds, stored, stuck.get(group)),
            )
        )
    return tuple(sorted(found, key=lambda each: -each.stored))


def _stored(chosen: Exponents, bounds: Bounds, tensor: Tensor) -> float:
    """The largest |x| as the tensor is made or read: a node may multiply it on the way."""
    solved, flow = chosen.solved, chosen.parts.flow
    exponents = [solved.produced.get(tensor, 0)]
    exponents += [solved.needed.get(use, 0) for use in flow.uses.get(tensor, ())]
    exponents += [0] * (tensor in flow.pinned)
    return bounds.ranges[tensor].largest / 2.0 ** min(exponents)


def _why(bounds: Bounds, stored: Mapping[Tensor, float], stuck: Reason | None) -> Reason | None:
    over = [tensor for tensor, largest in stored.items() if largest > bounds.form.largest]
    told = (bounds.stuck[tensor] for tensor in over if tensor in bounds.stuck)
    return next(told, stuck or Reason(Unraised.NO_WAY)) if over else None


def faint_weights(chosen: Exponents, weights: Weights) -> tuple[FaintWeight, ...]:
    """The divided weights of which the type to be written does not hold all, before or after."""
    return tuple(_faint_weights(chosen, weights))


def _faint_weights(chosen: Exponents, weights: Weights) -> Iterator[FaintWeight]:
    divided, before = chosen.solved.divided, chosen.unbalanced
    for root in sorted({*divided, *before}):
        if weights.narrowed(root) is None:
            continue
        exponent = divided.get(root, 0)
        counts = [weights.faint(root, k) for k in (0, before.get(root, 0), exponent)]
        if any(count.elements for count in counts):
            yield FaintWeight(root.name, weights.elements(root), exponent, *counts)
