"""Scale: for each norm an estimate, a scale, and the reason where there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import ml_dtypes
import onnx
from onnx import helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import (
    MOST_AT_ONCE,
    Estimate,
    calibrate,
    checked_product_of,
    estimate_from_rows,
    paper_estimates,
    probe,
    stored_matrices,
)
from slanc_onnx.graph import Array, Scope, float32_bytes, input_specs
from slanc_onnx.norms import Norm, as_computed, scaled_epsilon
from slanc_onnx.options import Certify, EstimateRule, ScaleRule
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove import Certificate, Proof, bounds_for, certify_at, proofs
from slanc_onnx.run import CannotRun, Feeds
from slanc_onnx.scale.certified import certified_scale
from slanc_onnx.scale.window import place
from slanc_onnx.trace import Trace, describe, source_names, trace
from slanc_onnx.weights import check_weights

Status = Literal["scaled", "unchanged", "skipped"]
NOTHING_TO_INSERT = "1 is the best scale: nothing to insert"


@dataclass(frozen=True)
class ScaledNorm:
    """What is decided for one norm.

    Attributes:
        norm: The norm.
        scale: What its input is divided by; None where it is skipped.
        estimate: From what the scale was placed; None where nothing is known.
        rule: What the trace read between this norm and the ones before, in words.
        sources: What that starts from: norms, tables, graph inputs.
        status: "scaled", "unchanged" (an earlier run did it) or "skipped".
        reason: Why it is not scaled, or what a user should know; "" otherwise.
        certificate: What is proved of it at its scale; None where that was not asked for.
    """

    norm: Norm
    scale: float | None
    estimate: Estimate | None
    rule: str
    sources: list[str]
    status: Status
    reason: str
    certificate: Certificate | None = None

    @property
    def scaled_epsilon(self) -> float | None:
        """Epsilon as the scaled norm has it."""
        if self.scale is None or self.status == "skipped":
            return None
        already = self.norm.scaled_by is not None
        return self.norm.epsilon if already else scaled_epsilon(self.norm, self.scale)


def scales_to_apply(decided: Sequence[ScaledNorm]) -> dict[str, float]:
    """The scales of the norms with the status "scaled", by norm name."""
    return {d.norm.name: d.scale for d in decided if d.status == "scaled" and d.scale is not None}


def compute_scales_in(
    model: onnx.ModelProto,
    scopes: Sequence[Scope],
    norms: Sequence[Norm],
    *,
    folder: Path | None = None,
    scale: ScaleRule = "window",
    estimate: EstimateRule = "auto",
    accelerator: Accelerator | None = None,
    inputs: Mapping[str, Array] | None = None,
    certify: Certify = "auto",
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    calibration: Sequence[Feeds] = (),
    executor: Executor | None = None,
    progress: Progress = no_progress,
) -> list[ScaledNorm]:
    """Decide every norm's scale.

    Args:
        model: The model.
        scopes: Its graphs.
        norms: Its norms.
        folder: Where its external data lies.
        scale: "window" places a power of two between overflow and underflow; "paper" takes
            equations 5, 8 and 10 as printed; "calibrated" places it by the rows of `calibration`.
        estimate: Where the window comes from; see `EstimateRule`.
        accelerator: Whose limits bound the window.
        inputs: Inputs whose shapes (and non-token values) the probe takes over.
        certify: Whether every norm's input is bounded: "exact" takes the time for large matrices.
        input_ranges: Least and largest element of float graph inputs, for the bounds.
        calibration: The data set of "calibrated", one dict of inputs per run.
        executor: What works on blocks of large matrices; None for this thread.
        progress: Called with what is being done and the finished share.

    Raises:
        SlancError: a weight holds nan.
        CannotRun: `estimate` is "probe" or `scale` "calibrated" and ONNX Runtime cannot run the
            model.
    """
    accelerator = accelerator or Accelerator()
    norms = as_computed(norms, accelerator.variance == "one-pass")
    specs = input_specs(next(scope for scope in scopes if not scope.path))
    traced = trace(scopes, norms, specs)
    todo = [n for n in norms if n.skip_reason is None and n.scaled_by is None]
    bounds = None
    if certify != "off":
        ranges, exact = input_ranges or {}, certify == "exact"
        bounds = bounds_for(traced, norms, accelerator, ranges, exact, executor)
    probes = estimate == "probe" or (estimate == "auto" and float32_bytes(model) <= MOST_AT_ONCE)
    if norms:
        from_rows = scale == "window" and not probes
        check_weights(model, folder, stored_matrices(traced, todo) if from_rows else ())
    estimates: dict[str, Estimate] = {}
    reasons: dict[str, str] = {}
    if scale == "paper":
        estimates, reasons = paper_estimates(traced, norms, progress, executor)
    elif scale == "calibrated":
        estimates = calibrate(model, norms, calibration, folder, progress)
    elif todo:
        if probes:
            try:
                estimates = probe(model, norms, specs, folder, inputs or {}, progress)
            except CannotRun as error:
                if estimate == "probe":
                    raise
                reasons = {n.name: f"no probe ({error})" for n in norms}
        missing = [n for n in todo if n.name not in estimates]
        if missing and estimate != "probe":
            multiply = (
                bounds.multiply
                if bounds is not None
                else partial(checked_product_of, executor=executor)
            )
            found, why = estimate_from_rows(traced, missing, progress, multiply)
            estimates.update(found)
            for name, reason in why.items():
                reasons[name] = "; ".join(filter(None, (reason, reasons.get(name, ""))))
    texts = _texts(traced, norms)
    proved = {} if bounds is None else proofs(bounds, traced, norms, progress)
    decided = [
        _decide(norm, estimates.get(norm.name), reasons.get(norm.name), texts, scale, accelerator)
        for norm in norms
    ]
    return [_certified(d, proved.get(d.norm.name), scale, accelerator) for d in decided]


def _certified(
    decided: ScaledNorm, proof: Proof | None, scale: ScaleRule, accelerator: Accelerator
) -> ScaledNorm:
    """The decision with its certificate, and with the scale that gives one where there is one."""
    if proof is None:
        return decided
    estimate = decided.estimate
    typical = None if estimate is None else estimate.typical
    if decided.status != "scaled" or decided.scale is None:  # its input is divided already, or not
        return replace(decided, certificate=certify_at(proof, 1.0, typical, accelerator))
    if scale != "window" or estimate is None:
        certificate = certify_at(proof, decided.scale, typical, accelerator)
        return replace(decided, certificate=certificate)
    value, certificate = certified_scale(proof, decided.scale, estimate, accelerator)
    if value != decided.scale:
        if _held(value, decided.norm) != value:
            certificate = certify_at(proof, decided.scale, typical, accelerator)
            return replace(decided, certificate=certificate)
        reason = decided.reason.removeprefix(NOTHING_TO_INSERT).removeprefix("; ")
        return replace(decided, scale=value, reason=reason, certificate=certificate)
    return replace(decided, certificate=certificate)


def _texts(traced: Trace, norms: Sequence[Norm]) -> dict[str, tuple[str, list[str]]]:
    """Rule and sources by norm name."""
    texts: dict[str, tuple[str, list[str]]] = {}
    residuals: dict[int, str] = {}
    for norm in norms:
        expr = traced.inputs.get(norm.name)
        if expr is None:
            texts[norm.name] = ("", [])
            continue
        if expr.serial in residuals:
            texts[norm.name] = (f"the input of {residuals[expr.serial]}", [residuals[expr.serial]])
            continue
        texts[norm.name] = (describe(expr, residuals), source_names(expr, residuals))
        residuals[expr.serial] = norm.name
    return texts


def _decide(
    norm: Norm,
    estimate: Estimate | None,
    reason: str | None,
    texts: Mapping[str, tuple[str, list[str]]],
    scale: ScaleRule,
    accelerator: Accelerator,
) -> ScaledNorm:
    rule, sources = texts[norm.name]

    def decided(status: Status, value: float | None, why: str) -> ScaledNorm:
        return ScaledNorm(norm, value, estimate, rule, sources, status, why)

    if norm.scaled_by is not None:
        return decided("unchanged", norm.scaled_by, "scaled by an earlier run")
    if norm.skip_reason is not None:
        return decided("skipped", None, norm.skip_reason)
    if estimate is None:
        why = reason or "no row of its input is known; try --inputs with real inputs"
        return decided("skipped", None, why)
    if norm.epsilon is None:
        return decided("skipped", None, "its epsilon is not a constant")
    if scale == "paper":
        return decided("scaled", _held(math.sqrt(estimate.upper), norm), "")
    width = norm.width or estimate.width
    if width is None:
        return decided("skipped", None, "its width is not known: no gamma and no shape tells it")
    placement = place(estimate, width, accelerator, norm.joined_epsilon)
    plain = NOTHING_TO_INSERT if placement.scale == 1.0 else ""
    notes = [placement.note or plain, estimate.assumes]
    return decided("scaled", _held(placement.scale, norm), "; ".join(filter(None, notes)))


def _held(scale: float, norm: Norm) -> float:
    """The scale, or the power of two nearest to it that the element type of the input holds."""
    for _, _, element_type in norm.places:
        dtype = helper.tensor_dtype_to_np_dtype(element_type)
        limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        scale = min(max(scale, 2.0**limits.minexp), 2.0 ** (limits.maxexp - 1))
    return scale
