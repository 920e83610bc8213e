"""Places: whether the files that a run is to write may stand where the user wants them."""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import refuse_what_is_no_file, same_place
from slanc_onnx.report import LIST_STARTS, REPORT_START, SIDECAR_START
from slanc_onnx.report.html import START, check_matplotlib

STDOUT = "-"  # of --report


def check_places(args: argparse.Namespace, source: Path, output: Path) -> None:
    """Whether all that is to be written can be, and takes the place of nothing else.

    Raises:
        SlancError: it cannot.
    """
    beginnings = {
        "--report": (REPORT_START,),
        "--html": (START,),
        "--sidecar": (SIDECAR_START,),
        "--fp32-nodes": LIST_STARTS,
    }
    places: dict[str, str] = {}
    for option, starts in beginnings.items():
        given = getattr(args, option[2:].replace("-", "_"))
        if given is None or (option == "--report" and given == STDOUT):
            continue
        if option == "--html":
            check_matplotlib()
        _check_report(option, Path(given), source, output, *starts)
        for other, place in places.items():
            if same_place(Path(given), Path(place)):
                raise SlancError(f"{option} {given}: is the file of {other}. Give another name.")
        places[option] = given
    for other in (args.inputs, args.tokens, args.observe, args.target_file):
        if other is not None and same_place(Path(other), output):
            what = "the target" if other == args.target_file else "inputs"
            raise SlancError(f"-o {output}: is the file of {what}. Give another -o.")


def _check_report(option: str, path: Path, source: Path, output: Path, *starts: str) -> None:
    """Whether a report can be written there; `starts` are how one that may be replaced begins."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise SlancError(f"{option} {path}: not a file in an existing folder.")
    refuse_what_is_no_file(option, path)
    if not os.access(path.parent, os.W_OK):
        raise SlancError(f"{option} {path}: its folder is not writable.")
    place, folder = path.resolve(), output.resolve().parent
    taken = place == source.resolve() or same_place(place, output)
    there = [path]
    if place.is_relative_to(folder):  # where the output's data will lie
        taken |= place.parent == folder and place.match(f"{glob.escape(output.stem)}.fold*.data")
        there.append(source.resolve().parent / place.relative_to(folder))
    for other in there:
        if other.is_file():
            with other.open("rb") as file:
                begins = file.read(max(map(len, starts))).decode(errors="replace")
                taken |= bool(begins) and not begins.startswith(starts)  # the model, its data
    if taken:
        raise SlancError(f"{option} {path}: is no report of an earlier run. Give another name.")
