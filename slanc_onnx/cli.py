"""The command line: the only place that prints and sets exit codes."""

from __future__ import annotations

import argparse
import glob
import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slanc_onnx._version import __version__
from slanc_onnx.errors import SlancError

if TYPE_CHECKING:
    from slanc_onnx.accelerator import Accelerator
    from slanc_onnx.job import Outcome
    from slanc_onnx.load import Array
    from slanc_onnx.perplexity import Tokens
    from slanc_onnx.progress import Progress

PASSED, FAILED, BAD_INPUT = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 passed, 1 failed, 2 bad input."""
    parser = _parser()
    args = parser.parse_args(arguments)
    _check_usage(parser, args)
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
    print(f"ERROR: {message}", file=sys.stderr)
    return BAD_INPUT


def _run(args: argparse.Namespace) -> int:
    # Imported here so that --help and --version do without.
    from slanc_onnx import report
    from slanc_onnx.check import Options
    from slanc_onnx.job import protect_file

    source = Path(args.model)
    output = Path(args.output) if args.output else source.parent / f"{source.stem}.slanc.onnx"
    if args.report is not None:
        _check_report("--report", Path(args.report), source, output, b"{")
    if args.html is not None:
        from slanc_onnx.html_page import START, write_html
        from slanc_onnx.html_plots import check_matplotlib

        check_matplotlib()
        _check_report("--html", Path(args.html), source, output, START.encode())
        if args.report is not None and Path(args.report).resolve() == Path(args.html).resolve():
            raise SlancError(f"--html {args.html}: is the file of --report. Give another name.")
    for other in (args.inputs, args.tokens, args.observe, args.target_file):
        if other is not None and Path(other).resolve() == output.resolve():
            what = "the target" if other == args.target_file else "inputs"
            raise SlancError(f"-o {output}: is the file of {what}. Give another -o.")
    accelerator = _accelerator(args)
    options = Options(
        scale=args.scale,
        estimate=args.estimate,
        accelerator=accelerator,
        inputs=_read_inputs(args.inputs),
        tokens=_read_tokens(args.tokens, args),
        observe=_read_observed(args),
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
        report.write_report(outcome.report, Path(args.report))
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
    from rich.console import Console

    from slanc_onnx import report
    from slanc_onnx.audit_report import audit_lines, print_audit
    from slanc_onnx.fold_report import explain_groups

    if args.quiet > 1:
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names and Γ on a terminal without them
    if not outcome.norms:
        told = (note for note in outcome.notes if note.startswith("no norm found"))
        print(f"{source}: {next(told, 'no norm found')}; nothing to do, nothing written.")
        return
    # No markup and emoji: brackets and colons in names are just that.
    width = None if sys.stdout.isatty() else 200
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    if args.explain_groups and outcome.fold is not None:
        print("\n".join(explain_groups(outcome.fold.groups)))
    if not args.quiet:
        report.print_table(console, outcome.norms, outcome.validation)
        if outcome.audits:
            print_audit(console, outcome.audits)
        print(f"written: {output}")
    for line in audit_lines(outcome.audits):
        console.print(line, soft_wrap=True)
    report.print_summary(
        console, outcome.norms, outcome.validation, outcome.accelerator, outcome.not_validated,
        outcome.notes, outcome.fold,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slanc-onnx",
        description="Make the LayerNorms and RMSNorms of an ONNX model safe in FP16: insert a "
        "static scale before each, computed from the weights, and prove that the model stays the "
        "same.",
        epilog="Exit status: 0 written and validation passed; 1 written, but validation failed; "
        "2 bad usage or bad input, nothing written.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL.onnx", help="the model; external data stays where it is")
    add("-o", "--output", metavar="OUT.onnx", help="default: MODEL.slanc.onnx beside the input")
    add(
        "--scale",
        choices=("window", "paper", "calibrated"),
        default="window",
        help="a power of two between overflow and underflow (default), the paper's equations, or "
        "the same window by median and maximum over --inputs or --tokens",
    )
    add(
        "--estimate",
        choices=("auto", "probe", "weights"),
        default="auto",
        help="where the window comes from: random token ids through the model, the weights "
        "alone, or the first of these that works here (default)",
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        "--target", metavar="NAME", help="the accelerator (default fp16-sequential)"
    )
    device.add_argument("--target-file", metavar="FILE.toml", help="one that is not in the table")
    add("--list-targets", action=_ListTargets, help="print the table of targets and exit")
    add(
        "--accumulate",
        choices=("sequential", "pairwise", "fp32"),
        help="how it sums (default: as the target does)",
    )
    add(
        "--flush-subnormals",
        action=argparse.BooleanOptionalAction,
        help="whether it turns subnormal results into zero (default: as the target does)",
    )
    add(
        "--certify",
        choices=("auto", "exact", "off"),
        default="auto",
        help="bound every norm over all inputs; exact: with the tight norms of large matrices too",
    )
    add(
        "--input-range",
        type=_range,
        action="append",
        default=[],
        metavar="NAME=LO,HI",
        help="what a float input (pixels) stays within: certificates hold if it does",
    )
    add(
        "--apply",
        choices=("div", "fold"),
        default="div",
        help="where the scale goes: a Div before each norm (default), or into the weights before "
        "it, so that nothing is added to run",
    )
    add("--explain-groups", action="store_true", help="with --apply fold: print what is divided")
    add(
        "--emulate",
        choices=("norms", "all"),
        default="norms",
        help="what validation rounds to FP16: each step of the norms (default), or of everything",
    )
    add("--inputs", metavar="FILE.npz", help="validation inputs by name (default: made to fit)")
    add(
        "--tokens",
        metavar="IDS.npy",
        help="token ids of a causal language model: validate on them and add the perplexity table",
    )
    add(
        "--observe",
        metavar="FILE",
        help="audit the scales on inputs (.npz) or token ids (.npy): rows outside, largest rows",
    )
    add("--sequence-length", type=int, metavar="N", help="ids per sequence (default 1024)")
    add("--max-sequences", type=int, metavar="N", help="sequences to run (default 4)")
    add("--bos", type=int, metavar="ID", help="id to put at the head of each sequence")
    add("--jobs", type=int, metavar="N", help="threads that read weights (default: all processors)")
    add("--report", metavar="FILE.json", help="write the machine-readable report")
    add("--html", metavar="FILE.html", help="write the report to look at; needs matplotlib")
    add("--no-validate", action="store_true", help="do not run the models")
    add("-q", "--quiet", action="count", default=0, help="no table; twice: nothing on stdout")
    add("-v", "--verbose", action="count", default=0, help="log; twice: more")
    add("--version", action="version", version=f"slanc-onnx {__version__}")
    return parser  # fmt: skip


def _range(text: str) -> tuple[str, tuple[float, float]]:
    """NAME=LO,HI as the name and the two numbers."""
    name, _, numbers = text.rpartition("=")
    try:
        low, high = (float(number) for number in numbers.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not (name and low <= high and math.isfinite(high - low)):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=LO,HI with numbers LO <= HI")
    return name, (low, high)


class _ListTargets(argparse.Action):
    """Prints the table of targets and exits, as --version does."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from rich.console import Console
        from rich.table import Table

        from slanc_onnx.targets import TARGETS

        width = None if sys.stdout.isatty() else 200
        table = Table("target", "steps and sums", "inputs", "accumulate", "subnormals", "variance",
                      "steps left in FP32")  # fmt: skip
        for name, profile in TARGETS.items():
            table.add_row(
                name,
                str(profile.format),
                str(profile.input_format or profile.format),
                profile.accumulate,
                "flushed" if profile.flush_subnormals else "kept",
                profile.variance,
                " ".join(profile.steps_in_fp32),
            )
        Console(width=width, highlight=False, markup=False, emoji=False).print(table)
        parser.exit(PASSED)


