"""Readers of expressions: as deep as it gets, each part once, and only what is asked for."""

from slanc_onnx.graph import read_through
from slanc_onnx.trace.expression import Apply, Expr, Input, Sum
from slanc_onnx.trace.reading import Reading, reader

X = Input(4, "x")


def chain(length: int) -> Expr:
    expr: Expr = X
    for _ in range(length):
        expr = Apply(4, "Relu", expr)
    return expr


@reader
def depth(expr: Expr) -> Reading[int]:
    """How many expressions lie on the longest way to the start."""
    deepest = 0
    for part in expr.parts:
        deepest = max(deepest, (yield part))
    return deepest + 1


def test_a_chain_of_any_length() -> None:
    assert depth(X) == 1
    assert depth(chain(50_000)) == 50_001


def test_shared_parts_are_read_once() -> None:
    expr: Expr = X
    read: list[Expr] = []

    def ways(here: Expr) -> Reading[int]:
        read.append(here)
        total = 0 if here.parts else 1
        for part in here.parts:
            total += yield part
        return total

    for _ in range(300):
        expr = Sum(4, expr, expr)
    assert read_through(expr, ways, {}) == 2**300
    assert len(read) == 301


def test_what_is_not_asked_for_is_not_read() -> None:
    wrong = Apply(4, "Whirl", X)

    def first(here: Expr) -> Reading[str]:
        assert here is not wrong
        return (yield here.parts[0]) if here.parts else "x"

    expr: Expr = Sum(4, X, wrong)
    assert read_through(expr, first, {}) == "x"
