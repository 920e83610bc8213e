"""The whole job, from file to file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import onnx

from slanc_onnx.apply import apply_scales_in, without_scales_of_others
from slanc_onnx.apply.convert import Conversion, write_converted
from slanc_onnx.apply.fold import Fold, fold, write_folded
from slanc_onnx.apply.merge import Merges, plan_merges, without_proofs, write_merged
from slanc_onnx.estimate import TensorRange, probe_tensors, runs_probe
from slanc_onnx.graph import Draft, Tensor, check_output, load_model, name_nodes
from slanc_onnx.job.in_memory import decide
from slanc_onnx.job.refusals import refuse_broken
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.options import Options
from slanc_onnx.progress import Clock, Progress, no_progress
from slanc_onnx.reasons import OFF, Failure, Next, Note, Reason
from slanc_onnx.report import Outcome, make_notes
from slanc_onnx.run import (
    LONG_SEQUENCE,
    CannotRun,
    Feeds,
    InputSet,
    longer_inputs,
    observed_feeds,
    run_apart,
    validation_inputs,
    with_checked_inputs,
)
from slanc_onnx.scale import ScaledNorm, scales_to_apply, with_conditions
from slanc_onnx.verify import (
    Audit,
    Difference,
    Exactness,
    FirstRows,
    Fp32Nodes,
    Validation,
    as_written,
    audit_scales,
    find_fp32_nodes,
    held_against_rows,
    kept_at_one,
    run_every_token,
    validate_on,
    vocabulary,
)

T = TypeVar("T")
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
    clock, options = Clock(), (options or Options()).implied()
    source, output = Path(source), Path(output)
    loaded = load_model(source)
    check_output(source, output)
    read = read_model(loaded, source.parent, isolate=options.isolate)
    if options.validate:
        refuse_broken(read)
    options = with_checked_inputs(options, read.specs)
    watched = observed_feeds(read.specs, options)
    if options.certify == "tokens":
        vocabulary(read.specs)
    read, rescaled = without_scales_of_others(read, options.accelerator.stamp)
    clock.lap("find")
    done = _Done(decide(read, options, progress))
    clock.lap("scale")
    done.notes += make_notes(read, options, rescaled)
    job = _Job(read, source, output, options, watched, progress, clock)
    if read.norms or options.to is not None:
        _carry_out(job, done)
    return _outcome(job, done, shown_options or {})


@dataclass(frozen=True)
class _Job:
    """A model with norms on its way from file to file."""

    read: ReadModel
    source: Path
    output: Path
    options: Options
    watched: list[Feeds]
    progress: Progress
    clock: Clock

    def draft(self) -> Draft:
        """The output, to be written."""
        return Draft(self.source, self.output, self.read.model, self.options.external_data)

    def isolated(self, work: Callable[[Progress], T]) -> T:
        """What work on ONNX Runtime gives; see `run.run_apart`."""
        return run_apart(work, self.progress, self.options, self.read.loaded, self.read.folder)

    def tried(
        self, work: Callable[[Progress], T], kind: Failure = Failure.NOT_RUN
    ) -> tuple[T | None, Reason | None]:
        """The same, or why it could not be done: of this kind, or for lack of memory."""
        try:
            return self.isolated(work), None
        except CannotRun as error:
            return None, Reason(kind, (str(error),))
        except MemoryError:
            return None, Reason(Failure.NO_MEMORY)


@dataclass
class _Done:
    """What the job did so far."""

    norms: list[ScaledNorm]
    fold: Fold | None = None
    audits: list[Audit] = field(default_factory=list)
    first_rows: FirstRows | None = None
    not_enumerated: Reason | None = None
    validation: Validation | None = None
    not_validated: Reason | None = None
    fp32_nodes: Fp32Nodes | None = None
    not_searched: Reason | None = None
    notes: list[Reason] = field(default_factory=list)
    heals: Next | None = None
    conversion: Conversion | None = None
    merges: Merges | None = None
    ranges: dict[Tensor, TensorRange] | None = None


def _outcome(job: _Job, done: _Done, shown_options: Mapping[str, object]) -> Outcome:
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


def _carry_out(job: _Job, done: _Done) -> None:
    """Do all that follows on the decisions; `done` takes what each step gives."""
    if job.options.dry_run:
        _plan(job, done)
        _hold(job, done)
    else:
        _carry_out_in_file(job, done)


def _hold(job: _Job, done: _Done) -> None:
    """Hold the certificates, with all that they ask, against the rows that were seen."""
    norms = with_conditions(done.norms, job.options)
    done.norms = held_against_rows(norms, done.validation, done.audits, done.first_rows)


def _carry_out_in_file(job: _Job, done: _Done) -> None:
    """Fold, audit, write, validate and put in place; `done` takes what each step gives.

    A scale with which more rows overflow than with 1 is not kept: all is done again with 1. And
    where rows of zeros are seen that would be nan, with epsilons that the target keeps.
    """
    decided = done.norms
    for tries_left in reversed(range(MOST_TRIES)):
        _plan(job, done)
        with job.draft() as draft:
            _write_and_validate(job, done, draft)
            better = kept_at_one(decided, done.norms, done.validation) if tries_left else None
            zeros = done.validation is not None and done.validation.zeros_lost
            if tries_left and zeros and job.options.epsilon is None:
                job = replace(job, options=replace(job.options, epsilon="representable"))
                done.notes.append(Reason(Note.EPSILON_RAISED))
                better = better or list(decided)
            if better is None:
                _hold(job, done)
                _search_fp32_nodes(job, done, draft.path)
                draft.keep()
                break
        done.norms = decided = better

    done.heals = _what_heals(job, done, decided)


def _search_fp32_nodes(job: _Job, done: _Done, draft: Path) -> None:
    """Look for the nodes of the file that was written that have to stay in FP32."""
    validation = done.validation
    if not job.options.fp32_nodes or validation is None:
        return
    done.fp32_nodes, done.not_searched = job.tried(
        lambda told: find_fp32_nodes(job.read, *_rewritten(job, draft), validation, told)
    )
    job.clock.lap("fp32_nodes")


def _what_heals(job: _Job, done: _Done, decided: list[ScaledNorm]) -> Next | None:
    """With what a model passes that failed; that is tried.

    What left the format may stay in it where the scales are folded, and outputs that are off may be
    right where sums are in FP32.
    """
    validation = done.validation
    if validation is None:
        return None
    tried = _Done(decided, ranges=done.ranges)
    options, kinds = job.options, {reason.kind for reason in validation.failures}
    if LEFT & kinds and options.apply == "div" and options.scale != "paper":
        return Next.FOLD if _passes(job, tried, replace(options, apply="fold")) else None
    wider = options.accelerator.summing("fp32")
    if kinds and kinds <= OFF and wider != options.accelerator:
        options = replace(options, accelerator=wider)
        return Next.WIDER_SUMS if _passes(job, tried, options) else None
    return None


def _passes(job: _Job, tried: _Done, options: Options) -> bool:
    """Whether decisions pass with other options, in a file that nobody keeps."""
    other = replace(job, watched=[], options=replace(options, certify="off"))
    _plan(other, tried)
    with job.draft() as draft:
        _write_and_validate(other, tried, draft)
    return tried.validation is not None and tried.validation.passed


def _plan(job: _Job, done: _Done) -> None:
    """Fold, and hold the scales against the user's data and every token."""
    read, options, clock = job.read, job.options, job.clock
    if options.apply == "fold":  # first: the audit is of the scales that norms have then
        if options.to == "fp16" and done.ranges is None:
            _measure(job, done)
        done.fold, done.norms = fold(read, done.norms, options, done.ranges)
        clock.lap("fold")
        if options.merge:
            done.merges = plan_merges(read.model, done.fold, read.folder, options)
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


