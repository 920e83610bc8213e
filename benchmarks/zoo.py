"""Run the whole job on a folder of exported models: one row per model, then the targets as a table.

    python -m benchmarks.zoo [FOLDER] [--default-inputs] [--estimate weights] [--apply fold]
                             [--emulate all] [--only NAME ...]

FOLDER (default ../shared/zoo) holds one folder per model: `model.onnx`, `truth.json` with what the
framework knows of the norms, `io.npz` with inputs (`in__NAME`) and the names of the outputs that
count (`ref__NAME`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slanc_onnx import Accelerator, Options, ScaledNorm, SlancError, protect_file
from slanc_onnx.fold import Fold
from slanc_onnx.load import load_model
from slanc_onnx.runtime import CannotRun, Session

NORMALISED = ("layernorm", "rmsnorm", "rmsnorm_gated")  # the kinds that the targets count
Truth = dict[str, Any]


@dataclass
class Row:
    """What happened to one model."""

    name: str
    expected: int
    verdict: str = ""
    same_outputs: bool | None = None  # as ONNX Runtime runs the files; None: it does not
    identical: bool | None = None  # with FP16 and BF16 tensors in FP32; None: not validated
    idempotent: bool = True
    before: int = 0
    after: int = 0
    hot: bool = False
    seconds: float = 0.0
    norms: list[ScaledNorm] = field(default_factory=list)
    reports: dict[str, str] = field(default_factory=dict)  # reasons of norms without a scale
    typical: list[float] = field(default_factory=list)  # log10 of predicted / middle of the truth
    upper: list[float] = field(default_factory=list)  # log10 of predicted / the truth's maximum
    bound: list[float] = field(default_factory=list)  # log10 of the bound / the truth's maximum
    misses: list[str] = field(default_factory=list)
    fold: Fold | None = None
    errors: tuple[float, float] = (0.0, 0.0)  # largest before, RMS after; see `Validation`


def main() -> int:
    """Print the tables; exit status 1 if a model raised anything but a SlancError."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/zoo"))
    parser.add_argument("--estimate", choices=("auto", "probe", "weights"), default="auto")
    parser.add_argument("--apply", choices=("div", "fold"), default="div")
    parser.add_argument("--emulate", choices=("norms", "all"), default="norms")
    parser.add_argument("--default-inputs", action="store_true", help="do not use io.npz")
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    folders = sorted(p.parent for p in args.folder.glob("*/model.onnx"))
    if not folders:
        parser.error(f"{args.folder}: holds no folder with a model.onnx")
    rows = []
    for folder in folders:
        if not args.only or folder.name in args.only:
            rows.append(_run(folder, args.estimate, args.default_inputs, args.apply, args.emulate))
            print(_text(rows[-1]), flush=True)
    for row in rows:
        for name, reason in row.reports.items():
            print(f"not scaled: {row.name} {name}: {reason}")
        for miss in row.misses:
            print(f"miss: {row.name} {miss}")
    proved = [n.certificate for r in rows for n in r.norms if n.certificate is not None]
    reasons = Counter(_why(c.reason) for c in proved if not c.certified)
    for why, count in reasons.most_common():
        print(f"not certified: {count:3d} {why}")
    for label, figure, target in _targets(rows):
        print(f"{label:64s} {figure:>22s}   target {target}")
    return int(any(row.verdict.startswith("TRACEBACK") for row in rows))


