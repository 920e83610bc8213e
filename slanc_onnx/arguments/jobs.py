"""Jobs: the models of a command, each with the files that are written for it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import real_path
from slanc_onnx.job import ModelFolder, read_model_folder
from slanc_onnx.report import BY_SUFFIX

STDOUT = "-"  # of --report
REPORTS = ("--report", "--html", "--sidecar", "--fp32-nodes")
# How the files of several models end, in the folder that the option names.
ENDS = {"--report": ".json", "--html": ".html", "--sidecar": ".norms.json"}


@dataclass(frozen=True)
class JobFiles:
    """The files of one job.

    Attributes:
        source: The model.
        output: What is written.
        reports: What is written beside it, by option, as it was named; nothing for what goes to
            standard output.
        alone: Whether it is the only job of the command. The folders of its reports are made where
            it is not.
    """

    source: Path
    output: Path
    reports: Mapping[str, str] = field(default_factory=dict)
    alone: bool = True


def names_folders(args: argparse.Namespace) -> bool:
    """Whether -o and the options for reports name folders: with several models, or a folder."""
    return len(args.models) > 1 or Path(args.models[0]).is_dir()


def folder_of(args: argparse.Namespace) -> tuple[ModelFolder, Path] | None:
    """The folder that is given instead of models, and the one to write; None for models.

    Raises:
        SlancError: it is not alone, or its configuration names no models that are there.
    """
    given = [Path(model) for model in args.models]
    folders = [path for path in given if path.is_dir()]
    if not folders:
        return None
    if len(given) > 1:
        raise SlancError(f"{folders[0]}: is a folder, one command's work. Give it alone.")
    (path,) = folders
    beside = path.parent / f"{real_path(path).name}.slanc"
    return read_model_folder(path), beside if args.output is None else Path(args.output)


def jobs_of(
    args: argparse.Namespace, folder: tuple[ModelFolder, Path] | None = None
) -> list[JobFiles]:
    """The jobs, in the order in which their models are named.

    With several models -o and the options for reports name folders. A file there is called as the
    model is, with an ending of its own; so it is with a folder, where it also lies as deep.
    """
    sources = [Path(model) for model in args.models]
    named = {option: getattr(args, option[2:].replace("-", "_")) for option in REPORTS}
    given = {o: n for o, n in named.items() if n is not None and (o, n) != (REPORTS[0], STDOUT)}
    if folder is None and len(sources) == 1:
        (source,) = sources
        output = _beside(source) if args.output is None else Path(args.output)
        return [JobFiles(source, output, given)]
    ends = dict(ENDS)
    if args.fp32_nodes is not None:
        by_format = {form: suffix for suffix, form in BY_SUFFIX.items()}
        ends["--fp32-nodes"] = f".fp32-nodes{by_format[args.fp32_nodes_format]}"
    files = [
        (source, _beside(source) if args.output is None else Path(args.output) / source.name)
        for source in sources
    ]
    below = [Path(source.name) for source in sources]
    if folder is not None:
        below = list(folder[0].models)
        files = [(folder[0].path / name, folder[1] / name) for name in below]
    return [
        JobFiles(
            source,
            output,
            {o: str(Path(n) / name.with_name(f"{name.stem}{ends[o]}")) for o, n in given.items()},
            alone=False,
        )
        for (source, output), name in zip(files, below, strict=True)
    ]


def _beside(source: Path) -> Path:
    return source.parent / f"{source.stem}.slanc.onnx"
