"""Rules of elementwise ops: arithmetic, conditions, activations, limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from slanc_onnx.graph import Array, op_of
from slanc_onnx.ops import (
    COMPARISONS,
    ELEMENTWISE,
    UNARY,
    CannotFollow,
    Parameter,
    broadcast,
    common_shape,
    computed,
    refuse_large,
)
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import (
    CONDITION,
    Apply,
    Product,
    Select,
    Sum,
    Weight,
    is_ids,
)
from slanc_onnx.trace.movement import FOLDS
from slanc_onnx.trace.ranges import value_range
from slanc_onnx.trace.rules.reduce import is_total_of
from slanc_onnx.trace.values import (
    Const,
    Readable,
    Value,
    View,
    as_view,
    as_weight,
    combine,
    either,
    ids_view,
    shares_view,
)
from slanc_onnx.trace.visit import Rule, Visit, added, is_shares, scaled

# Ops whose output is a condition.
LOGIC = {*COMPARISONS, "Equal", "And", "Or", "Not", "Xor", "IsNaN", "IsInf"}


def _elementwise(visit: Visit) -> list[Value]:
    """Arithmetic on activations has a rule per op; constants are computed."""
    values = [visit.known(i) for i in range(len(visit.inputs))]
    op = op_of(visit.node)
    if not any(isinstance(v, View) for v in values):
        return [_fold(op, values)]
    if op in LOGIC:
        return [_compared(op, values)]
    if op == "Pow":
        return [_power(visit.view(0), visit.array(1))]
    if op not in _ARITHMETIC:
        raise CannotFollow(Unread.NO_RULE_FOR_ACTIVATIONS)
    return [_ARITHMETIC[op](values)]


def _add(values: Sequence[Readable]) -> View:
    for zero, other in (values, values[::-1]):
        blank = isinstance(zero, Const) and not zero.array.any()
        if blank and common_shape(zero.shape, other.shape) == other.shape:
            return as_view(other)
    return added(as_view(values[0]), as_view(values[1]))


def _sum(values: Sequence[Readable]) -> View:
    total = as_view(values[0])
    for value in values[1:]:
        total = combine(Sum, total, as_view(value))
    return total


def _subtract(values: Sequence[Readable]) -> View:
    a, b = values
    negative = scaled(b, -1.0) if isinstance(b, View) else as_view(_fold("Neg", [b]))
    return combine(Sum, as_view(a), negative)


def _multiply(values: Sequence[Readable]) -> View:
    return combine(Product, as_view(values[0]), as_view(values[1]))


def _divide(values: Sequence[Readable]) -> View:
    a, b = values
    if isinstance(b, View) and isinstance(a, View) and is_total_of(b, a):
        return shares_view(a.shape)
    inverse = (
        function_of("Reciprocal", b) if isinstance(b, View) else as_view(_fold("Reciprocal", [b]))
    )
    return combine(Product, as_view(a), inverse)


def _power(base: View, exponent: Array | None) -> View:
    if exponent is None or exponent.size != 1:
        raise CannotFollow(Unread.EXPONENTS_DIFFER)
    power = float(exponent.reshape(-1)[0])
    if power not in (2.0, 3.0):
        return function_of("Pow", base, power)
    square = combine(Product, base, base)
    return square if power == 2.0 else combine(Product, square, base)


def _limit(values: Sequence[Readable], low: bool) -> View:
    """The larger or smaller of two activations is either; one number is a limit of a Clip.

    Other constants limit the values alone, which the expression leaves out.
    """
    view, *others = (v for v in values if isinstance(v, View))
    if others:
        return either(view, others[0])
    shape = common_shape(*(v.shape for v in values))
    view = View(view.expr, broadcast(view.ids, shape))
    numbers = [v.array for v in values if isinstance(v, Const)]
    if not numbers or len(numbers) < len(values) - 1 or any(n.size != 1 for n in numbers):
        return view
    limits = [float(number.reshape(-1)[0]) for number in numbers]
    return _clipped(view, *((max(limits), math.inf) if low else (-math.inf, min(limits))))


def _clipped(view: View, low: float, high: float) -> View:
    """Rows with elements limited to [low, high], or the same rows where no limit can bind.

    Limits on shares, on ids and on one number per row are left out of the expression: they guard a
    division or a mask, whose sizes the expression does not tell.
    """
    known = value_range(view.expr)
    unbound = known is not None and low <= known[0] and known[1] <= high
    if unbound or view.expr.channels == 1 or is_ids(view.expr) or is_shares(view.expr):
        return view
    return function_of("Clip", view, low, high)


_ARITHMETIC: dict[str, Callable[[Sequence[Readable]], View]] = {
    "Add": _add,
    "Sum": _sum,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Min": partial(_limit, low=False),
    "Max": partial(_limit, low=True),
}


def _compared(op: str, values: Sequence[Readable]) -> View:
    """Where a row lies above or below a number; any other condition is just a mask."""
    x, limit = values[0], values[-1]
    one = isinstance(limit, Const) and limit.array.size == 1
    if op in COMPARISONS and isinstance(x, View) and not is_ids(x.expr) and one:
        assert isinstance(limit, Const)
        return function_of(op, x, float(limit.array.reshape(-1)[0]))
    shape = common_shape(*(v.shape for v in values))
    return ids_view(CONDITION, shape)


def _fold(op: str, values: Sequence[Value], parameters: Sequence[Parameter] = ()) -> Value:
    if op not in FOLDS:
        raise CannotFollow(Unread.NO_RULE_FOR_CONSTANTS)

    def function(*arrays: Array) -> Array:
        return FOLDS[op](*arrays, *parameters)

    if all(isinstance(v, Const) for v in values):
        consts = [v for v in values if isinstance(v, Const)]
        arrays = [c.array for c in consts]
        refuse_large(math.prod(common_shape(*(a.shape for a in arrays))))
        if op == "Reciprocal":
            arrays = [a.astype(np.float32) for a in arrays]
        return Const(computed(function, *arrays), any(c.varies for c in consts))
    weights = [v for v in values if isinstance(v, Weight)]
    parts = [as_weight(v) for v in values if isinstance(v, (Const, Weight))]
    shape = common_shape(*(v.shape for v in parts))
    return Weight(weights[0].name, shape, lambda: np.asarray(function(*(v.read() for v in parts))))


def _where(visit: Visit) -> list[Value]:
    condition, *values = visit.value(0), visit.known(1), visit.known(2)
    if isinstance(condition, (Const, Weight)) and not any(isinstance(v, View) for v in values):
        return [_fold("Where", [condition, *values])]
    branches = [v for v in values if isinstance(v, View)]
    if len(branches) == 1:  # a mask
        other = next(v for v in values if not isinstance(v, View))
        shape = common_shape(branches[0].shape, other.shape)
        return [View(branches[0].expr, broadcast(branches[0].ids, shape))]
    if not branches:
        raise CannotFollow(Unread.CHOSEN_ELEMENTS)
    if isinstance(condition, View) and isinstance(condition.expr, Apply):
        a, b = (broadcast(v.ids, condition.shape) for v in branches)
        same = {condition.expr.channels} == {v.expr.channels for v in branches}
        if same and np.array_equal(a, condition.ids) and np.array_equal(b, condition.ids):
            rows = (condition.expr, branches[0].expr, branches[1].expr)
            return [View(Select(condition.expr.channels, *rows), condition.ids)]
    return [either(*branches)]


def function_of(op: str, view: View, *parameters: Parameter) -> View:
    """An elementwise function of an activation; its attributes come in the order of its record."""
    return View(Apply(view.expr.channels, op, view.expr, parameters), view.ids)


def parameters_of(name: str, given: Mapping[str, Parameter]) -> list[Parameter]:
    """The attributes of a function in the order of its record, with ONNX's defaults."""
    return [given.get(key, default) for key, default in ELEMENTWISE[name].attributes.items()]


