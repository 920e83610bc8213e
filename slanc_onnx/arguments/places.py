"""Places: whether the files that a run is to write may stand where the user wants them."""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import refuse_what_is_no_file
from slanc_onnx.report import LIST_STARTS, REPORT_START, SIDECAR_START
from slanc_onnx.report.html import START, check_matplotlib

STDOUT = "-"  # of --report
SUFFIXES = {  # of a file that is named in a message
    "--report": ".report.json",
    "--html": ".html",
    "--sidecar": ".sidecar.json",
    "--fp32-nodes": ".json",
}


def check_places(args: argparse.Namespace, source: Path, output: Path) -> None:
    """Whether all that is to be written can be, and takes the place of nothing else.

    Raises:
        SlancError: it cannot.
    """
    if args.output == STDOUT:
        raise SlancError("-o -: a model does not go to standard output. Give the name of a file.")
    beginnings = {
        "--report": (REPORT_START,),
        "--html": (START,),
        "--sidecar": (SIDECAR_START,),
        "--fp32-nodes": LIST_STARTS,
    }
    places: dict[Path, str] = {}
    for option, starts in beginnings.items():
        given = getattr(args, option[2:].replace("-", "_"))
        if given is None or (option == "--report" and given == STDOUT):
            continue
        if option == "--html":
            check_matplotlib()
        _check_report(option, Path(given), source, output, *starts)
        other = places.setdefault(Path(given).resolve(), option)
        if other != option:
            raise SlancError(f"{option} {given}: is the file of {other}. Give another name.")
    for other in (args.inputs, args.tokens, args.observe, args.target_file):
        if other is not None and Path(other).resolve() == output.resolve():
            what = "the target" if other == args.target_file else "inputs"
            raise SlancError(f"-o {output}: is the file of {what}. Give another -o.")


def _check_report(option: str, path: Path, source: Path, output: Path, *starts: str) -> None:
    """Whether a report can be written there; `starts` are how one that may be replaced begins."""
    if str(path) == STDOUT:
        raise SlancError(f"{option} -: only --report goes to standard output. Name a file.")
    if path.is_dir():
        named = path / f"{source.stem}{SUFFIXES[option]}"
        raise SlancError(f"{option} {path}: is a folder. Name a file in it, such as {named}.")
    if not path.resolve().parent.is_dir():
        folder = path.parent
        raise SlancError(
            f"{option} {path}: there is no folder {folder}. Make it: mkdir -p {folder}"
        )
    refuse_what_is_no_file(option, path)
    if not os.access(path.parent, os.W_OK):
        raise SlancError(f"{option} {path}: its folder is not writable.")
    place, folder = path.resolve(), output.resolve().parent
    taken = place in (source.resolve(), output.resolve())
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