def _run(
    folder: Path, estimate: Any, default_inputs: bool, apply: Any, emulate: Any
) -> Row:
    truth: Truth = json.loads((folder / "truth.json").read_text())
    row = Row(folder.name, int(truth["norm_sites_in_graph"]))
    stored: dict[str, NDArray[Any]] = {}
    if (folder / "io.npz").exists():
        with np.load(folder / "io.npz") as file:
            stored = {key: file[key] for key in file.files}
    feeds = {k[4:]: v for k, v in stored.items() if k.startswith("in__")}
    options = Options(
        estimate=estimate,
        inputs=None if default_inputs or not feeds else feeds,
        accelerator=Accelerator("sequential", True),
        input_ranges={k: _range(v) for k, v in feeds.items() if v.dtype.kind == "f" and v.size},
        apply=apply,
        emulate=emulate,
    )
    source = folder / "model.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        output, second = Path(scratch) / "out.onnx", Path(scratch) / "again.onnx"
        started = time.perf_counter()
        try:
            outcome = protect_file(source, output, options)
            row.seconds = time.perf_counter() - started
            row.norms, row.fold = outcome.norms, outcome.fold
            if output.exists():
                again = Options(estimate=estimate, validate=False, apply=apply)
                protect_file(output, second, again)
                row.idempotent = output.read_bytes() == second.read_bytes()
                names = [k[5:] for k in stored if k.startswith("ref__")]
                row.same_outputs = _same_outputs(source, output, feeds, names)
        except SlancError as error:
            row.verdict = f"ERROR {error}"
            return row
        except Exception as error:
            row.verdict = f"TRACEBACK {type(error).__name__}: {error}"
            return row
    result = outcome.validation
    row.verdict = "no norm"
    if row.norms:
        row.verdict = "PASSED" if outcome.passed else "FAILED" if result else "not validated"
    if result is not None:
        row.before, row.after = result.overflowed_before, result.overflowed_after
        row.identical = result.fp32_identical
        row.errors = result.fp16_error_before, result.fp16_rms_error
    row.hot = any(n["sumsq_max"] > 65504 for n in truth["norms"] if n.get("in_graph", True))
    for scaled in row.norms:
        if scaled.status == "skipped":
            row.reports[scaled.norm.name] = scaled.reason
    if truth.get("truth_valid", True):
        _hold_against(truth, row)
    return row