def _activation(visit: Visit) -> list[Value]:
    name, value = visit.node.op, visit.known(0)
    parameters = parameters_of(name, visit.attributes)
    biased = name in ("BiasGelu", "FastGelu") and visit.value(1) is not None
    if not isinstance(value, View):
        if biased:
            raise CannotFollow(Unread.NO_RULE_FOR_CONSTANTS)
        return [_fold(name, [value], parameters)]
    if name == "Neg":
        return [scaled(value, -1.0)]
    if biased:
        value = combine(Sum, value, visit.view(1))
    return [function_of(name, value, *parameters)]


def _clip(visit: Visit) -> list[Value]:
    """Limits that are one number each are a function; others are left out of the expression."""
    value, limits = visit.known(0), [_limit_of(visit, 1, "min"), _limit_of(visit, 2, "max")]
    if not isinstance(value, View):  # in its own type, which integers keep
        constant: Value = value
        for op, limit in zip(("Max", "Min"), limits, strict=True):
            constant = constant if limit is None else _fold(op, [constant, Const(limit)])
        return [constant]
    if any(limit is not None and limit.size != 1 for limit in limits):
        return [value]
    defaults = (-math.inf, math.inf)
    low, high = (
        default if limit is None else float(limit.reshape(-1)[0])
        for limit, default in zip(limits, defaults, strict=True)
    )
    return [_clipped(value, low, high)]


def _limit_of(visit: Visit, position: int, name: str) -> Array | None:
    """A limit of a Clip: an input, or before opset 11 an attribute; None where there is none."""
    if visit.value(position) is not None:
        return visit.array(position)
    given = visit.attributes.get(name)
    return None if given is None else np.asarray(given, np.float32)


def _softmax(visit: Visit) -> list[Value]:
    return [shares_view(visit.known(0).shape, int(visit.attributes.get("axis", -1)))]


ELEMENTWISE_RULES: dict[str, Rule] = {
    **{op: _elementwise for op in (*FOLDS, *LOGIC)},
    **{op: _activation for op in UNARY},
    "Where": _where,
    "Clip": _clip,
    "Softmax": _softmax,
}
