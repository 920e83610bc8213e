"""Readers of expressions, which remember what they read; see `slanc_onnx.graph.read_through`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

from slanc_onnx.graph import read_through
from slanc_onnx.trace.expression import Expr

Value = TypeVar("Value")
Reading = Generator[Expr, Value, Value]


def reader(read: Callable[[Expr], Reading[Value]]) -> Callable[[Expr], Value]:
    """Make a function of an expression, remembered for as long as the expression lives.

    Args:
        read: Yields the parts whose values it needs, is sent these, and returns its own.
    """
    known: WeakKeyDictionary[Expr, Value] = WeakKeyDictionary()

    @wraps(read)
    def value(expr: Expr) -> Value:
        return read_through(expr, read, known)

    return value
