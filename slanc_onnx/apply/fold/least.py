"""Least: the smallest exponents with which the tensors in front of norms stay in the format.

A norm's estimate tells how large its rows are, and with that the elements of the tensor that it
reads, or of the sum where it adds before. What is added into this tensor, or rearranged into it, is
taken to be as large, unless a norm reads it too and tells better.
"""

from __future__ import annotations

from collections.abc import Mapping

from slanc_onnx.apply.fold.group_scale import ANY, Window
from slanc_onnx.apply.fold.groups import Partition
from slanc_onnx.graph import Tensor


def least_exponents(parts: Partition, windows: Mapping[str, Window]) -> dict[Tensor, int]:
    """The least exponent of each tensor that would leave the format undivided.

    Args:
        parts: The groups, of which only the relations and the norms count.
        windows: The window of each norm, by norm name.
    """
    flow = parts.flow
    told: dict[Tensor, int] = {}
    added: dict[Tensor, int] = {}
    for site in parts.sites:
        window, inputs = windows[site.norm.name], [flow.reads[use] for use in site.uses]
        if window is ANY:
            continue
        least = window.least
        if site.norm.residual is None:
            told.update({tensor: max(least, told.get(tensor, least)) for tensor in inputs})
        else:
            added.update(dict.fromkeys(inputs, least))
            if site.residual is not None:
                told[site.residual] = least
    found = {**added, **told}
    ties = zip(parts.relations, parts.read, parts.made, strict=True)
    for tie, read, made in reversed(list(ties)):
        known = [found[tensor] for tensor in made if tensor in found]
        if tie.kind != "join" or not known:
            continue
        for use in read:
            tensor = flow.read(use)
            if tensor is not None and tensor not in told:
                found[tensor] = max(known)
    return {tensor: exponent for tensor, exponent in found.items() if exponent > 0}
