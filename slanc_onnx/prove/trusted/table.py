"""The table of rules: an op is known only with the attributes and types that its rule names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from onnx import TensorProto

from slanc_onnx.graph import DOMAINS, Array
from slanc_onnx.prove.bound import NoBound, damage_has_no_bound
from slanc_onnx.prove.trusted.kinds import BOOL, FLOATS, largest_of
from slanc_onnx.prove.trusted.values import (
    Constant,
    Facts,
    Operand,
    Sizes,
    Value,
    as_value,
    checked,
    facts_of,
    few_parts,
    rounded,
    settled,
)
from slanc_onnx.reasons import Unproved, Unread, reason

MICROSOFT = "com.microsoft"
WHOLE = (
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
)
ANY = (*FLOATS, *WHOLE, BOOL)
_IN_PLACE = ("IsNaN", "Identity")  # whose truths are of the elements at their own places
Result = Operand | Sequence[Operand | None]


@dataclass(frozen=True, eq=False)
class Call:
    """One node as its rule sees it.

    Attributes:
        op: Its type.
        opset: The version of its domain.
        attributes: Its attributes, which the rule names.
        inputs: What is known of its inputs; None for one that is left out.
        names: The names of its inputs, "" for one that is left out.
        outputs: The names of its outputs, likewise.
        pasts: The outputs of the whole graph.
        fresh: Gives a new symbol for an open size.
        again: Computes the outputs of the node itself from arrays, by ONNX's own evaluator.
        wide: The size that the output's last axis has wherever the model runs; None if open.
        exact: Whether large matrices get their tight norms.
        rough: Whether no matrix gets them, as only elements matter.
        executor: Works on blocks of large matrices; None for this thread.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Operand | None, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    pasts: frozenset[str]
    fresh: Callable[[], str]
    again: Callable[[Sequence[Array | None]], list[Array]]
    wide: int | None = None
    exact: bool = False
    rough: bool = False
    executor: Executor | None = None

    def has(self, position: int) -> bool:
        """Whether an input is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def operand(self, position: int) -> Operand:
        """An input.

        Raises:
            NoBound: it is left out.
        """
        found = self.inputs[position] if position < len(self.inputs) else None
        if found is None:
            raise NoBound(reason(Unread.UNKNOWN_INPUT, str(position)))
        return found

    def value(self, position: int = 0) -> Value:
        """An input as a value."""
        return as_value(self.operand(position))

    def constant(self, position: int) -> Constant:
        """An input that has to be a constant.

        Raises:
            NoBound: it is none.
        """
        found = settled(self.operand(position))
        if not isinstance(found, Constant):
            raise NoBound(reason(Unread.NOT_CONSTANT, self.names[position]))
        return found

    def numbers(self, position: int) -> list[int]:
        """The whole numbers of a constant input, [] where it is left out."""
        if not self.has(position):
            return []
        return [int(number) for number in self.constant(position).values.reshape(-1)]

    def symbols(self, count: int) -> tuple[str, ...]:
        """New symbols for open sizes."""
        return tuple(self.fresh() for _ in range(count))

    @property
    def facts(self) -> Facts:
        """What the statements about all inputs rest on."""
        return facts_of(self.inputs)


Apply = Callable[[Call], Result]


@dataclass(frozen=True)
class Rule:
    """What an op does to values.

    Attributes:
        apply: Gives its outputs.
        attributes: The attributes that it knows; a node with any other is unknown.
        types: For each input the element types that it knows, and for no more inputs; one entry
            alone holds for all that there are.
        since: The first version of the op's domain for which it holds.
        extended: Whether it takes elements that are -inf or nan.
        exact: Whether no element is rounded.
    """

    apply: Apply
    attributes: tuple[str, ...]
    types: tuple[tuple[int, ...], ...]
    since: int
    extended: bool
    exact: bool


RULES: dict[tuple[str, str], Rule] = {}


def rule(
    *ops: str,
    attributes: Sequence[str] = (),
    types: Sequence[Sequence[int]] = (FLOATS,),
    domain: str = "",
    since: int = 1,
    extended: bool = False,
    exact: bool = False,
) -> Callable[[Apply], Apply]:
    """Enter a rule of some ops into the table; see `Rule`."""

    def enter(apply: Apply) -> Apply:
        made = Rule(apply, tuple(attributes), tuple(map(tuple, types)), since, extended, exact)
        for op in ops:
            RULES[domain, op] = made
        return apply

    return enter


def rule_for(domain: str, op: str, opset: int, attributes: Sequence[str]) -> Rule:
    """The rule of an op with these attributes.

    Raises:
        NoBound: the table has none.
    """
    domain = "" if domain == "ai.onnx" else domain
    found = RULES.get((domain, op))
    if found is None or opset < found.since:
        kind = Unread.NO_RULE if domain in DOMAINS else Unread.NO_RULE_IN_DOMAIN
        raise NoBound(reason(kind, *([] if domain in DOMAINS else [domain])))
    for attribute in attributes:
        if attribute not in found.attributes:
            raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, attribute))
    return found


def _with_conditions(found: Rule, operand: Operand | None) -> Operand | None:
    """An operand, free of nan on the conditions that make it so where a rule needs that."""
    if found.extended or not isinstance(operand, Value) or not operand.nan:
        return operand
    if any(not condition.input for condition in operand.nan):
        return operand
    facts = operand.facts | Facts(operand.nan)
    return replace(operand, nan=None, facts=facts)


def _is_held(number: float, most: float) -> bool:
    return math.isfinite(number) and abs(number) <= most


def applied(found: Rule, call: Call) -> list[Operand | None]:
    """What a rule says of a node's outputs, each within its type.

    Raises:
        NoBound: an input is of another type, or no bound follows.
    """
    floats = [largest_of(o.kind) for o in call.inputs if o is not None and o.kind in FLOATS]
    most = min(floats, default=math.inf)  # of the type that a runtime computes in
    for name, number in call.attributes.items():
        if isinstance(number, float) and not _is_held(number, most):
            raise NoBound(reason(Unread.NO_RULE_FOR_ATTRIBUTE, name))
    call = replace(call, inputs=tuple(_with_conditions(found, o) for o in call.inputs))
    for place, operand in enumerate(call.inputs):
        if operand is None:
            continue
        if len(found.types) > 1 and place >= len(found.types):
            raise NoBound(reason(Unread.UNKNOWN_INPUT, call.names[place]))
        types = found.types[min(place, len(found.types) - 1)]
        if operand.kind not in types:
            raise NoBound(
                reason(Unproved.NO_RULE_FOR_TYPE, TensorProto.DataType.Name(operand.kind))
            )
        strange = isinstance(operand, Value) and (operand.infinite or operand.nan is not None)
        if isinstance(operand, Constant):
            strange = not operand.finite
        if strange and not found.extended:
            raise NoBound(reason(Unproved.MAY_NOT_BE_FINITE))
    with damage_has_no_bound():  # a node that its rule does not fit is unknown
        made = found.apply(call)
    results = [made] if isinstance(made, Value | Constant | Sizes) else list(made)
    finished: list[Operand | None] = []
    for result in results:
        if isinstance(result, Value):
            tests = result.tests if call.op in _IN_PLACE else ""
            result = replace(result, reach=few_parts(result.reach), tests=tests)
            result = checked(result if found.exact else rounded(result), call.op)
        finished.append(result)
    return finished
