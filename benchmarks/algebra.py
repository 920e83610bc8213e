"""Random ways to write a norm: whether each is found, with its kind, and left with no suspect.

    python -m benchmarks.algebra [--count 10000] [--seed 0]

A norm that is missed is printed with its ops, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in
from tests.oracles.written_norms import KINDS, written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and look for so many norms; exit status 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    random, missed, seconds = np.random.default_rng(args.seed), 0, 0.0
    for number in range(args.count):
        kind = KINDS[number % len(KINDS)]
        model = written(kind, random)
        scopes, start = read_graph(model), time.perf_counter()
        found = find_in(scopes)
        seconds += time.perf_counter() - start
        wanted = "layer" if kind == "group" else kind
        whole = [norm.kind for norm in found.norms if not norm.by_ops and norm.skip_reason is None]
        if whole != [wanted] or len(found.norms) != 1 or found.suspects:
            missed += 1
            print(kind, " ".join(node.op_type for node in model.graph.node))
    each = 1000 * seconds / max(args.count, 1)
    print(f"{args.count - missed} of {args.count} found, {each:.2f} ms each")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
