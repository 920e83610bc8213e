"""Fitting: whether a changed weight is as good as it was in the type that it is written in."""

from __future__ import annotations

from slanc_onnx.accelerator import OF_16_BITS
from slanc_onnx.apply.merge.held import Held, Rounding, Steps
from slanc_onnx.graph import Tensor
from slanc_onnx.reasons import Reason, Unmerged


def refusal(
    held: Held, root: Tensor, steps: Steps, accepted: float
) -> tuple[Reason | None, Rounding]:
    """Why a weight is not changed, and what rounding it does.

    One rounding of all its elements is always accepted: that is what merging is. Where elements
    become subnormal or zero the error is larger; it may be as large as that of the weight as it
    is, or as the user accepts.

    Args:
        held: The constants.
        root: The weight.
        steps: What would become of it.
        accepted: The relative loss that the user accepts of a 16-bit weight.
    """
    found = held.rounding(root, steps)
    if not found.finite:
        return Reason(Unmerged.OVERFLOWS, (root.name, found.largest)), found
    kind = held.read_as(root)
    form = OF_16_BITS.get(kind, held.written)
    if form is None or found.relative <= max(form.unit_roundoff, accepted):
        return None, found
    before = held.rounding(root, ())
    if found.relative <= before.relative:
        return None, found
    return Reason(Unmerged.LOSES, (root.name, found.relative)), found
