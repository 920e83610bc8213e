"""Words: every kind of reason has one text, which names its facts, and no other code has texts."""

import re
from pathlib import Path
from typing import get_args

import pytest

from slanc_onnx.prove import Condition
from slanc_onnx.reasons import Decision, Kind, Note, Reason, Undivided, Unproved, Unread
from slanc_onnx.report.terms import rule_text
from slanc_onnx.report.terms import short_rule_text as short
from slanc_onnx.report.texts import TEXTS
from slanc_onnx.report.wording import condition_text, reason_text, reasons_text
from slanc_onnx.trace import Term

ROOT = Path(__file__).resolve().parents[2] / "slanc_onnx"
KINDS = [kind for kinds in get_args(Kind) for kind in kinds]


def test_every_kind_has_a_text_of_its_own() -> None:
    assert set(TEXTS) == set(KINDS)
    assert len({kind.value for kind in KINDS}) == len(KINDS)  # programs read the value alone
    spoken = [text for kind, text in TEXTS.items() if kind is not Unread.NOTHING_SAID]
    for kinds in get_args(Kind):
        texts = [TEXTS[kind] for kind in kinds]
        assert len(set(texts)) == len(texts)
    assert all(text == text.strip() and text for text in spoken)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{type(kind).__name__}.{kind.name}")
def test_a_text_takes_as_many_facts_as_it_names(kind: Kind) -> None:
    named = {int(number) for number in re.findall(r"\{(\d)", TEXTS[kind])}
    facts = tuple(
        1.5 if re.search(rf"\{{{i}:", TEXTS[kind]) else f"fact {i}" for i in range(len(named))
    )
    assert named == set(range(len(named)))
    if kind is Unproved.STEP_OVERFLOWS:
        facts = ("input", 1.5)
    told = reason_text(Reason(kind, facts, behind=Reason(Unread.NO_MATRIX)))
    inner = Unread.NO_MATRIX
    assert (TEXTS[inner] in told) == ("{behind}" in TEXTS[kind] or kind is inner)
    if kind is not Unproved.STEP_OVERFLOWS:
        assert all(fact in told for fact in facts if isinstance(fact, str))


def test_a_reason_names_the_op_that_it_is_about() -> None:
    stopped = Reason(Unread.STOPPED, behind=Reason(Unread.NOTHING_SAID).at("Look", "h"))
    assert reason_text(stopped) == "the trace stopped at Look (h)"
    inner = Reason(Unread.TWO_CONSTANTS).at("Cast", "a")
    broken = Reason(Unread.BROKEN, behind=inner).at("Add", "b")
    assert reason_text(broken) == (
        "Add (b): breaks the rules of its op: Cast (a): multiplies two constants"
    )
    assert reasons_text(()) == ""
    both = (Reason(Decision.WITH_ITS_GROUP), Reason(Decision.ALONE, (4.0,)))
    assert reasons_text(both) == "folded with its group; 4 by itself"


def test_names_with_braces_are_names() -> None:
    assert reason_text(Reason(Unread.UNKNOWN_TENSOR, ("{0}", "{x}"))) == (
        "reads '{0}', which {x} makes"
    )


def test_long_lists_are_cut() -> None:
    names = tuple("abcdefg")
    assert reason_text(Reason(Note.INLINED, names)).endswith(": a, b, c, d, e, ...")
    lost = tuple((name, 2) for name in names)
    assert reason_text(Reason(Note.WOULD_LOSE_BITS, lost)).endswith(
        ": a (2 elements), b (2 elements), c (2 elements), ..."
    )
    shared = Reason(Note.NOT_FOLDED_INTO, names, behind=Reason(Undivided.SHARED))
    assert reason_text(shared).startswith("7 weights were not the place to fold into, as each is")


def test_conditions() -> None:
    assert condition_text(Condition("p", "range", -1.0, 3.0)) == "p in [-1, 3]"
    assert condition_text(Condition("mask", "keeps")) == "mask leaves every query a position"
    limit = Condition("", "positions", 1.0, 131072.0)
    assert condition_text(limit) == "no axis is longer than 131072 positions"
    row = Condition("h", "length", 0.0, 1234.5)
    assert condition_text(row) == "no row of h is longer than 1234"
    assert condition_text(Condition("past", "made")) == "past holds rows that this model made"


def test_rules_with_and_without_names() -> None:
    terms = (
        Term("residual", "first"),
        Term("attention", weights=(("W_V", "v"), ("P", "o")), times="g"),
        Term("norm", "n", (("Γ", "gamma"),)),
        Term("projection", weights=(("", "w"),), times=""),
        Term("unread", "Look (h)"),
    )
    assert rule_text(terms) == (
        "residual r = input of first + attention (W_V=v, P=o; eq. 10) times g + x Γ (Γ=gamma) of n"
        " + projection (w) times a constant + unread Look (h)"
    )
    assert short(terms, 3) == "residual r + attention (eq. 10) times g + x Γ + 2 more"


@pytest.mark.parametrize("kinds", get_args(Kind), ids=lambda kinds: kinds.__name__)
def test_some_code_gives_every_kind(kinds: type[Kind]) -> None:
    told = (*(ROOT / "reasons").glob("*.py"), ROOT / "report" / "texts.py")
    code = "\n".join(p.read_text(encoding="utf-8") for p in ROOT.rglob("*.py") if p not in told)
    named = set(re.findall(rf"\b{kinds.__name__}\.([A-Z0-9_]+)\b", code))
    assert {kind.name for kind in kinds} <= named


def test_no_code_cuts_our_own_sentences_apart() -> None:
    for path in ROOT.rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        for sign in (
            '.split("; ")',
            'partition(" | ")',
            ".removeprefix(",
            '.startswith("if ',
            '.startswith("no ',
        ):
            assert sign not in code, (path, sign)
