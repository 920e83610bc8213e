"""How many random graphs it takes to find each kind of break, when its rule is broken on purpose.

    python -m benchmarks.random_graphs.until_found [--seed 0] [--most 1000] [--jobs 1]

A graph of the kind counts only if all else in it is plain and the unbroken rules keep it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from benchmarks.markdown import count, table
from benchmarks.missing import positive, told
from benchmarks.random_graphs.attack import attack
from benchmarks.random_graphs.breaks import BREAKS, Break
from benchmarks.random_graphs.constructs import CONSTRUCTS
from benchmarks.random_graphs.make import KINDS, random_graph

PLAIN = {each.name for each in CONSTRUCTS if each.kind == "plain"}


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        graphs: How many were attacked.
        what: The violation; "" where none was found.
    """

    graphs: int
    what: str


def until_found(seed: int, kind: str, most: int, broken: Break) -> Found:
    """Attack graphs of a kind until one has a violation that is not there with unbroken rules."""
    tried = 0
    for place in range(most):
        in_turn = kind in KINDS
        number = KINDS.index(kind) + place * len(KINDS) if in_turn else place
        made = random_graph(seed, number, None if in_turn else kind)
        if not PLAIN.issuperset(made.constructs[1:]):
            continue
        tried += 1
        with broken():
            found = attack(made, seed).violations
        if found and not attack(made, seed).violations:
            return Found(tried, next(iter(found.values())).what)
    return Found(tried, "")


def _search(seed: int, most: int, case: tuple[str, int]) -> Found:
    kind, place = case
    return until_found(seed, kind, most, BREAKS[kind][place])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per break; exit status 1 where one is not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=positive, default=1000, help="graphs of a kind")
    parser.add_argument("--jobs", type=positive, default=1, help="processes")
    parser.add_argument("--kinds", nargs="+", choices=list(BREAKS), default=list(BREAKS))
    options = parser.parse_args(arguments)
    cases = [(kind, place) for kind in options.kinds for place in range(len(BREAKS[kind]))]
    with ProcessPoolExecutor(options.jobs) as executor:
        found = list(executor.map(partial(_search, options.seed, options.most), cases))
    rows = [
        (
            kind,
            str(BREAKS[kind][place].__doc__).rstrip("."),
            count(each.graphs),
            each.what or "none",
        )
        for (kind, place), each in zip(cases, found, strict=True)
    ]
    print(table(("kind of graphs", "broken so that", "graphs until found", "violation"), rows))
    return int(not all(each.what for each in found))


if __name__ == "__main__":
    sys.exit(told(main))
