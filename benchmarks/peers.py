"""Other tools on the same file, beside the command: time, memory and size of what they write.

    python -m benchmarks.peers MODEL.onnx [PEER ...]

Each peer is a process of its own, measured as in `benchmarks.size`; the ratios are to slanc-onnx
with its default estimate and no validation. The packages are onnxconverter-common, onnxslim and
nvidia-modelopt[onnx]; a peer whose package is not installed is a row without figures. `calibration`
runs the FP32 model on 8 x 512 random token ids and reads the sums of squares at its norms' inputs,
as calibration with data does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx

from benchmarks.markdown import size, table
from benchmarks.size import Cost, measure
from slanc_onnx._version import __version__
from slanc_onnx.graph.inputs import input_specs
from slanc_onnx.graph.load import load_model
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.run.inputs import make_feeds
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.run.session import Session
from slanc_onnx.run.sizes import Sizes

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
        session.run(make_feeds(specs, rng, Sizes(sequence=LENGTH), draw=draw))


PEERS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {  # the package, and what to run
    "onnxconverter-common": ("onnxconverter-common", _converter_common),
    "onnxslim": ("onnxslim", _onnxslim),
    "modelopt autocast": ("nvidia-modelopt", _autocast),
    "calibration": ("onnxruntime", _calibration),
}
HEADER = (
    "",
    "version",
    "wall",
    "CPU",
    "anonymous memory",
    "written",
    "wall ratio",
    "CPU ratio",
    "exit",
)


def main() -> int:
    """Print a row for slanc-onnx and one for each peer."""
    if sys.argv[1] == "--run":
        PEERS[sys.argv[2]][1](Path(sys.argv[3]), Path(sys.argv[4]))
        return 0
    model, *names = sys.argv[1:]
    beside = Path(model).with_name(".peers.slanc.onnx")
    command = [sys.executable, "-m", "slanc_onnx", model, "-o", str(beside), "-qq", "--no-validate"]
    own = measure(command)
    rows = [_row("slanc-onnx", __version__, own, own, beside.stat().st_size)]
    beside.unlink()
    for name in names or PEERS:
        print(f"{name} ...", file=sys.stderr)
        package = PEERS[name][0]
        try:
            installed = f"{package} {version(package)}"
        except PackageNotFoundError:
            rows.append(_absent(name, package))
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "out.onnx")
            cost = measure([sys.executable, "-m", "benchmarks.peers", "--run", name, model, out])
            written = sum(file.stat().st_size for file in Path(folder).iterdir())
        rows.append(_row(name, installed, cost, own, written))
    print(table(HEADER, rows))
    return 0


def _absent(name: str, package: str) -> tuple[str, ...]:
    """The row of a peer that cannot be measured here."""
    return (name, f"{package} is not installed", *[""] * (len(HEADER) - 2))


def _row(name: str, installed: str, cost: Cost, own: Cost, written: int) -> tuple[str, ...]:
    return (
        name,
        installed,
        f"{cost.wall:.1f} s",
        f"{cost.cpu:.1f} s",
        f"{cost.memory / 2**30:.2f} GiB",
        size(written),
        f"{cost.wall / own.wall:.1f}",
        f"{cost.cpu / own.cpu:.1f}",
        str(cost.status),
    )


if __name__ == "__main__":
    sys.exit(main())
