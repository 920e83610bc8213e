"""Construct: one way to compute rows between two norms, and the kind of break that it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.random_graphs.building import Building


@dataclass(frozen=True)
class Construct:
    """What may stand between two norms.

    Attributes:
        name: Its name.
        kind: What it may break: a kind of ../README, or "plain".
        build: Replaces `x` of a graph by what it makes of it.
        fixed: Whether it needs sizes that the file fixes.
        opset: The lowest that it is written in.
    """

    name: str
    kind: str
    build: Callable[[Building], None]
    fixed: bool = False
    opset: int = 13


CONSTRUCTS: list[Construct] = []
Build = Callable[[Building], None]


def construct(kind: str, *, fixed: bool = False, opset: int = 13) -> Callable[[Build], Build]:
    """Enter a function in `CONSTRUCTS`, under its own name."""

    def enter(build: Build) -> Build:
        CONSTRUCTS.append(Construct(build.__name__, kind, build, fixed, opset))
        return build

    return enter
