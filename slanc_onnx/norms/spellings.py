"""The spellings of a decomposed norm, as data.

A decomposed pattern ends at the normalised value, before gamma. `power` is the power of the scale
that divides epsilon when the input is divided by s: 2 where epsilon joins the mean square, 1 where
it joins the root, because  norm(x; eps) = norm(x / s; eps / s^power).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from slanc_onnx.graph import MOST_AXES, Scope, op_of
from slanc_onnx.norms.constants import rank_of, small_value
from slanc_onnx.norms.pattern import Absent, Constant, Op, Pattern, Scalar, Through, Var
from slanc_onnx.norms.row_axes import RowAxes, row_axes
from slanc_onnx.ops import Kind
from slanc_onnx.reasons import Unscalable


@dataclass(frozen=True)
class Decomposed:
    """A sequence of ops that ends at the normalised value, or after gamma and beta."""

    kind: Kind
    power: int
    pattern: Pattern
    factor: float | None = None  # power of the width that the scalar called `factor` must equal
    one_pass: bool = False  # the variance is E[x^2] - mean^2
    obstacle: Unscalable | None = None  # why this spelling cannot be scaled


# Ops that give the sums and means of a norm.
REDUCTIONS = {
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL2",
    "GlobalAveragePool",
    "LpNormalization",
}


def reduced_axes(scope: Scope, node: gs.Node) -> RowAxes | None:
    """The rows of a reduction; None where the file does not tell its axes, or it runs over all."""
    rank = rank_of(scope, node.inputs[0])
    if op_of(node) == "GlobalAveragePool":  # over the last axis of a tensor of rank 3
        return RowAxes() if rank in (3, None) else None
    if op_of(node) == "LpNormalization":
        axes = [node.attrs.get("axis", -1)]
    else:
        axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        value = small_value(scope, node.inputs[1])
        axes = None if value is None else list(value.reshape(-1))
    if not axes or not all(-MOST_AXES <= axis < MOST_AXES for axis in axes):
        return None
    return row_axes([int(axis) for axis in axes], rank)


def known_axes(scope: Scope, node: gs.Node) -> bool:
    """Whether the axes of a reduction are known; a match checks later that all of them agree."""
    return reduced_axes(scope, node) is not None


def two_norm(scope: Scope, node: gs.Node) -> bool:
    """Whether an LpNormalization divides by the L2 norm."""
    return node.attrs.get("p", 2) == 2 and known_axes(scope, node)


def inner_product(_: Scope, node: gs.Node) -> bool:
    """Whether an Einsum sums the product of its two inputs over their last axis."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    return re.fullmatch(r"([a-zA-Z]*)([a-zA-Z]),\1\2->\1", equation) is not None


def row_by_column(scope: Scope, node: gs.Node) -> bool:
    """Whether a MatMul multiplies each row, as a matrix of one row, with itself as a column."""
    makers = [tensor.inputs[0] for tensor in node.inputs]
    axes = [m.attrs.get("axes") or scope.elements(m.inputs[1]) for m in makers]
    return axes == [[-2], [-1]]


def _square(v: Pattern) -> Pattern:
    return Op("Pow", v, Scalar(value=2)) | Op("Mul", v, v)


def _over_count(total: Pattern) -> Pattern:
    """A sum divided by the number of its addends."""
    through = Through(total)
    return Op("Div", through, Scalar("count")) | Op("Mul", through, Scalar("inverse count"))


def _mean(v: Pattern) -> Pattern:
    mean = Op("ReduceMean", v, check=known_axes) | Op("GlobalAveragePool", v, check=known_axes)
    return mean | _over_count(Op("ReduceSum", v, check=known_axes))


def _mean_square(v: Pattern) -> Pattern:
    total = Op("Einsum", v, v, check=inner_product) | Op("ReduceSumSquare", v, check=known_axes)
    total |= Op("MatMul", Op("Unsqueeze", v), Op("Unsqueeze", v), check=row_by_column)
    biased = _mean(_square(v)) | _over_count(total)
    # Bessel's correction, as torch.var writes it: mean square * n / (n - 1).
    return biased | Op("Div", Op("Mul", biased, Var("n")), Var("n - 1"))


def _at_least_zero(v: Pattern) -> Pattern:
    zero = Scalar(value=0)
    return v | Op("Max", v, zero) | Op("Relu", v) | Op("Clip", v, zero, Absent())


def _floored(v: Pattern) -> Pattern:
    """A value with epsilon added, or never below epsilon."""
    inner, epsilon = Through(_at_least_zero(v)), Scalar("epsilon")
    limit = Op("Clip", inner, epsilon, Absent()) | Op("Max", inner, epsilon)
    return Op("Add", inner, epsilon) | limit


def _times_factor(v: Pattern) -> Pattern:
    return Op("Mul", v, Scalar("factor")) | Op("Div", v, Scalar("divisor"))


