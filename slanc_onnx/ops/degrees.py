"""Degrees: by which power of a scale a node's outputs grow when its inputs do.

Where the input of a part of the graph is divided by s, a tensor in it is divided by s^k: k is its
degree. It follows from the same records as the exponents of `relations.py`: a join needs equal
degrees, a product adds them, and a function of degree k multiplies by k. An op without a record has
no degree, which is safe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from slanc_onnx.graph import FLOATS
from slanc_onnx.ops.between import BETWEEN, EVERY
from slanc_onnx.ops.elementwise import COMPARISONS, ELEMENTWISE
from slanc_onnx.ops.relations import PRODUCTS
from slanc_onnx.reasons import Reason, Untaken, reason

Degree = Fraction
NONE = Fraction(0)
# The positions of attributes among the inputs, with their names.
EPSILON, LEAST, MOST = -1, -2, -3
ATTRIBUTES = {EPSILON: "epsilon", LEAST: "min", MOST: "max"}

# Ops whose outputs no positive factor of their inputs changes.
_ANY_SIZE = {"ArgMax", "ArgMin", "IsNaN", "Sign", "NonZero"}
_COMPARED = (*COMPARISONS, "Equal")
# Ops of a degree that are in no other table: they square inside, or leave a size out.
_OWN = {
    "ReduceSumSquare": Fraction(2),
    "ReduceL1": Fraction(1),
    "ReduceL2": Fraction(1),
    "LpNormalization": NONE,
    "MeanVarianceNormalization": NONE,  # ONNX Runtime adds no epsilon; 1e-9 in its definition
    **dict.fromkeys(("GlobalMaxPool", "GlobalLpPool", "LpPool"), Fraction(1)),
}
# Ops between numbers and the integers that stand for them; input 1 is by what those are multiplied.
QUANTISING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_LARGEST = 1e30  # a limit beyond which no value lies, so that it may have any degree


class NoDegree(Exception):
    """An output of a node is no power of the scale."""

    def __init__(self, why: Reason) -> None:
        super().__init__(str(why))
        self.reason = why


@dataclass(frozen=True)
class Passed:
    """What the degrees of a node's inputs come to.

    Attributes:
        outputs: The degree of each output.
        joined: Positions of inputs outside that must have a degree to fit in, with that degree.
            Those of `ATTRIBUTES` stand for the attributes of these names.
    """

    outputs: tuple[Degree, ...]
    joined: tuple[tuple[int, Degree], ...] = ()


def degrees_of_outputs(
    op: str,
    attributes: Mapping[str, Any],
    degrees: Sequence[Degree | None],
    outputs: int,
    number: Callable[[int], float | None],
) -> Passed:
    """The degrees of a node's outputs.

    Args:
        op: Its type, "" for one that nobody knows.
        attributes: Its attributes.
        degrees: The degree of each input; None for one that the scale does not reach.
        outputs: How many outputs it has, up to the last that is read.
        number: Gives the value of an input that is a constant of one element, else None.

    Raises:
        NoDegree: the scale does not pass as a power.
    """
    reached = [p for p, degree in enumerate(degrees) if degree]
    if op in _ANY_SIZE or not reached:
        return Passed((NONE,) * outputs)
    if op in _COMPARED:
        return Passed((NONE,) * outputs, _joined(degrees, (0, 1))[1])
    if op == "BatchNormalization":
        return _batch_normalised(attributes, degrees, outputs)
    if op in QUANTISING:
        return _quantised(op, degrees)
    if op == "Clip":
        return _clipped(attributes, degrees, outputs)
    if op in PRODUCTS:
        return _multiplied(op, degrees, outputs)
    if op in _OWN:
        if op == "LpNormalization" and attributes.get("p", 2) != 2:
            raise NoDegree(_no_degree(degrees[0]))
        return Passed(((degrees[0] or NONE) * _OWN[op],) * outputs)
    if op in ELEMENTWISE and op not in BETWEEN:
        return Passed((_of_function(op, attributes, degrees, number),) * outputs)
    if op in BETWEEN:
        return _between(op, attributes, degrees, outputs)
    raise NoDegree(_no_degree(degrees[reached[0]]))


def tells_no_size(op: str) -> bool:
    """Whether an op compares values, or asks where they lie, so that no factor changes it."""
    return op in _COMPARED or op in _ANY_SIZE


def any_degree(values: Sequence[float]) -> bool:
    """Whether a constant has any degree: zero, infinite, or a limit beyond all values."""
    return all(v == 0 or v != v or abs(v) >= _LARGEST for v in values)


def _no_degree(degree: Degree | None) -> Reason:
    return reason(Untaken.NO_DEGREE, str(degree or NONE))


def _joined(
    degrees: Sequence[Degree | None], positions: Sequence[int]
) -> tuple[Degree, tuple[tuple[int, Degree], ...]]:
    """The one degree of joined inputs, and the positions that must come to have it."""
    positions = [p for p in positions if p < len(degrees)]
    found = sorted({d for p in positions if (d := degrees[p])})
    if len(found) != 1:
        shown = ", ".join(map(str, found))
        raise NoDegree(reason(Untaken.DEGREES_DIFFER, shown))
    return found[0], tuple((p, found[0]) for p in positions if not degrees[p])


def _between(
    op: str, attributes: Mapping[str, Any], degrees: Sequence[Degree | None], outputs: int
) -> Passed:
    record = BETWEEN[op]
    positions = range(len(degrees)) if record.joins == EVERY else record.joins
    strays = [p for p, d in enumerate(degrees) if d and p not in positions]
    whole = op == "Cast" and int(attributes.get("to", 1)) not in FLOATS
    other = attributes.get("reduction", "none") == "mul" or attributes.get("value")
    if strays or whole or other or record.outputs not in ((0,), EVERY):
        first = next(d for d in degrees if d)
        raise NoDegree(_no_degree(first))
    degree, joined = _joined(degrees, positions)
    kept = range(outputs) if record.outputs == EVERY else record.outputs
    return Passed(tuple(degree if p in kept else NONE for p in range(outputs)), joined)


def _multiplied(op: str, degrees: Sequence[Degree | None], outputs: int) -> Passed:
    form = PRODUCTS[op]
    factors = range(len(degrees)) if form.factors == EVERY else form.factors
    known = {*factors, *form.divisors, *form.addends}
    strays = [d for p, d in enumerate(degrees) if d and p not in known]
    if strays:
        raise NoDegree(_no_degree(strays[0]))

    def total(positions: Sequence[int]) -> Degree:
        return sum((degrees[p] or NONE for p in positions if p < len(degrees)), NONE)

    degree = total(factors) - total(form.divisors)
    addends = [p for p in form.addends if p < len(degrees)]
    for p in addends:
        if degrees[p] and degrees[p] != degree:
            raise NoDegree(reason(Untaken.DEGREES_DIFFER, f"{degree}, {degrees[p]}"))
    joined = tuple((p, degree) for p in addends if not degrees[p] and degree)
    return Passed((degree,) * outputs, joined)


def _of_function(
    op: str,
    attributes: Mapping[str, Any],
    degrees: Sequence[Degree | None],
    number: Callable[[int], float | None],
) -> Degree:
    record = ELEMENTWISE[op]
    if record.from_inputs:
        given = [number(p) for p in range(1, len(degrees))]
        if None in given:
            raise NoDegree(_no_degree(degrees[0]))
        parameters = [value for value in given if value is not None]
    else:
        parameters = [attributes.get(name, value) for name, value in record.attributes.items()]
    degree = record.degree(*parameters) if any(degrees[:1]) else None
    if degree is None or not math.isfinite(degree) or any(degrees[1:]):
        raise NoDegree(_no_degree(next(d for d in degrees if d)))
    return (degrees[0] or NONE) * Fraction(degree).limit_denominator(1000)


def _clipped(
    attributes: Mapping[str, Any], degrees: Sequence[Degree | None], outputs: int
) -> Passed:
    degree, joined = _joined(degrees, range(len(degrees)))
    given = [(p, attributes[ATTRIBUTES[p]]) for p in (LEAST, MOST) if ATTRIBUTES[p] in attributes]
    limits = tuple((p, degree) for p, value in given if not any_degree([float(value)]))
    return Passed((degree,) * outputs, (*joined, *limits))


def _quantised(op: str, degrees: Sequence[Degree | None]) -> Passed:
    """Integers have the degree of what they stand for: they stay as they are, their scale moves."""
    if op == "DynamicQuantizeLinear":  # which makes the scale itself
        degree = degrees[0] or NONE
        return Passed((degree, degree, NONE))
    if op == "DequantizeLinear" and degrees[1]:  # of integers that stay as they are
        return Passed((degrees[1],))
    degree, joined = _joined(degrees, (0, 1))
    return Passed((degree,), joined)


def _batch_normalised(
    attributes: Mapping[str, Any], degrees: Sequence[Degree | None], outputs: int
) -> Passed:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, with statistics of its own.

    Those are inputs, or in training computed inside.
    """
    x, scale, bias, mean, variance = (*degrees, None, None, None, None, None)[:5]
    training = bool(attributes.get("training_mode"))
    if training and x and not (scale or bias) and (outputs == 1 or (mean, variance) == (x, 2 * x)):
        return Passed((NONE, x, 2 * x)[:outputs], ((EPSILON, 2 * x),))
    if training or not variance or bias:
        raise NoDegree(_no_degree(next(d for d in degrees if d)))
    if x and variance != 2 * x:
        shown = f"{x}, {variance / 2}"
        raise NoDegree(reason(Untaken.DEGREES_DIFFER, shown))
    own = variance / 2
    if mean and mean != own:
        raise NoDegree(reason(Untaken.DEGREES_DIFFER, f"{own}, {mean}"))
    joined = [(p, own) for p, degree in ((0, x), (3, mean)) if not degree]
    degree = scale or NONE
    if degree:
        joined.append((2, degree))
    joined.append((EPSILON, variance))
    return Passed((degree, *(NONE,) * (outputs - 1)), tuple(joined))
