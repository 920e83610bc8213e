"""Words for reasons, conditions and terms: the one place where decisions become text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slanc_onnx.prove import Condition
from slanc_onnx.reasons import (
    Fact,
    Reason,
    Unproved,
)
from slanc_onnx.report.digits import below
from slanc_onnx.report.texts import STEPS, TEXTS


def reason_text(reason: Reason) -> str:
    """A reason in words, after the op that it is about."""
    facts: Sequence[Fact] = reason.facts
    if reason.kind is Unproved.STEP_OVERFLOWS:
        facts = [STEPS[step] for step in STEPS if step == facts[0]] + list(facts[1:])
    text = TEXTS[reason.kind]
    lists: dict[str, Callable[[], str]] = {
        "names": lambda: _some(facts, str, 5),
        "few": lambda: _some(facts, str, 3),
        "ops": lambda: _some(facts, _op, len(facts)),
        "elements": lambda: _some(facts, _elements, 3),
        "count": lambda: str(len(facts)),
        "behind": lambda: "" if reason.behind is None else reason_text(reason.behind),
    }
    named = {name: words() for name, words in lists.items() if f"{{{name}}}" in text}
    told = text.format(*facts, **named)
    if not reason.op:
        return told
    here = f"{reason.op} ({reason.tensor})" if reason.tensor else reason.op
    return f"{here}: {told}" if told else here


def reasons_text(reasons: Sequence[Reason]) -> str:
    """The reasons of a norm in words, in one line; "" for none.

    Args:
        reasons: As in `ScaledNorm.reasons`.
    """
    return "; ".join(map(reason_text, reasons))


def need_text(rows: int, form: str, inputs: str = "", scaled: bool = False) -> str:
    """Whether a model needed it, by the rows that lose their norm in a format as exported.

    Args:
        rows: How many.
        form: The format.
        inputs: Those on which they do; "" for those that all figures are of.
        scaled: Whether an earlier run scaled the file that was given.
    """
    if not rows:
        return (
            "scaled by an earlier run" if scaled else f"no row loses its norm in {form} as exported"
        )
    lose = "row loses its" if rows == 1 else "rows lose their"
    where = f" for {inputs}" if inputs else ""
    return f"this model needs it{where}: {rows} {lose} norm in {form} as exported"


def rounded_text(form: str, everything: bool, kept: int = 0) -> str:
    """What is rounded to a format: everything, all but so many nodes in FP32, or norms."""
    if everything and kept:
        return f"all but {kept} nodes in {form}"
    return f"everything in {form}" if everything else f"{form} norms"


def condition_text(condition: Condition) -> str:
    """A condition in words: "pixel_values in [-3, 3]"."""
    if condition.kind == "made":
        return f"{condition.input} holds rows that this model made"
    if condition.kind == "keeps":
        return f"{condition.input} leaves every query a position"
    if condition.kind == "positions":
        return f"no axis is longer than {condition.high:.0f} positions"
    if condition.kind == "length":
        return f"no row of {condition.input} is longer than {below(condition.high)}"
    return f"{condition.input} in [{condition.low:g}, {condition.high:g}]"


def _some(facts: Sequence[Fact], word: Callable[[Fact], str], most: int) -> str:
    return ", ".join(map(word, facts[:most])) + (", ..." if len(facts) > most else "")


def _op(fact: Fact) -> str:
    return f"{fact[0]} ({fact[1]})" if isinstance(fact, tuple) else str(fact)


def _elements(fact: Fact) -> str:
    return f"{fact[0]} ({fact[1]} elements)" if isinstance(fact, tuple) else str(fact)
