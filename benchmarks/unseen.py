"""Static against calibrated scales on tokens that the calibration did not see.

    python -m benchmarks.unseen MODEL.onnx IDS.npy [--bos ID] [--other NAME=IDS.npy ...]

Calibrates on the first sequences of IDS.npy and evaluates on the following ones, on the same with
a begin-of-text id in front (which the calibration had not), on single tokens, and on other texts.
One row per kind of scales and evaluation: seconds to make the scaled model in memory, rows lost to
overflow, and perplexity.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.markdown import heading, line
from benchmarks.missing import positive, told
from benchmarks.scales import MODES, Scales, Version, read_source, version_by
from benchmarks.table1 import State, feeds_of, measure
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.norms.model import ReadModel
from slanc_onnx.run.session import Session
from slanc_onnx.tokens import read_tokens
from slanc_onnx.verify.emulate.norms import emulate

KINDS: tuple[Scales, ...] = ("weights", "probe", "calibrated")
SINGLES, SPECIAL = 64, 16


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--other", action="append", default=[], metavar="NAME=IDS.npy")
    parser.add_argument("--sequences", type=positive, default=4)
    parser.add_argument("--sequence-length", type=positive, default=512)
    parser.add_argument("--mode", choices=MODES, default="sequential, kept")
    args = parser.parse_args()
    source, device, count = read_source(args.model), MODES[args.mode], args.sequences
    every = read_tokens(args.tokens, args.sequence_length, 2 * count).sequences
    calibration, later = every[:count], every[count:]
    sets = {"the same text, later": later}
    if args.bos is not None:
        first = np.full((1, 1), args.bos)
        sets["the same, with BOS"] = [np.concatenate([first, ids[:, 1:]], axis=1) for ids in later]
    for other in args.other:
        name, _, path = other.partition("=")
        sets[name] = read_tokens(Path(path), args.sequence_length, count).sequences
    print(f"{args.model.stem}, {args.mode}, {count} x {args.sequence_length} tokens\n")
    titles = "evaluated on", "scales", "seconds", "rows lost", "singles lost", "perplexity", "FP32"
    print(heading(titles))
    feeds = [feeds_of(source, ids) for ids in calibration]
    made: dict[Scales, tuple[Version, float]] = {}
    for kind in KINDS:
        started = time.perf_counter()
        version = version_by(source, kind, device, feeds)
        assert version is not None  # only dmx gives none
        made[kind] = version, time.perf_counter() - started
    singles = {kind: lost_singles(source, version, device) for kind, (version, _) in made.items()}
    for name, sequences in sets.items():
        state = State(None, "")
        original = Version(source.model, source.norms)
        exact = measure(source, original, None, sequences, "FP32", state).perplexity()
        for kind, (version, seconds) in made.items():
            column = measure(source, version, device, sequences, kind, state)
            value = column.perplexity()
            print(
                line(
                    (
                        name,
                        kind,
                        f"{seconds:.1f}",
                        sum(column.lost),
                        singles[kind],
                        f"{value:.4f} ({value / exact - 1:+.3%})",
                        f"{exact:.4f}",
                    )
                ),
                flush=True,
            )
    return 0


def lost_singles(source: ReadModel, version: Version, device: Accelerator) -> int:
    """Rows that overflow on single tokens: the first ids, where special tokens are, and others."""
    emulated = emulate(version.model, version.norms, device)
    session = Session(emulated.model, source.folder)
    rows = next(spec.rows for spec in source.specs if spec.is_text)
    spread = np.linspace(SPECIAL, rows - 1, SINGLES - SPECIAL).astype(np.int64)
    lost = 0
    for token in (*range(SPECIAL), *spread):
        values = session.run(feeds_of(source, np.array([[token]])))
        taps = emulated.mean_squares.values()
        lost += sum(int(np.count_nonzero(~np.isfinite(values[tap]))) for tap in taps)
    return lost


if __name__ == "__main__":
    sys.exit(told(main))
