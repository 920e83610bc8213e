"""Run the whole job on a folder of exported models, and print what it did as a table.

    python -m benchmarks.zoo FOLDER [--default-inputs] [--estimate weights] [--only NAME ...]
                             [--settings stored default weights] [--apply fold] [--emulate all]

FOLDER holds one folder per model, see `benchmarks/zoo_rows.py`. The table
holds what was measured against its target; with `--settings`, what was measured in each of these
settings. Models, misses and reasons go to stderr.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.markdown import of, table
from benchmarks.missing import told
from benchmarks.zoo_rows import Row, Setting, exports_in, run_export
from slanc_onnx.report.wording import reason_text

SETTINGS = {  # by name, the heading of its column and how it is run
    "stored": ("stored inputs", Setting()),
    "default": ("default inputs", Setting(default_inputs=True)),
    "weights": ("`--estimate weights`", Setting(estimate="weights")),
}


@dataclass(frozen=True)
class Line:
    """A line of the tables; the `further` ones only stand beside their targets."""

    label: str
    measured: str
    target: str = "-"
    further: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit status 1 if a model raised anything but a SlancError."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--estimate", choices=("auto", "probe", "weights"), default="auto")
    parser.add_argument("--apply", choices=("div", "fold"), default="div")
    parser.add_argument("--emulate", choices=("norms", "all"), default="norms")
    parser.add_argument("--default-inputs", action="store_true", help="do not use io.npz")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, help="a column for each")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the models in FOLDER")
    args = parser.parse_args(arguments)
    if args.settings and (args.default_inputs or args.estimate != "auto"):
        parser.error("--settings says which inputs and which estimate: give only one of these")
    folders = [f for f in exports_in(args.folder) if not args.only or f.name in args.only]
    if not folders:
        parser.error(f"{args.folder}: holds none of --only")
    own = {"measured": Setting(args.default_inputs, args.estimate)}
    settings = dict(SETTINGS[name] for name in args.settings) if args.settings else own
    columns: dict[str, list[Row]] = {}
    for heading, setting in settings.items():
        print(f"# {heading}", file=sys.stderr)
        as_asked = replace(setting, apply=args.apply, emulate=args.emulate)
        columns[heading] = []
        for folder in folders:
            columns[heading].append(run_export(folder, as_asked))
            print(_text(columns[heading][-1]), file=sys.stderr, flush=True)
        for line in _details(columns[heading]):
            print(line, file=sys.stderr)
    print(comparison(columns) if args.settings else targets(columns["measured"]))
    rows = [row for column in columns.values() for row in column]
    return int(any(row.verdict.startswith("TRACEBACK") for row in rows))


def targets(rows: Sequence[Row]) -> str:
    """All that was measured, each with its target."""
    cells = [(line.label, line.measured, line.target) for line in _lines(rows)]
    return table((f"{len(rows)} models", "measured", "target"), cells)


def comparison(columns: Mapping[str, Sequence[Row]]) -> str:
    """What was measured of the same models in several settings, by heading."""
    by_heading = [[line for line in _lines(rows) if not line.further] for rows in columns.values()]
    sides = zip(*by_heading, strict=True)
    cells = [(side[0].label, *(line.measured for line in side)) for side in sides]
    models = len(next(iter(columns.values())))
    return table((f"{models} models", *columns), cells)


def _lines(rows: Sequence[Row]) -> Iterator[Line]:
    found, expected = sum(len(r.norms) for r in rows), sum(r.expected for r in rows)
    yield Line("norms found", of(found, expected), "100 %")
    exact = sum(len(r.norms) == r.expected for r in rows)
    yield Line("models with exactly the norms of truth.json", of(exact, len(rows)), "100 %", True)
    layers = [n for r in rows for n in r.norms if n.norm.kind in ("layer", "rms")]
    scaled = sum(n.status == "scaled" for n in layers)
    yield Line("LayerNorms and RMSNorms `scaled`", of(scaled, len(layers)), ">= 97 %")
    typical = [v for r in rows for v in r.typical]
    close = sum(abs(v) <= 1 for v in typical)
    label = "`typical` within a factor 10 of what the framework saw"
    yield Line(label, of(close, len(typical)), ">= 95 %")
    upper = [v for r in rows for v in r.upper]
    above = sum(v >= 0 for v in upper)
    yield Line("`upper` at least the largest row that it saw", of(above, len(upper)), ">= 99 %")
    proved = [n.certificate for r in rows for n in r.norms if n.certificate is not None]
    certified = [c for c in proved if c.certified]
    label = "norms certified (float inputs within the range of the stored ones)"
    yield Line(label, of(len(certified), len(proved)))
    conditional = sum(bool(c.bound.conditions) for c in certified)
    yield Line("of them on a condition", of(conditional, len(certified)), further=True)
    bounds = [v for r in rows for v in r.bound]
    held = sum(v >= 0 for v in bounds)
    label = "the bound is at least the largest row that it saw"
    yield Line(label, of(held, len(bounds)), "100 %")
    checked = [r for r in rows if r.identical is not None]
    identical = sum(bool(r.identical) for r in checked)
    label = "FP32 outputs bit-identical, of the models that run"
    yield Line(label, of(identical, len(checked)), "100 %")
    runs = [r for r in rows if r.same_outputs is not None]
    same = sum(bool(r.same_outputs) for r in runs)
    yield Line(
        "and of the files as they are, FP16 graphs included", of(same, len(runs)), further=True
    )
    idempotent = sum(r.idempotent for r in rows)
    yield Line("a second run writes the identical file", of(idempotent, len(rows)), "100 %")
    hot = [r for r in rows if r.hot and r.verdict in ("PASSED", "FAILED")]
    overflowing = sum(r.before > 0 for r in hot)
    label = "hot models with overflowed rows before"
    yield Line(label, of(overflowing, len(hot)), "100 %", True)
    before, after = sum(r.before for r in rows), sum(r.after for r in rows)
    label = "rows that overflow in FP16 (sequential, flushed), before → after"
    yield Line(label, f"{before} → {after}", "0 after")
    yield from _of_folds(rows)
    wrong = sum(not math.isfinite(r.errors[0]) for r in checked)
    infinite = sum(not math.isfinite(r.errors[1]) for r in checked)
    label = "models with outputs not finite in FP16, before → after"
    yield Line(label, f"{wrong} → {infinite}", "0 after", True)
    verdicts = Counter(r.verdict.split(":")[0] for r in rows)
    told = ", ".join(f"{n} {v}" for v, n in verdicts.items())
    yield Line("verdicts", told, "no TRACEBACK", True)
    slowest = max(r.seconds for r in rows)
    yield Line("slowest model, validation included", f"{slowest:.1f} s", "5 s")


def _of_folds(rows: Sequence[Row]) -> Iterator[Line]:
    folds = [r.fold for r in rows if r.fold is not None]
    if not folds:
        return
    ways = Counter(way for f in folds for way in f.applied.values())
    kept = sum(len(r.norms) for r in rows) - ways.total()
    counts = f"{ways['fold']} / {ways['div']} / {kept}"
    yield Line("norms folded / with a Div / left as they were", counts)
    yield Line("nodes inserted", str(sum(f.inserted for f in folds)), "as few as possible")
    free = sum(f.inserted == 0 for f in folds)
    yield Line("models without an inserted node", of(free, len(folds)))


def _details(rows: Sequence[Row]) -> Iterator[str]:
    """Norms without a scale, estimates and bounds that miss, and why norms are not certified."""
    for row in rows:
        for name, reason in row.reports.items():
            yield f"not scaled: {row.name} {name}: {reason}"
        for miss in row.misses:
            yield f"miss: {row.name} {miss}"
    proved = [n.certificate for r in rows for n in r.norms if n.certificate is not None]
    reasons = Counter(_why(reason_text(c.reason)) for c in proved if c.reason is not None)
    for why, count in reasons.most_common():
        yield f"not certified: {count:3d} {why}"


def _why(reason: str) -> str:
    """A reason without its names and numbers."""
    return re.sub(r"\([^()]*\)|'[^']*'|\S+=LO,HI|\d[\d.e+-]*", "_", reason)


def _text(row: Row) -> str:
    counts = Counter(n.status for n in row.norms)
    status = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    bits = {None: "cannot run", True: "same bits", False: "BITS DIFFER"}[row.same_outputs]
    again = "" if row.idempotent else "SECOND RUN DIFFERS"
    if row.fold is not None:
        ways = Counter(row.fold.applied.values())
        kept = len(row.norms) - ways.total()
        status = f"{ways['fold']} / {ways['div']} / {kept}, {row.fold.inserted} nodes"
    return (
        f"{row.name:44s} {len(row.norms):3d}/{row.expected:<3d} {status:28s} "
        f"{row.verdict[:60]:14s} {bits:11s} overflowed {row.before:5d} -> {row.after:<3d} "
        f"{row.seconds:5.1f} s {again}"
    )


if __name__ == "__main__":
    sys.exit(told(main))
