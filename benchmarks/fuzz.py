"""Damaged models through the whole job: what each ends as, and every traceback by its place.

    python -m benchmarks.fuzz [--count 2000] [--seed 1] [--first 0] [--models WORD ...]
        [--usage WORD] [--zoo FOLDER] [--seconds 20] [--megabytes 2000] [--keep FOLDER]
        [--results FILE]

Mutant N of a seed is always the same: a model (a shipped one, one that the tests build, one of the
zoo; small ones more often), a damage of its structure or of its bytes, and options of the command.
It is written to a file and given to the command line, or to `protect`, in a process of its own kind
that is started again after a death. What it ends as:

- ok: the exit status is 0 or 1, and no norm was skipped. refused: norms were skipped, with reasons.
- error: exit status 2 and one sentence. fault: a traceback, or exit status 4; or `protect` raised
  an error and had changed the model.
- hang: over `--seconds`. memory: the job, with the processes that it starts, had more than
  `--megabytes` in memory, or it had not enough. crash: killed by a signal.

The exit status is 1 where anything ended as one of the last four. `--first N --count 1 --keep .`
writes mutant N beside its options, to look at. `--results` appends what each ends as to a file, as
lines of JSON, while it runs; with `--count 0` the table is of what the file has.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import json
import os
import random
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from benchmarks.markdown import count, table
from benchmarks.missing import positive, told
from benchmarks.mutants import damaged_bytes, damaged_structure
from benchmarks.seeds import seeds
from slanc_onnx import Options, SlancError, protect
from slanc_onnx.cli import main as command_line
from slanc_onnx.options import ApplyRule

OUTCOMES = ("ok", "refused", "error", "fault", "hang", "memory", "crash")
BAD = OUTCOMES[3:]
TIME_LIMIT = 3.0  # seconds for each run on ONNX Runtime, of which a job has a few
USAGES: tuple[tuple[str, ...], ...] = (
    ("--no-validate",),
    ("--no-validate", "--estimate", "weights", "--report", "r.json"),
    ("--no-validate", "--apply", "fold"),
    (),
    ("--apply", "fold", "--report", "r.json"),
    ("--scale", "paper", "--report", "r.json", "--html", "r.html"),
    ("protect",),
    ("protect", "fold"),
    ("--to", "fp16", "--no-validate", "--report", "r.json"),
    ("--to", "fp16", "--no-validate", "--estimate", "weights", "--no-keep-io-types"),
    ("--to", "fp16", "--report", "r.json", "--html", "r.html"),
    ("--to", "bf16", "--no-validate"),
)
_HTML = 0.1  # of those that would draw pictures; the others leave --html out
_GUARD = 6000  # MB of address space, for the sake of the machine
_SLOW_IMPORTS = ("onnxruntime", "matplotlib.pyplot", "rich.progress", "rich.table")
_FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None  # a folder in memory
_SMALL = 2000  # bytes; of larger models fewer mutants are made


@dataclass(frozen=True)
class Mutant:
    """One damaged model and how the command is called with it."""

    model: str
    kind: str  # "structure" or "bytes"
    data: bytes
    usage: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """What one mutant may use."""

    seconds: float
    megabytes: int


@dataclass(frozen=True)
class Result:
    """What a mutant ended as; `place` tells where, `said` what."""

    number: int
    kind: str
    outcome: str
    place: str = ""
    said: str = ""
    seconds: float = 0.0
    megabytes: int = 0


Make = Callable[[int], Mutant]


def make_mutants(
    seed: int, models: dict[str, Path | bytes], usages: Sequence[tuple[str, ...]] = USAGES
) -> Make:
    """The mutants of a seed, by number."""
    names = sorted(models)
    sizes = [
        len(m) if isinstance(m, bytes) else m.stat().st_size for m in map(models.__getitem__, names)
    ]
    weights = [_SMALL / (_SMALL + size) for size in sizes]
    loaded: dict[str, bytes] = {}

    def make(number: int) -> Mutant:
        rng = random.Random(f"{seed}/{number}")
        (name,) = rng.choices(names, weights)
        if name not in loaded:
            source = models[name]
            loaded[name] = source if isinstance(source, bytes) else source.read_bytes()
        usage = rng.choice(usages)
        if rng.random() >= _HTML and "--html" in usage:
            usage = usage[:-2]
        if rng.random() < 0.3:
            return Mutant(name, "bytes", damaged_bytes(loaded[name], rng), usage)
        whole = onnx.ModelProto.FromString(loaded[name])
        return Mutant(name, "structure", damaged_structure(whole, rng), usage)

    return make


def run_mutant(mutant: Mutant, folder: Path) -> tuple[str, str, str]:
    """What a mutant ends as, the place of a traceback, and what was said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if mutant.usage[:1] == ("protect",):
                return _protect(mutant, folder)
            status = command_line(_arguments(mutant, folder))
    except MemoryError:
        return "memory", "", "MemoryError"
    except BaseException:
        return "fault", *_where(traceback.format_exc())
    text = said.getvalue()
    if status == 2:
        short = "not enough memory" in text
        return ("memory" if short else "error"), "", text.strip()[-300:]
    if status not in (0, 1):
        return "fault", *_where(text)
    skipped = re.search(r"(\d+) skipped", text)
    return ("refused" if skipped and int(skipped[1]) else "ok"), "", text.strip()[-300:]


