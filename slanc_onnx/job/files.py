"""The whole job, from file to file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from slanc_onnx.apply import without_scales_of_others
from slanc_onnx.apply.fold import fold
from slanc_onnx.apply.merge import plan_merges, without_proofs
from slanc_onnx.estimate import probe_tensors, runs_probe
from slanc_onnx.graph import data_behind_links, load_model
from slanc_onnx.job.begin import begin
from slanc_onnx.job.draft import certify_draft, rewritten, write_and_validate
from slanc_onnx.job.in_memory import decide
from slanc_onnx.job.work import Done, Job
from slanc_onnx.options import Options
from slanc_onnx.progress import Clock, Progress, no_progress
from slanc_onnx.reasons import OFF, Failure, Next, Note, Reason
from slanc_onnx.report import Outcome, epsilon_notes, make_notes
from slanc_onnx.scale import (
    ScaledNorm,
    with_conditions,
    with_safe_radius,
    without_one,
)
from slanc_onnx.verify import (
    audit_scales,
    find_fp32_nodes,
    held_against_rows,
    kept_at_one,
    run_every_token,
    with_scales_again,
)

LEFT = {Failure.LEFT_FORMAT, Failure.INPUT_LEFT_FORMAT, Failure.ROWS_OVERFLOW}
MOST_TRIES = 3  # a fold may give a norm that is kept at 1 the scale of its group once more


def protect_file(
    source: str | Path,
    output: str | Path,
    options: Options | None = None,
    *,
    shown_options: Mapping[str, object] | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Scale the norms of an ONNX file and write the result; nothing is written without norms.

    Args:
        source: The model. Its external data is read through memory maps and stays as it is.
        output: The file to write. In another folder the data files are brought along.
        options: How.
        shown_options: What the report shows as options.
        progress: Called with what is being done and the finished share.

    Raises:
        SlancError: bad input; nothing was written. Nor is it with any other exception.
    """
    clock, source, output = Clock(), Path(source), Path(output)
    begun = begin(source, output, options or Options())
    options = begun.options
    read, rescaled = without_scales_of_others(begun.read, options.accelerator.stamp)
    clock.lap("find")
    done = Done(decide(read, options, progress))
    clock.lap("scale")
    done.notes += make_notes(read, options, rescaled)
    job = Job(read, source, output, options, begun.watched, progress, clock)
    if read.norms or options.to is not None:
        _carry_out(job, done)
        _note_links(job, done)
    return _outcome(job, done, shown_options or {})


def _outcome(job: Job, done: Done, shown_options: Mapping[str, object]) -> Outcome:
    """What the job did, as one value."""
    options, suspects = job.options, job.read.suspects
    return Outcome(
        source=job.source,
        output=job.output,
        options=shown_options,
        norms=done.norms,
        validation=done.validation,
        not_validated=done.not_validated,
        accelerator=options.accelerator,
        notes=done.notes,
        seconds=job.clock.seconds,
        fold=done.fold,
        heals=done.heals,
        audits=done.audits,
        first_rows=done.first_rows,
        not_enumerated=done.not_enumerated,
        fp32_nodes=done.fp32_nodes,
        not_searched=done.not_searched,
        suspects=suspects,
        accepted={s.name for s in suspects if options.leaves_out(s.name)},
        dry_run=options.dry_run,
        require=options.require,
        conversion=done.conversion,
        merges=done.merges,
    )


def _note_links(job: Job, done: Done) -> None:
    """Tell of data files that ONNX Runtime may not follow from the file that was written."""
    folder = job.output.parent
    if job.options.dry_run or not data_behind_links(job.read.loaded, folder):
        return
    linked = data_behind_links(load_model(job.output), folder)
    if linked:
        done.notes.append(Reason(Note.DATA_BEHIND_LINKS, tuple(linked)))


def _carry_out(job: Job, done: Done) -> None:
    """Do all that follows on the decisions; `done` takes what each step gives."""
    if job.options.dry_run:
        _plan(job, done)
        _hold(job, done)
        done.notes += epsilon_notes(done.norms, job.options)
    else:
        _carry_out_in_file(job, done)


def _hold(job: Job, done: Done) -> None:
    """Hold the certificates, with all that they ask, against the rows that were seen."""
    norms = with_conditions(done.norms, job.options)
    seen = done.validation, done.audits, done.first_rows
    held = held_against_rows(norms, *seen, as_written=done.proved_in_file)
    done.norms = with_conditions(held, job.options)  # of one that is withdrawn, in those behind it


