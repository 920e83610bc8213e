"""The job on a model in memory, without validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from slanc_onnx.apply import apply_scales_in, without_scales_of_others
from slanc_onnx.apply.convert import convert_in_memory
from slanc_onnx.apply.fold import apply_fold, fold
from slanc_onnx.apply.merge import merge_in_memory, without_proofs
from slanc_onnx.job.refusals import check_set, given_data
from slanc_onnx.norms import ReadModel, called_as, read_model
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import check_norms, with_checked_inputs
from slanc_onnx.scale import (
    ScaledNorm,
    certified_as_written,
    compute_scales_in,
    scales_to_apply,
)
from slanc_onnx.weights import workers


def protect(
    model: onnx.ModelProto, options: Options | None = None, *, folder: Path | None = None
) -> list[ScaledNorm]:
    """Scale the norms of a model in place, without validation.

    Args:
        model: The model; only norms, epsilons and new initializers and nodes change, and with
            `Options.to` its floats.
        options: How. Nothing is measured for `Options.to`: what lies between norms is not made to
            fit.
        folder: Where its external data lies, if it has any.

    Returns:
        Every norm with its decision. The model was modified if one has the status "scaled", with
        `Options.to`, and where something is merged.

    Raises:
        SlancError: bad input; the model is unchanged.
    """
    return protect_and_tell(model, options, folder=folder)[1]


def protect_and_tell(
    model: onnx.ModelProto, options: Options | None = None, *, folder: Path | None = None
) -> tuple[bool, list[ScaledNorm]]:
    """As `protect`, and whether the model was modified."""
    options = (options or Options()).implied()
    read = read_model(model, folder, isolate=options.isolate)
    options = with_checked_inputs(options, read.specs)
    read, _ = without_scales_of_others(read, options.accelerator.stamp)
    decided = decide(read, options)
    modified, decided = carry_out(read, decided, options)
    if options.certify == "off" or not (options.to or options.merge):
        return modified, decided
    with workers(options.executor, options.jobs) as executor:
        after = read_model(model, folder, isolate=options.isolate)
        after = called_as(after, read.norms)
        options = replace(options, executor=executor)
        return modified, certified_as_written(decided, after, options)


def carry_out(
    read: ReadModel, decided: Sequence[ScaledNorm], options: Options
) -> tuple[bool, list[ScaledNorm]]:
    """Put decisions into a model: `read.loaded` is changed in place.

    Args:
        read: The model.
        decided: Its norms; those whose status is not "scaled" are passed over.
        options: "div" or "fold", and what these take of them.

    Returns:
        Whether the model was modified, and the norms with the scales that they have now.

    Raises:
        SlancError: a scale to fold is no power of two; the model is unchanged.
    """
    scales = scales_to_apply(decided)
    if options.apply == "fold":
        return _fold_in_memory(read, decided, options)
    if read.model is not read.loaded and scales:
        read.loaded.CopyFrom(read.model)
    norms = [d.norm for d in decided]
    target, least = options.accelerator.stamp, options.least_epsilon
    return apply_scales_in(read.loaded, norms, scales, target, least), list(decided)


def _fold_in_memory(
    read: ReadModel, decided: Sequence[ScaledNorm], options: Options
) -> tuple[bool, list[ScaledNorm]]:
    """`carry_out` with "fold"; what was read is taken over where something changes."""
    folded, now = fold(read, decided, options)
    apply_fold(read.model, folded, read.folder)
    modified = bool(folded.edits or folded.weights)
    if options.merge:
        merges = merge_in_memory(read.model, read.folder, options, now)
        now = without_proofs(now, merges, options.accelerator)
        modified = modified or bool(merges.changes)
    if read.model is not read.loaded and modified:
        read.loaded.CopyFrom(read.model)
    if options.to is not None:
        convert_in_memory(read.loaded, read.folder, options)
    return modified or options.to is not None, now


def decide(read: ReadModel, options: Options, progress: Progress = no_progress) -> list[ScaledNorm]:
    """Check the norms and decide their scales.

    Raises:
        SlancError: bad input.
    """
    check_norms(read.norms)
    data = given_data(read, options)
    with workers(options.executor, options.jobs) as executor:
        found = compute_scales_in(read, replace(options, executor=executor), data, progress)
    check_set(found, options)
    return found
