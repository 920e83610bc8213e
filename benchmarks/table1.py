"""The paper's table 1: perplexity in FP32, with FP16 norms, and with FP16 norms and scales.

    python -m benchmarks.table1 MODEL.onnx IDS.npy [--bos ID] [--sequences N] [--sequence-length N]
        [--modes "sequential, kept" ... | --all-modes] [--scales none paper weights probe ...]
        [--calibrate N] [--state FILE.json]

FP16 norms round every step to FP16, the rest stays FP32. `folded` are the probe's scales in the
weights (--apply fold), all others stand in Div nodes. `calibrated` takes its scales from the
last N sequences of the file that are not evaluated, or the first N where all are. With --state a
run that was stopped goes on where it was: the losses of each sequence are kept there. They are not
measured again when the code changes: delete the file then.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.markdown import heading, line
from benchmarks.missing import positive, read_json, told
from benchmarks.scales import MODES, SCALES, Version, read_source, version_by
from slanc_onnx.accelerator import Accelerator
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.temporary import write_atomically
from slanc_onnx.norms.model import ReadModel
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.run.sizes import Sizes
from slanc_onnx.tokens import read_tokens
from slanc_onnx.verify.emulate.norms import emulate
from slanc_onnx.verify.perplexity import negative_log_likelihood, perplexity

SAVE_EVERY = 30.0  # seconds
EXACT = "FP32"


@dataclass
class Column:
    """One variant's losses and lost rows so far, sequence by sequence."""

    losses: list[float | None]  # None for nan, which JSON does not have
    lost: list[int]

    def perplexity(self) -> float:
        """nan where a loss is."""
        return perplexity([math.nan if loss is None else loss for loss in self.losses])


class State:
    """The columns by name, in a file if there is one."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key, self.columns = path, key, dict[str, Column]()
        if path is not None and path.exists():
            held = read_json(path)
            of = held.get("key") if isinstance(held, dict) else None
            if of != key:
                raise SlancError(f"{path} is of another run: {of}. Give another --state.")
            self.columns = {n: Column(c["losses"], c["lost"]) for n, c in held["columns"].items()}
        self._saved = time.monotonic()

    def save(self, now: bool = False) -> None:
        """Write the file, if there is one and it is time."""
        if self.path is None or not (now or time.monotonic() - self._saved > SAVE_EVERY):
            return
        columns = {name: {"losses": c.losses, "lost": c.lost} for name, c in self.columns.items()}
        write_atomically(self.path, json.dumps({"key": self.key, "columns": columns}).encode())
        self._saved = time.monotonic()


def main() -> int:
    """Print a Markdown table: one row per mode, one column per kind of scales."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--sequences", type=positive, help="default: the whole text")
    parser.add_argument("--sequence-length", type=positive, default=1024)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["pairwise, kept"])
    parser.add_argument("--all-modes", action="store_true")
    parser.add_argument("--scales", nargs="+", choices=SCALES, default=["none", "probe"])
    parser.add_argument("--calibrate", type=positive, default=4, metavar="N")
    parser.add_argument("--state", type=Path)
    args = parser.parse_args()
    source = read_source(args.model)
    every = read_tokens(args.tokens, args.sequence_length, None, args.bos).sequences
    evaluated = every[: args.sequences]
    unseen = every[len(evaluated) :]
    data = unseen[-args.calibrate :] if len(unseen) >= args.calibrate else every[: args.calibrate]
    calibration = [feeds_of(source, ids) for ids in data]
    key = (
        f"{args.model.name} {args.tokens.name} {args.bos} {args.sequence_length} "
        f"{len(evaluated)}, calibrated on {len(data)}"
    )
    state = State(args.state, key)
    original = Version(source.model, source.norms)
    exact = measure(source, original, None, evaluated, EXACT, state)
    modes = list(MODES) if args.all_modes else args.modes
    print(
        f"{args.model.stem}, {len(evaluated)} x {args.sequence_length} tokens, "
        f"{len(source.norms)} norms; FP32 perplexity {exact.perplexity():.4f}\n"
    )
    print(heading(["sums, subnormals", *args.scales]))
    for mode in modes:
        cells = []
        for scales in args.scales:
            name = f"{scales} | {mode}"
            column = state.columns.get(name)
            if column is None or len(column.losses) < len(evaluated):
                version = version_by(source, scales, MODES[mode], calibration)
                if version is None:
                    cells.append("no formula")
                    continue
                column = measure(source, version, MODES[mode], evaluated, name, state)
            cells.append(_cell(column, exact.perplexity()))
        print(line([mode, *cells]), flush=True)
    return 0


def feeds_of(source: ReadModel, ids: np.ndarray) -> Feeds:
    """Inputs of one run on these token ids, shape [1, length]."""
    specs = source.specs
    return make_feeds(specs, np.random.default_rng(0), Sizes(sequence=ids.shape[1]), ids=ids)


def measure(
    source: ReadModel,
    version: Version,
    accelerator: Accelerator | None,
    sequences: list[np.ndarray],
    name: str,
    state: State,
) -> Column:
    """The losses of all sequences, those that the state has not yet; FP32 without accelerator."""
    column = state.columns.setdefault(name, Column([], []))
    todo = sequences[len(column.losses) :]
    if not todo:
        return column
    model, taps = version.model, dict[str, str]()
    if accelerator is not None:
        emulated = emulate(model, version.norms, accelerator)
        model, taps = emulated.model, emulated.mean_squares
    session = Session(model, source.folder)
    started = time.monotonic()
    for done, ids in enumerate(todo, 1):
        values = session.run(feeds_of(source, ids))
        loss = negative_log_likelihood(values["logits"], ids)
        column.losses.append(loss if math.isfinite(loss) else None)
        column.lost.append(sum(int((~np.isfinite(values[t])).sum()) for t in taps.values()))
        state.save()
        left = (time.monotonic() - started) / done * (len(todo) - done)
        print(
            f"\r{name}: {len(column.losses)}/{len(sequences)}, {left:.0f} s left   ",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)
    state.save(now=True)
    return column


def _cell(column: Column, exact: float) -> str:
    value, lost = column.perplexity(), sum(column.lost)
    off = [f"{value / exact - 1:+.3%}"] if value < 10 * exact else []  # beyond that it is noise
    notes = [*off, f"{lost} rows lost"] if lost or not off else off
    return f"{value:.4f} ({', '.join(notes)})"


if __name__ == "__main__":
    sys.exit(told(main))
