"""Scale: for each norm an estimate, a scale, and the reason where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
from onnx import helper

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import Estimates, estimating
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm, ReadModel, as_computed, lost_limit, rounded
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove import (
    Affine,
    Assumed,
    Proof,
    affine_of,
    certify_at,
    composed,
    held_against,
    proofs,
    with_joint_bounds,
)
from slanc_onnx.reasons import Decision, Reason, Seen
from slanc_onnx.run import Feeds, Said
from slanc_onnx.scale.advice import certifying_changes
from slanc_onnx.scale.assumed import assumptions
from slanc_onnx.scale.certified import certified_scale
from slanc_onnx.scale.extents import with_safe_radius
from slanc_onnx.scale.minimal import with_one
from slanc_onnx.scale.scaled_norm import ScaledNorm, Status, scales_to_apply
from slanc_onnx.scale.window import place
from slanc_onnx.trace import (
    Const,
    Term,
    Trace,
    Weight,
    source_names,
    terms_of,
    trace,
)


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
    device = options.accelerator
    read = replace(read, norms=as_computed(read.norms, device.variance == "one-pass"))
    traced = trace(read.scopes, read.norms, read.specs)
    with estimating(read, traced, options, calibration, progress) as estimated:
        proved = premises(read, options, progress)
        estimates = estimated()
    rules = _rules(traced, read.norms)

    def found_for(other: Options) -> list[ScaledNorm]:
        placed = [_decide(norm, estimates, rules[norm.name], other) for norm in read.norms]
        found = [_certified(d, proved.get(d.norm.name), other) for d in placed]
        return [with_one(d, other) for d in found] if other.minimal else found

    def certified_on(other: Accelerator) -> list[str]:
        found = found_for(replace(options, accelerator=other))
        return [d.norm.name for d in found if d.certificate and d.certificate.certified]

    found = found_for(options)
    if options.apply == "div":  # a fold gives groups their scales
        more = certifying_changes(device, proved.values(), certified_on)
        found = [replace(d, certified_with=more.get(d.norm.name, ())) for d in found]
    held = [
        replace(_held_against_probe(d), affine=_affine(d.norm, proved.get(d.norm.name), traced))
        for d in found
    ]
    behind = assumptions(read, Said.of(options), {d.norm.name: d.estimate for d in held})
    told = [replace(d, assumed=behind.get(d.norm.name, ())) for d in held]
    return with_conditions([with_safe_radius(d, device) for d in told], options)


def premises(
    read: ReadModel, options: Options, progress: Progress = no_progress
) -> dict[str, Proof]:
    """What is proved of each norm at whatever scale, by name; nothing where no proof is asked for.

    Args:
        read: The model, its norms as the accelerator computes them.
        options: How tight bounds are, for which accelerator.
        progress: Called with what is being done and the finished share.
    """
    if options.certify == "off":
        return {}
    device, exact = options.accelerator, options.certify == "exact"
    proved = proofs(read, Assumed(device, options.limits, exact, options.executor), progress)
    return with_joint_bounds(proved, read.scopes[0], read.norms, device) if exact else proved


def _affine(norm: Norm, proof: Proof | None, traced: Trace) -> Affine | None:
    """What a norm's row meets, as the proof or the trace read it; None for no constants."""
    if proof is not None and (proof.affine is not None or proof.misread):
        return proof.affine
    if norm.name not in traced.affine:
        return None
    read = dict(zip((norm.gamma, norm.beta), traced.affine[norm.name], strict=True))

    def values(name: str) -> Array | None:
        value = read[name]
        if isinstance(value, Weight):
            return np.asarray(value.read())
        return value.array if isinstance(value, Const) else None

    return affine_of(norm, values)


def with_conditions(decided: Sequence[ScaledNorm], options: Options) -> list[ScaledNorm]:
    """The decisions, each certificate with what those of the norms before it ask.

    None asks for an epsilon that the options let be written into the file.
    """
    found = {d.norm.name: d.certificate for d in decided if d.certificate is not None}
    if options.least_epsilon:
        for name, scale in scales_to_apply(decided).items():
            if scale != 1.0 and name in found:  # 1 leaves the file as it is
                found[name] = replace(found[name], epsilon_at_least=None)
    inputs = {d.norm.name: _summands(d.norm) for d in decided}
    radii = {d.norm.name: d.safe_radius for d in decided}
    made = composed(found, inputs, radii.get)
    return [replace(d, certificate=made.get(d.norm.name)) for d in decided]


def _summands(norm: Norm) -> tuple[str, ...]:
    """The tensors whose rows add up to those of a norm; none for groups of several tensors."""
    if norm.addends and norm.axes.grouped:  # which need not have all positions
        return ()
    return tuple(filter(None, norm.addends or (norm.input,)))


def _held_against_probe(decided: ScaledNorm) -> ScaledNorm:
    """The decision, its certificate withdrawn where the largest row of a run contradicts it."""
    estimate, certificate = decided.estimate, decided.certificate
    if certificate is None or estimate is None or estimate.largest is None:
        return decided
    if estimate.by not in ("probe", "calibrated"):
        return decided
    seen = Reason(Seen.IN_PROBE if estimate.by == "probe" else Seen.IN_CALIBRATION)
    held = held_against(certificate, np.array([estimate.largest]), lambda _: seen)
    return replace(decided, certificate=held)


