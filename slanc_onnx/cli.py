"""The command line: the only place that prints and sets exit codes."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from slanc_onnx.arguments import (
    STDOUT,
    Terminal,
    check_places,
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
    final_parts,
    no_norm_line,
    print_audit,
    print_summary,
    print_table,
    printable,
    report_text,
    write_fp32_nodes,
    write_report,
    write_sidecar,
)
from slanc_onnx.report.html import write_html

PASSED, FAILED, BAD_INPUT, NOT_WRITTEN, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 4, 130, 143


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that it leaves as little behind as Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `EXIT_STATUS` says what each means."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")


def _main(arguments: Sequence[str] | None) -> int:
    _open_standard_files()
    parser = make_parser()
    try:
        args = parser.parse_args(arguments)
        check_usage(parser, args)
    except SystemExit as stopped:  # --help and the like, or bad usage
        if stopped.code or (lost := _lost_on_stdout()) is None:
            raise
        return _fail(NOT_WRITTEN, f"standard output: not written ({_reason(lost)}).")
    except BrokenPipeError:
        _silence(sys.stdout)
        return PASSED
    except OSError as error:  # of what these print; files are not read yet
        _silence(sys.stdout)
        return _fail(NOT_WRITTEN, f"standard output: not written ({_reason(error)}).")
    logging.basicConfig(
        stream=sys.stderr,
        level=[logging.WARNING, logging.INFO, logging.DEBUG][min(args.verbose, 2)],
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        with _sigterm_raised(), _no_stop_passed_over():
            return _run(args)
    except SlancError as error:
        return _fail(BAD_INPUT, str(error))
    except OSError as error:
        return _fail(BAD_INPUT, f"{error.filename or 'file'}: {error.strerror or error}")
    except MemoryError:
        advice = "Try --estimate weights --no-validate, which run no model."
        return _fail(BAD_INPUT, f"not enough memory. {advice}")
    except _Terminated:
        return _fail(TERMINATED, "terminated")
    except Exception as error:
        return _fail(BUG, f"{_bug(error, args.traceback)}. Nothing was written.")


def _run(args: argparse.Namespace) -> int:
    """The job; whatever fails in it, no output was changed."""
    source = Path(args.model)
    beside = source.parent / f"{source.stem}.slanc.onnx"
    output = beside if args.output is None else Path(args.output)
    check_places(args, source, output)
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
        feeds=dict(args.feed),
        dims=dict(args.dim),
        input_ranges=dict(args.input_range),
        apply=args.apply or "div",
        to=args.to,
        keep_io_types=args.keep_io_types,
        positions=args.positions,
        external_data=args.external_data,
        emulate=args.emulate,
        epsilon=args.epsilon,
        weight_loss=args.weight_loss,
        merge=tuple(args.merge),
        fp32_nodes=args.fp32_nodes is not None,
        exclude=args.exclude,
        only=args.only,
        set_scale=dict(args.set_scale),
        dry_run=args.dry_run,
        require=tuple(args.require),
        jobs=args.jobs,
        time_limit=args.time_limit,
        memory_limit=args.memory_limit,
        isolate=True,
    )
    shown = {k: v for k, v in vars(args).items() if k not in ("model", "output")}
    shown["set_scale"] = dict(args.set_scale)
    shown["feed"] = [f"{name}={feed}" for name, feed in args.feed]
    shown["accelerator"] = accelerator.as_dict()
    with _progress(quiet=args.quiet > 0) as progress:
        outcome = protect_file(source, output, options, shown_options=shown, progress=progress)
    return _tell(args, outcome)


def _tell(args: argparse.Namespace, outcome: Outcome) -> int:
    """Write the reports and print; the model is in its place, so nothing that fails is `BUG`."""
    lost: dict[str, str] = {}  # what was not written and why, and what to do about it
    if args.report is not None and args.report != STDOUT:
        with _named_if_lost(f"--report {args.report}", args, lost):
            write_report(outcome.report, Path(args.report))
    if args.html is not None:
        with _named_if_lost(f"--html {args.html}", args, lost):
            write_html(outcome, Path(args.html))
    if args.sidecar is not None:
        with _named_if_lost(f"--sidecar {args.sidecar}", args, lost):
            write_sidecar(outcome, Path(args.sidecar))
    if args.fp32_nodes is not None:
        with _named_if_lost(f"--fp32-nodes {args.fp32_nodes}", args, lost):
            write_fp32_nodes(outcome, Path(args.fp32_nodes), args.fp32_nodes_format)
    with _named_if_lost("standard output", args, lost):
        try:
            _print_to_stdout(args, outcome, list(lost))
        except BrokenPipeError:  # whoever read the results has seen enough
            _silence(sys.stdout)
        except OSError:
            _silence(sys.stdout)
            raise
    if lost:
        model = f"{outcome.output} is written"
        if outcome.nothing_to_do:
            model = "No norm, so no model either"
        if outcome.dry_run:
            model = "No model is written either, as --dry-run asks"
        failed = "" if outcome.passed else ", but FAILED"
        if not outcome.validated:
            failed = ", but validation FAILED"
        advice = " ".join(dict.fromkeys(filter(None, lost.values())))
        _fail(NOT_WRITTEN, f"{'; '.join(lost)}. {model}{failed}. {advice}".rstrip())
    return FAILED if not outcome.passed else NOT_WRITTEN if lost else PASSED


@contextmanager
def _named_if_lost(what: str, args: argparse.Namespace, lost: dict[str, str]) -> Iterator[None]:
    """What fails inside is added to `lost`, with the reason."""
    advice = "Make room there or name another place, and run again."
    try:
        yield
    except OSError as error:
        lost[f"{what}: not written ({_reason(error)})"] = advice
    except SlancError as error:
        lost[f"{what}: not written ({error})"] = ""  # the reason or the last line says it
    except MemoryError:
        lost[f"{what}: not written (not enough memory)"] = advice
    except Exception as error:
        lost[f"{what}: not written ({_bug(error, args.traceback)})"] = advice


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _fail(status: int, message: str) -> int:
    """Say on stderr, if it is there, why the status is not 0."""
    if sys.stderr is not None:
        try:
            print(f"ERROR: {printable(message)}", file=sys.stderr, flush=True)
        except OSError:
            _silence(sys.stderr)
    return status


def _bug(error: Exception, traceback_too: bool) -> str:
    """What is said of an exception that should not be, as one line."""
    if traceback_too and sys.stderr is not None:
        with suppress(OSError):
            traceback.print_exception(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    node = _node_at_hand(error)
    where = f" at node {node!r}" if node else ""
    return (
        f"this is a bug in slanc-onnx: {text}{where}. Report it where you got slanc-onnx from, "
        "with this line and, if you may, the model; --traceback shows where it happened"
    )


def _node_at_hand(error: Exception) -> str:
    """The name of the node, or the norm, that the innermost function worked on."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if type(value).__name__ in ("NodeProto", "Node", "Norm") and value.name:
                found = str(value.name)
    return found


