"""Forms: what a tensor of a region is, row by row, and what arithmetic makes of it.

A form says that a tensor is the input, its mean, a sum of squares, the root of one, or a quotient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import onnx_graphsurgeon as gs

from slanc_onnx.norms.region import Joined
from slanc_onnx.norms.root_axes import Axes
from slanc_onnx.ops import LEAST

What = (
    Literal["x", "mean", "square", "total", "per total", "root", "inverse"]
    | Literal["product", "shift", "quotient"]
)
BY_ROW = ("mean", "total", "per total", "root", "inverse")


@dataclass(frozen=True)
class Form:
    """What a tensor of a region is.

    Attributes:
        what: The input, the mean of a row, a square, a row's sum of squares or its mean, the
            reciprocal of that, its root, the reciprocal of the root, the input or its mean over the
            root of the centred input, or the input over its own root.
        centred: Whether the mean was subtracted from what is squared, or from what is divided.
        one_pass: Whether the square of the mean was subtracted from the mean square.
        factor: By what the value is multiplied beyond that.
        averaged: Whether the sum was divided by its number of addends, by an op or by a shape.
        negative: Whether it is the negative of that.
        axes: Over which axes sums run; None before one, or where that is not known.
        mean_axes: Those of the mean that was subtracted.
        mean_count: By which number that mean was divided; None where an op or a shape counts.
        aligned: Whether the numbers of rows are known to meet their own rows.
        layout: Which movements of elements lie behind it, as a number; 0 for none.
        source: The input in this layout.
        joined: The epsilon or floor of a sum or a root, with `power`.
        power: The power of the scale that divides it.
        gamma: A constant row that multiplies.
        beta: A constant that is added to the mean over the root, which is subtracted.
        unit: By what the sum was multiplied before its root was taken.
        times: A count by which the mean square was multiplied, to be divided by one less.
        by_ops: Whether its ops come to the same in another way, which is how it is rounded.
        corrected: Whether that happened: Bessel's correction, as torch.var writes it.
    """

    what: What
    centred: bool = False
    one_pass: bool = False
    factor: float = 1.0
    averaged: bool = False
    negative: bool = False
    axes: Axes | None = None
    mean_axes: Axes | None = None
    mean_count: int | None = None
    aligned: bool = True
    layout: int = 0
    source: gs.Tensor | None = None
    joined: Joined | None = None
    power: int = 2
    gamma: gs.Tensor | None = None
    beta: gs.Tensor | None = None
    unit: float = 1.0
    times: gs.Tensor | None = None
    corrected: bool = False
    by_ops: bool = False


def times(form: Form, value: float) -> Form:
    """A value times a number."""
    return replace(form, factor=form.factor * value)


def over(numerator: Form, inverse: Form) -> Form | None:
    """The input, or its mean, times the reciprocal of its root."""
    centred = inverse.centred or inverse.one_pass
    if (numerator.gamma and inverse.gamma) or numerator.layout != inverse.layout:
        return None
    if centred and not numerator.centred:
        return _part(numerator, inverse)
    factor = math.nan if numerator.negative else numerator.factor * inverse.factor
    if numerator.centred != centred or numerator.what != "x":
        return None
    if centred and not numerator.mean_axes == inverse.mean_axes == inverse.axes:
        return None
    aligned = numerator.aligned and inverse.aligned
    gamma = numerator.gamma or inverse.gamma
    return replace(inverse, what="quotient", factor=factor, gamma=gamma, aligned=aligned)


def _part(numerator: Form, inverse: Form) -> Form | None:
    """The input or its mean times the reciprocal of the root of the centred input.

    TensorFlow and Keras write x k + (beta - mean k), with k = gamma / root.
    """
    mean = numerator.what == "mean"
    if mean and not (is_mean(numerator) and numerator.axes == inverse.axes):
        return None
    return replace(
        inverse,
        what="shift" if mean else "product",
        factor=inverse.factor * (1.0 if mean else numerator.factor),
        gamma=numerator.gamma or inverse.gamma,
        negative=numerator.negative,
        mean_axes=inverse.axes,
        mean_count=count_of(numerator) if mean else inverse.mean_count,
        aligned=numerator.aligned and inverse.aligned,
    )


def raised(form: Form, exponent: float) -> Form | None:
    """A power of a value; None for one that no form is."""
    known: dict[tuple[What, float], What] = {
        ("x", 2.0): "square",
        ("total", 0.5): "root",
        ("total", -0.5): "inverse",
        ("total", -1.0): "per total",
        ("per total", 0.5): "inverse",
        ("root", -1.0): "inverse",
        ("root", 2.0): "total",
    }
    if form.what == "mean" and exponent == 2.0:
        return replace(form, what="square", negative=False, one_pass=True)
    what = known.get((form.what, exponent))
    if form.times is not None or what is None or (form.negative and form.what != "x"):
        return None
    if form.what == "x":
        square = replace(form, what=what, factor=form.factor * form.factor, negative=False)
        return None if form.gamma else replace(square, by_ops=form.by_ops or form.factor != 1)
    if form.what == "root" and what == "total":  # of a ReduceL2
        factor = form.unit * form.factor**2
        return None if form.joined else replace(form, what=what, factor=factor, unit=1.0)
    inverted = replace(form, what=what, factor=1 / form.factor if form.factor else math.nan)
    if form.what == "per total":
        return raised(replace(inverted, what="total"), -0.5)
    if form.what == "total" and what != "per total":
        root = replace(form, what="root", unit=form.factor, factor=1.0)
        return root if what == "root" else raised(root, -1.0)
    return inverted


def difference(one: Form, other: Form) -> Form | None:
    """The input less its mean, or the mean square less the square of the mean."""
    added = {one.what: not one.negative, other.what: other.negative}
    by = {one.what: one, other.what: other}
    if set(by) == {"x", "mean"}:
        x, mean = by["x"], by["mean"]
        if added["x"] == added["mean"] or x.centred or not is_mean(mean):
            return None
        aligned = x.aligned and mean.aligned
        centred = replace(x, centred=True, negative=added["mean"], aligned=aligned)
        return replace(centred, mean_axes=mean.axes, mean_count=count_of(mean))
    if set(by) == {"product", "shift"}:
        x, mean = by["product"], by["shift"]
        aligned = x.aligned and mean.aligned
        part = replace(x, what="shift", negative=mean.negative, aligned=mean.aligned)
        part = replace(part, beta=mean.beta, mean_count=mean.mean_count, source=mean.source)
        if not added["product"] or added["shift"] or part != mean:
            return None
        return replace(mean, what="quotient", negative=False, aligned=aligned)
    whole = one.what == "total" and not one.centred and not one.one_pass
    if whole and other.what == "square" and other.one_pass and not other.negative:
        same = one.axes == other.axes and is_mean(one)
        less = replace(one, one_pass=True, mean_axes=other.axes, mean_count=count_of(other))
        return replace(less, aligned=one.aligned and other.aligned) if same else None
    return None


def count_of(mean: Form) -> int | None:
    """By which number a mean was divided; None where an op or a shape counts."""
    return None if mean.averaged else _counted(mean.factor)


def is_mean(form: Form) -> bool:
    """Whether a sum is a mean, as far as its own factor tells: 1, or 1 over a whole number."""
    if form.averaged:
        return math.isclose(form.factor, 1.0, rel_tol=1e-3)
    return _counted(form.factor) is not None


def _counted(factor: float) -> int | None:
    """The whole number that a factor is 1 over; None where no row has so many elements."""
    if not 2.0**-31 <= factor <= 1:
        return None
    count = round(1 / factor)
    return count if abs(1 / factor - count) < 1e-2 else None


def with_limit(op: str, form: Form, joined: Joined | None) -> Form | None:
    """A value with an addend or a floor; None with a ceiling, or with a choice by data."""
    lower = joined is None or op != "Clip" or joined.read.position in (1, LEAST)
    if not lower or (joined is not None and op == "Min"):
        return None
    if joined is None or form.joined is not None or form.what not in ("total", "root"):
        return form
    return replace(form, joined=joined, power=2 if form.what == "total" else 1)
