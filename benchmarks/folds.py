"""What `--apply fold` does to models: norms folded, nodes inserted, weights rewritten, same bits.

    python -m benchmarks.folds [MODEL.onnx ...] [--zoo FOLDER] [--no-validate]

A row per model, and with `--zoo` one for the sums over a folder of exports (see
`benchmarks/zoo_rows.py`), which run on the inputs that are stored with them. With `--no-validate`
FP32 outputs are not compared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from benchmarks.markdown import of, size, table
from benchmarks.missing import told
from benchmarks.size import weight_bytes
from benchmarks.zoo_rows import exports_in, ranges_of, stored_inputs
from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.graph.load import every_node, load_model
from slanc_onnx.norms.functions import inline_norm_functions

HEADER = (
    "",
    "norms",
    "folded",
    "`Div`",
    "nodes inserted",
    "nodes inserted by `--apply div`",
    "weights rewritten",
    "FP32 outputs bit-identical",
)


@dataclass(frozen=True)
class Folding:
    """What folding did to a model; `rewritten` and `weights` are bytes."""

    norms: int
    folded: int
    divided: int
    inserted: int
    inserted_by_div: int
    rewritten: int
    weights: int
    identical: bool | None  # None: the outputs were not compared


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit status 1 if FP32 outputs differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--zoo", metavar="FOLDER", type=Path)
    parser.add_argument("--no-validate", action="store_true")
    args = parser.parse_args(arguments)
    if not args.models and args.zoo is None:
        parser.error("give a MODEL.onnx or --zoo FOLDER")
    models: dict[str, Folding] = {}
    for path in args.models:
        models[path.stem] = folding(path, Options(validate=not args.no_validate))
        print(f"{path.stem}: {models[path.stem]}", file=sys.stderr)
    exports: dict[str, Folding] = {}
    refused = 0
    for folder in exports_in(args.zoo) if args.zoo else ():
        feeds, _ = stored_inputs(folder)
        options = Options(
            inputs=feeds or None, feeds=ranges_of(feeds), validate=not args.no_validate
        )
        try:
            exports[folder.name] = folding(folder / "model.onnx", options)
            print(f"{folder.name}: {exports[folder.name]}", file=sys.stderr)
        except SlancError as error:
            refused += 1
            print(f"{folder.name}: refused: {error}", file=sys.stderr)
    print(folds_table(models, list(exports.values())))
    if refused:
        print(f"\n{refused} exports were refused.")
    return int(any(f.identical is False for f in (*models.values(), *exports.values())))


def folding(source: Path, options: Options) -> Folding:
    """Fold a model, and scale it with Divs for comparison, into a folder that goes away."""
    inserted_by_div = 0
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model.onnx"
        protect_file(source, output, replace(options, apply="div", validate=False))
        if output.exists():
            before, _ = inline_norm_functions(load_model(source), source.parent)
            inserted_by_div = _nodes(load_model(output)) - _nodes(before)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "model.onnx"
        outcome = protect_file(source, output, replace(options, apply="fold"))
    fold, validation = outcome.fold, outcome.validation
    ways = Counter(fold.applied.values() if fold else ())
    return Folding(
        len(outcome.norms),
        ways["fold"],
        ways["div"],
        fold.inserted if fold else 0,
        inserted_by_div,
        fold.rewritten_bytes if fold else 0,
        weight_bytes(source),
        None if validation is None else validation.fp32_identical,
    )


def _nodes(model: onnx.ModelProto) -> int:
    return sum(1 for _ in every_node(model.graph.node))


def folds_table(models: Mapping[str, Folding], exports: Sequence[Folding]) -> str:
    """A row per model, then one of the sums over the exports, if there are any."""
    rows = [
        (name, *_cells([f]), {None: "not compared", True: "yes", False: "no"}[f.identical])
        for name, f in models.items()
    ]
    if exports:
        free = sum(f.inserted == 0 for f in exports)
        compared = [f.identical for f in exports if f.identical is not None]
        label = f"{len(exports)} exports; no node inserted in {free} of them"
        same = f"{of(sum(compared), len(compared))} that run"
        rows.append((label, *_cells(exports), same))
    return table(HEADER, rows)


def _cells(foldings: Sequence[Folding]) -> tuple[object, ...]:
    """Their sums, as the table writes them."""
    rewritten, weights = sum(f.rewritten for f in foldings), sum(f.weights for f in foldings)
    return (
        sum(f.norms for f in foldings),
        sum(f.folded for f in foldings),
        sum(f.divided for f in foldings),
        sum(f.inserted for f in foldings),
        sum(f.inserted_by_div for f in foldings),
        f"{size(rewritten)} of {size(weights)}",
    )


if __name__ == "__main__":
    sys.exit(told(main))
