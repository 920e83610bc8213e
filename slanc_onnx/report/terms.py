"""Words for the terms that a norm's input is made of."""

from __future__ import annotations

from collections.abc import Sequence

from slanc_onnx.trace import Term

_EQUATIONS = {"attention": "10", "gated MLP": "8", "MLP": "5"}  # of the paper


def rule_text(terms: Sequence[Term]) -> str:
    """The terms of a norm's input in words: `attention (W_V=v.weight, P=o.weight; eq. 10) + ...`.

    They are as in `ScaledNorm.rule`.
    """
    return " + ".join(dict.fromkeys(_term(term) for term in terms))


def short_rule_text(terms: Sequence[Term], most: int) -> str:
    """The same without names, with at most so many terms."""
    words = [_short_term(term) for term in terms]
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return " + ".join(words)


def _term(term: Term) -> str:
    names = ", ".join(name for _, name in term.weights)
    times = "" if term.times is None else f" times {term.times or 'a constant'}"
    match term.kind:
        case "input of":
            return f"the input of {term.of}"
        case "residual":
            return f"residual r = input of {term.of}"
        case "norm":
            gamma = f" Γ (Γ={names})" if names else ""
            return f"x{gamma} of {term.of}"
        case "rows":
            return f"rows of {term.of}{times}"
        case "graph input":
            return f"graph input {term.of}"
        case "unread":
            return f"unread {term.of}"
        case "attention" | "gated MLP" | "MLP":
            letters = ", ".join(f"{letter}={name}" for letter, name in term.weights)
            return f"{term.kind} ({letters}; eq. {_EQUATIONS[term.kind]}){times}"
        case "projection" | "convolution":
            return f"{term.kind} ({names}){times}"
        case "product" | "apply" | "mix" | "join":
            return f"{term.kind} of {names or 'activations'}"
        case "other":
            return term.of


def _short_term(term: Term) -> str:
    match term.kind:
        case "residual":
            return "residual r"
        case "norm" if term.weights:
            return "x Γ"
        case "attention" | "gated MLP" | "MLP":
            times = "" if term.times is None else f" times {term.times or 'a constant'}"
            return f"{term.kind} (eq. {_EQUATIONS[term.kind]}){times}"
        case _:
            return _term(term)
