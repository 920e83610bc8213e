"""Rules of elementwise functions of one tensor, by their records, and of casts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from slanc_onnx.ops import ELEMENTWISE
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import DEVICE_SLACK, Bounded, Box, Gate, Reach, total
from slanc_onnx.prove.trusted.kinds import BOOL, FLOATS, largest_of, natural
from slanc_onnx.prove.trusted.rules.joins import MOST_GATES, add, gates_in, made
from slanc_onnx.prove.trusted.table import ANY, MICROSOFT, WHOLE, Call, Result, rule
from slanc_onnx.prove.trusted.values import Facts, Value, as_value, interval, widened
from slanc_onnx.reasons import Unproved, Unread, reason

Parameters = tuple[float | str, ...]


def image(value: Value, name: str, parameters: Parameters) -> Value:
    """What a function of the records makes of a tensor.

    Raises:
        NoBound: nothing limits it, or elements may lie outside its domain.
    """
    record = ELEMENTWISE[name]
    domain = record.domain(*parameters)
    above = value.low > 0
    if domain != "real" and not above and (domain != "not negative" or value.low < 0):
        kind = Unproved.NEGATIVE_ARGUMENT if domain == "not negative" else Unproved.NO_LIMIT
        raise NoBound(reason(kind, name))
    # A runtime's tanh may be a unit above 1.
    low, high = (end * DEVICE_SLACK for end in record.range(*parameters))
    slope = record.slope(*parameters)
    limit = max(abs(low), abs(high))
    each = value.reach.each
    if slope is not None:
        grown = slope * DEVICE_SLACK
        reach: Reach = Bounded(np.minimum(grown * each, limit), value.reach, grown)
        if not value.axes:
            reach = Box(reach.each)
    elif math.isfinite(limit):
        reach = Box(np.full(len(each), limit))
    elif record.growth is not None:
        with np.errstate(over="ignore"):
            reach = Box(record.growth(each, *parameters) * DEVICE_SLACK)
    else:
        raise NoBound(reason(Unproved.NO_LIMIT, name))
    off = record.off(*parameters)
    if not off * 2.0**22 <= largest_of(value.kind):  # what is multiplied with e^z first
        raise NoBound(reason(Unproved.NO_LIMIT, name))
    if off:
        reach = total([reach, Box(np.full(len(each), off))])
    return Value(value.kind, value.dims, value.axes, reach, low, high, facts=value.facts)


def _of_attributes(call: Call, name: str) -> Value:
    given = ELEMENTWISE[name].attributes
    parameters = tuple(_text(call.attributes.get(key, own)) for key, own in given.items())
    return image(call.value(), name, parameters)


def _text(value: object) -> float | str:
    return value.decode() if isinstance(value, bytes) else value  # type: ignore[return-value]


@rule("QuickGelu", attributes=("alpha",), domain=MICROSOFT)
@rule("Gelu", domain=MICROSOFT)
def function(call: Call) -> Result:
    """A function whose record bounds it by slope, limit or growth."""
    return _of_attributes(call, call.op)


# Records whose ops have a rule of their own below, or belong to another domain.
_OWN = ("Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "BiasGelu", "FastGelu", "QuickGelu")
# By its definition log(1 + e^x), infinite from 12 on in FP16; ONNX Runtime avoids it in FP32 alone.
_TYPES: dict[str, tuple[int, ...]] = {"Softplus": (TensorProto.FLOAT,)}
for _name, _record in ELEMENTWISE.items():
    if not _record.from_inputs and _name not in _OWN:
        _known = (_TYPES.get(_name, FLOATS),)
        rule(_name, attributes=tuple(_record.attributes), types=_known)(function)


@rule("BiasGelu", "FastGelu", types=(FLOATS, FLOATS), domain=MICROSOFT)
def biased(call: Call) -> Result:
    """Gelu(x + bias)."""
    summed = add(call) if call.has(1) else call.value()
    assert isinstance(summed, Value)
    return image(summed, "Gelu", ("none",))


@rule("Neg", "Abs", types=((*FLOATS, *WHOLE),), exact=True)
def mirrored(call: Call) -> Result:
    """-x, or |x|."""
    value = call.value()
    ends = (-value.high, -value.low)
    if call.op == "Abs":
        ends = (max(0.0, value.low, -value.high), max(abs(value.low), abs(value.high)))
    reach = Bounded(value.reach.each, value.reach, 1.0) if call.op == "Abs" else value.reach
    return made(call.facts, [value], value.dims, value.axes, reach, ends)


@rule("Exp")
def exponential(call: Call) -> Result:
    """e^x, elementwise: at least e^low, which FP32 may flush."""
    value = call.value()
    with np.errstate(over="ignore"):
        reach = Box(np.exp(value.reach.each) * DEVICE_SLACK)
        most = float(np.exp(value.high)) * DEVICE_SLACK
    least = math.exp(max(value.low, -1000.0)) / DEVICE_SLACK
    low = least if least >= 2.0**-126 else 0.0
    reach = Box(np.minimum(reach.each, most))
    return Value(value.kind, value.dims, value.axes, reach, low, most, facts=value.facts)


@rule("Log")
def logarithm(call: Call) -> Result:
    """The logarithm of numbers that have a limit above zero."""
    value = call.value()
    if not value.low >= 2.0**-126:
        raise NoBound(reason(Unproved.NO_LIMIT, call.op))
    ends = sorted((math.log(value.low), math.log(max(value.high, value.low))))
    bound = max(abs(end) for end in ends) * DEVICE_SLACK + 2.0**-20
    reach = Box(np.full(value.reach.channels, bound))
    return Value(value.kind, value.dims, value.axes, reach, -bound, bound, facts=value.facts)


@rule("Sqrt")
def root(call: Call) -> Result:
    """The root of numbers that are not negative."""
    value = call.value()
    if value.low < 0:
        raise NoBound(reason(Unproved.NEGATIVE_ARGUMENT, call.op))
    reach = Box(np.sqrt(value.reach.each) * DEVICE_SLACK)
    ends = math.sqrt(value.low), math.sqrt(max(value.high, 0.0))
    return made(call.facts, [value], value.dims, value.axes, reach, ends)


@rule("Reciprocal")
def reciprocal(call: Call) -> Result:
    """1 / x of numbers that stay away from zero."""
    value = call.value()
    if not (value.low > 0 or value.high < 0):
        raise NoBound(reason(Unproved.NO_LIMIT, call.op))
    ends = sorted((1 / value.low, 1 / value.high))
    bound = max(abs(end) for end in ends) * DEVICE_SLACK
    reach = Box(np.full(value.reach.channels, bound))
    return made(call.facts, [value], value.dims, value.axes, reach, (ends[0], ends[1]))


@rule("Pow", types=(FLOATS, (*FLOATS, *WHOLE)))
def power(call: Call) -> Result:
    """x to a constant power: a whole one, or one above zero of numbers that are not negative."""
    value, exponents = call.value(), call.constant(1).values.reshape(-1)
    if len(exponents) != 1 or not 0 < float(exponents[0]) <= 64:
        raise NoBound(reason(Unread.EXPONENTS_DIFFER))
    exponent = float(exponents[0])
    if exponent % 1 and value.low < 0:
        raise NoBound(reason(Unproved.NEGATIVE_ARGUMENT, call.op))
    with np.errstate(over="ignore"):
        reach: Reach = Box(value.reach.each**exponent * DEVICE_SLACK)
        if exponent == 2 and value.axes and gates_in(value.reach) < MOST_GATES // 2:
            reach = Gate(reach.each, value.reach, value.reach)
        ends = (
            float(np.float64(abs(value.low)) ** exponent),
            float(np.float64(abs(value.high)) ** exponent),
        )
    even = exponent % 2 == 0
    if value.low < 0:
        odd = (-ends[0], ends[1] if value.high >= 0 else -ends[1])
        ends = (0.0, max(ends)) if even else odd
    if len(call.operand(1).dims) > value.rank:
        raise NoBound(reason(Unread.EXPONENTS_DIFFER))
    return made(call.facts, [value], value.dims, value.axes, reach, ends)


@rule("Clip", types=((*FLOATS, *WHOLE),), since=11, extended=True, exact=True)
def clip(call: Call) -> Result:
    """min(max(x, low), high) with constant limits."""
    value = call.value()
    if value.nan is not None:
        raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    ends = [_limit(call, 1, -math.inf), _limit(call, 2, math.inf)]
    if not ends[0] <= ends[1] or (value.infinite and not math.isfinite(ends[0])):
        raise NoBound(reason(Unproved.NO_LIMIT, call.op))
    low, high = (min(max(end, ends[0]), ends[1]) for end in (value.low, value.high))
    if value.infinite:
        low = ends[0]
    if value.kind not in FLOATS:
        return interval(value.kind, value.dims, low, high, call.facts)
    within = ends[0] <= 0 <= ends[1] and not value.infinite
    most = max(abs(low), abs(high))
    each = np.minimum(value.reach.each, most)
    reach: Reach = Box(np.full(len(each), most))
    if within:
        reach = Bounded(each, value.reach, 1.0) if value.axes else Box(each)
    return Value(value.kind, value.dims, value.axes, reach, low, high, facts=call.facts)


def _limit(call: Call, place: int, absent: float) -> float:
    if not call.has(place):
        return absent
    numbers = call.constant(place).values.reshape(-1)
    if len(numbers) != 1 or math.isnan(float(numbers[0])):
        raise NoBound(reason(Unread.UNKNOWN_VALUE))
    return float(numbers[0])


@rule("Sign", types=((*FLOATS, *WHOLE),), exact=True)
@rule("Floor", "Ceil", "Round", exact=True)
def whole(call: Call) -> Result:
    """The next whole number, or the sign."""
    value = call.value()
    if call.op == "Sign":
        return interval(value.kind, value.dims, -1.0, 1.0, call.facts)
    reach = Box(np.ceil(value.reach.each))
    ends = math.floor(value.low), math.ceil(value.high)
    return made(call.facts, [value], value.dims, value.axes, reach, ends)


@rule("Cast", attributes=("to",), types=(ANY,), extended=True)
@rule("CastLike", types=(ANY,), extended=True)
def cast(call: Call) -> Result:
    """The same numbers in another type, where that holds them."""
    to = call.attributes["to"] if call.op == "Cast" else call.operand(1).kind
    value = as_value(call.operand(0))
    if to not in ANY:
        raise NoBound(reason(Unproved.NO_RULE_FOR_TYPE, TensorProto.DataType.Name(to)))
    if to in FLOATS:
        if value.kind in FLOATS:
            rounds = value.kind == TensorProto.DOUBLE  # to 16 bits: the table sees to it
            return replace(
                value, kind=to, reach=widened(value.reach, 2.0**-23) if rounds else value.reach
            )
        if to != TensorProto.DOUBLE and value.largest > largest_of(to):
            raise NoBound(reason(Unproved.OVERFLOWS_BETWEEN, value.largest, largest_of(to)))
        if value.axes:  # rows of a table of whole numbers
            return replace(value, kind=to, reach=widened(value.reach, 2.0**-23))
        ends = (value.low, value.high)
        if to != TensorProto.DOUBLE:
            ends = float(np.float32(value.low)), float(np.float32(value.high))
        return interval(to, value.dims, *ends, value.facts)
    if to == BOOL:
        return interval(BOOL, value.dims, 0.0, 1.0, Facts(origin=value.facts.deciders))
    least, most = natural(to)
    low, high = least, most  # which is all that ONNX says of what does not fit
    if not value.infinite and value.nan is None and least <= value.low <= value.high <= most:
        low, high = math.trunc(value.low), math.trunc(value.high)
    return interval(to, value.dims, float(low), float(high), value.facts)


@rule("Identity", types=(ANY,), extended=True, exact=True)
def identity(call: Call) -> Result:
    """The same."""
    return call.operand(0)


@rule(
    "Dropout",
    attributes=("seed",),
    types=(FLOATS, FLOATS, (BOOL,)),
    since=12,
    extended=True,
    exact=True,
)
def dropout(call: Call) -> Result:
    """The same, where it is not for training."""
    if call.has(2) and call.constant(2).values.any():
        raise NoBound(reason(Unread.UNKNOWN_INPUT, "training_mode"))
    value = call.value()
    mask = interval(BOOL, value.dims, 0.0, 1.0, Facts())
    return [value, mask][: len(call.outputs)]