def _measure(job: _Job, done: _Done) -> None:
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


def _write_and_validate(job: _Job, done: _Done, draft: Draft) -> None:
    _write(job, done, draft)
    job.clock.lap("write")
    if not job.options.validate:
        return
    found, why = job.tried(lambda told: _validate(job, done, draft.path, told))
    done.validation, done.not_validated = found or done.validation, why or done.not_validated
    if found is not None and done.conversion is not None:
        done.validation = _run_as_written(job, found, draft.path)
    job.clock.lap("validate")


def _enumerate(job: _Job, done: _Done) -> None:
    """Run every token alone."""
    norms = [decided.norm for decided in done.norms]
    done.first_rows, done.not_enumerated = job.tried(
        lambda told: run_every_token(job.read, norms, told), Failure.TOKENS_NOT_RUN
    )


def _write(job: _Job, done: _Done, draft: Draft) -> None:
    """Rewrite the model into the draft; with validation `job.read` is still needed as it is."""
    rewritten = job.read.model
    if job.options.validate:
        rewritten = onnx.ModelProto()
        rewritten.CopyFrom(job.read.model)
    if job.options.fp32_nodes:
        name_nodes(rewritten)
    if job.options.to is not None and done.fold is not None:
        given = rewritten, done.fold, draft, job.options
        done.conversion = write_converted(*given, done.merges, job.progress)
    elif done.fold is not None and done.merges is not None:
        write_merged(rewritten, done.fold, done.merges, draft, job.progress)
    elif done.fold is not None:
        write_folded(rewritten, done.fold, draft, job.progress)
    else:
        scales, target = scales_to_apply(done.norms), job.options.accelerator.stamp
        least = job.options.least_epsilon
        apply_scales_in(rewritten, job.read.norms, scales, target, least)
        draft.write(rewritten, job.progress)


def _validate(job: _Job, done: _Done, draft: Path, progress: Progress) -> Validation:
    """Compare the file that was written with the original."""
    exact = all(math.frexp(s)[0] == 0.5 for s in scales_to_apply(done.norms).values())
    exact = exact and not (done.fold is not None and done.fold.lost)
    exact = exact and done.conversion is None
    merged = done.merges.error if done.merges is not None and done.merges.changes else None
    given = Exactness(exact and merged is None, merged)
    after, options, inputs = _rewritten(job, draft)
    if done.conversion is not None:
        after = replace(after, kept=done.conversion.kept)
        if done.conversion.longest:
            length = min(LONG_SEQUENCE, done.conversion.longest)
            inputs += longer_inputs(job.read, options, inputs[0], length)
    return validate_on(job.read, after, options, inputs, given, progress)


def _run_as_written(job: _Job, found: Validation, draft: Path) -> Validation:
    """The validation of a file of 16 bits, with what ONNX Runtime makes of the file itself."""

    def run(told: Progress) -> Difference | None:
        feeds = validation_inputs(job.read, job.options)[0].feeds
        return as_written(job.read, load_model(draft), draft.parent, feeds, found.unstable)

    ran, why = job.tried(run, Failure.NOT_RUN_AS_WRITTEN)
    failures = [*found.failures, *([] if why is None else [why])]
    return replace(found, as_written=ran, failures=failures)


def _rewritten(job: _Job, draft: Path) -> tuple[ReadModel, Options, list[InputSet]]:
    """The file that was written, and how and on what it is judged."""
    inputs = validation_inputs(job.read, job.options)
    after = read_model(load_model(draft), draft.parent, isolate=job.options.isolate)
    return after, job.options, inputs
