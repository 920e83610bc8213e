"""Other tools on the same file, beside the command: time, memory and size of what they write.

    python -m benchmarks.peers MODEL.onnx ... [--inline] [--python PATH ...] [--only NAME ...]

Each is a process of its own, measured as in `benchmarks.size`, in the first Python (this one, then
each PATH) that has its package; the ratios are to onnx.load and onnx.save of the same file, which
runs first. With --inline each model is measured as one file too, where it is below 2 GiB.
`calibration` runs the FP32 model on 8 x 512 random token ids and reads the sums of squares at its
norms' inputs, as calibration with data does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from benchmarks.converters import CONVERTERS
from benchmarks.markdown import size, table
from benchmarks.missing import told
from benchmarks.size import Cost, measure
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.load import load_model, stored_bytes
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.run.session import Session
from slanc_onnx.run.sizes import Sizes

FLOOR = "load + save"
OWN: Mapping[str, tuple[str, ...]] = {
    "slanc-onnx, by weights": ("--estimate", "weights", "--no-validate"),
    "slanc-onnx, no validation": ("--no-validate",),
    "slanc-onnx": (),
    "slanc-onnx --apply fold, no validation": ("--apply", "fold", "--no-validate"),
    "slanc-onnx --to fp16, no validation": ("--to", "fp16", "--no-validate"),
}
OTHERS = (*(name for name in CONVERTERS if name != FLOOR), "calibration")
HEADER = ("model", "tool", "wall", "CPU", "memory", "written", "wall ratio", "CPU ratio", "exit")
SEQUENCES, LENGTH, LARGEST = 8, 512, 2**31 - 2**20
SCRIPT = str(Path(__file__).parent / "converters.py")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each tool and file."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--calibrate"]:
        _calibrate(Path(given[1]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--inline", action="store_true")
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--only", action="append", choices=[*OWN, *OTHERS])
    args = parser.parse_args(given)
    names = args.only or [*OWN, *OTHERS]
    for model in args.models:
        load_model(model)  # or it says what is wrong
    rows: list[tuple[str, ...]] = []
    for model in args.models:
        with tempfile.TemporaryDirectory(dir=model.parent) as folder:
            rows += _rows(model.stem, model, names, args.python, Path(folder))
            if args.inline and stored_bytes(load_model(model), model.parent) < LARGEST:
                whole = Path(folder) / "inline.onnx"
                onnx.save(onnx.load(model), whole)
                names_in = f"{model.stem}, one file"
                rows += _rows(names_in, whole, names, args.python, Path(folder))
    print(table(HEADER, rows))
    return 0


def _rows(
    label: str, model: Path, names: Sequence[str], pythons: Sequence[str], folder: Path
) -> Iterator[tuple[str, ...]]:
    floor = _measured(FLOOR, model, pythons, folder)[0]  # also so that the file is in memory
    floor, written = _measured(FLOOR, model, pythons, folder)
    assert floor is not None
    if floor.status:  # there is nothing to hold the others against
        raise SlancError(f"{model}: onnx.load and onnx.save end with an error on it, see above.")
    yield _row(label, FLOOR, floor, floor, written)
    for name in names:
        print(f"{label}, {name} ...", file=sys.stderr, flush=True)
        cost, written = _measured(name, model, pythons, folder)
        if cost is None:
            yield (label, name, "no package", *[""] * (len(HEADER) - 3))
        elif cost.status:  # how soon it gave up is no measurement
            yield (label, name, *[""] * (len(HEADER) - 3), str(cost.status))
        else:
            yield _row(label, name, cost, floor, written)


def _measured(
    name: str, model: Path, pythons: Sequence[str], folder: Path
) -> tuple[Cost | None, int]:
    """What a tool costs on a file, and the bytes that it writes; None where it is not there."""
    command = command_of(name, pythons)
    if command is None:
        return None, 0
    own = name in OWN  # beside the model, as by default
    with tempfile.TemporaryDirectory(dir=model.parent if own else folder) as scratch:
        before = {file.name for file in model.parent.iterdir()}
        out = model.parent / f".peer.{model.name}" if own else Path(scratch) / "out.onnx"
        options = OWN.get(name, ())
        cost = measure([*command, str(model), *(["-o"] if own else []), str(out), *options])
        made = [f for f in model.parent.iterdir() if f.name not in before] if own else []
        made += Path(scratch).iterdir()
        written = sum(file.stat().st_size for file in made)
        for file in made:
            file.unlink()
    return cost, written


def command_of(name: str, pythons: Sequence[str] = ()) -> list[str] | None:
    """How a tool is called, before its file; None where no Python has its package."""
    if name in OWN:
        return [sys.executable, "-m", "slanc_onnx", "-qq"]
    if name == "calibration":
        return [sys.executable, "-m", "benchmarks.peers", "--calibrate"]
    for python in (sys.executable, *pythons):
        if subprocess.run([python, SCRIPT, name], capture_output=True).returncode == 0:
            return [python, SCRIPT, name]
    return None


def _calibrate(model: Path) -> None:
    loaded, folder = load_model(model), model.parent
    scopes = read_graph(loaded, folder)
    shown = instrument(loaded, find_norms_in(scopes), keep_outputs=False)
    session = Session(shown.model, folder)
    rng = np.random.default_rng(0)
    specs = input_specs(scopes[0])
    for draw in range(SEQUENCES):
        session.run(make_feeds(specs, rng, Sizes(sequence=LENGTH), draw=draw))


def _row(label: str, name: str, cost: Cost, floor: Cost, written: int) -> tuple[str, ...]:
    return (
        label,
        name,
        f"{cost.wall:.1f} s",
        f"{cost.cpu:.1f} s",
        f"{cost.memory / 2**30:.2f} GiB",
        size(written),
        f"{cost.wall / floor.wall:.1f}",
        f"{cost.cpu / floor.cpu:.1f}",
        str(cost.status),
    )


if __name__ == "__main__":
    sys.exit(told(main))
