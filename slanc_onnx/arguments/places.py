"""Places: whether the files that a run is to write may stand where the user wants them."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Sequence
from pathlib import Path

from slanc_onnx.arguments.jobs import ENDS, STDOUT, JobFiles
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import real_path, refuse_what_is_no_file, same_place
from slanc_onnx.report import LIST_STARTS, REPORT_START, SIDECAR_START
from slanc_onnx.report.html import START, check_matplotlib

# How those begin that may be replaced.
_BEGINNINGS = {
    "--report": (REPORT_START,),
    "--html": (START,),
    "--sidecar": (SIDECAR_START,),
    "--fp32-nodes": LIST_STARTS,
}
_ENDS_OF_FOLDERS = tuple(filter(None, (os.sep, os.altsep)))


def check_places(
    args: argparse.Namespace, jobs: Sequence[JobFiles], whole: Path | None = None
) -> None:
    """Whether all that is to be written can be, and takes the place of nothing else.

    Args:
        args: The options that name files.
        jobs: The jobs.
        whole: The folder that is written as a whole, if one is.

    Raises:
        SlancError: it cannot.
    """
    if args.output == STDOUT:
        raise SlancError("-o -: a model does not go to standard output. Give the name of a file.")
    if len(jobs) == 1 and jobs[0].alone and (args.output or "").endswith(_ENDS_OF_FOLDERS):
        raise SlancError(f"-o {args.output}: names a folder. Give the name of a file.")
    if args.html is not None:
        check_matplotlib()
    _check_outputs(jobs)
    places: list[tuple[Path, str]] = []
    for job in jobs:
        for option, name in job.reports.items():
            path = Path(name)
            if name == STDOUT:
                raise SlancError(f"{option} -: only --report goes to standard output. Name a file.")
            if whole is not None and real_path(path).is_relative_to(real_path(whole)):
                raise SlancError(
                    f"{option} {name}: lies in -o {whole}, which is replaced as a whole. Give "
                    "another folder."
                )
            for other in jobs:
                _check_report(option, path, other)
            for place, there in places:
                if there != option and same_place(path, place):
                    raise SlancError(f"{option} {name}: is the file of {there}. Give another name.")
            places.append((path, option))
    whats = {args.target_file: "the target", args.config: "options"}
    for file in (args.inputs, args.tokens, args.observe, *whats):
        for job in jobs:
            if file is not None and same_place(Path(file), job.output):
                what = whats.get(file, "inputs")
                raise SlancError(f"-o {job.output}: is the file of {what}. Give another -o.")


def _check_outputs(jobs: Sequence[JobFiles]) -> None:
    """Whether each of several outputs has a place of its own, which is that of no other's model.

    Raises:
        SlancError: two share one.
    """
    sources = {real_path(job.source): job.source for job in reversed(jobs)}
    outputs: dict[Path, JobFiles] = {}
    for job in jobs:
        place = real_path(job.output)
        other = outputs.setdefault(place, job)
        if other is not job:
            raise SlancError(
                f"{other.source} and {job.source} would both be written to {job.output}, as they "
                "have the same name. Run once for each, with an -o of its own."
            )
        if place in sources and place != real_path(job.source):
            raise SlancError(
                f"{job.output}: {job.source} would be written there, and {sources[place]} is to be "
                "read from there. Give another -o."
            )
    reports: dict[Path, JobFiles] = {}
    for job in jobs:
        for option, name in job.reports.items():
            other = reports.setdefault(real_path(Path(name)), job)
            if other is not job:
                raise SlancError(
                    f"{option} {name}: would be written for {other.source} and for {job.source}. "
                    "Run once for each."
                )


def _check_report(option: str, path: Path, job: JobFiles) -> None:
    """Whether a report can be written there beside the files of a job."""
    source, output, starts = job.source, job.output, _BEGINNINGS[option]
    above = real_path(path).parent
    while not job.alone and not above.exists():  # it is made
        above = above.parent
    if path.is_dir():
        named = path / (source.stem + ENDS.get(option, ".json"))
        raise SlancError(f"{option} {path}: is a folder. Name a file in it, such as {named}.")
    if above.exists() and not above.is_dir():
        raise SlancError(f"{option} {path}: {above.name} is no folder. Name another place.")
    if not above.is_dir():
        folder = path.parent
        raise SlancError(
            f"{option} {path}: there is no folder {folder}. Make it: mkdir -p {folder}"
        )
    refuse_what_is_no_file(option, path)
    if not os.access(path.parent if job.alone else above, os.W_OK):
        raise SlancError(f"{option} {path}: its folder is not writable.")
    place, folder = real_path(path), real_path(output).parent
    taken = place == real_path(source) or same_place(place, output)
    there = [path]
    if place.is_relative_to(folder):  # where the output's data will lie
        taken |= place.parent == folder and place.match(f"{glob.escape(output.stem)}.fold*.data")
        there.append(real_path(source).parent / place.relative_to(folder))
    for other in there:
        if other.is_file():
            with other.open("rb") as file:
                begins = file.read(max(map(len, starts))).decode(errors="replace")
                taken |= bool(begins) and not begins.startswith(starts)  # the model, its data
    if taken:
        raise SlancError(f"{option} {path}: is no report of an earlier run. Give another name.")
