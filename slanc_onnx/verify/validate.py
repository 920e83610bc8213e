"""Validate: the rewritten model is the same in FP32, and survives FP16 norm arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.reasons import OFF, Failure, Reason
from slanc_onnx.run import CannotRun, Feeds
from slanc_onnx.verify.beside_fold import beside_fold
from slanc_onnx.verify.beyond import Beyond, as_infinite
from slanc_onnx.verify.compare import Difference, Runs, all_zero, compare, least_cosine
from slanc_onnx.verify.emulate import Watched
from slanc_onnx.verify.epsilons import rounded_epsilons
from slanc_onnx.verify.inputs_beyond import inputs_beyond
from slanc_onnx.verify.left import READ, Left, all_left, first_of, largest_of
from slanc_onnx.verify.masked import off_where_masked
from slanc_onnx.verify.not_finite import first_not_finite
from slanc_onnx.verify.observed import Observed, observe
from slanc_onnx.verify.outside import adds_masks, beyond_outside
from slanc_onnx.verify.perplexity import perplexity
from slanc_onnx.verify.runs import FourRuns, run_four, run_in_float32
from slanc_onnx.verify.sensitivity import sensitivity
from slanc_onnx.verify.tolerance import (
    EXACT,
    FP32_TOLERANCE,
    ROUNDINGS,
    Exactness,
    fp32_tolerance,
    merged_tolerance,
    perplexity_tolerance,
    rounding_tolerance,
)
from slanc_onnx.verify.validation import Validation
from slanc_onnx.verify.versions import unless_refused

_OFF = ({Failure.OUTPUTS_OFF}, {Failure.OUTPUTS_OFF_IN}, {Failure.OTHER_SHAPE})


def validate_pair(
    before: ReadModel,
    after: ReadModel,
    options: Options,
    sets: Sequence[Sequence[Feeds]],
    exact: Exactness = EXACT,
    progress: Progress = no_progress,
) -> list[Validation | CannotRun]:
    """Run both models on each set of inputs and compare, with their FP16 and BF16 tensors in FP32.

    Args:
        before: The original.
        after: The rewritten model, whose norms have the same names.
        options: The accelerator, what is rounded, and the ids behind the inputs.
        sets: Of inputs by name, one dict per run in each.
        exact: What the rewriting rounds.
        progress: Called with what is being run and the finished share.

    Returns:
        What each set says; where ONNX Runtime cannot run the original on it, the reason.

    Raises:
        CannotRun: ONNX Runtime cannot load one of them.
    """
    before, after = (without_excluded(read, options) for read in (before, after))
    if exact.alone is not None:
        exact = exact._replace(alone=without_excluded(exact.alone, options))
    ran = run_four(before, after, options, sets, progress, exact.alone)
    found: list[Validation | CannotRun] = []
    for feeds, runs in zip(sets, ran, strict=True):
        judged = partial(_judged, before, after, options, feeds, exact)
        found.append(unless_refused(partial(judged, runs)) if isinstance(runs, FourRuns) else runs)
    return found


def _judged(
    before: ReadModel,
    after: ReadModel,
    options: Options,
    feeds: Sequence[Feeds],
    exact: Exactness,
    runs: FourRuns,
) -> Validation:
    plain, scaled, unstable = runs.plain, runs.scaled, runs.unstable
    fp32 = _in_fp32(runs)
    naive = compare(plain, runs.naive, unstable, floats_only=True)
    protected = compare(plain, runs.protected, unstable, floats_only=True)
    counts = exact.bits or exact.merged is not None
    inexact = rounded_epsilons(before, after, options.accelerator) if counts else 0
    observed = observe(before.norms, after.norms, runs, options.accelerator)
    broken = not math.isfinite(protected.rms) and protected.reshaped is None
    first_out = _first_norm_out(after.norms, observed, runs.protected.left, broken)
    left = _all_left(after, options, feeds, first_out is not None or broken)
    out = first_of(left or (), _lost_sums(observed)) or first_out
    result = Validation(
        fp32_tolerance=_allowed(options, exact.bits, inexact, len(before.norms)),
        fp32_rms_error=fp32.rms,
        fp32_rms_tolerance=_allowed_rms(options, exact, inexact, len(before.norms)),
        rounded_epsilons=inexact,
        fp32_identical=fp32.identical and plain.losses == scaled.losses,
        fp32_max_abs_error=fp32.absolute,
        fp32_max_relative_error=fp32.relative,
        rounded_error_before=naive.relative,
        rounded_error_after=protected.relative,
        rounded_rms_error=protected.rms,
        observed=observed,
        first_out=out,
        left=left,
        not_finite=_not_finite(after, options, feeds) if broken and not out else None,
        adds_masks=bool(out and options.everything and adds_masks(after, feeds, out)),
        perplexity=_perplexities(runs) if options.tokens else None,
        unstable=unstable,
        rounded_tolerance=rounding_tolerance(options.accelerator, len(before.norms)),
        format=str(options.accelerator.format),
        everything=options.everything,
        reshaped=protected.reshaped,
        reshaped_before=naive.reshaped,
        all_zero=all_zero(plain, unstable),
        cosine=least_cosine(plain, runs.protected, unstable) if options.to else None,
        first_out_before=next((one for one in runs.naive.left if one.what in READ), None),
        inputs_beyond=_inputs_beyond(before, options, feeds),
        outside_beyond=beyond_outside(scaled.left, options.accelerator.format),
        beside_fold=beside_fold(
            exact.alone, runs, options, feeds, _merged_by(options, exact, fp32, before)
        ),
    )
    result.failures.extend(_failures(result, compared=not set(plain.outputs[0]) <= set(unstable)))
    if result.everything and result.passed:
        result = _with_beyond(result, as_infinite(after, options, feeds, plain, unstable))
    masked = _where_masked(result, before, options, feeds, runs)
    if masked is not None:
        return replace(result, failures=[*result.failures, masked])
    return _with_noise(result, before, options, feeds, runs)


def _allowed(options: Options, exact: bool, inexact: int, norms: int) -> float:
    """What is demanded of the largest relative error of an FP32 output."""
    if options.to is not None:  # all weights are rounded
        return rounding_tolerance(options.accelerator, norms)
    if exact and not inexact:
        return 0.0
    return fp32_tolerance(0.0 if exact else options.weight_loss, norms)


def _allowed_rms(options: Options, exact: Exactness, inexact: int, norms: int) -> float | None:
    """What is demanded of the RMS error of FP32 outputs where norms are merged; else None."""
    if exact.merged is None or options.to is not None:
        return None
    allowed = merged_tolerance(max(exact.merged, options.weight_loss), norms)
    return max(allowed, FP32_TOLERANCE) if inexact else allowed


def _merged_by(options: Options, exact: Exactness, fp32: Difference, before: ReadModel) -> float:
    """How much of the error of FP32 outputs may come of merged weights, which are rounded.

    What epsilons change the fold changes as well; with `to` its weights are rounded too.
    """
    allowed = _allowed_rms(options, exact, 0, len(before.norms))
    return 0.0 if allowed is None else min(fp32.rms, allowed)


def _all_left(
    after: ReadModel, options: Options, feeds: Sequence[Feeds], lost: bool
) -> list[Left] | None:
    """All that leaves the format where something is lost and everything rounded; else None."""
    return all_left(after, options, feeds) if options.everything and lost else None


def _not_finite(after: ReadModel, options: Options, feeds: Sequence[Feeds]) -> Watched | None:
    """The first result that is not finite, where everything is rounded; else None."""
    return first_not_finite(after, options, feeds) if options.everything else None


def _inputs_beyond(before: ReadModel, options: Options, feeds: Sequence[Feeds]) -> dict[str, float]:
    """The inputs that the format does not hold, where not everything is rounded that reads them."""
    return {} if options.everything else inputs_beyond(before, feeds, options.accelerator.format)


def _lost_sums(observed: Mapping[str, Observed]) -> dict[str, Array]:
    """The sums of squares of the norms of which rows overflow."""
    return {name: seen.scaled for name, seen in observed.items() if seen.overflowed}


def _with_beyond(result: Validation, beyond: Beyond | None) -> Validation:
    """The result, which fails where constants beyond the format break the outputs as infinity."""
    failures = list(result.failures)
    off = None if beyond is None else beyond.difference
    if beyond is not None and off is not None and not off.rms <= result.rounded_tolerance:
        facts = (beyond.names[0], beyond.value, result.format, len(beyond.names))
        failures.append(Reason(Failure.BECOMES_INFINITE, facts, beyond.op, beyond.tensor))
    return replace(result, beyond=beyond, failures=failures)


def _in_fp32(runs: FourRuns) -> Difference:
    """How the rewritten model differs from the original, as it was read and as it was given."""
    found = compare(runs.plain, runs.scaled, runs.unstable)
    if runs.loaded is None:
        return found
    return found.and_also(compare(runs.loaded, runs.scaled, runs.unstable))


def _perplexities(runs: FourRuns) -> dict[str, float]:
    """The perplexity of each run on tokens, by name."""
    losses = {"fp32": runs.plain, "fp16": runs.naive, "fp16_slanc": runs.protected}
    return {name: perplexity(run.losses) for name, run in losses.items()}


def _where_masked(
    result: Validation, before: ReadModel, options: Options, feeds: Sequence[Feeds], runs: FourRuns
) -> Reason | None:
    """That outputs are off where they are masked alone, if all that is wrong is how far they are
    off: rounded, or of a file of 16 bits whose mask has another number in FP32 as well."""
    kinds = {reason.kind for reason in result.failures}
    beyond = {Failure.FP32_BEYOND_TOLERANCE} if options.to is not None else set()
    if result.reshaped is not None or not kinds or not kinds <= {*OFF, *beyond}:
        return None
    original = partial(run_in_float32, before, replace(options, tokens=None))
    return off_where_masked(runs, result.rounded_tolerance, feeds, original)


def _only_off(result: Validation) -> bool:
    """Whether outputs are off, and nothing else is wrong."""
    return {reason.kind for reason in result.failures} in _OFF


def _with_noise(
    result: Validation, before: ReadModel, options: Options, feeds: Sequence[Feeds], runs: FourRuns
) -> Validation:
    """The result, held against what noise does to the original where outputs are off alone."""
    if not _only_off(result):
        return result
    moved = sensitivity(before, options, feeds, runs.plain, runs.unstable)
    return replace(result, sensitivity=moved, failures=_held_against_noise(result, moved))


def _held_against_noise(result: Validation, moved: Difference | None) -> list[Reason]:
    """Why outputs are off; or that noise of the size of one rounding moves them as far."""
    if moved is None:
        return result.failures
    if moved.reshaped is not None:
        return [*result.failures, Reason(Failure.SENSITIVE_SHAPE, moved.reshaped.facts)]
    if result.reshaped is None and result.rounded_rms_error <= ROUNDINGS * moved.rms:
        return [*result.failures, Reason(Failure.SENSITIVE, (moved.rms,))]
    return result.failures


def with_own_rounding(result: Validation, ran: tuple[Runs, Runs] | None) -> Validation:
    """The result with how far both files are apart as they are; see `as_they_round`.

    It fails where that is more than rounded outputs may be off.
    """
    if ran is None:
        return result
    found = compare(*ran, result.unstable, floats_only=True)
    failures = list(result.failures)
    if not found.rms <= result.rounded_tolerance:
        failures.append(Reason(Failure.MERGED_OFF_AS_IT_IS, (found.rms,)))
    return replace(result, as_they_round=found, failures=failures)


def without_excluded(read: ReadModel, options: Options) -> ReadModel:
    """The model without the norms that the user left out, which nothing emulates then."""
    return replace(read, norms=[n for n in read.norms if not options.leaves_out(n.name)])


def _first_norm_out(
    norms: Sequence[Norm], observed: Mapping[str, Observed], left: Sequence[Left], broken: bool
) -> Left | None:
    """The first norm that reads what left, whose rows or products overflow, or whose output left.

    An output that left, and what a fold divides, is told where that breaks something: the rows of
    a norm, or an output.

    Args:
        norms: Those of the rewritten model.
        observed: What their rows did; an overflow is told with the largest sum of squares.
        left: What they read or made, and what left the format.
        broken: Whether an output of the model is not finite.
    """
    broken = broken or any(seen.overflowed for seen in observed.values())
    found = {(one.norm, one.what): one for one in reversed(left)}
    for norm in norms:
        if (norm.name, "read") in found:
            return found[norm.name, "read"]
        if broken and (norm.name, "divided") in found:
            return found[norm.name, "divided"]
        seen = observed.get(norm.name)
        if seen is not None and seen.overflowed:
            return Left(norm.output, norm.form, largest_of(seen.scaled), norm.name, "rows")
        if (norm.name, "product") in found:  # the division behind it may hide that
            return found[norm.name, "product"]
        if broken and (norm.name, "made") in found:
            return found[norm.name, "made"]
    return None


def _zero_rows(observed: Mapping[str, Observed]) -> Iterator[Reason]:
    """The rows of zeros that are lost, by whether it is a scale that divided their epsilon."""
    lost = {name: seen for name, seen in observed.items() if seen.zeros_lost}
    divided = {name: seen.zeros_lost for name, seen in lost.items() if seen.undivided is None}
    if divided:
        facts = sum(divided.values()), len(divided), next(iter(divided))
        yield Reason(Failure.ZERO_ROWS, facts)
    own = {name: seen.undivided for name, seen in lost.items() if seen.undivided is not None}
    if own:
        rows, (first, epsilon) = sum(lost[name].zeros_lost for name in own), next(iter(own.items()))
        yield Reason(Failure.ZERO_ROWS_UNDIVIDED, (rows, len(own), first, epsilon))


def _failures(result: Validation, compared: bool) -> list[Reason]:
    failures: list[Reason] = []
    if result.fp32_rms_tolerance is not None:
        if not result.fp32_rms_error <= result.fp32_rms_tolerance:
            failures.append(Reason(Failure.FP32_BEYOND_TOLERANCE))
    elif not result.fp32_identical and result.fp32_tolerance == 0:
        failures.append(Reason(Failure.FP32_DIFFERS))
    elif not result.fp32_max_relative_error <= result.fp32_tolerance:
        failures.append(Reason(Failure.FP32_BEYOND_TOLERANCE))
    failures.extend(_left_or_lost(result))
    overflowed = [name for name, o in result.observed.items() if o.overflowed]
    if overflowed:
        failures.append(Reason(Failure.ROWS_OVERFLOW, (len(overflowed), overflowed[0])))
    failures += _zero_rows(result.observed)
    if result.reshaped is not None:
        failures.append(Reason(Failure.OTHER_SHAPE, result.reshaped.facts))
    elif not result.rounded_rms_error <= result.rounded_tolerance:
        failures.append(_outputs_off(result))
    beside = result.beside_fold
    if beside is not None and not beside.within:
        given = beside.merged_error, beside.error, beside.moves, len(beside.ways), beside.furthest
        failures.append(Reason(Failure.MERGED_OFF, given))
    table, allowed = result.perplexity, perplexity_tolerance(result.rounded_tolerance)
    if table is not None and not abs(table["fp16_slanc"] / table["fp32"] - 1) <= allowed:
        failures.append(Reason(Failure.PERPLEXITY_OFF, (100 * allowed,)))
    if not compared:
        failures.append(Reason(Failure.NOTHING_COMPARED))
    return failures


def _left_or_lost(result: Validation) -> list[Reason]:
    """What left the format first, or is the first that is not finite."""
    found = []
    out = result.first_out
    if out is not None and out.what in READ:
        facts = (result.format, out.value, out.norm)
        found.append(Reason(Failure.INPUT_LEFT_FORMAT, facts, out.op, out.tensor))
    elif out is not None and out.what in ("made", "product"):
        found.append(Reason(Failure.LEFT_FORMAT, (result.format, out.value), out.op, out.tensor))
    elif out is not None and math.isfinite(out.value):
        found.append(
            Reason(Failure.ROWS_LEFT_FORMAT, (result.format, out.value), out.op, out.tensor)
        )
    if result.not_finite is not None:
        made = result.not_finite
        found.append(Reason(Failure.BECOMES_NOT_FINITE, (result.format,), made.op, made.tensor))
    return found


def _outputs_off(result: Validation) -> Reason:
    """That outputs are off, with the first norm whose mean squares are, where no row is lost."""
    lost = any(seen.overflowed for seen in result.observed.values())
    for name, seen in result.observed.items():
        if not lost and seen.off > result.rounded_tolerance:
            return Reason(Failure.OUTPUTS_OFF_IN, (name, seen.off))
    return Reason(Failure.OUTPUTS_OFF)
