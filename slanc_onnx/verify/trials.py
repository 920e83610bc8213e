"""Trials: a validation on each set of inputs that a model may be fed with."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace

from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import CannotRun, InputSet
from slanc_onnx.verify.compare import compare
from slanc_onnx.verify.default_level import as_they_round, at_default_level
from slanc_onnx.verify.tensor_sizes import tensor_sizes
from slanc_onnx.verify.tolerance import EXACT, Exactness
from slanc_onnx.verify.validate import validate_pair, with_own_rounding, without_excluded
from slanc_onnx.verify.validation import Trial, Validation


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
    with ThreadPoolExecutor(1) as beside:
        ran = None
        if options.to is None:
            ran = beside.submit(copy_context().run, at_default_level, before, after, first.feeds)
        sets = [one.feeds for one in inputs]
        result, *found = validate_pair(before, after, options, sets, exact, progress)
    if isinstance(result, CannotRun):
        raise result
    trials = [Trial(first.fed, tuple(result.failures), result.observed)]
    failures = list(result.failures)
    for one, says in zip(others, found, strict=True):
        if isinstance(says, CannotRun):  # loops and indices may depend on the values
            continue
        trials.append(Trial(one.fed, tuple(says.failures), says.observed, one.longer))
        failures += [f for f in says.failures if one.counts and f not in failures]
    default = None if ran is None else ran.result()
    result = replace(result, failures=failures)
    if exact.merged is not None and options.to is None:
        result = with_own_rounding(result, as_they_round(before, after, first.feeds))
    return replace(
        result,
        trials=tuple(trials),
        tensors=tensor_sizes(without_excluded(after, options), options, first.feeds, result.left),
        at_default=None if default is None else compare(*default, result.unstable),
    )
