"""The whole job: on a model in memory, and from file to file."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply import apply_scales_in
from slanc_onnx.apply.fold import apply_fold, fold, save_folded
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import Scope, check_output, input_specs, load_model, read_graph, save_model
from slanc_onnx.norms import Norm, find_norms_in, inline_norm_functions, unmatched_means
from slanc_onnx.options import ApplyRule, Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.report import Outcome, make_report
from slanc_onnx.run import (
    CannotRun,
    Feeds,
    check_norms,
    given_feeds,
    observed_feeds,
    validation_feeds,
    with_checked_inputs,
)
from slanc_onnx.scale import ScaledNorm, compute_scales_in, scales_to_apply
from slanc_onnx.verify import Validation, observe, validate_pair
from slanc_onnx.weights import workers


def protect_file(
    source: Path,
    output: Path,
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
        SlancError: bad input; nothing was written.
    """
    options = options or Options()
    clock = _Clock()
    model = load_model(source)
    check_output(source, output)
    folder = source.parent
    loaded = model
    model, inlined = inline_norm_functions(loaded, folder)
    scopes = read_graph(model, folder)
    norms = find_norms_in(scopes)
    notes = make_notes(inlined, scopes, norms, options)
    specs = input_specs(scopes[0])
    options = with_checked_inputs(options, specs)
    watched = observed_feeds(specs, options)
    clock.lap("find")
    decided = decide(model, scopes, norms, options, folder, progress)
    clock.lap("scale")
    validation, not_validated, folded, audits = None, "", None, []
    if options.apply == "fold" and norms:  # first: the audit is of the scales that norms have then
        folded, decided = fold(model, scopes, decided, options.accelerator, folder)
        clock.lap("fold")
    if norms and watched:
        audits = observe(model, decided, watched, specs, options.accelerator, folder, progress)
        clock.lap("observe")
    if norms:
        original = model
        if options.validate:
            original = onnx.ModelProto()
            original.CopyFrom(model)
        if folded is not None:
            save_folded(model, folded, source, output, progress)
        else:
            apply_scales_in(model, norms, scales_to_apply(decided))
            save_model(model, source, output, progress=progress)
        clock.lap("write")
        if options.validate:
            try:
                validation = _validate(
                    original,
                    model,
                    decided,
                    scopes,
                    options,
                    folder,
                    progress,
                    loaded if inlined else None,
                    output.parent,
                )
            except CannotRun as error:
                not_validated = str(error)
            except MemoryError:
                not_validated = "not enough memory to run the models"
            except KeyboardInterrupt:
                not_validated = "interrupted"
            clock.lap("validate")
    report = make_report(
        str(source),
        str(output),
        shown_options or {},
        decided,
        validation,
        clock.seconds,
        not_validated,
        notes,
        folded,
        audits,
    )
    return Outcome(
        decided, validation, not_validated, options.accelerator, report, notes, folded, audits
    )


def protect(
    model: onnx.ModelProto, options: Options | None = None, *, folder: Path | None = None
) -> list[ScaledNorm]:
    """Scale the norms of a model in place, without validation.

    Args:
        model: The model; only norms, epsilons and new initializers and nodes change.
        options: How.
        folder: Where its external data lies, if it has any.

    Returns:
        Every norm with its decision. The model was modified if one has the status "scaled".

    Raises:
        SlancError: bad input; the model is unchanged.
    """
    options = options or Options()
    inlined, _ = inline_norm_functions(model, folder)
    scopes = read_graph(inlined, folder)
    norms = find_norms_in(scopes)
    options = with_checked_inputs(options, input_specs(scopes[0]))
    decided = decide(inlined, scopes, norms, options, folder)
    _, decided = carry_out(
        model, inlined, decided, options.apply, options.accelerator, folder, scopes
    )
    return decided


