"""Seconds of finding, reading and deciding against the size of a model, which should grow alike.

    python -m benchmarks.growth [--sizes 100 1000 10000]

The sizes are nodes; a layer of the decoder has eight.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.markdown import table
from slanc_onnx import Options, compute_scales
from tests.models.growing import GROWING

NODES_PER_STEP = {"decoder layers": 8, "x + c x": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    sizes = parser.parse_args(arguments).sizes
    rows = []
    for name, build in GROWING.items():
        seconds = []
        for size in sizes:
            model = build(max(1, size // NODES_PER_STEP.get(name, 1)))
            started = time.perf_counter()
            compute_scales(model, Options(estimate="weights"))
            seconds.append(time.perf_counter() - started)
        rows.append((name, *(f"{s:.2f} s" for s in seconds)))
    print(table(("a chain of", *(f"{size} nodes" for size in sizes)), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
