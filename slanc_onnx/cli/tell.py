"""Telling what a job did: its reports are written and its results printed."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from slanc_onnx.arguments import STDOUT, JobFiles, Terminal
from slanc_onnx.cli.process import BUG, FAILED, NOT_WRITTEN, PASSED, bug, fail, on_stdout, reason
from slanc_onnx.errors import SlancError, is_no_memory
from slanc_onnx.report import (
    Outcome,
    audit_lines,
    explain_groups,
    final_parts,
    no_norm_line,
    print_audit,
    print_lines,
    print_summary,
    print_table,
    printable,
    report_text,
    write_fp32_nodes,
    write_report,
    write_sidecar,
)
from slanc_onnx.report.html import write_html


def tell(args: argparse.Namespace, job: JobFiles, outcome: Outcome) -> int:
    """Write the reports of a job and print; its model is in its place, so nothing here is `BUG`.

    Returns:
        The exit status.
    """
    lost: dict[str, str] = {}  # what was not written and why, and what to do about it
    for option, name in job.reports.items():
        with _named_if_lost(f"{option} {name}", args, lost):
            path = Path(name)
            if not job.alone:
                path.parent.mkdir(parents=True, exist_ok=True)
            _write(option, path, args, outcome)
    with _named_if_lost("standard output", args, lost), on_stdout():
        _print_to_stdout(args, job, outcome, list(lost))
    if lost:
        model = f"{outcome.output} is written"
        if outcome.nothing_to_do and not outcome.comes_along:
            model = "No norm, so no model either"
        if outcome.dry_run:
            model = "No model is written either, as --dry-run asks"
        failed = "" if outcome.passed else ", but FAILED"
        if not outcome.validated:
            failed = ", but validation FAILED"
        advice = " ".join(dict.fromkeys(filter(None, lost.values())))
        fail(NOT_WRITTEN, f"{'; '.join(lost)}. {model}{failed}. {advice}".rstrip())
    return FAILED if not outcome.passed else NOT_WRITTEN if lost else PASSED


def tell_all(args: argparse.Namespace, ended: Sequence[tuple[JobFiles, int]]) -> int:
    """Count how the jobs of a command ended, in one line.

    Returns:
        The exit status: that of the worst job.
    """
    worst = max((status for _, status in ended), key=_WORSE.index)
    counts = [f"{len(ended)} models"]
    for status, words in _ENDINGS.items():
        named = [str(job.source) for job, its in ended if its == status]
        names = "" if status == PASSED else f" ({', '.join(named)})"
        counts += [f"{len(named)} {words}{names}"] if named else []
    lost: dict[str, str] = {}
    with _named_if_lost("standard output", args, lost), on_stdout():
        if args.quiet < 2:
            print(printable(" | ".join(counts)))
            sys.stdout.flush()
    return NOT_WRITTEN if lost and worst == PASSED else worst


_WORSE = (PASSED, NOT_WRITTEN, FAILED, BUG)
_ENDINGS = {
    PASSED: "as asked for",
    NOT_WRITTEN: "with a report that is not written",
    FAILED: "FAILED",
    BUG: "not done for a bug",
}


def _write(option: str, path: Path, args: argparse.Namespace, outcome: Outcome) -> None:
    """Write one report."""
    if option == "--report":
        write_report(outcome.report, path)
    elif option == "--html":
        write_html(outcome, path)
    elif option == "--sidecar":
        write_sidecar(outcome, path)
    else:
        write_fp32_nodes(outcome, path, args.fp32_nodes_format)


@contextmanager
def _named_if_lost(what: str, args: argparse.Namespace, lost: dict[str, str]) -> Iterator[None]:
    """What fails inside is added to `lost`, with the reason."""
    advice = "Make room there or name another place, and run again."
    try:
        yield
    except SlancError as error:
        lost[f"{what}: not written ({error})"] = ""  # the reason or the last line says it
    except Exception as error:
        if is_no_memory(error):
            why = "not enough memory"
        elif isinstance(error, OSError):
            why = reason(error)
        else:
            why = bug(error, args.traceback)
        lost[f"{what}: not written ({why})"] = advice


def _print_to_stdout(
    args: argparse.Namespace, job: JobFiles, outcome: Outcome, lost: Sequence[str]
) -> None:
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
        _print(args, job, outcome, lost)
        sys.stdout.flush()


def _no_norm(outcome: Outcome) -> str:
    """All that there is to say where there is no norm."""
    ending = "nothing to do, nothing written" if outcome.passed else "nothing written"
    if outcome.comes_along:
        ending = f"comes along as it is: {outcome.output}"
    return f"{outcome.source}: {no_norm_line(outcome)}; {ending}."


def _print(args: argparse.Namespace, job: JobFiles, outcome: Outcome, lost: Sequence[str]) -> None:
    """The results, on stdout; the last line says what was lost too."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names and Γ on a terminal without them
    if outcome.nothing_to_do:
        print(printable(" | ".join([_no_norm(outcome), *lost])))
        return
    # No markup and emoji: brackets and colons in names are just that. Lines are broken for eyes
    # alone, scripts read the last one.
    seen = sys.stdout.isatty()
    console = Terminal(width=None if seen else 200, highlight=False, markup=False, emoji=False)
    if args.explain_groups and outcome.fold is not None:
        print_lines(console, list(explain_groups(outcome.fold.groups)), seen)
    if not args.quiet:
        print_table(console, outcome, args.verbose > 0, seen)
        if outcome.audits:
            print_audit(console, outcome.audits, args.verbose > 0)
        print("nothing written" if outcome.dry_run else f"written: {outcome.output}")
    print_lines(console, list(audit_lines(outcome.audits)), seen)
    print_summary(console, outcome, lost, "" if job.alone else f"{job.source}: ", seen)


def say(line: str) -> None:
    """A line on stderr, if it is there."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(line, file=sys.stderr, flush=True)
