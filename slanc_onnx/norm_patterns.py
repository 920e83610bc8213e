"""The spellings of a norm, as data: the fused ops and the decomposed sequences.

A decomposed pattern ends at the normalised value, before gamma. `power` is the power of the scale
that divides epsilon when the input is divided by s: 2 where epsilon joins the mean square, 1 where
it joins the root, because  norm(x; eps) = norm(x / s; eps / s^power).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Scope
from slanc_onnx.pattern import Absent, Constant, Op, Pattern, Scalar, Through, Var

Kind = Literal["layer", "rms"]


@dataclass(frozen=True)
class Fused:
    """Where a fused op keeps its parts: input positions, -1 for a part that it does not have."""

    kind: Kind
    addends: tuple[int, ...]
    gamma: int
    beta: int = -1
    epsilon: float = 1e-5  # of the attribute, where it is left out


FUSED: dict[str, Fused] = {
    "LayerNormalization": Fused("layer", addends=(0,), gamma=1, beta=2),
    "RMSNormalization": Fused("rms", addends=(0,), gamma=1),
    "SimplifiedLayerNormalization": Fused("rms", addends=(0,), gamma=1),
    "SkipLayerNormalization": Fused("layer", (0, 1, 4), gamma=2, beta=3, epsilon=1e-12),
    "SkipSimplifiedLayerNormalization": Fused("rms", (0, 1, 3), gamma=2, epsilon=1e-12),
}

# Norms whose input is not a tensor of the graph, so that there is nothing to divide.
INTERNAL: dict[str, str] = {
    "EmbedLayerNormalization": "the op adds the embedding rows inside, so its norm has no input "
    "tensor to divide; export without this fusion to scale it",
}


@dataclass(frozen=True)
class Decomposed:
    """A sequence of ops that ends at the normalised value."""

    kind: Kind
    power: int
    pattern: Pattern
    factor: float | None = None  # power of the width that the scalar called `factor` must equal
    one_pass: bool = False  # the variance is E[x^2] - mean^2


def last_axis(scope: Scope, node: gs.Node) -> bool:
    """Whether a reduction runs over the last axis only."""
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = scope.elements(node.inputs[1])
    if axes is None or len(axes) != 1:
        return False
    shape = node.inputs[0].shape
    return axes[0] == -1 or (shape is not None and axes[0] == len(shape) - 1)


def inner_product(_: Scope, node: gs.Node) -> bool:
    """Whether an Einsum sums the product of its two inputs over their last axis."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    return re.fullmatch(r"([a-zA-Z]*)([a-zA-Z]),\1\2->\1", equation) is not None


def _square(v: Pattern) -> Pattern:
    return Op("Pow", v, Scalar(value=2)) | Op("Mul", v, v)


def _mean(v: Pattern) -> Pattern:
    total = Op("ReduceSum", v, check=last_axis)
    return (
        Op("ReduceMean", v, check=last_axis)
        | Op("Div", Through(total), Scalar("count"))
        | Op("Mul", Through(total), Scalar("inverse count"))
    )


def _mean_square(v: Pattern) -> Pattern:
    dot = Op("Einsum", v, v, check=inner_product)
    biased = _mean(_square(v)) | Op("Div", Through(dot), Scalar("count"))
    # Bessel's correction, as torch.var writes it: mean square * n / (n - 1).
    return biased | Op("Div", Op("Mul", biased, Var("n")), Var("n - 1"))


_x = Var("x")
_mu = _mean(_x)
_centred = Op("Sub", _x, _mu)
_epsilon = Scalar("epsilon")
_l2 = Op("ReduceL2", Var("x"), check=last_axis)


def _floored(v: Pattern) -> Pattern:
    """A value with epsilon added, or never below epsilon."""
    return Op("Add", Through(v), _epsilon) | Op("Clip", Through(v), _epsilon, Absent())


def _divided(numerator: Pattern, deviation: Pattern) -> Pattern:
    inverse = Op("Reciprocal", deviation) | Op("Div", Scalar(value=1), deviation)
    return Op("Div", numerator, Through(deviation)) | Op("Mul", numerator, Through(inverse))


def _by_variance(v: Pattern, variance: Pattern) -> Pattern:
    deviation = Op("Sqrt", variance) | Op("Pow", variance, Scalar(value=0.5))
    inverse = Op("Pow", variance, Scalar(value=-0.5))
    return _divided(v, deviation) | Op("Mul", v, Through(inverse))


def _gamma_first(v: Pattern) -> Pattern:
    return v | Op("Mul", v, Constant("gamma"))


_one_pass = Op("Sub", _mean(_square(_x)), _square(_mu))
_root_x = Op("Sqrt", Through(_mean_square(_x))) | Op("Mul", _l2, Scalar("factor"))
_root_centred = Op("Sqrt", Through(_mean_square(_centred)))

# LayerNorm first: its core holds an RMSNorm of the centred input.
DECOMPOSED: list[Decomposed] = [
    Decomposed("layer", 2, _by_variance(_gamma_first(_centred), _floored(_mean_square(_centred)))),
    Decomposed(
        "layer", 2, _by_variance(_gamma_first(_centred), _floored(_one_pass)), one_pass=True
    ),
    Decomposed("layer", 1, _divided(_gamma_first(_centred), _floored(_root_centred))),
    Decomposed("rms", 2, _by_variance(_x, _floored(_mean_square(_x)))),
    Decomposed("rms", 1, _divided(_x, _floored(_root_x)), factor=-0.5),
    Decomposed("rms", 1, Op("Mul", _divided(_x, _floored(_l2)), Scalar("factor")), factor=0.5),
    Decomposed("rms", 1, _divided(Op("Mul", _x, Scalar("factor")), _floored(_l2)), factor=0.5),
]

# An RMS op on a centred input is a LayerNorm without beta.
CENTRED: Pattern = _centred
