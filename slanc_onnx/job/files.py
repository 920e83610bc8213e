"""The whole job, from file to file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import onnx

from slanc_onnx.apply import apply_scales_in, without_scales_of_others
from slanc_onnx.apply.convert import Conversion, write_converted
from slanc_onnx.apply.fold import Fold, fold, write_folded
from slanc_onnx.estimate import TensorRange, probe_tensors, runs_probe
from slanc_onnx.graph import Draft, Tensor, load_model, name_nodes
from slanc_onnx.job.begin import begin
from slanc_onnx.job.in_memory import decide
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
    run_apart,
    validation_inputs,
)
from slanc_onnx.scale import (
    ScaledNorm,
    certified_as_written,
    scales_to_apply,
    with_conditions,
    without_one,
)
from slanc_onnx.verify import (
    Audit,
    Difference,
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
    with_scales_again,
)
from slanc_onnx.weights import workers

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
    clock, source, output = Clock(), Path(source), Path(output)
    begun = begin(source, output, options or Options())
    options = begun.options
    read, rescaled = without_scales_of_others(begun.read, options.accelerator.stamp)
    clock.lap("find")
    done = _Done(decide(read, options, progress))
    clock.lap("scale")
    done.notes += make_notes(read, options, rescaled)
    job = _Job(read, source, output, options, begun.watched, progress, clock)
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
    ranges: dict[Tensor, TensorRange] | None = None
    written: ReadModel | None = None


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
    seen = done.validation, done.audits, done.first_rows
    done.norms = held_against_rows(norms, *seen, as_written=done.conversion is not None)


def _carry_out_in_file(job: _Job, done: _Done) -> None:
    """Fold, audit, write, validate and put in place; `done` takes what each step gives.

    A scale with which more rows overflow than with 1 is not kept: all is done again with 1. And
    where rows of zeros are seen that would be nan, with epsilons that the target keeps. Nor is a 1
    of `Options.minimal` kept with which rows overflow, or without which the model passes.
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
            if tries_left and job.options.minimal:
                better = _with_scales_again(job, done, decided, better)
            if better is None:
                _certify_as_written(job, done, draft.path)
                _hold(job, done)
                _search_fp32_nodes(job, done, draft.path)
                draft.keep()
                break
        done.norms = decided = better

    done.heals = _what_heals(job, done, decided)


def _certify_as_written(job: _Job, done: _Done, draft: Path) -> None:
    """Prove the norms of a file of 16 bits in the file itself."""
    if done.conversion is None or job.options.certify == "off":
        return
    with workers(job.options.executor, job.options.jobs) as executor:
        options = replace(job.options, executor=executor)
        done.norms = certified_as_written(
            done.norms, _written(done, draft, options.isolate), options, job.progress
        )
    job.clock.lap("certify")


def _with_scales_again(
    job: _Job, done: _Done, decided: list[ScaledNorm], better: list[ScaledNorm] | None
) -> list[ScaledNorm] | None:
    """The better decisions, those that `Options.minimal` made taken back where they do not serve:
    one by one, or all where the model fails with them and passes without, which is tried."""
    again = with_scales_again(better or decided, done.validation, job.options)
    if again is not None or better is not None:
        return again or better
    if done.validation is None or done.validation.passed:
        return None
    scaled = [without_one(norm, job.options.accelerator) for norm in decided]
    tried = _Done(scaled, ranges=done.ranges)
    return scaled if scaled != decided and _passes(job, tried, job.options) else None


def _search_fp32_nodes(job: _Job, done: _Done, draft: Path) -> None:
    """Look for the nodes of the file that was written that have to stay in FP32."""
    validation = done.validation
    if not job.options.fp32_nodes or validation is None:
        return
    done.fp32_nodes, done.not_searched = job.tried(
        lambda told: find_fp32_nodes(job.read, *_rewritten(job, done, draft), validation, told)
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
    if done.conversion is not None:  # a norm's certificate is of that file too
        _written(done, draft.path, job.options.isolate)
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
    done.written = None
    rewritten = job.read.model
    if job.options.validate:
        rewritten = onnx.ModelProto()
        rewritten.CopyFrom(job.read.model)
    if job.options.fp32_nodes:
        name_nodes(rewritten)
    if job.options.to is not None and done.fold is not None:
        given = rewritten, done.fold, draft, job.options
        done.conversion = write_converted(*given, job.progress)
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
    after, options, inputs = _rewritten(job, done, draft)
    if done.conversion is not None:
        after = replace(after, kept=done.conversion.kept)
        if done.conversion.longest:
            length = min(LONG_SEQUENCE, done.conversion.longest)
            inputs += longer_inputs(job.read, options, inputs[0], length)
    return validate_on(job.read, after, options, inputs, exact, progress)


def _run_as_written(job: _Job, found: Validation, draft: Path) -> Validation:
    """The validation of a file of 16 bits, with what ONNX Runtime makes of the file itself."""

    def run(told: Progress, optimised: bool = True) -> Difference | None:
        feeds, file = validation_inputs(job.read, job.options)[0].feeds, load_model(draft)
        given = job.read, file, draft.parent, feeds, found.unstable
        return as_written(*given, optimised=optimised)

    ran, why = job.tried(run, Failure.NOT_RUN_AS_WRITTEN)
    if why is not None and why.kind is Failure.NOT_RUN_AS_WRITTEN:
        _, without = job.tried(partial(run, optimised=False))
        why = replace(why, kind=Failure.NOT_RUN_OPTIMISED) if without is None else why
    failures = [*found.failures, *([] if why is None else [why])]
    return replace(found, as_written=ran, failures=failures)


def _rewritten(job: _Job, done: _Done, draft: Path) -> tuple[ReadModel, Options, list[InputSet]]:
    """The file that was written, and how and on what it is judged."""
    with ThreadPoolExecutor(1) as beside:
        inputs = beside.submit(copy_context().run, validation_inputs, job.read, job.options)
        # This process may die of it, if it is one of its own; it cannot fork beside a thread.
        after = _written(done, draft, isolate=False)
    return after, job.options, inputs.result()


def _written(done: _Done, draft: Path, isolate: bool) -> ReadModel:
    """The file that was written, as it is read again, once."""
    if done.written is None:
        done.written = read_model(load_model(draft), draft.parent, isolate=isolate)
    return done.written
