"""Merged norms: what `--merge` does to files and to a folder of exports, and how fast they run.

    python -m benchmarks.merge MODEL.onnx|FOLDER ... [--parts gamma mean division all]
                               [--only REGEX] [--to fp16] [--latency] [--runs N] [--fuse bert]

FOLDER holds exports as `benchmarks.zoo` takes it, with inputs of their own. A table for each part
that `--merge` takes: norms that lost it, those that are left by reason, nodes, the FP32 error, that
of the norms in FP16 (the fold alone -> merged, the noise of another rounding, and how far both are
apart), rows lost, and the verdict; then all of them together. With `--latency` another table: the
median time of the original, the fold and the merged file on ONNX Runtime at its default level, in
turns. Exit status 1 if a file that runs does not pass.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.latency import feeds_for, fused_by, measure, session_on
from benchmarks.markdown import heading, line, number
from benchmarks.missing import told
from benchmarks.zoo_rows import exports_in, stored_inputs
from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.options import Merge, To
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.terminal import final_parts
from slanc_onnx.run.session import Feeds

WORDS = {"gamma": "weightless", "mean": "mean-free", "division": "deferred"}
PARTS = [part for part in get_args(Merge) if part != "all"]
HEADER = (
    "model",
    "norms",
    *(WORDS.get(part, part) for part in PARTS),
    "left, and why",
    "nodes",
    "elementwise",
    "FP32 RMS error",
    "FP16 norms, fold → merged",
    "noise",
    "apart",
    "rows lost",
    "verdict",
)
FASTER = ("model", "merge", "original", "fold", "fold and merge", "merge / fold")


@dataclass
class Row:
    """What became of one file, or of several together."""

    name: str
    norms: int = 0
    merged: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    nodes: int = 0
    elementwise: int = 0
    fp32: list[float] = field(default_factory=list)
    rounded: list[tuple[float, float, float, float]] = field(default_factory=list)
    lost: tuple[int, int] = (0, 0)
    verdicts: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Row) -> Row:
        return Row(
            self.name,
            self.norms + other.norms,
            self.merged + other.merged,
            self.asked + other.asked,
            self.left + other.left,
            self.nodes + other.nodes,
            self.elementwise + other.elementwise,
            self.fp32 + other.fp32,
            self.rounded + other.rounded,
            (self.lost[0] + other.lost[0], self.lost[1] + other.lost[1]),
            self.verdicts + other.verdicts,
        )

    def cells(self) -> Iterator[object]:
        """As `HEADER` has them; of several files the largest errors."""
        yield self.name
        yield self.norms
        for part in PARTS:
            yield f"{self.merged[part]} of {self.asked[part]}" if self.asked[part] else "-"
        yield ", ".join(f"{count} {why}" for why, count in self.left.most_common()) or "-"
        yield f"{self.nodes:+d}" if self.nodes else "0"
        yield f"{self.elementwise:+d}" if self.elementwise else "0"
        yield number(max(self.fp32)) if self.fp32 else "-"
        if self.rounded:
            error, merged, moves, apart = max(self.rounded, key=lambda r: r[1] / (r[0] + r[2]))
            yield f"{number(error)} → {number(merged)}"
            yield number(moves)
            yield number(apart)
        else:
            yield from ("-", "-", "-")
        yield "{} → {}".format(*self.lost)
        yield ", ".join(
            f"{count} {word}" if self.verdicts.total() > 1 else word
            for word, count in self.verdicts.items()
        )


@dataclass(frozen=True)
class Source:
    """A file, and the inputs that are stored with it."""

    name: str
    path: Path
    feeds: Feeds | None = None

    def options(self, *merge: Merge, to: To | None = None, validate: bool = True) -> Options:
        """How it is folded and merged."""
        return Options(
            apply="fold",
            merge=merge,
            to=to,
            inputs=self.feeds,
            certify="off",
            validate=validate,
            isolate=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--parts", nargs="+", choices=get_args(Merge), default=get_args(Merge))
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--to", choices=get_args(To), help="also into 16 bits")
    parser.add_argument("--latency", action="store_true", help="that alone")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--sequence-length", type=int, default=64, help="of made inputs")
    parser.add_argument("--fuse", metavar="TYPE", help="of models, for onnxruntime.transformers")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        sources = [s for s in _sources(args.models) if re.search(args.only, s.name)]
        if args.fuse:
            sources = [
                Source(f"{s.name}, fused", fused_by(s.path, args.fuse, Path(scratch) / str(i)))
                for i, s in enumerate(sources)
            ]
        if args.latency:
            _print_latency(sources, args.parts, args.runs, args.sequence_length)
            return 0
        totals = [_print_merged(sources, merge, args.to) for merge in args.parts]
    return int(any(total.verdicts["FAILED"] for total in totals))


def _sources(given: Sequence[Path]) -> Iterator[Source]:
    for path in given:
        if not path.is_dir():
            yield Source(path.stem, path)
            continue
        for folder in exports_in(path):
            feeds, _ = stored_inputs(folder)
            yield Source(folder.name, folder / "model.onnx", feeds or None)


def _print_merged(sources: Sequence[Source], merge: Merge, to: To | None) -> Row:
    """A line per file as it is done, and one of all of them."""
    print(f"\n`--merge {merge}`:\n\n{heading(HEADER)}", flush=True)
    total = Row("**all**")
    for source in sources:
        row = merged(source, merge, to)
        print(line(list(row.cells())), flush=True)
        total += row
    if len(sources) > 1:
        print(line(list(total.cells())), flush=True)
    return total


def merged(source: Source, merge: Merge, to: To | None = None) -> Row:
    """What merging does to one file."""
    options = source.options(merge, to=to)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            outcome = protect_file(source.path, Path(scratch) / "m.onnx", options)
        except SlancError as error:
            print(f"{source.name}: {error}", file=sys.stderr)
            return Row(source.name, verdicts=Counter(["refused"]))
    return _row(source.name, outcome)


def _row(name: str, outcome: Outcome) -> Row:
    word = final_parts(outcome)[0] if outcome.not_validated is None else "not run"
    found, checked = outcome.report["merge"], outcome.validation
    if word not in ("NORMS PASSED", "PASSED"):
        print(f"{name}: {' | '.join(final_parts(outcome))}", file=sys.stderr)
    row = Row(name, len(outcome.norms), verdicts=Counter([word if outcome.norms else "no norm"]))
    if found is None:
        return row
    for norm in found["norms"]:
        for part in PARTS:
            if (one := norm.get(part)) is not None:
                row.asked[part] += one["state"] != "before"
                row.merged[part] += one["state"] == "merged"
    for part, reasons in found["left"].items():
        row.left.update({f"{part}: {why}": count for why, count in reasons.items()})
    row.nodes = sum(new - old for old, new in found["nodes"].values())
    row.elementwise = -found["elementwise_removed"]
    if checked is not None:
        row.fp32.append(checked.fp32_rms_error)
        row.lost = checked.lost_before, checked.overflowed_after + checked.zeros_lost
        if (beside := checked.beside_fold) is not None:
            errors = beside.error, beside.merged_error, beside.moves, beside.difference
            row.rounded.append(errors)
    return row


def _print_latency(
    sources: Sequence[Source], parts: Sequence[Merge], runs: int, length: int
) -> None:
    """The times of each file, and the middle of the ratios."""
    print(heading(FASTER), flush=True)
    ratios: dict[Merge, list[float]] = {merge: [] for merge in parts}
    for source in sources:
        try:
            for merge, cells, ratio in _latency(source, parts, runs, length):
                print(line((source.name, merge, *cells)), flush=True)
                ratios[merge].append(ratio)
        except Exception as error:  # what ONNX Runtime refuses raises many kinds
            why = str(error).strip() or type(error).__name__
            print(f"{source.name}: {why.splitlines()[0][:200]}", file=sys.stderr)
    for merge, found in ratios.items():
        if len(found) > 1:
            low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
            told = f"median {middle:.3f}, a tenth below {low:.2f}, a tenth above {high:.2f}"
            print(line((f"**{len(found)} files**", merge, "", "", "", told)), flush=True)


def _latency(
    source: Source, parts: Sequence[Merge], runs: int, length: int
) -> Iterator[tuple[Merge, tuple[str, ...], float]]:
    """Of each part that changes the file: the times, and the ratio of merged and fold."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = {"original": source.path, "fold": Path(scratch) / "fold" / "m.onnx"}
        protect_file(source.path, paths["fold"], source.options(validate=False))
        for merge in parts:
            path = Path(scratch) / merge / "m.onnx"
            done = protect_file(source.path, path, source.options(merge, validate=False))
            if done.merges is not None and done.merges.changes:
                paths[merge] = path
        sessions = {name: session_on(path, threads=1) for name, path in paths.items()}
        feeds: dict[str, object] = dict(source.feeds or feeds_for(source.path, length))
        seconds = measure(sessions, feeds, runs)
    times = {name: statistics.median(found) for name, found in seconds.items()}
    for merge in (m for m in parts if m in paths):
        pairs = {
            name: statistics.median(
                a / b for a, b in zip(seconds[one], seconds[other], strict=True)
            )
            for name, one, other in (
                ("fold", "fold", "original"),
                ("both", merge, "original"),
                ("merge", merge, "fold"),
            )
        }
        cells = (
            f"{1e3 * times['original']:.3g} ms",
            f"{pairs['fold']:.2f}",
            f"{pairs['both']:.2f}",
            f"{pairs['merge']:.2f}",
        )
        yield merge, cells, pairs["merge"]


if __name__ == "__main__":
    sys.exit(told(main))