def _accelerator(args: argparse.Namespace) -> Accelerator:
    """The target that was asked for, with the fields that were given apart from it."""
    from slanc_onnx import targets

    profile = (
        targets.target(args.target or targets.DEFAULT)
        if args.target_file is None
        else targets.read_target(Path(args.target_file))
    )
    return targets.changed(profile, args.accumulate, args.flush_subnormals)


def _check_usage(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.tokens is None and args.observe is None:
        for name in ("sequence_length", "max_sequences", "bos"):
            if getattr(args, name) is not None:
                parser.error(f"--{name.replace('_', '-')}: only goes with --tokens or --observe")
    if args.apply == "fold" and args.scale == "paper":
        parser.error("--apply fold: needs powers of two, which --scale paper does not give")
    if args.explain_groups and args.apply != "fold":
        parser.error("--explain-groups: only goes with --apply fold")
    if args.scale == "calibrated" and args.tokens is None and args.inputs is None:
        parser.error("--scale calibrated: takes its scales from data, give --inputs or --tokens")
    if args.no_validate and args.tokens is not None and args.scale != "calibrated":
        parser.error("--tokens: not allowed with --no-validate, which runs nothing")
    for name in ("sequence_length", "max_sequences", "jobs"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')}: must be at least 1")


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


def _read_inputs(name: str | None, option: str = "--inputs") -> dict[str, Array] | None:
    if name is None:
        return None
    import numpy as np

    if not Path(name).is_file():
        raise SlancError(f"{option} {name}: no such file.")
    try:
        with open(name, "rb") as opened:
            file = np.load(opened, allow_pickle=False)
            return {key: file[key] for key in file.files}
    except Exception as error:  # NumPy raises whatever zipfile, zlib and its parsers do
        raise SlancError(
            f"{option} {name}: not an .npz file of arrays. Write one with numpy.savez(file, "
            "name=array, ...)."
        ) from error


def _read_tokens(
    name: str | None, args: argparse.Namespace, option: str = "--tokens"
) -> Tokens | None:
    if name is None:
        return None
    from slanc_onnx.perplexity import read_tokens

    length, most = args.sequence_length or 1024, args.max_sequences or 4
    return read_tokens(Path(name), length, most, args.bos, option)


def _read_observed(args: argparse.Namespace) -> dict[str, Array] | Tokens | None:
    """Token ids or inputs, by how the file's name ends."""
    if args.observe is not None and Path(args.observe).suffix == ".npy":
        return _read_tokens(args.observe, args, "--observe")
    return _read_inputs(args.observe, "--observe")


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr for work longer than a second, if somebody is there to see it."""
    import time

    from rich.console import Console
    from rich.progress import Progress as Bar

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
