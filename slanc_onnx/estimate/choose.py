"""The choice of each norm's estimate: from a run, its weights, the paper or the user's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from slanc_onnx.estimate.calibration import calibrate
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.estimate.multiply import Multiply
from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.estimate.probing import probe
from slanc_onnx.estimate.sample_rows import estimate_from_rows, stored_matrices
from slanc_onnx.feed import Feed, Values
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.reasons import Decision, Reason
from slanc_onnx.run import CannotRun, Feeds, Said, run_apart, too_large_at_once
from slanc_onnx.trace import Trace
from slanc_onnx.weights import check_weights


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


def estimate_norms(
    read: ReadModel,
    traced: Trace,
    options: Options,
    multiply: Multiply,
    calibration: Sequence[Feeds],
    progress: Progress,
) -> Estimates:
    """Estimate the rows of every norm that has no scale yet.

    Args:
        read: The model, its norms as the device computes them.
        traced: The expressions of the norms' inputs.
        options: The rule and the estimate, the inputs whose shapes the probe takes over, and the
            executor for blocks of large matrices.
        multiply: Gives the product of sample rows with a stored matrix.
        calibration: The data set of the rule "calibrated", one dict of inputs per run.
        progress: Called with what is being done and the finished share.

    Raises:
        SlancError: a weight holds nan.
        CannotRun: the estimate "probe" or the rule "calibrated" is asked for, and ONNX Runtime
            cannot run the model.
    """
    model, folder, norms = read.model, read.folder, read.norms
    todo = [n for n in norms if n.skip_reason is None and n.scaled_by is None]
    probes = runs_probe(read, options)
    if norms:
        from_rows = options.scale == "window" and not probes
        check_weights(model, folder, stored_matrices(traced, todo) if from_rows else ())
    if options.scale == "paper":
        found, why = paper_estimates(traced, norms, progress, options.executor)
        return Estimates(found, {name: (reason,) for name, reason in why.items()})
    run = partial(run_apart, progress=progress, options=options, model=model, folder=folder)
    if options.scale == "calibrated":
        seen = run(lambda told: calibrate(model, norms, calibration, folder, told))
        return Estimates(seen)
    result = Estimates()
    if todo and probes:
        try:
            said = Said.of(options)
            found = run(lambda told: probe(model, norms, read.specs, folder, said, told))
            result.found.update(found)
        except (CannotRun, MemoryError) as error:
            if options.estimate == "probe":
                raise
            no_probe = Reason(Decision.NO_PROBE, (str(error) or "not enough memory",))
            result.reasons.update({n.name: (no_probe,) for n in norms})
    missing = [n for n in todo if n.name not in result.found]
    if missing and options.estimate != "probe":
        data: dict[str, Feed] = {n: Values(array) for n, array in (options.inputs or {}).items()}
        feeds = {**data, **options.feeds}
        found, why = estimate_from_rows(traced, missing, progress, multiply, feeds)
        result.found.update(found)
        for name, reason in why.items():
            result.reasons[name] = (reason, *result.reasons.get(name, ()))
    return result
