"""All in FP16: what `--to fp16` makes of every export of a folder.

    python -m benchmarks.to_fp16 FOLDER [--only REGEX]

An export is a folder as `benchmarks.zoo` takes it. Of each: whether ONNX Runtime loads the file
that was written, the nodes that compute in FP32, and the relative RMS error against the original in
FP32 where every op is rounded. Exports that ONNX Runtime does not run as they are do not count.
Exit status 1 if a file is not written, does not load, or is off by more than 1 %.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from benchmarks.markdown import table
from benchmarks.missing import expression, told
from benchmarks.zoo_rows import exports_in, stored_inputs
from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.reasons import NOT_RUN_ITSELF
from slanc_onnx.report.wording import reason_text

TOLERANCE = 0.01  # of the outputs' root mean square


@dataclass(frozen=True)
class Row:
    """What became of one export."""

    name: str
    told: str
    rms: float
    nodes: Counter[str]
    seconds: float
    counts: bool = True

    @property
    def right(self) -> bool:
        """Whether it works as it should."""
        return self.told == "" and self.rms <= TOLERANCE


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", type=expression, default=re.compile(""), metavar="REGEX")
    args = parser.parse_args(arguments)
    rows = []
    exports = [export for export in exports_in(args.folder) if args.only.search(export.name)]
    if not exports:
        parser.error(f"--only: no export has a name in which {args.only.pattern} is")
    for export in exports:
        rows.append(_row(export))
        told = rows[-1].told or f"RMS {rows[-1].rms:.2g}"
        print(f"{export.name}: {told} {dict(rows[-1].nodes)}", file=sys.stderr, flush=True)
    counted = [row for row in rows if row.counts]
    shown = [
        (
            row.name,
            row.told or "loads",
            f"{row.rms:.2g}",
            sum(row.nodes.values()) or "0",
            f"{row.seconds:.1f}",
        )
        for row in rows
        if not row.right or row.nodes
    ]
    print(table(("export", "on ONNX Runtime", "RMS", "FP32 nodes", "s"), shown))
    right = sum(row.right for row in counted)
    print(f"\n{right} of {len(counted)} exports that ONNX Runtime runs are within {TOLERANCE:.0%}.")
    return int(right < len(counted))


def _row(export: Path) -> Row:
    """What becomes of one export."""
    feeds, _ = stored_inputs(export)
    source = export / "model.onnx"
    runs = _loads(source) == ""
    with tempfile.TemporaryDirectory() as scratch:
        output, started = Path(scratch) / "fp16.onnx", time.perf_counter()
        options = Options(to="fp16", inputs=feeds or None, certify="off", isolate=True)
        try:
            done = protect_file(source, output, options)
        except SlancError as error:
            return Row(export.name, str(error), float("inf"), Counter(), 0.0, runs)
        seconds = time.perf_counter() - started
    nodes = Counter(node.op for node in done.conversion.converted.nodes) if done.conversion else {}
    checked = done.validation
    told = "" if checked is not None else f"not validated: {done.not_validated}"
    for why in checked.failures if checked is not None else ():
        if why.kind in NOT_RUN_ITSELF:
            told = reason_text(why)
    rms = float("inf") if checked is None else checked.rounded_rms_error
    return Row(export.name, told, rms, Counter(nodes), seconds, runs)


def _loads(model: Path) -> str:
    """Why ONNX Runtime does not load a file; "" where it does."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).splitlines()[0][:200]
    return ""


if __name__ == "__main__":
    sys.exit(told(main))
