"""Time and memory of the whole command, beside the floor: the same bytes read and converted.

    python -m benchmarks.size MODEL.onnx [OPTION ...]

OPTIONs go to slanc-onnx; `--estimate weights --no-validate` without any. Each row is a process of
its own. Memory is the largest RssAnon in /proc/PID/status, sampled every 10 ms: what the process
allocated, without the pages of files that it maps. CPU time is that of the process and its
children. The floor reads every float tensor through the same memory map and converts it to FP32, a
block of a million elements at a time, with NumPy on one thread.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slanc_onnx.load import all_tensors, load_model, read_tensor

BLOCK, PERIOD = 1 << 20, 0.01
DEFAULT = ("--estimate", "weights", "--no-validate")


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds, and bytes of anonymous memory at the peak."""

    wall: float
    cpu: float
    memory: int
    status: int

    def row(self, name: str, floor: Cost) -> str:
        ratios = f"{self.wall / floor.wall:.2f} | {self.cpu / floor.cpu:.2f}"
        return (f"| {name} | {self.wall:.1f} s | {self.cpu:.1f} s | {ratios} | "
                f"{self.memory / 2**30:.2f} GiB | {self.status} |")  # fmt: skip


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


def read_everything(model: Path) -> int:
    """The floor; the number of bytes that were read."""
    count = 0
    for tensor in all_tensors(load_model(model)):
        values = read_tensor(tensor, model.parent)
        if values.dtype.kind not in "fV":
            continue
        count += values.nbytes
        flat = values.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            flat[start : start + BLOCK].astype(np.float32)
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the floor, the command, and what the command wrote."""
    name, *options = sys.argv[1:] if arguments is None else arguments
    if name == "--floor":
        read_everything(Path(options[0]))
        return 0
    model = Path(name)
    floor_command = [sys.executable, "-m", "benchmarks.size", "--floor", name]
    measure(floor_command)  # so that both find the file's pages as they fit into memory
    floor = measure(floor_command)
    print("| what | wall | CPU | wall / floor | CPU / floor | anonymous memory | exit |")
    print("|---|---|---|---|---|---|---|")
    print(floor.row("floor", floor), flush=True)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        # Beside its data, as by default: nothing but the .onnx is written.
        out = model.with_name(f".{model.stem}.{os.getpid()}.onnx")
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "slanc_onnx", name, "-o", str(out), "-q", "--report",
                   str(report), *(options or DEFAULT)]  # fmt: skip
        try:
            print(measure(command).row("slanc-onnx", floor))
            if out.exists():
                print(f"\n{out.stat().st_size / 1e6:.2f} MB written")
        finally:
            out.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
