"""Root powers: the power of the root of a sum of squares that multiplies what is made of it.

A norm is divided by its root. What is multiplied by it, as a threshold at the mean and so many
standard deviations, or a row that is given the length of another, keeps growing with the root, and
where the scale goes in a norm behind it, that is another norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import onnx_graphsurgeon as gs

from slanc_onnx.graph import op_of
from slanc_onnx.norms.averages import PRODUCTS, WEIGHTED
from slanc_onnx.ops import Degree


class Powers(NamedTuple):
    """The least and the largest power, over the terms of a tensor."""

    least: Fraction
    most: Fraction


_NONE = Powers(Fraction(0), Fraction(0))
_FACTORS = {"Mul", *PRODUCTS, *WEIGHTED}


class RootPowers:
    """The powers of a sum of squares in the tensors that are made of its row."""

    def __init__(self, total: gs.Node) -> None:
        self._total = total
        self._powers: dict[int, Powers] = {}

    def multiplies(self, tensor: gs.Tensor) -> bool:
        """Whether terms of a tensor may be multiplied by the sum, or by a root of it."""
        return self._powers.get(id(tensor), _NONE).most > 0

    def note(
        self, node: gs.Node, degrees: Sequence[Degree | None], outputs: Sequence[Degree]
    ) -> None:
        """Note the powers in what a node makes.

        Args:
            node: The node.
            degrees: The degrees of its inputs; None for what is not made of the row.
            outputs: The degrees of its outputs.
        """
        read = [
            (position, self._powers.get(id(t), _NONE), degree)
            for position, (t, degree) in enumerate(zip(node.inputs, degrees, strict=True))
            if degree is not None
        ]
        for tensor, degree in zip(node.outputs, outputs, strict=False):
            self._powers[id(tensor)] = self._made(node, read, degree)

    def _made(
        self, node: gs.Node, read: Sequence[tuple[int, Powers, Degree]], degree: Degree
    ) -> Powers:
        op = op_of(node)
        if node is self._total:
            sign = Fraction(1 if degree else -1)  # some ops divide by the root themselves
            return Powers(sign, sign)
        if op == "Div" or (op in _FACTORS and len(read) > 1):
            factors = [
                _times(powers, Fraction(-1 if op == "Div" and position == 1 else 1))
                for position, powers, _ in read
            ]
            least = sum((f.least for f in factors), start=Fraction(0))
            return Powers(least, sum((f.most for f in factors), start=Fraction(0)))
        hull = Powers(
            min((p.least for _, p, _ in read), default=Fraction(0)),
            max((p.most for _, p, _ in read), default=Fraction(0)),
        )
        if degree == 0:  # divided by a length of its own, or by one of those that it reads
            wide = hull.most - hull.least if len(read) == 1 else Fraction(0)
            return Powers(-wide, wide)
        before = next((d for _, _, d in read if d), degree)
        return _times(hull, degree / before)


def _times(powers: Powers, factor: Fraction) -> Powers:
    one, other = powers.least * factor, powers.most * factor
    return Powers(min(one, other), max(one, other))
