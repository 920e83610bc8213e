"""The draft: the rewritten model in a file that is not in its place yet, read again and judged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from slanc_onnx.apply import apply_scales_in
from slanc_onnx.apply.convert import write_converted
from slanc_onnx.apply.fold import write_folded
from slanc_onnx.apply.merge import Merges, write_merged
from slanc_onnx.graph import Draft, load_model, name_nodes
from slanc_onnx.job.work import Done, Job
from slanc_onnx.norms import ReadModel, called_as, read_model
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.reasons import Failure
from slanc_onnx.run import (
    LONG_SEQUENCE,
    InputSet,
    lacking_kernel,
    longer_inputs,
    validation_inputs,
)
from slanc_onnx.scale import certified_as_written, scales_to_apply
from slanc_onnx.verify import Difference, Exactness, Validation, as_written, validate_on
from slanc_onnx.weights import workers


def write_and_validate(job: Job, done: Done, draft: Draft) -> None:
    _write(job, done, draft)
    if done.merges is not None and done.merges.products:
        done.merges = _with_outputs(done.merges, _written(done, draft.path, job.options.isolate))
    job.clock.lap("write")
    if not job.options.validate:
        return
    if done.proved_in_file:
        _written(done, draft.path, job.options.isolate)
    with ExitStack() as kept:
        alone = kept.enter_context(_fold_alone(job, done)) if done.merges_something else None
        found, why = job.tried(lambda told: _validate(job, done, (draft.path, alone), told))
    done.validation, done.not_validated = found or done.validation, why or done.not_validated
    if found is not None and done.conversion is not None:
        done.validation = _run_as_written(job, done, found, draft.path)
    job.clock.lap("validate")


def _write(job: Job, done: Done, draft: Draft) -> None:
    """Rewrite the model into the draft; with validation `job.read` is still needed as it is."""
    done.written = None
    model = job.read.model
    if job.options.validate:
        model = onnx.ModelProto()
        model.CopyFrom(job.read.model)
    if job.options.fp32_nodes:
        name_nodes(model)
    if job.options.to is not None and done.fold is not None:
        given = model, done.fold, draft, job.options
        done.conversion = write_converted(*given, done.merges, job.progress)
    elif done.fold is not None and done.merges is not None:
        write_merged(model, done.fold, done.merges, draft, job.progress)
    elif done.fold is not None:
        write_folded(model, done.fold, draft, job.progress)
    else:
        scales, target = scales_to_apply(done.norms), job.options.accelerator.stamp
        least = job.options.least_epsilon
        apply_scales_in(model, job.read.norms, scales, target, least)
        draft.write(model, job.progress)


def _with_outputs(merges: Merges, after: ReadModel) -> Merges:
    """The merges with what products are divided to in the file; see `Merges.outputs`."""
    deferred = {norm.name: tuple(one.output for one in norm.deferred) for norm in after.norms}
    return replace(merges, outputs={name: deferred.get(name, ()) for name in merges.products})


@contextmanager
def _fold_alone(job: Job, done: Done) -> Iterator[tuple[Done, Path]]:
    """The fold without what is merged, in a file that nobody keeps."""
    other = Done(done.norms, fold=done.fold)
    with job.draft() as draft:
        _write(job, other, draft)
        yield other, draft.path


def _validate(
    job: Job, done: Done, files: tuple[Path, tuple[Done, Path] | None], progress: Progress
) -> Validation:
    """Compare the file that was written with the original, and with the fold alone."""
    draft, alone = files
    exact = all(math.frexp(s)[0] == 0.5 for s in scales_to_apply(done.norms).values())
    exact = exact and not (done.fold is not None and done.fold.lost)
    exact = exact and done.conversion is None
    merged = done.merges.error if done.merges is not None and done.merges_something else None
    of_fold = None if alone is None else _written(*alone, isolate=False)
    given = Exactness(exact and merged is None, merged, of_fold)
    after, options, inputs = rewritten(job, done, draft)
    if done.conversion is not None and done.conversion.longest:
        length = min(LONG_SEQUENCE, done.conversion.longest)
        inputs += longer_inputs(job.read, options, inputs[0], length)
    return validate_on(job.read, after, options, inputs, given, progress)


def _run_as_written(job: Job, done: Done, found: Validation, draft: Path) -> Validation:
    """The validation of a file of 16 bits, with what ONNX Runtime makes of the file itself."""

    def run(told: Progress, optimised: bool = True) -> Difference | None:
        feeds = validation_inputs(job.read, job.options)[0].feeds
        file = _written(done, draft, isolate=False).loaded
        given = job.read, file, draft.parent, feeds, found.unstable
        return as_written(*given, optimised=optimised)

    ran, why = job.tried(run, Failure.NOT_RUN_AS_WRITTEN)
    if why is not None and why.kind is Failure.NOT_RUN_AS_WRITTEN:
        _, without = job.tried(partial(run, optimised=False))
        lacking = lacking_kernel(str(why.facts[0])) if job.options.to == "bf16" else None
        if without is None:
            why = replace(why, kind=Failure.NOT_RUN_OPTIMISED)
        elif lacking is not None:  # of a runtime that the file is not for
            return replace(found, no_kernel=lacking)
    failures = [*found.failures, *([] if why is None else [why])]
    return replace(found, as_written=ran, failures=failures)


def certify_draft(job: Job, done: Done, draft: Path) -> None:
    """Prove the norms of a file with other weights in the file itself."""
    if not done.proved_in_file or job.options.certify == "off":
        return
    with workers(job.options.executor, job.options.jobs) as executor:
        options = replace(job.options, executor=executor)
        done.norms = certified_as_written(
            done.norms, _written(done, draft, options.isolate), options, job.progress
        )
    job.clock.lap("certify")


def rewritten(job: Job, done: Done, draft: Path) -> tuple[ReadModel, Options, list[InputSet]]:
    """The file that was written, and how and on what it is judged."""
    with ThreadPoolExecutor(1) as beside:
        inputs = beside.submit(copy_context().run, validation_inputs, job.read, job.options)
        # This process may die of it, if it is one of its own; it cannot fork beside a thread.
        after = _written(done, draft, isolate=False)
    return after, job.options, inputs.result()


def _written(done: Done, draft: Path, isolate: bool) -> ReadModel:
    """The file that was written, as it is read again, once.

    Args:
        done: What was done; it keeps what is read.
        draft: The file.
        isolate: As for `read_model`; not in a process that may die of it.
    """
    if done.written is None:
        found = read_model(load_model(draft), draft.parent, isolate=isolate)
        found = called_as(found, [decided.norm for decided in done.norms])
        kept = frozenset[str]() if done.conversion is None else done.conversion.kept
        done.written = replace(found, kept=kept)
    return done.written
