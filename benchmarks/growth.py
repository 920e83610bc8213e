"""Seconds against the size of a model, which should grow alike: of finding, reading and deciding.

    python -m benchmarks.growth [--sizes 100 1000 10000] [--fold]

With `--fold`, seconds of deciding how to fold the scales. The sizes are nodes; a layer of the
decoder has eight, one with integers thirteen.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import onnx

from benchmarks.markdown import table
from benchmarks.missing import positive, told
from slanc_onnx import Options, compute_scales
from slanc_onnx.apply.fold import fold
from slanc_onnx.norms import read_model
from slanc_onnx.scale import compute_scales_in
from tests.models.growing import GROWING

NODES_PER_STEP = {"decoder layers": 8, "decoder layers of integers": 13, "x + c x": 2}
OPTIONS = Options(estimate="weights")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=positive, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--fold", action="store_true")
    args = parser.parse_args(arguments)
    seconds = seconds_of_folding if args.fold else seconds_of_deciding
    rows = []
    for name, build in GROWING.items():
        steps = [max(1, size // NODES_PER_STEP.get(name, 1)) for size in args.sizes]
        rows.append((name, *(f"{seconds(build(count)):.2f} s" for count in steps)))
    print(table(("a chain of", *(f"{size} nodes" for size in args.sizes)), rows))
    return 0


def seconds_of_deciding(model: onnx.ModelProto) -> float:
    """Seconds from the model to the scales of its norms."""
    started = time.perf_counter()
    compute_scales(model, OPTIONS)
    return time.perf_counter() - started


def seconds_of_folding(model: onnx.ModelProto) -> float:
    """Seconds from the scales of the norms to the weights and nodes that hold them."""
    read = read_model(model)
    decided = compute_scales_in(read, OPTIONS)
    started = time.perf_counter()
    fold(read, decided, OPTIONS)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(told(main))