def _divided(numerator: Pattern, deviation: Pattern) -> Pattern:
    return Op("Div", numerator, Through(deviation)) | _multiplied(numerator, _inverse(deviation))


def _inverse(deviation: Pattern) -> Pattern:
    return Op("Reciprocal", deviation) | Op("Div", Scalar(value=1), deviation)


def _multiplied(numerator: Pattern, inverse: Pattern) -> Pattern:
    """A product with the inverse deviation, or with that times gamma."""
    factor = Through(inverse)
    return Op("Mul", numerator, factor | Op("Mul", factor, Constant("gamma")))


def _inverse_root(variance: Pattern) -> Pattern:
    return _inverse(Op("Sqrt", variance)) | Op("Pow", variance, Scalar(value=-0.5))


def _by_variance(v: Pattern, variance: Pattern) -> Pattern:
    deviation = Op("Sqrt", variance) | Op("Pow", variance, Scalar(value=0.5))
    return _divided(v, deviation) | _multiplied(v, _inverse_root(variance))


def _by_logarithm(v: Pattern, variance: Pattern) -> Pattern:
    return _multiplied(v, Op("Exp", Op("Mul", Op("Log", variance), Scalar(value=-0.5))))


def _gamma_first(v: Pattern) -> Pattern:
    return v | Op("Mul", v, Constant("gamma"))


def _folded(variance: Pattern) -> Pattern:
    """x k + (beta - mean k) with k = gamma / deviation, as TensorFlow and Keras write it."""
    inverse, gamma, beta = Through(_inverse_root(variance)), Constant("gamma"), Constant("beta")

    def plain(v: Pattern) -> Pattern:
        return Op("Mul", v, inverse)

    def scaled(v: Pattern) -> Pattern:
        return Op("Mul", v, Op("Mul", inverse, gamma)) | Op("Mul", plain(v), gamma)

    def ends(times: Callable[[Pattern], Pattern]) -> Pattern:
        shift, less = times(_mu), times(Op("Neg", _mu))
        added = Op("Add", times(_x), Op("Sub", beta, shift) | Op("Add", less, beta) | less)
        return added | Op("Sub", times(_x), shift)

    return ends(plain) | ends(scaled)


_x = Var("x")
_mu = _mean(_x)
_centred = Op("Sub", _x, _mu)
_l2 = Op("ReduceL2", _x, check=known_axes)
_unit = Op("Div", _x, Through(_l2)) | Op("LpNormalization", _x, check=two_norm)
_of_centred, _of_x = _mean_square(_centred), _mean_square(_x)
_one_pass = Op("Sub", _of_x, _square(_mu))
_root_x = Op("Sqrt", Through(_of_x)) | _times_factor(_l2)
_root_centred = Op("Sqrt", Through(_of_centred))

# LayerNorm first: its core holds an RMSNorm of the centred input. Forms without epsilon last: with
# one, they are part of a form that has it. A sum of squares without epsilon and without a power of
# the width is an L2 normalisation and none of these.
DECOMPOSED: list[Decomposed] = [
    Decomposed("layer", 2, _by_variance(_gamma_first(_centred), _floored(_of_centred))),
    Decomposed("layer", 2, _by_variance(_centred, _floored(_one_pass)), one_pass=True),
    Decomposed("layer", 1, _divided(_gamma_first(_centred), _floored(_root_centred))),
    Decomposed("layer", 2, _folded(_floored(_of_centred))),
    Decomposed("layer", 2, _folded(_floored(_one_pass)), one_pass=True),
    Decomposed("rms", 2, _by_variance(_gamma_first(_x), _floored(_of_x))),
    Decomposed("rms", 1, _divided(_gamma_first(_x), _floored(_root_x)), factor=-0.5),
    Decomposed("rms", 1, _times_factor(_divided(_x, _floored(_l2))), factor=0.5),
    Decomposed("rms", 1, _divided(_times_factor(_x), _floored(_l2)), factor=0.5),
    Decomposed(
        "layer", 2, _by_logarithm(_centred, _floored(_of_centred)), obstacle=Unscalable.LOGARITHM
    ),
    Decomposed("rms", 2, _by_logarithm(_x, _floored(_of_x)), obstacle=Unscalable.LOGARITHM),
    Decomposed("layer", 2, _by_variance(_gamma_first(_centred), Through(_of_centred))),
    Decomposed("rms", 2, _by_variance(_x, Through(_of_x))),
    Decomposed("rms", 2, _times_factor(_unit), factor=0.5),
    Decomposed("rms", 2, _divided(_times_factor(_x), Through(_l2)), factor=0.5),
    Decomposed("rms", 2, _divided(_x, Through(_times_factor(_l2))), factor=-0.5),
]

# An RMS op on a centred input is a LayerNorm without beta.
CENTRED: Pattern = _centred
