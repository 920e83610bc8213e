"""One walk for all readers of things made of parts: no recursion, and each part is read once.

A reader is written as if it called itself, but where it would call, it yields a part and is sent
the value of that part. In the end it returns its own value. So a model may be as deep as it likes.

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
    """The value of something made of parts, however deep.

    Args:
        whole: The thing to read.
        read: Makes the generator that reads one thing: it yields the parts whose values it needs.
        known: Values by key; the values of all parts that are read are added.
        key: Tells two parts apart, for example `id` for objects without a hash.
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
