"""Run the whole job on a folder of exported models and print one row per model.

    python -m benchmarks.zoo [FOLDER] [--default-inputs] [--estimate weights] [--only NAME ...]

FOLDER (default ../shared/zoo) holds one folder per model: `model.onnx`, `truth.json` with what the
framework knows of the norms, `io.npz` with inputs (`in__NAME`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slanc_onnx import Accelerator, Options, SlancError, protect_file

KINDS = ("layernorm", "rmsnorm", "rmsnorm_gated")


@dataclass(frozen=True)
class Row:
    """What happened to one model."""

    name: str
    found: int
    expected: int
    statuses: dict[str, int]
    verdict: str
    before: int
    after: int
    error: float
    seconds: float


def main() -> int:
    """Print the table; exit status 1 if a model raised anything but a SlancError."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/zoo"))
    parser.add_argument("--estimate", choices=("auto", "probe", "weights"), default="auto")
    parser.add_argument("--default-inputs", action="store_true", help="do not use io.npz")
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    folders = sorted(p.parent for p in args.folder.glob("*/model.onnx"))
    rows = []
    for folder in folders:
        if not args.only or folder.name in args.only:
            rows.append(_run(folder, args.estimate, args.default_inputs))
            print(_text(rows[-1]), flush=True)
    found, expected = sum(r.found for r in rows), sum(r.expected for r in rows)
    statuses: Counter[str] = Counter()
    for row in rows:
        statuses.update(row.statuses)
    verdicts = Counter(row.verdict for row in rows)
    print(f"{len(rows)} models, norms found {found} of {expected}, {dict(statuses)}")
    before, after = sum(r.before for r in rows), sum(r.after for r in rows)
    print(f"verdicts: {dict(verdicts)}; rows overflowed {before} -> {after}")
    print(f"slowest {max(r.seconds for r in rows):.1f} s")
    return int(any(row.verdict.startswith("TRACEBACK") for row in rows))


def _run(folder: Path, estimate: Any, default_inputs: bool) -> Row:
    truth = json.loads((folder / "truth.json").read_text())
    others = sum(n["kind"] not in KINDS and n.get("in_graph", True) for n in truth["norms"])
    expected = int(truth["norm_sites_in_graph"]) - others
    inputs = None
    if not default_inputs and (folder / "io.npz").exists():
        with np.load(folder / "io.npz") as file:
            inputs = {k[4:]: file[k] for k in file.files if k.startswith("in__")}
    options = Options(
        estimate=estimate, inputs=inputs, accelerator=Accelerator("sequential", True)
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            outcome = protect_file(folder / "model.onnx", Path(scratch) / "out.onnx", options)
        except SlancError as error:
            return Row(folder.name, 0, expected, {}, f"ERROR {error}", 0, 0, 0.0, 0.0)
        except Exception as error:
            verdict = f"TRACEBACK {type(error).__name__}: {error}"
            return Row(folder.name, 0, expected, {}, verdict, 0, 0, 0.0, 0.0)
    seconds = time.perf_counter() - started
    result = outcome.validation
    if not outcome.norms:
        verdict = "no norm"
    elif result is None:
        verdict = "cannot run"
    elif result.fp32_identical:
        verdict = "identical" if result.passed else "identical, FAILED"
    else:
        verdict = "FP32 differs"
    return Row(
        folder.name,
        len(outcome.norms),
        expected,
        dict(Counter(n.status for n in outcome.norms)),
        verdict,
        0 if result is None else result.overflowed_before,
        0 if result is None else result.overflowed_after,
        0.0 if result is None else result.fp16_error_after,
        seconds,
    )


def _text(row: Row) -> str:
    status = ", ".join(f"{count} {name}" for name, count in sorted(row.statuses.items()))
    return (
        f"{row.name:44s} {row.found:3d}/{row.expected:<3d} {status:28s} {row.verdict:18s} "
        f"overflowed {row.before:5d} -> {row.after:<3d} error {row.error:8.2g} {row.seconds:5.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
