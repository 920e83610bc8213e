"""One walk for all that reads what things are made of: without recursion, and each part once.

A reader is written as if it called itself, but yields a part where it would call: it is sent the
value of that part, and returns its own. So it may go as deep as a model has layers.

    def depth(expr: Expr) -> Reading[Expr, int]:
        deepest = 0
        for part in expr.parts:
            deepest = max(deepest, (yield part))
        return deepest + 1
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, MutableMapping
from typing import Any, TypeVar

Whole = TypeVar("Whole")
Value = TypeVar("Value")
Reading = Generator[Whole, Value, Value]


def read_through(
    whole: Whole,
    read: Callable[[Whole], Reading[Whole, Value]],
    known: MutableMapping[Any, Value],
    key: Callable[[Whole], Hashable] = lambda whole: whole,
) -> Value:
    """The value of something that is made of parts, as deep as it may be.

    Args:
        whole: What to read.
        read: Begins to read: it yields the parts whose values it needs.
        known: Values by key; those of the parts that were needed are added.
        key: What tells two parts apart, such as `id` for objects that have no hash.
    """
    stack = [(whole, read(whole))]
    sent: Value | None = None  # what a generator is sent first
    while key(whole) not in known:
        here, reading = stack[-1]
        try:
            part = reading.send(sent)  # type: ignore[arg-type]
        except StopIteration as done:
            stack.pop()
            known[key(here)] = sent = done.value
            continue
        sent = known.get(key(part))
        if key(part) not in known:
            stack.append((part, read(part)))
    return known[key(whole)]