def _lost_on_stdout() -> OSError | None:
    """Why what was printed did not arrive, if it did not."""
    if sys.stdout is None:
        return OSError("it is closed")
    try:
        sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        return None if isinstance(error, BrokenPipeError) else error
    return None


def _silence(stream: TextIO | None) -> None:
    """Let what is still to be written to a stream go nowhere, so that its end does not fail."""
    if stream is None:
        return
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _open_standard_files() -> None:
    """Open what the caller closed, or the next file that is opened takes its place, and warnings
    of ONNX Runtime end up in a model."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """SIGTERM as `_Terminated`, unless somebody else handles it."""

    def terminate(*_: object) -> None:
        raise _Terminated

    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _no_stop_passed_over() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come where Python passes over exceptions are raised at the end."""
    stops: list[BaseException] = []
    told = sys.unraisablehook

    def keep(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, (KeyboardInterrupt, _Terminated)):
            stops.append(unraisable.exc_value)
        else:
            told(unraisable)

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = told
    if stops:
        raise stops[0]


def _print_to_stdout(args: argparse.Namespace, outcome: Outcome, lost: Sequence[str]) -> None:
    """The report alone, where it goes there, and the last line to stderr; else what people read."""
    if args.report != STDOUT and args.quiet >= 2:
        return
    if sys.stdout is None:
        raise OSError("it is closed")
    if args.report == STDOUT:
        sys.stdout.write(report_text(outcome.report))
        sys.stdout.flush()
        if args.quiet < 2 and sys.stderr is not None:
            last = [_no_norm(outcome)] if outcome.nothing_to_do else final_parts(outcome)
            print(printable(" | ".join([*last, *lost])), file=sys.stderr)
    else:
        _print(args, outcome, lost)
        sys.stdout.flush()


def _no_norm(outcome: Outcome) -> str:
    """All that there is to say where there is no norm."""
    ending = "nothing to do, nothing written" if outcome.passed else "nothing written"
    return f"{outcome.source}: {no_norm_line(outcome)}; {ending}."


def _print(args: argparse.Namespace, outcome: Outcome, lost: Sequence[str]) -> None:
    """The results, on stdout; the last line says what was lost too."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names and Γ on a terminal without them
    if outcome.nothing_to_do:
        print(printable(" | ".join([_no_norm(outcome), *lost])))
        return
    # No markup and emoji: brackets and colons in names are just that.
    width = None if sys.stdout.isatty() else 200
    console = Terminal(width=width, highlight=False, markup=False, emoji=False)
    if args.explain_groups and outcome.fold is not None:
        print(printable("\n".join(explain_groups(outcome.fold.groups))))
    if not args.quiet:
        print_table(console, outcome, args.verbose > 0)
        if outcome.audits:
            print_audit(console, outcome.audits)
        print("nothing written" if outcome.dry_run else f"written: {outcome.output}")
    for line in audit_lines(outcome.audits):
        console.print(printable(line), soft_wrap=True)
    print_summary(console, outcome, lost)


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    """A bar on stderr for work longer than a second, if somebody is there to see it."""
    from rich.progress import Progress as Bar  # of no use to --help and to whoever pipes stderr

    started = time.monotonic()
    console = Terminal(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda what, done: logging.getLogger(__name__).info("%s %.0f %%", what, 100 * done)
        return
    bar = Bar(console=console, transient=True)
    task = bar.add_task("", total=1.0)

    def show(what: str, done: float) -> None:
        with suppress(OSError):  # whoever watches may leave
            if time.monotonic() - started > 1.0:
                bar.start()
            bar.update(task, description=what, completed=done)

    try:
        yield show
    finally:
        with suppress(OSError):
            bar.stop()