def _arguments(mutant: Mutant, folder: Path) -> list[str]:
    files = {"r.json", "r.html"}
    options = [str(folder / word) if word in files else word for word in mutant.usage]
    options += ["--traceback", "--time-limit", str(TIME_LIMIT)]
    return [str(folder / "model.onnx"), "-o", str(folder / "out.onnx"), *options]


def _protect(mutant: Mutant, folder: Path) -> tuple[str, str, str]:
    """As a caller does who has the model in memory: an error leaves it as it was."""
    try:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
    except Exception as error:
        return "error", "", f"onnx.load: {error}"[:300]
    before = model.SerializeToString(deterministic=True)
    try:
        apply: ApplyRule = "fold" if "fold" in mutant.usage else "div"
        norms = protect(
            model, Options(apply=apply, time_limit=TIME_LIMIT, isolate=True), folder=folder
        )
    except SlancError as error:
        if model.SerializeToString(deterministic=True) != before:
            return "fault", "protect: the model has changed", str(error)
        return "error", "", str(error)
    refused = any(norm.status == "skipped" for norm in norms)
    return ("refused" if refused else "ok"), "", ""


def _where(told: str) -> tuple[str, str]:
    """The place in the library and the exception of a traceback; and its end."""
    places = re.findall(r'File ".*?/(slanc_onnx/[^"]+)", line (\d+), in (\S+)', told)
    last = [line for line in told.strip().splitlines() if line[:1].strip()][-1:] or ["?"]
    kind = last[0].split(":")[0]
    place = ":".join(places[-1]) if places else "?"
    return f"{kind} at {place}", last[0][:300]


def _work(numbers: Sequence[int], make: Make, limits: Limits, folder: Path, pipe: int) -> None:
    """Run some mutants, and write what they end as into a pipe."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    gc.freeze()
    most = (_megabytes("VmSize") + _GUARD) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with os.fdopen(pipe, "w") as report:
        for number in numbers:
            mutant = make(number)
            (folder / "model.onnx").write_bytes(mutant.data)
            before, started = _megabytes("VmRSS"), time.monotonic()
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
            report.write(json.dumps([number, mutant.kind, mutant.model, mutant.usage]) + "\n")
            report.flush()
            outcome, place, said = run_mutant(mutant, folder)
            used = _used(before)
            if outcome not in BAD and used > limits.megabytes:
                outcome = "memory"
            told = [outcome, place, said, round(time.monotonic() - started, 2), used]
            report.write(json.dumps(told) + "\n")
            report.flush()


def _megabytes(field: str) -> int:
    """What /proc/self/status says of this process."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) // 1024


