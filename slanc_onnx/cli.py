"""The command line: the only place that prints and sets exit codes."""

from __future__ import annotations

import argparse
import glob
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from slanc_onnx.arguments import (
    check_usage,
    make_parser,
    read_accelerator,
    read_inputs,
    read_observed,
    read_tokens,
)
from slanc_onnx.errors import SlancError
from slanc_onnx.job import protect_file
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.report import (
    Outcome,
    audit_lines,
    explain_groups,
    print_audit,
    print_summary,
    print_table,
    printable,
    write_report,
)
from slanc_onnx.report.html import START, check_matplotlib, write_html

PASSED, FAILED, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 passed, 1 failed, 2 bad input."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    check_usage(parser, args)
    logging.basicConfig(
        stream=sys.stderr,
        level=[logging.WARNING, logging.INFO, logging.DEBUG][min(args.verbose, 2)],
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        return _run(args)
    except SlancError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror or error}")
    except MemoryError:
        return _fail("not enough memory. Try --estimate weights --no-validate, which run no model.")
    except KeyboardInterrupt:
        return _fail("interrupted")


def _fail(message: str) -> int:
    print(f"ERROR: {printable(message)}", file=sys.stderr)
    return BAD_INPUT


def _run(args: argparse.Namespace) -> int:
    source = Path(args.model)
    output = Path(args.output) if args.output else source.parent / f"{source.stem}.slanc.onnx"
    if args.report is not None:
        _check_report("--report", Path(args.report), source, output, b"{")
    if args.html is not None:
        check_matplotlib()
        _check_report("--html", Path(args.html), source, output, START.encode())
        if args.report is not None and Path(args.report).resolve() == Path(args.html).resolve():
            raise SlancError(f"--html {args.html}: is the file of --report. Give another name.")
    for other in (args.inputs, args.tokens, args.observe, args.target_file):
        if other is not None and Path(other).resolve() == output.resolve():
            what = "the target" if other == args.target_file else "inputs"
            raise SlancError(f"-o {output}: is the file of {what}. Give another -o.")
    accelerator = read_accelerator(args)
    options = Options(
        scale=args.scale,
        estimate=args.estimate,
        accelerator=accelerator,
        inputs=read_inputs(args.inputs),
        tokens=read_tokens(args.tokens, args),
        observe=read_observed(args),
        validate=not args.no_validate,
        certify=args.certify,
        input_ranges=dict(args.input_range),
        apply=args.apply,
        emulate=args.emulate,
        jobs=args.jobs,
    )
    shown = {k: v for k, v in vars(args).items() if k not in ("model", "output")}
    shown["accelerator"] = accelerator.as_dict()
    with _progress(quiet=args.quiet > 0) as progress:
        outcome = protect_file(source, output, options, shown_options=shown, progress=progress)
    if args.report is not None:
        write_report(outcome.report, Path(args.report))
    if args.html is not None:
        write_html(outcome, Path(args.html))
    try:
        _print(args, source, output, outcome)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the results has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PASSED if outcome.passed else FAILED


def _print(args: argparse.Namespace, source: Path, output: Path, outcome: Outcome) -> None:
    """The results, on stdout."""
    if args.quiet > 1:
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names and Γ on a terminal without them
    if not outcome.norms:
        told = (note for note in outcome.notes if note.startswith("no norm found"))
        found = printable(next(told, "no norm found"))
        print(f"{source}: {found}; nothing to do, nothing written.")
        return
    # No markup and emoji: brackets and colons in names are just that.
    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    if args.explain_groups and outcome.fold is not None:
        print(printable("\n".join(explain_groups(outcome.fold.groups))))
    if not args.quiet:
        print_table(console, outcome.norms, outcome.validation)
        if outcome.audits:
            print_audit(console, outcome.audits)
        print(f"written: {output}")
    for line in audit_lines(outcome.audits):
        console.print(printable(line), soft_wrap=True)
    print_summary(console, outcome)


def _check_report(option: str, path: Path, source: Path, output: Path, start: bytes) -> None:
    """Whether a report can be written there; `start` is how one that may be replaced begins."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise SlancError(f"{option} {path}: not a file in an existing folder.")
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
                taken |= file.read(len(start)) not in (b"", start)  # the model, its data, inputs
    if taken:
        raise SlancError(f"{option} {path}: is no report of an earlier run. Give another name.")


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr for work longer than a second, if somebody is there to see it."""
    from rich.progress import Progress as Bar  # of no use to --help and to whoever pipes stderr

    started = time.monotonic()
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what, done: logging.getLogger(__name__).info("%s %.0f %%", what, 100 * done)
        return
    bar = Bar(console=console, transient=True)
    task = bar.add_task("", total=1.0)

    def show(what: str, done: float) -> None:
        if time.monotonic() - started > 1.0:
            bar.start()
        bar.update(task, description=what, completed=done)

    try:
        yield show
    finally:
        bar.stop()
