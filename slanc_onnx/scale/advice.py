"""Which single change of the device would certify which norms, with the bounds that are there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.prove import Proof, output_radius
from slanc_onnx.targets import Change, changes

_SAME = 1 + 2.0**-40  # for what floats do to equal lengths


def certifying_changes(
    device: Accelerator,
    proved: Iterable[Proof],
    certified_on: Callable[[Accelerator], Collection[str]],
) -> dict[str, tuple[Change, ...]]:
    """The changes with each of which a norm would be certified, by norm name.

    A bound starts at the lengths of norms' outputs on the device. It holds for a changed one whose
    outputs are no longer; another change is left out.

    Args:
        device: The device.
        proved: The premises of all norms, with bounds for this device.
        certified_on: The names of the norms that are certified on another one with these bounds.
    """
    known = [(p.norm, p.norm.width or p.bound.width) for p in proved]
    found: dict[str, tuple[Change, ...]] = {}
    for change, other in changes(device).items():
        lengths = ((output_radius(n, w, other), output_radius(n, w, device)) for n, w in known if w)
        if all(length <= before * _SAME for length, before in lengths):
            for name in certified_on(other):
                found[name] = (*found.get(name, ()), change)
    return found
