"""Whether a change of the code changes what the job does: reports and files, byte for byte.

    python -m benchmarks.recording RECORD.json MODEL.onnx|FOLDER ... [--show N]

Each model, and each export of a FOLDER (see `benchmarks/zoo_rows.py`), goes through the whole job
with `--apply div` and with `--apply fold`. The first call writes RECORD.json: the reports, and a
hash of every file of each output. A later call compares with it, prints what differs and exits
with 1; the record stays. Seconds, paths and the version of the file's format do not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from errno import ENOENT
from os import strerror
from pathlib import Path
from typing import Any

from benchmarks.missing import read_json, told
from benchmarks.zoo_rows import exports_in, ranges_of, stored_inputs
from slanc_onnx import Accelerator, Options, SlancError, protect_file

APPLIED = ("div", "fold")
NOT_COMPARED = ("model", "output", "seconds", "version", "options")
Entry = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the record, or compare with it; exit status 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--show", type=int, default=20, help="differences to print (default 20)")
    args = parser.parse_args(arguments)
    entries: dict[str, Entry] = {}
    for source in _sources(args.models):
        for apply in APPLIED:
            entries[f"{_name(source)} {apply}"] = record(source, apply)
            print(f"{_name(source)} {apply}", file=sys.stderr, flush=True)
    if not args.record.exists():
        args.record.write_text(json.dumps(entries, indent=1, sort_keys=True))
        print(f"recorded: {len(entries)} runs")
        return 0
    before = read_json(args.record)
    found = [
        line
        for name, entry in entries.items()
        for line in differences(name, before.get(name), json.loads(json.dumps(entry)))
    ]
    print("\n".join(found[: args.show]), end="\n" if found else "")
    same = f"{len(entries)} runs, {len(found)} differences"
    print(f"{'DIFFERENT' if found else 'SAME'} | {same}")
    return int(bool(found))


def record(source: Path, apply: str) -> Entry:
    """What one run of the job says and writes.

    Args:
        source: The model.
        apply: "div" or "fold".

    Returns:
        The report without what every run has of its own, and a hash of each file of the output;
        or the error.
    """
    feeds, _ = stored_inputs(source.parent)
    options = Options(
        apply="fold" if apply == "fold" else "div",
        inputs=feeds or None,
        feeds=ranges_of(feeds),
        accelerator=Accelerator(flush_subnormals=True),
    )
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out.onnx"
        try:
            report: Entry = dict(protect_file(source, output, options).report)
        except SlancError as error:
            return {"error": str(error).replace(str(source), "MODEL").replace(scratch, "")}
        kept = {key: value for key, value in report.items() if key not in NOT_COMPARED}
        files = sorted(path for path in Path(scratch).rglob("*") if path.is_file())
        kept["files"] = {str(path.relative_to(scratch)): _hash(path) for path in files}
    return kept


def differences(name: str, before: Any, after: Any) -> Iterator[str]:
    """One line for each leaf that is another one now, with the way to it."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from differences(f"{name}.{key}", before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (left, right) in enumerate(zip(before, after, strict=True)):
            yield from differences(f"{name}[{i}]", left, right)
    elif before != after:
        yield f"{name}: {before!r} -> {after!r}"


def _sources(given: Sequence[Path]) -> Iterator[Path]:
    for path in given:
        if path.is_dir():
            yield from (folder / "model.onnx" for folder in exports_in(path))
        elif path.is_file():
            yield path
        else:
            raise FileNotFoundError(ENOENT, strerror(ENOENT), str(path))


def _name(source: Path) -> str:
    return source.parent.name if source.name == "model.onnx" else source.stem


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(told(main))
