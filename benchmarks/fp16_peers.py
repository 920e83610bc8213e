"""Converters to FP16 side by side, on the file as it is and on the folded file.

    python -m benchmarks.fp16_peers MODEL.onnx ... [--tokens IDS.npy] [--python PATH ...]

Each converter is a process of its own, measured as in `benchmarks.size`, in the first Python
(this one, then each PATH) that has its package. Of what it writes: whether ONNX Runtime loads it,
the nodes with FP32 results, and the relative RMS error against the original in FP32 where every
result that the file has in FP16 is rounded; with --tokens the perplexity of that, of 2 x 512 ids.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnx import TensorProto

from benchmarks.converters import CONVERTERS
from benchmarks.markdown import size, table
from benchmarks.missing import told
from benchmarks.peers import OWN, command_of
from benchmarks.size import measure
from slanc_onnx.graph import load_model, name_nodes
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.ops import read_bodies
from slanc_onnx.options import Options
from slanc_onnx.run import CannotRun, Feeds, validation_inputs
from slanc_onnx.tokens import read_tokens
from slanc_onnx.verify.tolerance import ROUNDED
from slanc_onnx.verify.validate import validate_pair
from slanc_onnx.verify.validation import Validation

OURS = "slanc-onnx --to fp16, no validation"
CONVERTING = tuple(name for name in CONVERTERS if name not in ("load + save", "onnxslim"))
SEQUENCES, LENGTH = 2, 512
HEADER = (
    "model",
    "source",
    "converter",
    "s",
    "GiB",
    "written",
    "loads",
    "FP32 nodes",
    "RMS, rounded",
    "perplexity",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--bos", type=int)
    parser.add_argument("--python", action="append", default=[])
    args = parser.parse_args(arguments)
    tokens = None
    if args.tokens is not None:
        tokens = read_tokens(args.tokens, LENGTH, SEQUENCES, args.bos)
    options = Options(to="fp16", tokens=tokens, certify="off").implied()
    rows = []
    for model in args.models:
        before = read_model(load_model(model), model.parent)
        with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
            folded = Path(scratch) / "folded.onnx"
            fold = [sys.executable, "-m", "slanc_onnx", str(model), "-o", str(folded)]
            subprocess.run([*fold, "--apply", "fold", "--no-validate", "-qq"], check=True)
            jobs = [("original", model, OURS)]
            sources = ("original", model), ("folded", folded)
            jobs += [(which, file, name) for which, file in sources for name in CONVERTING]
            for which, file, name in jobs:
                print(f"{model.stem}, {which}, {name} ...", file=sys.stderr, flush=True)
                out = Path(scratch) / "converted" / "out.onnx"
                out.parent.mkdir(exist_ok=True)
                command = _command(name, file, out, args.python)
                cells = ["no package"] if command is None else _cells(command, out, before, options)
                rows.append((model.stem, which, name, *cells))
                for written in out.parent.iterdir():
                    written.unlink()
    wide = [(*row, *[""] * (len(HEADER) - len(row))) for row in rows]
    print(table(HEADER, wide))
    return 0


def _command(name: str, file: Path, out: Path, pythons: Sequence[str]) -> list[str] | None:
    """How a converter is called; None where no Python has its package."""
    command = command_of(name, pythons)
    if command is None:
        return None
    if name in OWN:
        return [*command, str(file), "-o", str(out), *OWN[name]]
    return [*command, str(file), str(out)]


def _cells(command: list[str], out: Path, before: ReadModel, options: Options) -> list[str]:
    cost = measure(command)
    if cost.status or not out.exists():
        return [f"exit status {cost.status}"]
    written = sum(file.stat().st_size for file in out.parent.iterdir())
    cells = [f"{cost.wall:.1f}", f"{cost.memory / 2**30:.2f}", size(written)]
    load = "import sys, onnxruntime as o; s = o.SessionOptions(); s.log_severity_level = 4; "
    load += "o.InferenceSession(sys.argv[1], s, providers=['CPUExecutionProvider'])"
    loads = subprocess.run([sys.executable, "-c", load, str(out)], capture_output=True)
    cells.append("no" if loads.returncode else "yes")
    try:
        after = _read(out)
        sets = [_feeds(before, options)]
        found = validate_pair(before, after, options, sets, exact=ROUNDED)[0]
        if isinstance(found, CannotRun):
            raise found
    except Exception as error:
        return [*cells, "", f"{type(error).__name__}: {str(error)[:80]}"]
    return [*cells, str(len(after.kept)), f"{found.rounded_rms_error:.3g}", _perplexity(found)]


def _perplexity(found: Validation) -> str:
    table = found.perplexity
    return "" if table is None else f"{table['fp16_slanc']:.4f} ({table['fp32']:.4f} in FP32)"


def _feeds(before: ReadModel, options: Options) -> Sequence[Feeds]:
    return validation_inputs(before, options)[0].feeds


def _read(out: Path) -> ReadModel:
    """A converted file, with the nodes whose results it has in FP32."""
    model = load_model(out)
    name_nodes(model)
    full = {
        node.name
        for body in read_bodies(model)
        for node in body.proto.node
        if node.op_type not in ("Cast", "Constant")
        and any(body.kind(n).element == TensorProto.FLOAT for n in node.output if n)
    }
    return replace(read_model(model, out.parent), kept=frozenset(full))


if __name__ == "__main__":
    sys.exit(told(main))
