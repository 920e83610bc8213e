"""Fold the scales of norms into the weights before them, instead of into Div nodes.

    norm(x; eps) = norm(x / s; eps / s^2)

The division costs nothing at run time: x is a sum of products with weights (down and output
projections, embeddings, gamma and beta), and these are divided once. Scales are powers of two, so
that an FP32 run gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from slanc_onnx.accelerator import FLOAT16, Accelerator
from slanc_onnx.apply.div import note_target
from slanc_onnx.apply.fold.choose import Exponents, choose_exponents
from slanc_onnx.apply.fold.divide import divide_weights
from slanc_onnx.apply.fold.edits import plan_fold
from slanc_onnx.apply.fold.group_scale import ANY, BY_HAND, Window, window
from slanc_onnx.apply.fold.groups import partition
from slanc_onnx.apply.fold.push import DEPEND
from slanc_onnx.apply.fold.weights import Loss, Weights
from slanc_onnx.apply.fold.words import FoldedGroup, folded_groups
from slanc_onnx.apply.fold.written import FaintWeight, GroupRange, faint_weights, group_ranges
from slanc_onnx.errors import SlancError
from slanc_onnx.estimate import TensorRange
from slanc_onnx.graph import Draft, Edits, Flow, NewData, Pending, Tensor, apply_edits, read_flow
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.prove import Certificate, certified_again
from slanc_onnx.reasons import Decision, Note, Reason, Undivided, Unproved
from slanc_onnx.scale import ScaledNorm, with_conditions, with_safe_radius

_OF_ONE = (Decision.ONE_IS_BEST, Decision.ONE_IS_SAFE)
# The formats of `Options.to` that hold fewer sizes than FP32; BF16 holds as many.
_FORMATS = {"fp16": FLOAT16}


@dataclass(frozen=True)
class Fold:
    """The changes that folding makes to a model.

    Attributes:
        edits: Its nodes, epsilons and notes.
        weights: The exponent k of each weight that is divided by 2^k in place.
        groups: The scale groups that hold norms.
        applied: "fold" or "div" by the name of each norm that is scaled.
        inserted: Number of inserted nodes.
        rewritten_bytes: Bytes of the weights that are divided or copied.
        copied: Number of small weights that get a divided copy, as others read them undivided.
        notes: Which weights could not be divided, and why.
        lost: What weights lose that are divided or copied, by name; empty where all is exact.
        ranges: How large the groups are in the type to be written, where tensors were measured.
        faint: The divided weights of which that type does not hold all elements in full.
    """

    edits: Edits
    weights: dict[Tensor, int]
    groups: tuple[FoldedGroup, ...]
    applied: dict[str, str]
    inserted: int
    rewritten_bytes: int
    copied: int
    notes: list[Reason] = field(default_factory=list)
    lost: dict[str, Loss] = field(default_factory=dict)
    ranges: tuple[GroupRange, ...] = ()
    faint: tuple[FaintWeight, ...] = ()


def fold(
    read: ReadModel,
    decided: Sequence[ScaledNorm],
    options: Options,
    ranges: Mapping[Tensor, TensorRange] | None = None,
) -> tuple[Fold, list[ScaledNorm]]:
    """Decide how to fold the scales of norms; the model is not changed.

    Args:
        read: The model.
        decided: Its norms with the scales that they would have by themselves.
        options: The device whose limits bound the scales, what becomes of epsilons, and what a
            weight may lose. Where the file is written in FP16, that type bounds all tensors.
        ranges: With that, how large tensors were, as `probe_tensors` measures them; None where the
            model was not run, so that norms alone are asked.

    Returns:
        The fold, and the norms with the scales that they have after it.

    Raises:
        SlancError: a scale is no power of two.
    """
    accelerator = options.accelerator
    windows = fold_windows(decided, accelerator)
    norms = [d.norm for d in decided if d.norm.name in windows]
    flow = read_flow(read.scopes)
    weights = Weights(flow, read.folder, options.weight_loss, _FORMATS.get(options.to or ""))
    _check_set(decided, flow, norms)
    chosen = choose_exponents(flow, norms, windows, weights, ranges)
    known = {name for name, asked in windows.items() if asked is not ANY}
    edits = plan_fold(read.model, chosen, weights, known, options.least_epsilon)
    note_target(edits, accelerator.stamp)
    solved = chosen.solved
    copies = {(flow.reads[use], exponent) for use, exponent in solved.copied.items()}
    result = Fold(
        edits,
        solved.divided,
        folded_groups(chosen, weights),
        chosen.applied,
        len(edits.nodes),
        solved.bytes,
        len(copies),
        _notes(chosen, weights),
        _lost(weights, {*solved.divided.items(), *copies}),
        group_ranges(chosen, chosen.bounds),
        faint_weights(chosen, weights),
    )
    folded = [_with_scale(d, chosen) for d in decided]
    proved = [
        _proved(after, before.certificate, solved.produced.get(_made(after.norm), 0), accelerator)
        if after.scale != before.scale or _made(after.norm) in solved.produced
        else after
        for before, after in zip(decided, folded, strict=True)
    ]
    rounded = bool(result.lost) or options.to is not None
    kept = [d.unproved(Reason(Unproved.WEIGHTS_ROUNDED)) for d in proved] if rounded else proved
    return result, with_conditions(kept, options)


def apply_fold(
    model: onnx.ModelProto, folded: Fold, folder: Path | None, data: NewData | Pending | None = None
) -> None:
    """Carry out a fold that was decided for this model.

    Args:
        model: The model; it is changed in place.
        folded: The fold.
        folder: Where the external data lies; these files stay as they are.
        data: Where divided weights go that are not in the model; None to take them into it.
    """
    divide_weights(model, folded.weights, folder, data)
    apply_edits(model, folded.edits)


def write_folded(
    model: onnx.ModelProto, folded: Fold, draft: Draft, progress: Progress = no_progress
) -> None:
    """Fold a model and write it; external weights that change go to a data file of its own.

    Args:
        model: The model; it is changed in place.
        folded: The fold.
        draft: The output that it becomes.
        progress: Called with the share of the data that is copied.

    Raises:
        SlancError: as for `Draft.write`.
    """
    with draft.written():
        apply_fold(model, folded, draft.source.parent, draft.new_data())
    draft.write(model, progress)


def fold_windows(decided: Sequence[ScaledNorm], accelerator: Accelerator) -> dict[str, Window]:
    """The window of each norm for its group's exponent, without norms that cannot be scaled.

    Raises:
        SlancError: a scale is no power of two.
    """
    windows = {}
    for found in decided:
        norm = found.norm
        fixed = norm.skip_reason is not None or norm.scaled_by is not None or not norm.places
        if fixed or norm.epsilon is None:
            continue
        estimate = None if found.set_by_hand else found.estimate
        if found.scale is None or (estimate is None and not found.set_by_hand):
            windows[norm.name] = ANY
            continue
        mantissa, exponent = _split(found.scale)
        width = norm.width or (None if estimate is None else estimate.width)
        if mantissa != 1.0 or (estimate is not None and width is None):
            raise SlancError(
                f"norm {norm.name!r}: its scale {found.scale:g} is no power of two, and only those "
                "can be folded exactly. Take scale 'window', or apply 'div'."
            )
        if estimate is None or width is None:
            windows[norm.name] = Window(exponent, exponent, exponent, nodes=BY_HAND)
            continue
        nodes = len({p.position if norm.residual is not None else 0 for p in norm.places})
        nodes += norm.residual is not None
        proof = found.certificate
        spare = proof.overflow_bits if proof is not None and proof.certified else None
        alone = window(estimate, width, exponent, accelerator, spare, norm.joined_epsilon)
        windows[norm.name] = replace(alone.held(norm), nodes=nodes)
    return windows


def _check_set(decided: Sequence[ScaledNorm], flow: Flow, norms: Sequence[Norm]) -> None:
    """Whether the norms of each group are set to one scale, where that is set.

    Raises:
        SlancError: norms of one group are set to different scales.
    """
    scales = {d.norm.name: d.scale for d in decided if d.set_by_hand}
    first: dict[int, str] = {}
    for site in partition(flow, norms).sites if len(scales) > 1 else ():
        name = site.norm.name
        if site.group is None or name not in scales:
            continue
        other = first.setdefault(site.group, name)
        if scales[other] != scales[name]:
            raise SlancError(
                f"--set-scale: {other!r} and {name!r} read one group of tensors, which a fold "
                f"divides by one scale, and they are set to {scales[other]:g} and "
                f"{scales[name]:g}. Set both alike, or use --apply div."
            )


def _split(scale: float) -> tuple[float, int]:
    mantissa, exponent = math.frexp(scale)
    return 2 * mantissa, exponent - 1


def _with_scale(found: ScaledNorm, chosen: Exponents) -> ScaledNorm:
    exponent = chosen.norms.get(found.norm.name)
    if exponent is None or (found.scale is None and exponent == 0):
        return found
    scale = 2.0**exponent
    if found.scale is None:
        reasons = (Reason(Decision.WITH_ITS_GROUP), *found.reasons)
        return replace(found, scale=scale, status="scaled", reasons=reasons)
    if scale == found.scale and chosen.applied[found.norm.name] == "fold":
        return found
    kept = [reason for reason in found.reasons if reason.kind not in _OF_ONE]
    if scale != found.scale:
        kept.append(Reason(Decision.ALONE, (found.scale,)))
    return replace(found, scale=scale, reasons=tuple(kept))


def _made(norm: Norm) -> Tensor:
    return Tensor(norm.path, norm.output)


def _proved(
    found: ScaledNorm, before: Certificate | None, produced: int, accelerator: Accelerator
) -> ScaledNorm:
    """The norm with a certificate for its scale after the fold.

    Args:
        found: The norm.
        before: Its certificate from before.
        produced: k of the 2^k that divides its output, and so gamma and beta.
        accelerator: The device.
    """
    if found.affine is not None:
        found = replace(found, affine=found.affine.divided(2.0**produced))
    if before is None:
        return with_safe_radius(found, accelerator)
    typical = None if found.estimate is None else found.estimate.typical
    affine = before.affine
    if affine is not None:
        affine = affine.divided(2.0**produced)
    again = certified_again(before, found.norm, affine, found.divisor, typical, accelerator)
    return with_safe_radius(replace(found, certificate=again), accelerator)  # of its width


def _lost(weights: Weights, divided: Collection[tuple[Tensor, int]]) -> dict[str, Loss]:
    """What divided weights lose, by name; those that lose nothing are left out."""
    losses = {root.name: weights.loss(root, exponent) for root, exponent in sorted(divided)}
    return {name: loss for name, loss in losses.items() if loss.elements}


def _notes(chosen: Exponents, weights: Weights) -> list[Reason]:
    """Which weights could not be divided, and why."""
    divided = chosen.solved.divided
    by_reason: dict[Reason, list[str]] = {}
    for tensor, why in chosen.solved.refused.items():
        if tensor not in divided and why.kind not in DEPEND:
            by_reason.setdefault(why, []).append(tensor.name)
    if faded := weights.kept - divided.keys():
        by_reason[Reason(Undivided.FADES)] = sorted(tensor.name for tensor in faded)
    notes = [
        Reason(Note.NOT_FOLDED_INTO, tuple(names), behind=why) for why, names in by_reason.items()
    ]
    lossy: dict[str, int] = {}
    for (root, _), loss in weights.losses.items():
        if loss.elements and root not in divided:
            lossy[root.name] = min(loss.elements, lossy.get(root.name, loss.elements))
    if lossy:
        refused = _refused(chosen, weights)
        asked = Reason(Undivided.LOSES_SO_MUCH, (refused,)) if refused else None
        notes.append(Reason(Note.WOULD_LOSE_BITS, tuple(lossy.items()), behind=asked))
    return notes


def _refused(chosen: Exponents, weights: Weights) -> float:
    """The largest relative loss for which a 16-bit weight was not divided, rounded up to two
    digits; 0 where none was."""
    losses = [
        fact
        for root, why in chosen.solved.refused.items()
        if why.kind is Undivided.LOSES_BITS and weights.is_half(root)
        for fact in why.facts[1:]
        if isinstance(fact, float) and fact < 1
    ]
    if not losses:
        return 0.0
    digit = 10.0 ** (math.floor(math.log10(max(losses))) - 1)
    return math.ceil(max(losses) / digit) * digit
