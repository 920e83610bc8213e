"""The command: its words, its jobs one after the other, and its exit status."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from slanc_onnx.arguments import (
    JobFiles,
    Terminal,
    check_places,
    check_usage,
    folder_of,
    jobs_of,
    make_parser,
    parse,
    read_options,
    shown_options,
)
from slanc_onnx.cli.process import (
    BAD_INPUT,
    BUG,
    FAILED,
    INTERRUPTED,
    NOT_WRITTEN,
    PASSED,
    Stopped,
    bug,
    fail,
    lost_on_stdout,
    no_stop_passed_over,
    open_standard_files,
    reason,
    silence,
    stops_raised,
)
from slanc_onnx.cli.tell import say, tell, tell_all
from slanc_onnx.errors import SlancError, is_no_memory
from slanc_onnx.graph import FolderDraft
from slanc_onnx.job import ModelFolder, check_files, protect_file
from slanc_onnx.options import Options
from slanc_onnx.report import Outcome, watched

_LESS_MEMORY = "Try --estimate weights --no-validate, which run no model."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `EXIT_STATUS` says what each means."""
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        return fail(INTERRUPTED, "interrupted")


def _main(arguments: Sequence[str] | None) -> int:
    open_standard_files()
    parser = make_parser()
    try:
        args = parse(parser, arguments)
        check_usage(parser, args)
    except SystemExit as stopped:  # --help and the like, or bad usage
        if stopped.code or (lost := lost_on_stdout()) is None:
            raise
        return fail(NOT_WRITTEN, f"standard output: not written ({reason(lost)}).")
    except SlancError as error:  # of --config
        return fail(BAD_INPUT, str(error))
    except BrokenPipeError:
        silence(sys.stdout)
        return PASSED
    except OSError as error:  # of what these print; files are not read yet
        silence(sys.stdout)
        return fail(NOT_WRITTEN, f"standard output: not written ({reason(error)}).")
    except Exception as error:
        return fail(BUG, f"{bug(error, traceback_too=True)}. Nothing was written.")
    logging.basicConfig(
        stream=sys.stderr,
        level=[logging.WARNING, logging.INFO, logging.DEBUG][min(args.verbose, 2)],
        format="%(levelname)s %(name)s: %(message)s",
    )
    try:
        with stops_raised(), no_stop_passed_over():
            return _run(args)
    except SlancError as error:
        return fail(BAD_INPUT, str(error))
    except Stopped as stop:
        return fail(stop.status, stop.told)
    except Exception as error:
        if is_no_memory(error):
            return fail(BAD_INPUT, f"not enough memory. {_LESS_MEMORY}")
        if isinstance(error, OSError):
            return fail(BAD_INPUT, f"{error.filename or 'file'}: {error.strerror or error}")
        return fail(BUG, f"{bug(error, args.traceback)}. Nothing was written.")


def _run(args: argparse.Namespace) -> int:
    """The jobs; whatever fails in one, no output of it was changed."""
    folder = folder_of(args)
    jobs = jobs_of(args, folder)
    check_places(args, jobs, None if folder is None else folder[1])
    options = read_options(args)
    shown = shown_options(args, options)

    def done(job: JobFiles, output: Path) -> Outcome:
        with watched(Terminal(stderr=True), say, quiet=args.quiet > 0) as told:
            return protect_file(job.source, output, options, shown_options=shown, progress=told)

    def do(job: JobFiles) -> int:
        return tell(args, job, done(job, job.output))

    if folder is not None:
        outcomes = _fill(*folder, jobs, done, options)
        ended = [(job, tell(args, job, it)) for job, it in zip(jobs, outcomes, strict=True)]
        return ended[0][1] if len(ended) == 1 else tell_all(args, ended)
    if len(jobs) == 1:
        return do(jobs[0])
    check_files([(job.source, job.output) for job in jobs], options)
    return tell_all(args, [(job, _status_of(job, do, args.traceback)) for job in jobs])


def _fill(
    folder: ModelFolder,
    output: Path,
    jobs: Sequence[JobFiles],
    done: Callable[[JobFiles, Path], Outcome],
    options: Options,
) -> list[Outcome]:
    """Do all jobs of a folder, then put what they give in place, with what comes along.

    A model without a norm comes along as it is; if none has any, there is nothing to do.
    """
    with FolderDraft(folder.path, output) as draft:
        places = [draft.place(job.output) for job in jobs]
        if len(jobs) > 1:
            check_files([(job.source, at) for job, at in zip(jobs, places, strict=True)], options)
        found = [
            replace(done(job, at), output=job.output) for job, at in zip(jobs, places, strict=True)
        ]
        if options.dry_run or all(outcome.nothing_to_do for outcome in found):
            return found
        for model, outcome in zip(folder.models, found, strict=True):
            if outcome.nothing_to_do:
                draft.bring(folder.untouched(model), watched=False)
        draft.bring(folder.along)
        draft.keep()
    return [replace(outcome, comes_along=outcome.nothing_to_do) for outcome in found]


def _status_of(job: JobFiles, do: Callable[[JobFiles], int], traceback_too: bool) -> int:
    """How one of several jobs ended, whatever happened in it; the others are done all the same.

    Its input was seen to be good, and it is not the only job: what is found in the work itself, a
    full disk say, is a model that is not as it was asked for.
    """
    try:
        return do(job)
    except SlancError as error:
        where = "" if str(job.source) in str(error) else f"{job.source}: "
        return fail(FAILED, f"{where}{error} Nothing was written for this model.")
    except Exception as error:
        status = FAILED
        if is_no_memory(error):
            told = f"not enough memory. {_LESS_MEMORY}"
        elif isinstance(error, OSError):
            told = f"{error.filename or 'file'}: {error.strerror or error}."
        else:
            status, told = BUG, f"{bug(error, traceback_too)}."
        return fail(status, f"{job.source}: {told} Nothing was written for this model.")