def _used(before: int) -> int:
    """MB that this process had at most, and the largest of those that it started beside that.

    They are forks: the `before` MB that it had are theirs too, and are counted once. The largest
    is that of all mutants since this process was started, which it is anew after a large one.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    return _megabytes("VmHWM") + max(0, children - before)


def run_all(
    numbers: Sequence[int], make: Make, limits: Limits, keep: Path | None
) -> Iterator[Result]:
    """What each mutant ends as; a process runs them one after the other until one kills it."""
    for name in _SLOW_IMPORTS:
        importlib.import_module(name)  # before the fork, not for each mutant
    left = list(numbers)
    while left:
        with tempfile.TemporaryDirectory(dir=_FAST) as name:
            folder = Path(name)
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reading)
                status = 1
                try:
                    _work(left, make, limits, folder, writing)
                    status = 0
                finally:
                    os._exit(status)
            os.close(writing)
            done = 0
            for result in _results_of(child, reading, limits):
                done += 1
                if result.outcome in BAD:
                    _tell(result, make(result.number), keep)
                yield result
            os.close(reading)
            if not done:
                raise RuntimeError("the process that runs mutants does not start")
            left = left[done:]


def _results_of(child: int, pipe: int, limits: Limits) -> Iterator[Result]:
    """What a process reports, and what kills it; it is gone afterwards."""
    buffered, begun = b"", None
    deadline = time.monotonic() + limits.seconds + 30  # to start
    while True:
        wait = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([pipe], [], [], wait)
        if not ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if begun is not None:
                yield Result(begun[0], begun[1], "hang", seconds=limits.seconds)
            return
        more = os.read(pipe, 1 << 16)
        if not more:
            _, status = os.waitpid(child, 0)
            if begun is not None:
                how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "exit"
                yield Result(begun[0], begun[1], "crash", how)
            return
        *lines, buffered = (buffered + more).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if begun is None:
                begun = told
            else:
                yield Result(begun[0], begun[1], *told)
                used = told[4]
                begun = None
                if told[0] == "memory" or used > limits.megabytes // 2:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return
            deadline = time.monotonic() + limits.seconds


def _tell(result: Result, mutant: Mutant, keep: Path | None) -> None:
    """One mutant that ended badly, on stderr, and in a folder."""
    print(
        f"{result.number}: {result.outcome} {result.place} | {mutant.model}, {mutant.kind}, "
        f"{' '.join(mutant.usage)} | {result.seconds} s, {result.megabytes} MB | {result.said}",
        file=sys.stderr,
        flush=True,
    )
    if keep is not None:
        folder = keep / str(result.number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(mutant.data)
        (folder / "usage.txt").write_text(" ".join(mutant.usage))


def summary(results: Sequence[Result]) -> str:
    """A table of outcomes, and one of the places where mutants ended badly."""
    rows = []
    for kind in ("structure", "bytes"):
        found = Counter(r.outcome for r in results if r.kind == kind)
        rows.append([kind, count(found.total()), *(count(found[name]) for name in OUTCOMES)])
    lines = [table(["damage", "mutants", *OUTCOMES], rows)]
    places: dict[tuple[str, str], list[int]] = {}
    for result in results:
        if result.outcome in BAD:
            places.setdefault((result.outcome, result.place), []).append(result.number)
    if places:
        worst = sorted(places.items(), key=lambda item: (item[0][0], -len(item[1])))
        told = [[*key, len(numbers), numbers[0]] for key, numbers in worst]
        lines += ["", table(["outcome", "place", "mutants", "the first"], told)]
    lines += ["", f"The longest took {max((r.seconds for r in results), default=0):.1f} s."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; exit status 1 where a mutant ended badly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=positive, default=2000, help="mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--models", nargs="+", metavar="WORD", help="only those named so")
    parser.add_argument("--usage", help="only calls that have this word: --usage=--to")
    parser.add_argument("--zoo", type=Path, help="further models: FOLDER/*/model.onnx")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one mutant")
    parser.add_argument("--megabytes", type=positive, default=2000, help="of one mutant")
    parser.add_argument("--keep", type=Path, help="where mutants that end badly are written")
    parser.add_argument("--results", type=Path, help="a file of what each ended as, added to")
    options = parser.parse_args(arguments)
    models = seeds(options.zoo)
    if options.models:
        models = {n: m for n, m in models.items() if any(w in n for w in options.models)}
    if not models:
        parser.error(f"--models: none is named so; there are {', '.join(seeds(options.zoo))}")
    usages = [each for each in USAGES if options.usage in (None, *each)]
    if not usages:
        parser.error(f"--usage {options.usage}: no call has that word")
    make = make_mutants(options.seed, models, usages)
    numbers = range(options.first, options.first + options.count)
    if options.keep is not None and options.count == 1:
        _tell(Result(numbers[0], "", "kept"), make(numbers[0]), options.keep)
    started = time.monotonic()
    limits = Limits(options.seconds, options.megabytes)
    results = []
    for result in run_all(numbers, make, limits, options.keep):
        results.append(result)
        if options.results is not None:
            with options.results.open("a") as file:
                file.write(json.dumps({"seed": options.seed} | asdict(result)) + "\n")
    print(f"{len(results)} mutants, {time.monotonic() - started:.0f} s", file=sys.stderr)
    if not options.count and options.results is not None:
        results = list(_results_in(options.results))
    print(summary(results))
    return int(any(result.outcome in BAD for result in results))


def _results_in(file: Path) -> Iterator[Result]:
    for line in file.read_text().splitlines():
        told = json.loads(line)
        del told["seed"]
        yield Result(**told)


if __name__ == "__main__":
    sys.exit(told(main))
