"""Broken: rules of the proof that are taken out for a while, and those that a third attack made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from slanc_onnx.norms import constants as finder
from slanc_onnx.prove.trusted import norm_checks
from slanc_onnx.prove.trusted.rules import attention, joins, picks

Break = Callable[[], AbstractContextManager[Any]]


def together(*patches: AbstractContextManager[Any]) -> AbstractContextManager[Any]:
    """Several at a time."""

    @contextmanager
    def entered() -> Iterator[None]:
        with ExitStack() as stack:
            for each in patches:
                stack.enter_context(each)
            yield

    return entered()


def numbers_of_the_finder() -> AbstractContextManager[Any]:
    """What the finder takes a constant for is what its ops compute."""
    right = finder._computed

    def uncast(op: str, node: Any, parts: Any) -> Any:
        return parts[0] if op == "Cast" and parts else right(op, node, parts)

    return together(
        patch.object(norm_checks, "_check_constants", lambda *_: None),
        patch.object(finder, "_computed", uncast),
    )


def slices_backwards() -> AbstractContextManager[Any]:
    """A Slice backwards from before the first place keeps nothing."""
    return patch.object(picks, "places_cut", lambda size, *cut: range(size)[slice(*cut)])


def sums_on_the_way() -> AbstractContextManager[Any]:
    """A sum is finite on the way if it is so at the end."""
    return patch.object(joins, "largest_of", lambda _: math.inf)


def scores_in_fp16() -> AbstractContextManager[Any]:
    """Attention computes scores in FP32, whatever its type is."""
    return patch.object(attention, "_refuse_rounded", lambda *_: None)


def counts_by_a_shape() -> AbstractContextManager[Any]:
    """Whatever size a sum is divided by is the number of its addends."""
    return patch.object(norm_checks, "_check_counts", lambda *_: None)


def casts_in_norms() -> AbstractContextManager[Any]:
    """A norm whose steps are rounded to fewer bits is the same norm."""
    return patch.object(norm_checks, "_check_types", lambda *_: None)
