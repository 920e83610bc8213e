"""The JSON form of plain values: dataclasses, tuples, enums and numbers, there and back.

The types of the fields say how to read one, so that a new field needs no line here. A dataclass is
an object of its fields, an enum its value. Where several dataclasses are possible "type" says which
it is, and a number that JSON does not have is an object with its name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from slanc_onnx.errors import SlancError
from slanc_onnx.feed import Feed

TAG, _NUMBER = "type", "number"
_NAMES = ("nan", "inf", "-inf")
_TAGGED = get_args(Feed)


def _named(value: float) -> dict[str, str]:
    return {_NUMBER: str(value)}


def to_json(value: object, not_finite: Callable[[float], object] = _named) -> Any:
    """The JSON form of a value; `not_finite` gives that of a number that JSON does not have."""
    if is_dataclass(value):
        form = {TAG: type(value).__name__} if isinstance(value, _TAGGED) else {}
        for one in fields(value):
            form[one.name] = to_json(getattr(value, one.name), not_finite)
        return form
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(one, not_finite) for one in value]
    if isinstance(value, np.generic):
        return to_json(value.tolist(), not_finite)
    if isinstance(value, float) and not math.isfinite(value):
        return not_finite(value)
    return value


def from_json(hint: Any, form: Any, what: str = "") -> Any:
    """The value of a type that has this form.

    Args:
        hint: The type.
        form: What `to_json` gave.
        what: How messages call it.

    Raises:
        SlancError: it is the form of no such value.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(inner, form, what)
    if origin is Literal and form in inner:
        return form
    if origin in (tuple, list) and isinstance(form, list):
        same = origin is list or inner[-1:] == (Ellipsis,)
        if same or len(form) == len(inner):
            each = [inner[0]] * len(form) if same else inner
            return origin(from_json(h, f, what) for h, f in zip(each, form, strict=True))
    if isinstance(hint, type):
        return _of_class(hint, form, what)
    raise _no(form, what)


def _of_class(hint: type, form: Any, what: str) -> Any:
    if issubclass(hint, Enum) and form in [one.value for one in hint]:
        return hint(form)
    if is_dataclass(hint) and isinstance(form, Mapping):
        hints = _hints(hint)
        known, needed = set(hints), _needed(hint)
        if not needed <= form.keys() <= known | {TAG}:
            odd = sorted((form.keys() - known - {TAG}) | (needed - form.keys()))
            raise SlancError(f"{what or hint.__name__}: {odd[0]} is not known, or is missing.")
        values = ((name, one) for name, one in form.items() if name in known)
        return hint(**{name: from_json(hints[name], one, name) for name, one in values})
    if issubclass(hint, tuple) and isinstance(form, list):  # a NamedTuple, or its first fields
        each = list(_hints(hint).values())
        optional = len(getattr(hint, "_field_defaults", ()))
        if len(each) - optional <= len(form) <= len(each):
            return hint(*(from_json(h, f, what) for h, f in zip(each, form, strict=False)))
    if hint is float and isinstance(form, Mapping) and form.get(_NUMBER) in _NAMES:
        return float(form[_NUMBER])
    if type(form) is hint:
        return form
    if hint is float and type(form) is int:  # a fact that is counted
        return form
    if hint is NoneType and form is None:
        return None
    raise _no(form, what)


def _one_of(hints: tuple[Any, ...], form: Any, what: str) -> Any:
    """The value of the first of several types that has this form."""
    tagged = form.get(TAG) if isinstance(form, Mapping) else None
    for exact in (True, False):  # 1 is no float where int is possible as well, nor is text a number
        for hint in hints:
            if tagged is not None and getattr(hint, "__name__", "") != tagged:
                continue
            plain = hint in (int, float, str, bool)
            if exact and plain and type(form) is not hint and not isinstance(form, Mapping):
                continue
            try:
                return from_json(hint, form, what)
            except SlancError:
                pass
    raise _no(form, what)


@cache
def _hints(hint: type) -> dict[str, Any]:
    return get_type_hints(hint)


@cache
def _needed(hint: Any) -> frozenset[str]:
    """The fields without a default."""
    return frozenset(one.name for one in fields(hint) if one.default is one.default_factory)


def _no(form: object, what: str) -> SlancError:
    return SlancError(f"{what or 'JSON'}: {str(form)[:80]!r} is not the form of such a value.")
