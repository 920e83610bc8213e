"""Other tools on the same file, beside the command: time, memory and size of what they write.

    python -m benchmarks.peers MODEL.onnx [PEER ...]

Each peer is a process of its own, measured as in `benchmarks.size`; the ratios are to slanc-onnx
with its default estimate and no validation. A peer whose package is not installed is left out:
onnxconverter-common, onnxslim, nvidia-modelopt[onnx]. `calibration` runs the FP32 model on 8 x 512
random token ids and reads the sums of squares at its norms' inputs, as calibration with data does.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from benchmarks.size import Cost, measure
from slanc_onnx.graph import read_graph
from slanc_onnx.inputs import input_specs, make_feeds
from slanc_onnx.instrument import instrument
from slanc_onnx.load import load_model
from slanc_onnx.norms import find_norms_in
from slanc_onnx.runtime import Session

SEQUENCES, LENGTH = 8, 512


def _converter_common(model: Path, out: Path) -> None:
    from onnxconverter_common import float16

    converted = float16.convert_float_to_float16(onnx.load(model), keep_io_types=True)
    onnx.save(converted, out, save_as_external_data=True, location=f"{out.name}.data")


def _onnxslim(model: Path, out: Path) -> None:
    import onnxslim

    onnxslim.slim(str(model), str(out), save_as_external_data=True)


def _autocast(model: Path, out: Path) -> None:
    from modelopt.onnx.autocast import convert_to_mixed_precision

    converted = convert_to_mixed_precision(str(model), low_precision_type="fp16")
    onnx.save(converted, out, save_as_external_data=True, location=f"{out.name}.data")


def _calibration(model: Path, out: Path) -> None:
    loaded, folder = load_model(model), model.parent
    scopes = read_graph(loaded, folder)
    shown = instrument(loaded, find_norms_in(scopes), keep_outputs=False)
    session = Session(shown.model, folder)
    rng = np.random.default_rng(0)
    specs = input_specs(scopes[0])
    for draw in range(SEQUENCES):
        session.run(make_feeds(specs, rng, sequence=LENGTH, draw=draw))


PEERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {  # the package, and what to run
    "onnxconverter-common": ("onnxconverter_common", _converter_common),
    "onnxslim": ("onnxslim", _onnxslim),
    "modelopt autocast": ("modelopt", _autocast),
    "calibration": ("onnxruntime", _calibration),
}


def main() -> int:
    """Print a row for slanc-onnx and one for each peer."""
    if sys.argv[1] == "--run":
        PEERS[sys.argv[2]][1](Path(sys.argv[3]), Path(sys.argv[4]))
        return 0
    model, *names = sys.argv[1:]
    print("| what | wall | CPU | anonymous memory | written | wall ratio | CPU ratio | exit |")
    print("|---|---|---|---|---|---|---|---|")
    beside = Path(model).with_name(".peers.slanc.onnx")
    command = [sys.executable, "-m", "slanc_onnx", model, "-o", str(beside), "-qq", "--no-validate"]
    own = measure(command)
    print(_row("slanc-onnx", own, own, beside.stat().st_size), flush=True)
    beside.unlink()
    for name in names or PEERS:
        if importlib.util.find_spec(PEERS[name][0]) is None:
            print(f"| {name} | not installed |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "out.onnx")
            cost = measure([sys.executable, "-m", "benchmarks.peers", "--run", name, model, out])
            written = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(_row(name, cost, own, written), flush=True)
    return 0


def _row(name: str, cost: Cost, own: Cost, written: int) -> str:
    ratios = f"{cost.wall / own.wall:.1f} | {cost.cpu / own.cpu:.1f}"
    return (f"| {name} | {cost.wall:.1f} s | {cost.cpu:.1f} s | {cost.memory / 2**30:.2f} GiB | "
            f"{written / 1e6:.1f} MB | {ratios} | {cost.status} |")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
