"""The choice of each norm's estimate: from a run, its weights, the paper or the user's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slanc_onnx.estimate.calibration import calibrate
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.estimate.multiply import Multiply
from slanc_onnx.estimate.paper import paper_estimates
from slanc_onnx.estimate.probing import MOST_AT_ONCE, probe
from slanc_onnx.estimate.sample_rows import estimate_from_rows, stored_matrices
from slanc_onnx.graph import float32_bytes
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.run import CannotRun, Feeds
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
    reasons: dict[str, str] = field(default_factory=dict)


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
    fits = float32_bytes(model) <= MOST_AT_ONCE
    faulty = any(scope.faults for scope in read.scopes)  # nothing that could run
    probes = options.estimate == "probe" or (options.estimate == "auto" and fits and not faulty)
    if norms:
        from_rows = options.scale == "window" and not probes
        check_weights(model, folder, stored_matrices(traced, todo) if from_rows else ())
    if options.scale == "paper":
        return Estimates(*paper_estimates(traced, norms, progress, options.executor))
    if options.scale == "calibrated":
        return Estimates(calibrate(model, norms, calibration, folder, progress))
    result = Estimates()
    if todo and probes:
        try:
            result.found.update(
                probe(model, norms, read.specs, folder, options.inputs or {}, progress)
            )
        except CannotRun as error:
            if options.estimate == "probe":
                raise
            result.reasons.update({n.name: f"no probe ({error})" for n in norms})
    missing = [n for n in todo if n.name not in result.found]
    if missing and options.estimate != "probe":
        found, why = estimate_from_rows(traced, missing, progress, multiply)
        result.found.update(found)
        for name, reason in why.items():
            told = (reason, result.reasons.get(name, ""))
            result.reasons[name] = "; ".join(filter(None, told))
    return result
