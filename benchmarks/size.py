"""Time and memory of the whole command, beside the floor: the same bytes read and converted.

    python -m benchmarks.size MODEL.onnx ... [-- OPTION ...]

OPTIONs go to slanc-onnx; `--estimate weights --no-validate` without any. Both are processes of
their own. Memory is the largest RssAnon in /proc/PID/status, sampled every 10 ms: what the process
allocated, without the pages of files that it maps. CPU time is that of the process and its
children. The floor reads every float tensor through the same memory map and converts it to FP32, a
block of a million elements at a time, with NumPy on one thread.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path

import numpy as np
from onnx import TensorProto

from benchmarks.markdown import size, table
from benchmarks.missing import told
from slanc_onnx.graph.load import all_tensors, external_range, load_model, read_tensor

BLOCK, PERIOD = 1 << 20, 0.01
DEFAULT = ("--estimate", "weights", "--no-validate")
HEADER = ("", "weights", "floor", "slanc-onnx", "wall / floor", "CPU / floor", "memory", "written")


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, and bytes of anonymous memory at the peak."""

    wall: float
    cpu: float
    memory: int
    status: int


def measure(command: Sequence[str]) -> Cost:
    """Run a command with its output thrown away and watch it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        largest = 0
        while process.poll() is None:
            largest = max(largest, _anonymous(process.pid))
            time.sleep(PERIOD)
        wall = time.perf_counter() - started
        errors.seek(0)
        if process.returncode:
            sys.stderr.write(errors.read().decode(errors="replace")[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, largest, process.returncode)


def _anonymous(pid: int) -> int:
    """Anonymous resident bytes of a process and its children."""
    total = 0
    for each in (pid, *_children(pid)):
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except OSError:  # it has just ended
            continue
        line = next((n for n in status.splitlines() if n.startswith("RssAnon:")), "RssAnon: 0 kB")
        total += int(line.split()[1]) << 10
    return total


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found]


def read_everything(model: Path) -> None:
    """The floor."""
    for tensor in all_tensors(load_model(model)):
        values = read_tensor(tensor, model.parent)
        if values.dtype.kind not in "fV":
            continue
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            flat[start : start + BLOCK].astype(np.float32)


def weight_bytes(model: Path) -> int:
    """What the tensors of a model take as they are stored."""
    total = 0
    for tensor in all_tensors(load_model(model)):
        if tensor.data_location == TensorProto.EXTERNAL:
            total += external_range(tensor, model.parent)[2]
        else:
            total += len(tensor.raw_data) or read_tensor(tensor, None).nbytes
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per model; exit status 1 if the command fails on one."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--floor"]:
        read_everything(Path(given[1]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    end = given.index("--") if "--" in given else len(given)
    models, options = parser.parse_args(given[:end]).models, given[end + 1 :] or DEFAULT
    rows, failed = [], False
    for model in models:
        if not model.is_file():
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(model))
        print(f"{model.stem} ...", file=sys.stderr)
        row, status = _row(model, options)
        rows.append(row)
        failed |= status != 0
    print(table(HEADER, rows))
    return int(failed)


def _row(model: Path, options: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """What the table says of a model, and the command's exit status."""
    floor_command = [sys.executable, "-m", "benchmarks.size", "--floor", str(model)]
    measure(floor_command)  # so that both find the file's pages as they fit into memory
    floor = measure(floor_command)
    # Beside its data, as by default: nothing but the .onnx is written.
    out = model.with_name(f".{model.stem}.{os.getpid()}.onnx")
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        report = str(Path(folder) / "report.json")
        command = [sys.executable, "-m", "slanc_onnx", str(model), "-o", str(out), "-q"]
        try:
            cost = measure([*command, "--report", report, *options])
            written = out.stat().st_size if out.exists() else 0
        finally:
            out.unlink(missing_ok=True)
    cells = model.stem, size(weight_bytes(model)), f"{floor.wall:.1f} s"
    if cost.status:
        return (*cells, f"exit status {cost.status}", *[""] * (len(HEADER) - 4)), cost.status
    return (
        *cells,
        f"{cost.wall:.1f} s",
        f"{cost.wall / floor.wall:.2f}",
        f"{cost.cpu / floor.cpu:.2f}",
        f"{cost.memory / 2**30:.2f} GiB",
        size(written),
    ), cost.status


if __name__ == "__main__":
    sys.exit(told(main))
