"""Scale: for each norm an estimate, a scale, and the reason where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import ml_dtypes
from onnx import helper

from slanc_onnx.estimate import Estimate, Estimates, checked_product_of, estimate_norms
from slanc_onnx.norms import Norm, ReadModel, as_computed, scaled_epsilon
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove import Certificate, Proof, bounds_for, certify_at, proofs
from slanc_onnx.run import Feeds
from slanc_onnx.scale.certified import certified_scale
from slanc_onnx.scale.window import place
from slanc_onnx.trace import Trace, describe, source_names, trace

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
    read: ReadModel,
    options: Options,
    calibration: Sequence[Feeds] = (),
    progress: Progress = no_progress,
) -> list[ScaledNorm]:
    """Decide every norm's scale.

    Args:
        read: The model.
        options: The rule, the estimate and the proof, for which accelerator; `options.executor`
            works on blocks of large matrices, or this thread where it is None.
        calibration: The data set of the rule "calibrated", one dict of inputs per run.
        progress: Called with what is being done and the finished share.

    Raises:
        SlancError: a weight holds nan.
        CannotRun: the estimate "probe" or the rule "calibrated" is asked for, and ONNX Runtime
            cannot run the model.
    """
    device, executor = options.accelerator, options.executor
    read = replace(read, norms=as_computed(read.norms, device.variance == "one-pass"))
    traced = trace(read.scopes, read.norms, read.specs)
    bounds, multiply = None, partial(checked_product_of, executor=executor)
    if options.certify != "off":
        exact, ranges = options.certify == "exact", options.input_ranges
        bounds = bounds_for(traced, read.norms, device, ranges, exact, executor)
    estimates = estimate_norms(
        read,
        traced,
        options,
        multiply if bounds is None else bounds.multiply,
        calibration,
        progress,
    )
    texts = _texts(traced, read.norms)
    proved = {} if bounds is None else proofs(bounds, traced, read.norms, progress)
    decided = [_decide(norm, estimates, texts[norm.name], options) for norm in read.norms]
    return [_certified(d, proved.get(d.norm.name), options) for d in decided]


def _certified(decided: ScaledNorm, proof: Proof | None, options: Options) -> ScaledNorm:
    """The decision with its certificate, and with the scale that gives one where there is one."""
    if proof is None:
        return decided
    estimate, accelerator = decided.estimate, options.accelerator
    typical = None if estimate is None else estimate.typical
    if decided.status != "scaled" or decided.scale is None:  # its input is divided already, or not
        return replace(decided, certificate=certify_at(proof, 1.0, typical, accelerator))
    if options.scale != "window" or estimate is None:
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
    norm: Norm, estimates: Estimates, text: tuple[str, list[str]], options: Options
) -> ScaledNorm:
    estimate, (rule, sources) = estimates.found.get(norm.name), text

    def decided(status: Status, value: float | None, why: str) -> ScaledNorm:
        return ScaledNorm(norm, value, estimate, rule, sources, status, why)

    if norm.scaled_by is not None:
        return decided("unchanged", norm.scaled_by, "scaled by an earlier run")
    if norm.skip_reason is not None:
        return decided("skipped", None, norm.skip_reason)
    if estimate is None:
        why = (
            estimates.reasons.get(norm.name)
            or "no row of its input is known; try --inputs with real inputs"
        )
        return decided("skipped", None, why)
    if norm.epsilon is None:
        return decided("skipped", None, "its epsilon is not a constant")
    if options.scale == "paper":
        return decided("scaled", _held(math.sqrt(estimate.upper), norm), "")
    width = norm.width or estimate.width
    if width is None:
        return decided("skipped", None, "its width is not known: no gamma and no shape tells it")
    placement = place(estimate, width, options.accelerator, norm.joined_epsilon)
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