def _carry_out_in_file(job: Job, done: Done) -> None:
    """Fold, audit, write, validate and put in place; `done` takes what each step gives.

    A scale with which more rows overflow than with 1 is not kept: all is done again with 1. And
    where rows of zeros are seen that would be nan, with epsilons that the target keeps. Nor is a 1
    of `Options.minimal` kept with which rows overflow, or without which the model passes.
    """
    decided = done.norms
    for tries_left in reversed(range(MOST_TRIES)):
        _plan(job, done)
        with job.draft() as draft:
            write_and_validate(job, done, draft)
            better = kept_at_one(decided, done.norms, done.validation) if tries_left else None
            if better is not None:
                better = [with_safe_radius(norm, job.options.accelerator) for norm in better]
            zeros = done.validation is not None and (
                done.validation.zeros_lost
                if job.options.minimal  # a scale may come back, and its epsilon be raised
                else done.validation.zeros_lost_by_scales
            )
            if tries_left and zeros and job.options.epsilon is None:
                job = replace(job, options=replace(job.options, epsilon="representable"))
                done.notes.append(Reason(Note.EPSILON_RAISED))
                better = better or list(decided)
            if tries_left and job.options.minimal:
                better = _with_scales_again(job, done, decided, better)
            if better is None:
                certify_draft(job, done, draft.path)
                _hold(job, done)
                _search_fp32_nodes(job, done, draft.path)
                draft.keep()
                done.notes += epsilon_notes(done.norms, job.options)
                break
        done.norms = decided = better

    done.heals = _what_heals(job, done, decided)


def _with_scales_again(
    job: Job, done: Done, decided: list[ScaledNorm], better: list[ScaledNorm] | None
) -> list[ScaledNorm] | None:
    """The better decisions, those that `Options.minimal` made taken back where they do not serve:
    one by one, or all where the model fails with them and passes without, which is tried."""
    again = with_scales_again(better or decided, done.validation, job.options)
    if again is not None or better is not None:
        return again or better
    if done.validation is None or done.validation.passed:
        return None
    scaled = [without_one(norm, job.options.accelerator) for norm in decided]
    tried = Done(scaled, ranges=done.ranges)
    return scaled if scaled != decided and _passes(job, tried, job.options) else None


def _search_fp32_nodes(job: Job, done: Done, draft: Path) -> None:
    """Look for the nodes of the file that was written that have to stay in FP32."""
    validation = done.validation
    if not job.options.fp32_nodes or validation is None:
        return
    done.fp32_nodes, done.not_searched = job.tried(
        lambda told: find_fp32_nodes(job.read, *rewritten(job, done, draft), validation, told)
    )
    job.clock.lap("fp32_nodes")


def _what_heals(job: Job, done: Done, decided: list[ScaledNorm]) -> Next | None:
    """With what a model passes that failed; that is tried.

    What left the format may stay in it where the scales are folded, and outputs that are off may be
    right where sums are in FP32.
    """
    validation = done.validation
    if validation is None:
        return None
    tried = Done(decided, ranges=done.ranges)
    options, kinds = job.options, {reason.kind for reason in validation.failures}
    if LEFT & kinds and options.apply == "div" and options.scale != "paper":
        return Next.FOLD if _passes(job, tried, replace(options, apply="fold")) else None
    wider = options.accelerator.summing("fp32")
    if kinds and kinds <= OFF and wider != options.accelerator:
        options = replace(options, accelerator=wider)
        return Next.WIDER_SUMS if _passes(job, tried, options) else None
    return None


def _passes(job: Job, tried: Done, options: Options) -> bool:
    """Whether decisions pass with other options, in a file that nobody keeps."""
    other = replace(job, watched=[], options=replace(options, certify="off"))
    _plan(other, tried)
    with job.draft() as draft:
        write_and_validate(other, tried, draft)
    return tried.validation is not None and tried.validation.passed


def _plan(job: Job, done: Done) -> None:
    """Fold, and hold the scales against the user's data and every token."""
    read, options, clock = job.read, job.options, job.clock
    if options.apply == "fold":  # first: the audit is of the scales that norms have then
        if options.to == "fp16" and done.ranges is None:
            _measure(job, done)
        done.fold, done.norms = fold(read, done.norms, options, done.ranges)
        clock.lap("fold")
        if options.merge:
            done.merges = plan_merges(read.model, done.fold, read.folder, options, done.norms)
            done.norms = without_proofs(done.norms, done.merges, options.accelerator)
            clock.lap("merge")
    if job.watched:
        done.audits = job.isolated(
            lambda told: audit_scales(read, done.norms, job.watched, options.accelerator, told)
        )
        clock.lap("observe")
    if options.certify == "tokens":
        _enumerate(job, done)
        clock.lap("tokens")


def _measure(job: Job, done: Done) -> None:
    """Measure all tensors, which have to fit the type of the file, where anything is run."""
    if not runs_probe(job.read, job.options):
        done.ranges = {}
        done.notes.append(Reason(Note.RANGES_NOT_MEASURED))
        return
    found, why = job.tried(lambda told: probe_tensors(job.read, job.options, told))
    done.ranges = found or {}
    if why is not None:
        done.notes.append(Reason(Note.RANGES_UNKNOWN, behind=why))
    job.clock.lap("measure")


def _enumerate(job: Job, done: Done) -> None:
    """Run every token alone."""
    norms = [decided.norm for decided in done.norms]
    done.first_rows, done.not_enumerated = job.tried(
        lambda told: run_every_token(job.read, norms, told), Failure.TOKENS_NOT_RUN
    )