def _range(values: NDArray[Any]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _same_outputs(
    source: Path, output: Path, feeds: dict[str, NDArray[Any]], names: Sequence[str]
) -> bool | None:
    """Whether ONNX Runtime gives the same bits for the named outputs; None if it runs neither."""
    models = load_model(source), load_model(output)
    try:
        before = Session(models[0], source.parent).run(feeds)
    except CannotRun:
        return None
    after = Session(models[1], output.parent).run(feeds)
    named = [name for name in names if name in before]
    return all(before[n].tobytes() == after[n].tobytes() for n in named)


def _hold_against(truth: Truth, row: Row) -> None:
    """Compare predictions with what the framework saw, norm by norm in the order of both."""
    known = [n for n in truth["norms"] if n.get("in_graph", True)]
    modules: dict[str, list[Truth]] = {}
    for norm in known:
        modules.setdefault(norm["module"], []).append(norm)
    calls = [[n] for n in known] if len(known) == len(row.norms) else list(modules.values())
    if len(calls) != len(row.norms):
        return
    for scaled, call in zip(_in_truth_order(row.norms, calls), calls, strict=True):
        certificate = scaled.certificate
        bounded = None if certificate is None else certificate.bound.length
        estimate = scaled.estimate
        if estimate is None or scaled.status == "skipped" or call[0]["kind"] not in NORMALISED:
            continue
        prefix = "centred_" if scaled.norm.kind == "layer" else ""
        low = min(c[f"{prefix}sumsq_min"] for c in call)
        high = max(c[f"{prefix}sumsq_max"] for c in call)
        if high <= 0:
            continue
        if bounded is not None:
            row.bound.append(math.log10(bounded**2 / high))
            if row.bound[-1] < 0:
                row.misses.append(f"{scaled.norm.name}: bound {bounded**2:.6g}, truth {high:.6g}")
        middle = math.sqrt(max(low, high * 1e-12) * high)
        row.typical.append(math.log10(estimate.typical / middle))
        row.upper.append(math.log10(estimate.upper / high))
        if abs(row.typical[-1]) > 1 or row.upper[-1] < 0:
            row.misses.append(
                f"{scaled.norm.name}: typical {estimate.typical:.3g} and upper "
                f"{estimate.upper:.3g} by {estimate.by}, truth {low:.3g} to {high:.3g}"
            )


def _in_truth_order(norms: Sequence[ScaledNorm], calls: Sequence[list[Truth]]) -> list[ScaledNorm]:
    """The norms in the framework's order: widths must agree, which q_norm before k_norm may not."""
    left, ordered = list(norms), []
    for call in calls:
        fits = (n for n in left if n.norm.width in (None, call[0]["dim"]))
        found = next(fits, left[0])
        left.remove(found)
        ordered.append(found)
    return ordered


def _targets(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """The label, the measured figure and the target of each line of the table."""
    found, expected = sum(len(r.norms) for r in rows), sum(r.expected for r in rows)
    exact = sum(len(r.norms) == r.expected for r in rows)
    yield "norms found", f"{found} of {expected}", "100 %"
    yield "models with exactly the norms of truth.json", f"{exact} of {len(rows)}", "100 %"
    layers = [n for r in rows for n in r.norms if n.norm.kind in ("layer", "rms")]
    statuses = Counter(n.status for n in layers)
    yield "status scaled", _share(statuses["scaled"], len(layers)), ">= 97 %"
    typical = [v for r in rows for v in r.typical]
    upper = [v for r in rows for v in r.upper]
    close = sum(abs(v) <= 1 for v in typical)
    yield "typical within a factor 10 of truth", _share(close, len(typical)), ">= 95 %"
    above = sum(v >= 0 for v in upper)
    yield "upper >= truth's maximum", _share(above, len(upper)), ">= 99 %"
    bounds = [v for r in rows for v in r.bound]
    yield "bound >= truth's maximum", _share(sum(v >= 0 for v in bounds), len(bounds)), "100 %"
    proved = [n.certificate for r in rows for n in r.norms if n.certificate is not None]
    certified = [c for c in proved if c.certified]
    yield "norms certified", _share(len(certified), len(proved)), "-"
    conditional = sum(bool(c.bound.conditions) for c in certified)
    yield "  of them on a condition", _share(conditional, len(certified)), "-"
    runs = [r for r in rows if r.same_outputs is not None]
    same = sum(bool(r.same_outputs) for r in runs)
    checked = [r for r in rows if r.identical is not None]
    identical = sum(bool(r.identical) for r in checked)
    yield "FP32 outputs bit-identical", _share(identical, len(checked)), "100 %"
    yield "and of the files as they are, FP16 graphs included", _share(same, len(runs)), "-"
    idempotent = sum(r.idempotent for r in rows)
    yield "second run writes the identical file", _share(idempotent, len(rows)), "100 %"
    hot = [r for r in rows if r.hot and r.verdict in ("PASSED", "FAILED")]
    overflowing = sum(r.before > 0 for r in hot)
    yield "hot models with overflowed rows before", _share(overflowing, len(hot)), "100 %"
    before, after = sum(r.before for r in rows), sum(r.after for r in rows)
    yield "rows overflowed, before -> after", f"{before} -> {after}", "0 after"
    folds = [r.fold for r in rows if r.fold is not None]
    if folds:
        ways = Counter(way for f in folds for way in f.applied.values())
        kept = sum(len(r.norms) for r in rows) - ways.total()
        counts = f"{ways['fold']} / {ways['div']} / {kept}"
        yield "norms folded / with a Div / left as they were", counts, "-"
        yield "nodes inserted", str(sum(f.inserted for f in folds)), "as few as possible"
        free = sum(f.inserted == 0 for f in folds)
        yield "models without an inserted node", _share(free, len(folds)), "-"
    wrong = sum(not math.isfinite(r.errors[0]) for r in checked)
    infinite = sum(not math.isfinite(r.errors[1]) for r in checked)
    yield "models with outputs not finite in FP16, before -> after", f"{wrong} -> {infinite}", "0"
    verdicts = Counter(r.verdict.split(" ")[0] for r in rows)
    yield "verdicts", ", ".join(f"{n} {v}" for v, n in verdicts.items()), "no traceback"
    yield "slowest", f"{max(r.seconds for r in rows):.1f} s", "5 s"


def _why(reason: str) -> str:
    """A reason without its names and numbers."""
    return re.sub(r"\([^()]*\)|'[^']*'|\S+=LO,HI|\d[\d.e+-]*", "_", reason)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / max(whole, 1):.1f} %)"


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
    sys.exit(main())
