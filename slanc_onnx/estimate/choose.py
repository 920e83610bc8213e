"""The choice of each norm's estimate: from a run, its weights, the paper or the user's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from slanc_onnx.estimate.calibration import calibrate
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.estimate.multiply import checked_product_of
from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.estimate.probing import probe
from slanc_onnx.estimate.sample_rows import estimate_from_rows, stored_matrices
from slanc_onnx.feed import Feed, Values
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.reasons import Decision, Reason
from slanc_onnx.run import CannotRun, Feeds, Said, begun, running_apart, too_large_at_once
from slanc_onnx.trace import Trace
from slanc_onnx.weights import check_weights, workers


@dataclass(frozen=True)
class Estimates:
    """The estimates of a model's norms.

    Attributes:
        found: The estimates by norm name.
        reasons: Why a norm has no estimate, or not the one that was tried first, by norm name.
    """

    found: dict[str, Estimate] = field(default_factory=dict)
    reasons: dict[str, tuple[Reason, ...]] = field(default_factory=dict)


def runs_probe(read: ReadModel, options: Options) -> bool:
    """Whether a model is run to see how large its tensors are."""
    fits = not too_large_at_once(read.model)
    faulty = any(scope.faults for scope in read.scopes)  # nothing that could run
    return options.estimate == "probe" or (options.estimate == "auto" and fits and not faulty)


Ran = Callable[[], dict[str, Estimate]]


@contextmanager
def estimating(
    read: ReadModel,
    traced: Trace,
    options: Options,
    calibration: Sequence[Feeds],
    progress: Progress,
) -> Iterator[Callable[[], Estimates]]:
    """Estimate the rows of every norm that has no scale yet, beside the caller's own work.

    That goes on in a process of its own, see `begun`; an executor of the caller's works for his.

    Args:
        read: The model, its norms as the device computes them.
        traced: The expressions of the norms' inputs.
        options: The rule and the estimate, the inputs whose shapes the probe takes over, and the
            executor for blocks of large matrices.
        calibration: The data set of the rule "calibrated", one dict of inputs per run.
        progress: Called with what is being done and the finished share.

    Returns:
        What waits for the estimates. It raises `SlancError` where a weight holds nan, and
        `CannotRun` where the estimate "probe" or the rule "calibrated" is asked for, and ONNX
        Runtime cannot run the model.
    """
    model, folder, norms = read.model, read.folder, read.norms
    said = Said.of(options)

    def run(told: Progress) -> dict[str, Estimate]:
        check_weights(model, folder)
        if options.scale == "calibrated":
            return calibrate(model, norms, calibration, folder, told)
        return probe(model, norms, read.specs, folder, said, told)

    def read_weights(told: Progress) -> Estimates:
        with workers(None, options.jobs) as executor:
            return _estimated(read, traced, replace(options, executor=executor), None, told)

    probes = options.scale == "window" and _without_scale(norms) and runs_probe(read, options)
    if probes or options.scale == "calibrated":
        with running_apart(run, progress, options, model, folder) as ran:
            yield partial(_estimated, read, traced, options, ran, progress)
    elif norms and isinstance(options.executor, ThreadPoolExecutor | None):
        with begun(read_weights, progress, None, apart=options.isolate) as done:
            yield done
    else:
        yield partial(_estimated, read, traced, options, None, progress)


def _without_scale(norms: Sequence[Norm]) -> list[Norm]:
    return [n for n in norms if n.skip_reason is None and n.scaled_by is None]


def _estimated(
    read: ReadModel, traced: Trace, options: Options, ran: Ran | None, progress: Progress
) -> Estimates:
    """The estimates from a run, or from the weights where there is none or it fails."""
    norms = read.norms
    todo = _without_scale(norms)
    if norms and ran is None:
        from_rows = options.scale == "window"
        check_weights(read.model, read.folder, stored_matrices(traced, todo) if from_rows else ())
    if options.scale == "paper":
        found, why = paper_estimates(traced, norms, progress, options.executor)
        return Estimates(found, {name: (reason,) for name, reason in why.items()})
    result = Estimates()
    if ran is not None:
        try:
            result.found.update(ran())
        except (CannotRun, MemoryError) as error:
            if options.estimate == "probe" or options.scale == "calibrated":
                raise
            no_probe = Reason(Decision.NO_PROBE, (str(error) or "not enough memory",))
            result.reasons.update({n.name: (no_probe,) for n in norms})
    missing = [n for n in todo if n.name not in result.found]
    if missing and options.estimate != "probe" and options.scale == "window":
        data: dict[str, Feed] = {n: Values(array) for n, array in (options.inputs or {}).items()}
        feeds = {**data, **options.feeds}
        multiply = partial(checked_product_of, executor=options.executor)
        found, why = estimate_from_rows(traced, missing, progress, multiply, feeds)
        result.found.update(found)
        for name, reason in why.items():
            result.reasons[name] = (reason, *result.reasons.get(name, ()))
    return result
