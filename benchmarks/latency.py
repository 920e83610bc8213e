"""Latency of original, scaled, folded and merged models on ONNX Runtime, in turns.

    python -m benchmarks.latency MODEL.onnx ... [--sequence-length N] [--runs N] [--threads N]
                                 [--fuse bert]

Each round runs the five once, in changing order; of the ratios of a round the median is taken, so
that whatever else the machine does meets all five. `--fuse` first lets onnxruntime.transformers
fuse the models, which gives Skip norms; what the weights were folded for is found again there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from benchmarks.markdown import table
from benchmarks.missing import positive, told
from slanc_onnx import Options, protect_file
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.load import load_model
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.sizes import Sizes

VERSIONS = {
    "div": Options(validate=False),
    "fold": Options(validate=False, apply="fold"),
    "fold, merge gamma": Options(validate=False, apply="fold", merge=["gamma"]),
    "fold, merge all": Options(validate=False, apply="fold", merge=["all"]),
}
HEADER = ("", "version", "nodes in the file", "nodes as run", "median", "ratio to the original")


def main() -> int:
    """Print one row per model and version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--sequence-length", type=positive, default=64)
    parser.add_argument("--runs", type=positive, default=60)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--fuse", metavar="TYPE", help="of models, for onnxruntime.transformers")
    args = parser.parse_args()
    if args.fuse is not None:
        from onnxruntime.transformers.optimizer import MODEL_TYPES

        if args.fuse not in MODEL_TYPES:
            parser.error(f"--fuse {args.fuse}: is none of {', '.join(MODEL_TYPES)}")
    rows: list[tuple[object, ...]] = []
    for path in args.models:
        print(f"{path.stem} ...", file=sys.stderr)
        rows += _rows(path, args.fuse, args.sequence_length, args.runs, args.threads)
    print(table(HEADER, rows))
    return 0


def _rows(
    model: Path, fuse: str | None, length: int, runs: int, threads: int
) -> Iterator[tuple[object, ...]]:
    """What the table says of each version of a model."""
    with tempfile.TemporaryDirectory() as scratch:
        source = fused_by(model, fuse, Path(scratch)) if fuse else model
        paths = {"original": source}
        for version, options in VERSIONS.items():
            paths[version] = Path(scratch) / version / "model.onnx"
            protect_file(source, paths[version], options)
        sessions = {name: session_on(path, threads) for name, path in paths.items()}
        seconds = measure(sessions, feeds_for(source, length), runs)
        label = f"{model.stem}, fused" if fuse else model.stem
        for name, times in seconds.items():
            ratios = [a / b for a, b in zip(times, seconds["original"], strict=True)]
            nodes = len(load_model(paths[name]).graph.node), _optimised(paths[name], scratch)
            median = f"{1e3 * statistics.median(times):.2f} ms"
            yield label, name, *nodes, median, f"{statistics.median(ratios):.3f}"


def feeds_for(source: Path, length: int) -> dict[str, object]:
    """Made inputs of a sequence length."""
    specs = input_specs(read_graph(load_model(source), source.parent)[0])
    return dict(make_feeds(specs, np.random.default_rng(0), Sizes(sequence=length)))


def fused_by(source: Path, kind: str, scratch: Path) -> Path:
    """The model as onnxruntime.transformers fuses it."""
    from onnxruntime.transformers import optimizer

    fused = optimizer.optimize_model(str(source), model_type=kind, opt_level=0)
    path = scratch / "fused" / "model.onnx"
    path.parent.mkdir(parents=True)
    fused.save_model_to_file(str(path), use_external_data_format=True)
    return path


def session_on(path: Path, threads: int) -> ort.InferenceSession:
    """A session at ONNX Runtime's default level."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _optimised(path: Path, scratch: str) -> int:
    """Nodes after ONNX Runtime's own optimisation."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(Path(scratch) / "optimised.onnx")
    key = "session.optimized_model_external_initializers_file_name"
    options.add_session_config_entry(key, "optimised.data")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return len(model.graph.node)


def measure(
    sessions: dict[str, ort.InferenceSession], feeds: dict[str, object], runs: int
) -> dict[str, list[float]]:
    """Seconds by model, run by run; the order changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    orders = list(permutations(sessions))
    for session in sessions.values():  # warm
        for _ in range(3):
            session.run(None, feeds)
    for index in range(runs):
        for name in orders[index % len(orders)]:
            started = time.perf_counter()
            sessions[name].run(None, feeds)
            seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    sys.exit(told(main))
