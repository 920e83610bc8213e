"""Attack certificates with random graphs; exit status 1 where a row breaks one.

    python -m benchmarks.random_graphs [--count 1000] [--seed 0] [--first 0] [--jobs 1]
        [--kind KIND] [--keep FOLDER]

Graph N of a seed is the same in every run. Of each, the norms that the tool certifies are watched
on extreme inputs: no row may be longer than the bound, not finite, or lost in the target's
arithmetic. `--kind any_ops` composes any ops that a runtime takes instead (`composed.py`) and tells
which it never reached. `--first N --count 1 --keep FOLDER` writes one graph with the inputs that
break it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.markdown import count, table
from benchmarks.missing import positive, told
from benchmarks.random_graphs.attack import Attacked, attack
from benchmarks.random_graphs.composed import KIND, composed, unreached
from benchmarks.random_graphs.make import Made, random_graph

AT_ONCE = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack so many graphs and print what came of them, by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=positive, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first graph")
    parser.add_argument("--kind", help="all of this kind, and not of each in turn")
    parser.add_argument("--jobs", type=positive, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="write graphs with a violation there")
    options = parser.parse_args(arguments)
    totals: dict[str, Counter[str]] = {}
    ops = Counter[str]()
    start = time.perf_counter()
    numbers = range(options.first, options.first + options.count)
    for made, found in attacked(options.seed, numbers, options.jobs, options.kind):
        add(totals.setdefault(made.kind, Counter()), found)
        ops.update(made.constructs)
        for each in found.violations.values():
            constructs = ", ".join(made.constructs)
            how = f"{made.target} {made.scale} {made.apply}"
            print(f"{made.number} {made.kind} ({constructs}) {how}: {each.norm} {each.what}")
        if options.keep is not None and found.violations:
            keep(options.keep / f"{options.seed}_{made.number}", made, found)
    seconds = time.perf_counter() - start
    print(summary(totals))
    if options.kind == KIND:
        print(f"\n{unreached(ops)}")
    print(f"\n{options.count} graphs in {seconds:.0f} s, {options.count / seconds:.1f} a second")
    return int(any(total["violations"] for total in totals.values()))


def attacked(
    seed: int, numbers: Sequence[int], jobs: int = 1, kind: str | None = None
) -> Iterator[tuple[Made, Attacked]]:
    """The graphs of these numbers and what became of them, in order."""
    work = partial(_attack, seed, kind)
    if jobs == 1:
        yield from map(work, numbers)
        return
    with ProcessPoolExecutor(jobs) as executor:
        yield from executor.map(work, numbers, chunksize=AT_ONCE)


def _attack(seed: int, kind: str | None, number: int) -> tuple[Made, Attacked]:
    made = composed(seed, number) if kind == KIND else random_graph(seed, number, kind)
    try:
        return made, attack(made, seed)
    except Exception as error:
        error.add_note(f"graph {number} of seed {seed}: {', '.join(made.constructs)}")
        raise


def add(total: Counter[str], found: Attacked) -> None:
    """Count a graph."""
    total["graphs"] += 1
    total["not run"] += int(found.certified > 0 and found.runs == 0)
    total["norms"] += found.norms
    total["certified"] += found.certified
    total["rows"] += found.rows
    total["violations"] += len(found.violations)
    total["graphs with one"] += int(bool(found.violations))


COLUMNS = ("graphs", "not run", "norms", "certified", "rows", "graphs with one", "violations")


def summary(totals: dict[str, Counter[str]]) -> str:
    """The table, a row per kind."""
    rows = [(kind, *(count(total[c]) for c in COLUMNS)) for kind, total in sorted(totals.items())]
    every = sum(totals.values(), Counter[str]())
    return table(("", *COLUMNS), [*rows, ("all", *(count(every[c]) for c in COLUMNS))])


def keep(folder: Path, made: Made, found: Attacked) -> None:
    """Write a graph, the inputs that break it and what they break."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(made.model, folder / "model.onnx")
    violation = next(iter(found.violations.values()))
    inputs: dict[str, Any] = dict(violation.feed)
    np.savez(folder / "inputs.npz", **inputs)
    case = {
        "kind": made.kind,
        "constructs": made.constructs,
        "target": made.target,
        "scale": made.scale,
        "apply": made.apply,
        "norm": violation.norm,
        "what": violation.what,
        "input_ranges": made.ranges,
    }
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(told(main))
