"""Random ways to write a norm: whether each is found, with its kind, and left with no suspect.

    python -m benchmarks.algebra [--count 10000] [--seed 0] [--wild]

With --wild in more ways, where a norm may be one that is known by its ops alone. A norm that is
missed is printed with its ops, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.missing import positive, told
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_in
from tests.oracles import wild_norms
from tests.oracles.written_norms import KINDS, written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and look for so many norms; exit status 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=positive, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wild", action="store_true")
    args = parser.parse_args(arguments)
    random, missed, seconds = np.random.default_rng(args.seed), 0, 0.0
    for number in range(args.count):
        kinds, write = (wild_norms.KINDS, wild_norms.wild) if args.wild else (KINDS, written)
        kind = kinds[number % len(kinds)]
        model = write(kind, random)
        scopes, start = read_graph(model), time.perf_counter()
        found = find_in(scopes)
        seconds += time.perf_counter() - start
        wanted = "layer" if kind == "group" else kind
        known = [norm.kind for norm in found.norms if not norm.by_ops]
        scaled = [norm for norm in found.norms if norm.skip_reason is None]
        as_wanted = (args.wild or known == [wanted]) and len(scaled) == len(found.norms) == 1
        if not as_wanted or found.suspects:
            missed += 1
            print(kind, " ".join(node.op_type for node in model.graph.node))
    each = 1000 * seconds / max(args.count, 1)
    print(f"{args.count - missed} of {args.count} found, {each:.2f} ms each")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(told(main))
