"""Rules of ops that tell sizes, or make tensors of them: Shape, Range, ConstantOfShape."""

from __future__ import annotations

import math

import numpy as np
from onnx import numpy_helper

from slanc_onnx.graph import MOST_AXES
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import DEVICE_UNIT
from slanc_onnx.prove.trusted.kinds import FLOATS, INT64, natural
from slanc_onnx.prove.trusted.sizes import size_of
from slanc_onnx.prove.trusted.table import ANY, WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import (
    Constant,
    Operand,
    Sizes,
    Value,
    as_value,
    interval,
)
from slanc_onnx.reasons import Unread, reason


@rule("Shape", attributes=("start", "end"), types=(ANY,), extended=True, exact=True)
def shape(call: Call) -> Result:
    """The sizes of the axes from start to end."""
    dims = call.operand(0).dims
    picked = dims[call.attributes.get("start", 0) : call.attributes.get("end", len(dims))]
    return Sizes((len(picked),), tuple(picked))


@rule("Size", types=(ANY,), extended=True, exact=True)
def size(call: Call) -> Result:
    """The product of all sizes."""
    dims = call.operand(0).dims
    known = [dim for dim in dims if isinstance(dim, int)]
    return Sizes((), (math.prod(known) if len(known) == len(dims) else call.fresh(),))


@rule("Range", types=((*FLOATS, *WHOLE),), exact=True)
def numbers_in_range(call: Call) -> Result:
    """Numbers from start to limit, of which there may be any number."""
    start, limit = call.value(0), call.value(1)
    low = min(start.low, limit.low)
    high = max(start.high, limit.high)
    if start.kind in FLOATS:
        off = _drift(call.value(2), max(abs(low), abs(high)))
        low, high = low - off, high + off
    else:
        least, most = natural(start.kind)
        low, high = max(low, least), min(high, most)
    if _is(call.operand(0), 0) and _is(call.operand(2), 1):
        given = call.operand(1)
        if isinstance(given, Sizes):
            return interval(start.kind, given.entries, low, high, call.facts)
    return interval(start.kind, (call.fresh(),), low, high, call.facts)


def _drift(step: Value, largest: float) -> float:
    """How far numbers may be off that a runtime adds up step by step.

    Raises:
        NoBound: a step may be zero, so that there may be any number of them.
    """
    least = max(step.low, -step.high)
    if not least > 0:
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    steps = 2 * largest / least + 1
    return steps * largest * 2 * DEVICE_UNIT * (1 + steps * 2 * DEVICE_UNIT)


def _is(operand: Operand, number: int) -> bool:
    """Whether a tensor is that one number."""
    if isinstance(operand, Sizes):
        return operand.entries == (number,)
    return isinstance(operand, Constant) and operand.size == 1 and operand.values.item() == number


@rule("ConstantOfShape", attributes=("value",), types=((INT64,),), exact=True)
def constant_of_shape(call: Call) -> Result:
    """One number everywhere."""
    value = call.attributes.get("value")
    number = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    given = Constant(1 if value is None else value.data_type, (), lambda: number.reshape(()))
    one = as_value(given)
    return Value(
        one.kind, target_dims(call, 0), (), one.reach, one.low, one.high, one.infinite,
        facts=call.facts,
    )  # fmt: skip


def target_dims(call: Call, place: int) -> tuple[int | str, ...]:
    """The sizes that an input asks for, each a number or a new symbol."""
    given = call.operand(place)
    if isinstance(given, Sizes):
        return given.entries
    count = given.size if isinstance(given, Constant) else size_of(given.dims[0])
    if count > MOST_AXES:
        raise NoBound(reason(Unread.TOO_LARGE, count))
    if isinstance(given, Constant):
        return tuple(int(number) for number in given.values.reshape(-1))
    return call.symbols(count)


@rule("NonZero", types=(ANY,), extended=True, exact=True)
def non_zero(call: Call) -> Result:
    """Places of elements, of which there may be any number."""
    rank = len(call.operand(0).dims)
    if not rank:  # of which ONNX Runtime tells one place on no axis, and ONNX none
        raise NoBound(reason(Unread.READ_IN_TWO_WAYS, "number without axes"))
    return interval(INT64, (rank, call.fresh()), 0.0, natural(INT64)[1], call.facts)


@rule(
    "ArgMax",
    "ArgMin",
    attributes=("axis", "keepdims", "select_last_index"),
    extended=True,
    exact=True,
    types=(ANY,),
)
def place_of_extreme(call: Call) -> Result:
    """A place along an axis."""
    dims = list(call.operand(0).dims)
    axis = call.attributes.get("axis", 0) % len(dims)
    dims[axis : axis + 1] = [1] if call.attributes.get("keepdims", 1) else []
    return interval(INT64, dims, 0.0, natural(INT64)[1], call.facts)


@rule(
    "TopK", attributes=("axis", "largest", "sorted"), types=((*FLOATS, *WHOLE), (INT64,)),
    since=10, exact=True,
)  # fmt: skip
def largest_ones(call: Call) -> Result:
    """Some of the numbers along an axis, and their places."""
    value, count = call.value(), target_dims(call, 1)
    axis = call.attributes.get("axis", -1) % value.rank
    dims = (*value.dims[:axis], *count, *value.dims[axis + 1 :])
    numbers = interval(value.kind, dims, value.low, value.high, value.facts)
    places = interval(INT64, dims, 0.0, natural(INT64)[1], value.facts)
    return [numbers, places][: len(call.outputs)]
