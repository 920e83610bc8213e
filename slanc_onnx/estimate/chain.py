"""Maps of one matrix between two diagonals, like a gate's: they are read without a product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.trace import Apply, Expr, Linear, Mix, Product, Weight, constant_values, value_range


@dataclass(frozen=True)
class Chain:
    """A linear map: a diagonal, a matrix, a diagonal.

    Attributes:
        before: The diagonal before the matrix, [in]; None for the identity.
        weight: The matrix, [in, out].
        behind: The diagonal behind it, [out]; None for the identity.
    """

    before: Array | None
    weight: Weight
    behind: Array | None

    @staticmethod
    def of(expr: Expr, source: Expr) -> Chain | None:
        """The chain from a source to an expression of it; None where the map is no chain."""
        diagonals: list[Array | None] = [None, None]
        weight: Weight | None = None
        while expr is not source:
            match expr:
                case Linear() if weight is None:
                    weight, expr = expr.weight, expr.x
                case Apply(function=name) if name != "ReduceSum":
                    expr = expr.x
                case Mix():
                    expr = expr.x
                case Product():
                    factor, expr = _constant_first(expr.a, expr.b)
                    if factor is None:
                        return None
                    place = 0 if weight is not None else 1
                    held = diagonals[place]
                    diagonals[place] = factor if held is None else held * factor
                case _:
                    return None
        return None if weight is None else Chain(diagonals[0], weight, diagonals[1])

    def matrix(self) -> Array:
        """The map, FP32, [in, out]."""
        stored = self.weight.blocks()
        values = np.array(stored.columns(0, stored.shape[1]))
        if self.before is not None:
            values *= self.before.reshape(-1, 1).astype(np.float32)
        if self.behind is not None:
            values *= self.behind.astype(np.float32)
        return values


def _constant_first(a: Expr, b: Expr) -> tuple[Array | None, Expr]:
    """The known factor of a product, and its other part; None and a where no factor is known.

    In an activation written out, z times a factor in [lo, hi], the factor counts as its largest
    magnitude.
    """
    for factor, other in ((a, b), (b, a)):
        values = constant_values(factor)
        if values is not None:
            return values.reshape(-1), other
    for factor, other in ((a, b), (b, a)):
        bounds = value_range(factor)
        if bounds is not None:
            return np.array([max(abs(bounds[0]), abs(bounds[1]))]), other
    return None, a
