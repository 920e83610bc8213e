"""Jobs: the models of a command, each with the files that are written for it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slanc_onnx.report import BY_SUFFIX

STDOUT = "-"  # of --report
REPORTS = ("--report", "--html", "--sidecar", "--fp32-nodes")
# How the files of several models end, in the folder that the option names.
_ENDS = {"--report": ".json", "--html": ".html", "--sidecar": ".norms.json"}


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


def jobs_of(args: argparse.Namespace) -> list[JobFiles]:
    """The jobs, in the order in which their models are named.

    With several models -o and the options for reports name folders. A file there is called as the
    model is, with an ending of its own.
    """
    sources = [Path(model) for model in args.models]
    named = {option: getattr(args, option[2:].replace("-", "_")) for option in REPORTS}
    given = {o: n for o, n in named.items() if n is not None and (o, n) != (REPORTS[0], STDOUT)}
    if len(sources) == 1:
        (source,) = sources
        output = _beside(source) if args.output is None else Path(args.output)
        return [JobFiles(source, output, given)]
    ends = dict(_ENDS)
    if args.fp32_nodes is not None:
        by_format = {form: suffix for suffix, form in BY_SUFFIX.items()}
        ends["--fp32-nodes"] = f".fp32-nodes{by_format[args.fp32_nodes_format]}"
    return [
        JobFiles(
            source,
            _beside(source) if args.output is None else Path(args.output) / source.name,
            {o: str(Path(n) / f"{source.stem}{ends[o]}") for o, n in given.items()},
            alone=False,
        )
        for source in sources
    ]


def _beside(source: Path) -> Path:
    return source.parent / f"{source.stem}.slanc.onnx"
