"""Never worse: rows that overflow before and after, in every mode that runs the model.

    python -m benchmarks.worse FOLDER ...

A FOLDER holds `model.onnx`, or folders that do; `inputs.npz` beside a model has its inputs, and
without it the job makes them. The rows are those of all norms on all sets of inputs that the
validation tries. A model that a mode refuses, or cannot validate, is counted. Each model goes to
stderr. Exit status 1 if more rows overflow after than before in any mode.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.markdown import count, table
from benchmarks.missing import told
from benchmarks.verdicts import models_in
from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.arguments.given import read_inputs

MODES: Mapping[str, Options] = {
    "window": Options(),
    "window, weights": Options(estimate="weights"),
    "window, fold": Options(apply="fold"),
    "paper": Options(scale="paper"),
    "calibrated": Options(scale="calibrated"),
}


@dataclass
class Counts:
    """What a mode came to: models by what became of them, and rows that overflow."""

    models: int = 0
    refused: int = 0
    not_validated: int = 0
    before: int = 0
    after: int = 0
    worse: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    args = parser.parse_args(arguments)
    found = {mode: Counts() for mode in MODES}
    for model in sorted(models_in(args.folders)):
        for mode, counts in found.items():
            told = _counted(model, MODES[mode], counts)
            print(f"{model.parent.name}, {mode}: {told}", file=sys.stderr, flush=True)
    rows = [(mode, *(count(n) for n in vars(counts).values())) for mode, counts in found.items()]
    heads = ("mode", "models", "refused", "not validated", "rows before", "after", "worse models")
    print(table(heads, rows))
    return int(any(counts.worse for counts in found.values()))


def _counted(model: Path, options: Options, counts: Counts) -> str:
    given = model.parent / "inputs.npz"
    inputs = read_inputs(str(given)) if given.is_file() else None
    options = replace(options, inputs=inputs, certify="off", isolate=True)
    counts.models += 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = protect_file(model, Path(folder) / "new.onnx", options)
        except SlancError as error:
            counts.refused += 1
            return f"refused: {error}"
    if outcome.validation is None:
        counts.not_validated += 1
        return "not validated"
    seen = [one for tried in outcome.validation.observed_on_each for one in tried.values()]
    before, after = (sum(getattr(o, n) for o in seen) for n in ("overflowed_before", "overflowed"))
    counts.before, counts.after = counts.before + before, counts.after + after
    counts.worse += after > before
    return f"{before} -> {after}{', worse' if after > before else ''}"


if __name__ == "__main__":
    sys.exit(told(main))