def carry_out(
    model: onnx.ModelProto,
    inlined: onnx.ModelProto,
    decided: Sequence[ScaledNorm],
    apply: ApplyRule,
    accelerator: Accelerator,
    folder: Path | None,
    scopes: Sequence[Scope] | None = None,
) -> tuple[bool, list[ScaledNorm]]:
    """Put decisions into a model, in place.

    Args:
        model: The model.
        inlined: The model as the norms were found in it; the same object if nothing was inlined.
        decided: Its norms; those whose status is not "scaled" are passed over.
        apply: "div" or "fold".
        accelerator: Whose limits bound the scale of a group, with "fold".
        folder: Where its external data lies, if it has any.
        scopes: The graphs of `inlined`; None to read them where they are needed.

    Returns:
        Whether the model was modified, and the norms with the scales that they have now.

    Raises:
        SlancError: a scale to fold is no power of two; the model is unchanged.
    """
    folded, now = None, list(decided)
    if apply == "fold":
        folded, now = fold(
            inlined, scopes or read_graph(inlined, folder), decided, accelerator, folder
        )
    if inlined is not model:
        model.CopyFrom(inlined)
    if folded is not None:
        apply_fold(model, folded, folder)
        return bool(folded.edits), now
    norms = [d.norm for d in decided]
    return apply_scales_in(model, norms, scales_to_apply(decided)), now


def decide(
    model: onnx.ModelProto,
    scopes: Sequence[Scope],
    norms: Sequence[Norm],
    options: Options,
    folder: Path | None,
    progress: Progress = no_progress,
) -> list[ScaledNorm]:
    """Check the norms and decide their scales.

    Raises:
        SlancError: bad input.
    """
    check_norms(norms)
    data: list[Feeds] = []
    if options.scale == "calibrated":
        data = given_feeds(input_specs(scopes[0]), options)
        if not data:
            raise SlancError(
                'scale "calibrated" takes its scales from data. Give it with inputs or tokens.'
            )
    with workers(options.executor, options.jobs) as executor:
        return compute_scales_in(
            model,
            scopes,
            norms,
            folder=folder,
            scale=options.scale,
            estimate=options.estimate,
            accelerator=options.accelerator,
            inputs=options.inputs,
            certify=options.certify,
            input_ranges=options.input_ranges,
            calibration=data,
            executor=executor,
            progress=progress,
        )


def _validate(
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    decided: Sequence[ScaledNorm],
    scopes: Sequence[Scope],
    options: Options,
    folder: Path | None,
    progress: Progress,
    as_loaded: onnx.ModelProto | None,
    written_to: Path,
) -> Validation:
    specs = input_specs(scopes[0])
    return validate_pair(
        original,
        rewritten,
        [d.norm for d in decided],
        find_norms_in(read_graph(rewritten, written_to)),
        validation_feeds(original, specs, options, folder),
        options.accelerator,
        folder=folder,
        rewritten_folder=written_to,
        exact=all(math.frexp(s)[0] == 0.5 for s in scales_to_apply(decided).values()),
        tokens=options.tokens,
        everything=options.emulate == "all",
        as_loaded=as_loaded,
        progress=progress,
    )


def make_notes(
    inlined: Sequence[str], scopes: Sequence[Scope], norms: Sequence[Norm], options: Options
) -> list[str]:
    """What a user should know beyond the norms; see `Outcome`."""
    notes = []
    if options.scale != "window" and options.estimate != "auto":
        notes.append(f"--estimate {options.estimate} has no effect with --scale {options.scale}")
    if inlined:
        notes.append(f"inlined the functions that hold norms: {_some(inlined)}")
    means = unmatched_means(scopes, norms)
    if means:
        notes.append(
            f"no norm found in {len(means)} ReduceMean sites ({_some(means)}), where an optimiser "
            "or quantiser may have left a norm that no pattern fits: scale before it runs"
        )
    overridable = sorted({name for scope in scopes for name in scope.overridable})
    if overridable:
        notes.append(
            f"{len(overridable)} initializers are graph inputs too and were read as their "
            f"defaults: {_some(overridable)}"
        )
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
        self.seconds["total"] = now - self._start
