"""Affine: what a norm's row meets behind its division, or before one that is deferred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.weights import lengths


class Affine(NamedTuple):
    """What a norm's row meets, as the largest magnitudes.

    Attributes:
        gamma: Largest |gamma|.
        beta: Largest |beta|.
        product: The greatest L2 norm of a column of the weights that multiply the row before it is
            divided; 0 for none.
    """

    gamma: float = 1.0
    beta: float = 0.0
    product: float = 0.0

    def divided(self, scale: float) -> Affine:
        """The same where all weights are divided by a power of two."""
        return Affine(*(value / scale for value in self))


PLAIN = Affine()  # of a norm without gamma and beta


def affine_of(
    norm: Norm,
    values: Callable[[str], Array | None],
    columns: Mapping[str, Array | None] = MappingProxyType({}),
) -> Affine | None:
    """What a norm's row meets at most; None where one of it is no constant.

    Args:
        norm: The norm.
        values: Gives the numbers of a tensor by its name; None where it is no constant.
        columns: The weights of its deferred products, [width, out], by what is made of them; None
            for one that is no constant.
    """
    largest = []
    for name, absent in ((norm.gamma, 1.0), (norm.beta, 0.0)):
        array = None if name is None else values(name)
        if name is None:
            largest.append(absent)
        elif array is None:
            return None
        else:
            largest.append(float(np.abs(array.astype(np.float64)).max(initial=0.0)))
    product = 0.0
    for one in norm.deferred:
        weight = columns.get(one.output)
        if weight is None or weight.ndim != 2:
            return None
        product = max(product, float(lengths(weight, axis=0).max(initial=0.0)))
    return Affine(largest[0], largest[1], product)
