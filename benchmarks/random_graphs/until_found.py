"""How many random graphs it takes to find each kind of break.

    python -m benchmarks.random_graphs.until_found [--seed 0] [--most 2000] [--jobs 1]

First the rules as they are: with nothing to find, a row says so. Then with one rule broken on
purpose at a time: a graph counts only if the unbroken rules keep it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from benchmarks.markdown import count, table
from benchmarks.random_graphs.attack import attack
from benchmarks.random_graphs.constructs import CONSTRUCTS
from benchmarks.random_graphs.make import KINDS, random_graph
from slanc_onnx.prove import sets, step_bounds
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.trusted import norm_rows
from slanc_onnx.prove.trusted.prover import Prover
from slanc_onnx.weights import spectral_bound

Break = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        graphs: How many were attacked.
        what: The violation; "" where none was found.
    """

    graphs: int
    what: str


def _exact_sums() -> AbstractContextManager[Any]:
    return patch.object(step_bounds, "sum_error", lambda *_: 0.0)


def _outputs_of_root_width() -> AbstractContextManager[Any]:
    return patch.object(norm_rows, "output_radius", lambda _, width, *__: math.sqrt(width))


def _matrices_by_their_mean() -> AbstractContextManager[Any]:
    """As an estimate has it: the root mean square singular value."""

    def mean(matrix: Any) -> float:
        return spectral_bound(matrix) / math.sqrt(min(matrix.shape))

    return patch.object(sets, "spectral_bound", mean)


def _sums_as_if_independent() -> AbstractContextManager[Any]:
    """Lengths of addends joined as those of independent rows are."""
    right = sets.sum_of_ellipsoids

    def joined(terms: Sequence[Any]) -> float:
        return math.hypot(*(right([term]) for term in terms)) if terms else 0.0

    return patch.object(sets, "sum_of_ellipsoids", joined)


@contextmanager
def _no_conditions() -> Iterator[None]:
    """Bounds that do not say what they ask of inputs."""
    right = Prover._bound

    def unconditional(*args: Any) -> Bound:
        return replace(right(*args), conditions=())

    with patch.object(Prover, "_bound", unconditional):
        yield


PLAIN = {each.name for each in CONSTRUCTS if each.kind == "plain"}
# What is broken, and the kind of graphs that is to show it.
BREAKS: dict[str, tuple[str, Break]] = {
    "sums without rounding": ("plain", _exact_sums),
    "outputs of norms of length sqrt(width)": ("plain", _outputs_of_root_width),
    "matrices by their mean singular value": ("plain", _matrices_by_their_mean),
    "sums as if rows were independent": ("plain", _sums_as_if_independent),
    "conditions left out": ("composition", _no_conditions),
}


def until_found(seed: int, kind: str, most: int, broken: Break | None = None) -> Found:
    """Attack graphs of a kind until one has a violation, that is not there with unbroken rules."""
    first = KINDS.index(kind)
    tried = 0
    for number in range(first, first + most * len(KINDS), len(KINDS)):
        made = random_graph(seed, number)
        if made.kind != kind or not PLAIN.issuperset(made.constructs[1:]):
            continue  # what is found is to be of that kind; one graph in so many is of great length
        tried += 1
        with nullcontext() if broken is None else broken():
            found = attack(made, seed).violations
        if found and (broken is None or not attack(made, seed).violations):
            return Found(tried, next(iter(found.values())).what)
    return Found(tried, "")


def _search(seed: int, most: int, case: tuple[str, str]) -> Found:
    kind, name = case
    return until_found(seed, kind, most, BREAKS[name][1] if name else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=2000, help="graphs of a kind")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    cases = [(kind, "") for kind in KINDS]
    cases += [(kind, name) for name, (kind, _) in BREAKS.items()]
    with ProcessPoolExecutor(options.jobs) as executor:
        found = list(executor.map(partial(_search, options.seed, options.most), cases))
    rows = [
        (kind, name or "nothing", count(each.graphs), each.what or "none found")
        for (kind, name), each in zip(cases, found, strict=True)
    ]
    print(table(("kind of graphs", "broken", "graphs until found", "violation"), rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
