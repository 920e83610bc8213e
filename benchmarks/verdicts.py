"""Hold the verdicts on models against an independent run with every input and op rounded to FP16.

    python -m benchmarks.verdicts FOLDER ... [--apply fold]

A FOLDER holds `model.onnx`, or folders that do; `inputs.npz` beside a model has its inputs, and
without it the job makes them. Both runs take the same inputs. The word PASSED is for `--emulate
all`, and so is the table: a model works if no output of the rounded run is further from FP32 than
the tolerance of the verdict, whether finite constants beyond FP16 become its largest number or
what is computed of them becomes infinite. Each model goes to stderr. Exit status 1 if one PASSED
and is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.markdown import table
from benchmarks.missing import told
from benchmarks.rounded import every_op_rounded
from slanc_onnx import Options, Outcome, SlancError, protect_file
from slanc_onnx.arguments.given import read_inputs
from slanc_onnx.graph.load import load_model
from slanc_onnx.norms import read_model
from slanc_onnx.run.feeds import validation_inputs
from slanc_onnx.run.float32 import as_float32
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Feeds, Session

CASES = ("PASSED and works", "PASSED and broken", "FAILED and works", "FAILED and broken")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--apply", choices=("div", "fold"), default="div")
    args = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    for model in sorted(models_in(args.folders)):
        told = judged(model, Options(apply=args.apply, emulate="all", isolate=True))
        counts[told] += 1
        print(f"{model.parent.name}: {told}", file=sys.stderr, flush=True)
    others = [told for told in counts if told not in CASES]
    rows = [(told, str(counts[told])) for told in (*CASES, *sorted(others))]
    print(table(("verdict and independent run", f"of {counts.total()} models"), rows))
    return int(counts["PASSED and broken"] > 0)


def models_in(folders: Sequence[Path]) -> Iterator[Path]:
    """The models of folders, or of the folders in these.

    Raises:
        SlancError: a folder has none.
    """
    for folder in folders:
        own = folder / "model.onnx"
        found = [own] if own.is_file() else list(folder.glob("*/model.onnx"))
        if not found:
            raise SlancError(f"{folder}: holds neither a model.onnx nor a folder with one.")
        yield from found


def judged(model: Path, options: Options) -> str:
    """The verdict on a model and what became of it, in the words of `CASES`, or why neither."""
    given = model.parent / "inputs.npz"
    options = replace(options, inputs=read_inputs(str(given)) if given.is_file() else None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = protect_file(model, Path(folder) / "new.onnx", options)
        except SlancError:
            return "refused"
        if not outcome.norms:
            return "no norm"
        if outcome.not_validated is not None or outcome.validation is None:
            return "not validated"
        try:
            works = _works(model, outcome, options)
        except (CannotRun, ValueError):
            return "not run"
    return f"{'PASSED' if outcome.passed else 'FAILED'} and {'works' if works else 'broken'}"


def _works(source: Path, outcome: Outcome, options: Options) -> bool:
    """Whether the file that was written gives the FP32 outputs with every op rounded."""
    read = read_model(load_model(source), source.parent)
    feeds = validation_inputs(read, options)[0].feeds  # those that the verdict is of
    written = as_float32(load_model(outcome.output), outcome.output.parent)
    original = as_float32(load_model(source), source.parent)
    assert outcome.validation is not None
    tolerance = outcome.validation.rounded_tolerance
    plain = Session(original, source.parent)
    expected = [plain.run(feed) for feed in feeds[:4]]
    for clips in (True, False):
        session = Session(every_op_rounded(written, clips), outcome.output.parent)
        for feed, values in zip(feeds, expected, strict=False):
            if not _near(values, session.run(_stored(feed)), tolerance):
                return False
    return True


def _stored(feed: Feeds) -> Feeds:
    """Inputs as an FP16 model takes them."""
    with np.errstate(over="ignore"):
        return {
            name: v.astype(np.float16).astype(v.dtype) if v.dtype.kind == "f" else v
            for name, v in feed.items()
        }


def _near(expected: Feeds, actual: Feeds, tolerance: float) -> bool:
    for name, value in expected.items():
        if value.dtype.kind != "f":
            continue
        known = np.isfinite(value)
        a, b = value[known].astype(np.float64), actual[name][known].astype(np.float64)
        if not np.isfinite(b).all():
            return False
        size = float(np.sqrt(np.mean(a * a))) if a.size else 0.0
        error = float(np.sqrt(np.mean((a - b) ** 2))) if a.size else 0.0
        if error > tolerance * size:
            return False
    return True


if __name__ == "__main__":
    sys.exit(told(main))
