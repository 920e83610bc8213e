"""The terms of a norm's input, with the paper's letters and the weights' names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from slanc_onnx.trace.expression import (
    Alternatives,
    Apply,
    Convolution,
    Embedding,
    Expr,
    Input,
    Join,
    Known,
    Linear,
    Mix,
    Normalised,
    Opaque,
    Pick,
    Pooled,
    Product,
    Sum,
    walk,
)
from slanc_onnx.trace.ranges import is_nonlinear, value_range
from slanc_onnx.trace.reading import Reading, reader

TermKind = Literal[
    "input of",  # the whole input of an earlier norm
    "residual",
    "norm",
    "rows",
    "graph input",
    "unread",
    "attention",
    "gated MLP",
    "MLP",
    "projection",
    "convolution",
    "product",
    "apply",
    "mix",
    "join",
    "other",
]


@dataclass(frozen=True)
class Term:
    """One addend of a norm's input.

    Attributes:
        kind: What it is.
        of: The norm, table, graph input or op that it starts from; "" where weights tell more.
        weights: (letter of the paper, weight) of each weight; the letter is "" where it has none.
        times: The factor behind it: a weight's name, "" for a constant, None for no factor.
    """

    kind: TermKind
    of: str = ""
    weights: tuple[tuple[str, str], ...] = ()
    times: str | None = None


def terms_of(expr: Expr, residuals: dict[int, str]) -> tuple[Term, ...]:
    """The terms of a norm's input, each once.

    Args:
        expr: The input.
        residuals: Names of earlier norms by the serial of their input expression.
    """
    found = [_term(part, residuals) for part in _addends(expr, residuals)]
    return tuple(dict.fromkeys(term for term in found if term is not None))


def source_names(expr: Expr, residuals: dict[int, str]) -> list[str]:
    """Names of the norms, tables and inputs that an expression starts from, nearest first.

    Args:
        expr: The input of a norm.
        residuals: Names of earlier norms by the serial of their input expression.
    """
    names = []
    kinds = (Normalised, Embedding, Input, Opaque)
    inner = {serial for serial in residuals if serial != expr.serial}
    for e in walk(expr, lambda e: isinstance(e, kinds) or e.serial in inner):
        if e.serial in inner:
            names.append(f"input of {residuals[e.serial]}")
        elif isinstance(e, Normalised):
            names.append(e.norm)
        elif isinstance(e, Embedding):
            names.append(e.table.name)
        elif isinstance(e, Input):
            names.append(e.name)
        elif isinstance(e, Opaque):
            names.append(f"{e.op} ({e.tensor})")
    return list(dict.fromkeys(names))


def _addends(expr: Expr, residuals: dict[int, str]) -> list[Expr]:
    """The addends of a sum, each once, from left to right."""
    terms: list[Expr] = []
    seen: set[int] = set()
    stack = [expr]
    while stack:
        here = stack.pop()
        if here.serial in seen:
            continue
        seen.add(here.serial)
        if here is not expr and here.serial in residuals:
            terms.append(here)
        elif isinstance(here, Sum):
            stack.extend((here.b, here.a))
        elif isinstance(here, Alternatives):
            stack.append(here.kinds[0])
        elif isinstance(here, (Pick, Pooled)):
            stack.append(here.x)
        else:
            terms.append(here)
    return terms


def _term(expr: Expr, residuals: dict[int, str]) -> Term | None:
    if expr.serial in residuals:
        return Term("residual", residuals[expr.serial])
    times: str | None = None
    outer = expr
    while isinstance(expr, Product):
        constant, other = (expr.a, expr.b) if _is_constant(expr.a) else (expr.b, expr.a)
        if not _is_constant(constant):
            break
        names = _weights(constant)
        times = names[0] if names else ""
        expr = other
    while isinstance(expr, Pick):
        expr = expr.x
    match expr:
        case Normalised():
            names = _weights(outer.a if isinstance(outer, Product) else outer)
            names += _weights(outer.b) if isinstance(outer, Product) else []
            return Term("norm", expr.norm, tuple(("Γ", name) for name in names[:1]))
        case Embedding():
            return Term("rows", expr.table.name, times=times)
        case Input():
            return Term("graph input", expr.name)
        case Opaque():
            return Term("unread", f"{expr.op} ({expr.tensor})")
        case Known():
            return None
        case Linear():
            return replace(_block(expr, residuals), times=times)
        case Convolution():
            return Term("convolution", weights=(("", expr.weight.name),))
        case Product() | Apply() | Mix() | Join():
            kinds: dict[type[Expr], TermKind] = {
                Product: "product",
                Apply: "apply",
                Mix: "mix",
                Join: "join",
            }
            names = _weights(expr)
            return Term(kinds[type(expr)], weights=tuple(("", name) for name in names[:4]))
    return Term("other", type(expr).__name__.lower())


def _block(outer: Linear, residuals: dict[int, str]) -> Term:
    """The term of a block that ends in a matrix: attention, MLP, gated MLP or projection."""
    last = outer.weight.name
    inner = outer.x
    stop = (Linear, Normalised, Embedding, Input, Opaque)
    near = list(walk(inner, lambda e: isinstance(e, stop) or e.serial in residuals))
    linears = [e for e in near if isinstance(e, Linear)]
    if any(isinstance(e, Mix) for e in near):
        value = linears[0].weight.name if linears else "?"
        return Term("attention", weights=(("W_V", value), ("P", last)))
    gates = [e for e in near if isinstance(e, Product) and _is_gate(e)]
    if gates:
        gate, value_branch = gates[0].a, gates[0].b
        if not is_nonlinear(gate):
            gate, value_branch = value_branch, gate
        e_name, b_name = _first_linear(gate), _first_linear(value_branch)
        return Term("gated MLP", weights=(("E", e_name), ("B", b_name), ("G", last)))
    if any(isinstance(e, Apply) for e in near):
        first = linears[0].weight.name if linears else "?"
        return Term("MLP", weights=(("E", first), ("G", last)))
    return Term("projection", weights=(("", last),))


def _is_gate(expr: Product) -> bool:
    parts = (expr.a, expr.b)
    return not any(_is_constant(p) or value_range(p) is not None for p in parts)


def _first_linear(expr: Expr) -> str:
    found = next((e for e in walk(expr) if isinstance(e, Linear)), None)
    return found.weight.name if found is not None else "?"


@reader
def _is_constant(expr: Expr) -> Reading[bool]:
    if not isinstance(expr, (Known, Pick, Sum, Apply)):
        return False
    for part in expr.parts:
        if not (yield part):
            return False
    return True


def _weights(expr: Expr) -> list[str]:
    names = [
        e.weight.name
        for e in walk(expr, lambda e: isinstance(e, Normalised))
        if isinstance(e, (Known, Linear))
    ]
    return [n for n in dict.fromkeys(names) if n != "constant"]
