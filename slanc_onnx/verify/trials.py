"""Trials: a validation on each set of inputs that a model may be fed with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import CannotRun, InputSet
from slanc_onnx.verify.default_level import at_default_level
from slanc_onnx.verify.tensor_sizes import tensor_sizes
from slanc_onnx.verify.tolerance import EXACT, Exactness
from slanc_onnx.verify.validate import Trial, Validation, validate_pair, without_excluded


def validate_on(
    before: ReadModel,
    after: ReadModel,
    options: Options,
    inputs: Sequence[InputSet],
    exact: Exactness = EXACT,
    progress: Progress = no_progress,
) -> Validation:
    """The validation on the first set of inputs, with what the others say.

    On the first the FP32 outputs are also compared at ONNX Runtime's default optimisation level,
    and the tensors are measured.
    Of inputs of which the user says nothing several sets are tried. The first is judged, and the
    others tell where it holds as well; those that `count` may not fail either.

    Args:
        before: The original.
        after: The rewritten model, whose norms have the same names.
        options: As `validate_pair` takes them.
        inputs: The sets, one or more.
        exact: As for `validate_pair`.
        progress: Called with what is being run and the finished share.

    Raises:
        CannotRun: ONNX Runtime cannot run the original on the first set.
    """
    first, *others = inputs
    result = validate_pair(before, after, options, first.feeds, exact, progress)
    trials = [Trial(first.fed, tuple(result.failures), result.observed)]
    failures = list(result.failures)
    for one in others:
        with suppress(CannotRun):  # loops and indices may depend on the values
            found = validate_pair(before, after, options, one.feeds, exact, progress)
            why = tuple(found.failures)
            trials.append(Trial(one.fed, why, found.observed, one.longer))
            failures += [f for f in found.failures if one.counts and f not in failures]
    at_default = None
    if options.to is None:
        at_default = at_default_level(before, after, first.feeds, result.unstable)
    return replace(
        result,
        trials=tuple(trials),
        failures=failures,
        tensors=tensor_sizes(without_excluded(after, options), options, first.feeds, result.left),
        at_default=at_default,
    )