def _certified(decided: ScaledNorm, proof: Proof | None, options: Options) -> ScaledNorm:
    """The decision with its certificate, and with the scale that gives one where there is one."""
    if proof is None:
        return decided
    estimate, accelerator = decided.estimate, options.accelerator
    typical = None if estimate is None else estimate.typical
    if decided.status != "scaled" or decided.scale is None:  # its input is divided already, or not
        return replace(decided, certificate=certify_at(proof, 1.0, typical, accelerator))
    if options.scale != "window" or estimate is None or decided.set_by_hand:
        certificate = certify_at(proof, decided.scale, typical, accelerator)
        return replace(decided, certificate=certificate)
    value, certificate = certified_scale(proof, decided.scale, estimate, accelerator)
    if value != decided.scale:
        if _held(value, decided.norm) != value or lost_limit(decided.norm, value):
            certificate = certify_at(proof, decided.scale, typical, accelerator)
            return replace(decided, certificate=certificate)
        reasons = tuple(r for r in decided.reasons if r.kind is not Decision.ONE_IS_BEST)
        return replace(decided, scale=value, reasons=reasons, certificate=certificate)
    return replace(decided, certificate=certificate)


_Rule = tuple[tuple[Term, ...], list[str]]


def _rules(traced: Trace, norms: Sequence[Norm]) -> dict[str, _Rule]:
    """Terms and sources by norm name."""
    rules: dict[str, _Rule] = {}
    residuals: dict[int, str] = {}
    for norm in norms:
        expr = traced.inputs.get(norm.name)
        if expr is None:
            rules[norm.name] = (), []
            continue
        if expr.serial in residuals:
            same = residuals[expr.serial]
            rules[norm.name] = (Term("input of", same),), [same]
            continue
        rules[norm.name] = terms_of(expr, residuals), source_names(expr, residuals)
        residuals[expr.serial] = norm.name
    return rules


def _decide(norm: Norm, estimates: Estimates, read: _Rule, options: Options) -> ScaledNorm:
    estimate, (rule, sources) = estimates.found.get(norm.name), read

    def decided(status: Status, value: float | None, *why: Reason | None) -> ScaledNorm:
        told = tuple(reason for reason in why if reason is not None)
        return ScaledNorm(norm, value, estimate, rule, sources, status, told)

    if norm.scaled_by is not None:
        return decided("unchanged", norm.scaled_by, Reason(Decision.SCALED_BEFORE))
    if options.leaves_out(norm.name):
        return decided("skipped", None, Reason(Decision.EXCLUDED))
    if norm.skip_reason is not None:
        return decided("skipped", None, norm.skip_reason)
    if norm.name in options.set_scale and norm.epsilon is not None:
        asked = options.set_scale[norm.name]
        return _if_held(decided("scaled", _held(asked, norm), Reason(Decision.SET)))
    if estimate is None:
        why = estimates.reasons.get(norm.name, ()) or (Reason(Decision.NO_ROW_KNOWN),)
        return decided("skipped", None, *why)
    if norm.epsilon is None:
        return decided("skipped", None, Reason(Decision.EPSILON_UNKNOWN))
    if options.scale == "paper":
        return _if_held(decided("scaled", _held(math.sqrt(estimate.upper), norm)))
    width = norm.width or estimate.width
    if width is None:
        return decided("skipped", None, Reason(Decision.WIDTH_UNKNOWN))
    averaged = norm.kind != "l2"
    placement = place(estimate, width, options.accelerator, norm.joined_epsilon, averaged)
    if estimate.wider is not None:  # a scale that serves inputs of any size, where there is one
        wide = place(estimate.wider, width, options.accelerator, norm.joined_epsilon, averaged)
        if wide.note is None:
            placement, estimate = wide, estimate.wider
    note = placement.note
    if note is None and placement.scale == 1.0:
        note = Reason(Decision.ONE_IS_BEST)
    return _if_held(decided("scaled", _held(placement.scale, norm), note, estimate.assumes))


def _if_held(decided: ScaledNorm) -> ScaledNorm:
    """The decision, or a refusal where a limit of the norm would be lost in its own type."""
    scale = decided.scale or 1.0
    norm = decided.norm
    if not _is_power_of_two(scale):  # which rounds the limits all the same
        norm = replace(norm, limits=())
    lost = lost_limit(norm, scale)
    if lost is None:
        return decided
    return replace(
        decided,
        scale=None,
        status="skipped",
        reasons=(Reason(Decision.CONSTANT_LOST, (*lost, scale)),),
    )


def _is_power_of_two(scale: float) -> bool:
    return math.frexp(scale)[0] == 0.5


def _held(scale: float, norm: Norm) -> float:
    """The scale as it is written: as the element type of the input holds it, a normal number."""
    for _, _, element_type in norm.places:
        dtype = helper.tensor_dtype_to_np_dtype(element_type)
        limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        scale = min(max(scale, 2.0**limits.minexp), 2.0 ** (limits.maxexp - 1))
        scale = float(rounded(scale, dtype).astype(np.float64))
    return scale
