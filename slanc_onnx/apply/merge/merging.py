"""Merge the gammas and means of norms into the weights around them.

The model is one whose scales are folded: a merge multiplies weights after a power of two has
divided them, and rounds once, from FP64.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import numpy_helper

from slanc_onnx.accelerator import Accelerator, Format
from slanc_onnx.apply.merge.changes import (
    Asked,
    Changes,
    MergedNorm,
    Merges,
    Part,
    ProductSize,
)
from slanc_onnx.apply.merge.division import defer_divisions
from slanc_onnx.apply.merge.gamma import merge_gamma
from slanc_onnx.apply.merge.held import Held
from slanc_onnx.apply.merge.mean import merge_means
from slanc_onnx.apply.merge.streams import Streams
from slanc_onnx.apply.merge.write import opset_of, write_changes
from slanc_onnx.graph import NodeAt, Pending, all_tensors, every_node, read_flow
from slanc_onnx.norms import Norm, ReadModel, read_model
from slanc_onnx.ops import FUSED
from slanc_onnx.options import WRITTEN, Options
from slanc_onnx.reasons import Reason, Unmerged, Unproved
from slanc_onnx.scale import ScaledNorm, with_safe_radius

_SMALL = 64  # elements of a tensor that is read to find norms


def merge(
    folded: onnx.ModelProto,
    folder: Path | None,
    pending: Pending,
    options: Options,
    decided: Sequence[ScaledNorm] = (),
) -> Merges:
    """Decide what is merged; the model is not changed.

    Args:
        folded: The model, folded.
        folder: Where its external data lies.
        pending: The tensors that the fold divided and that are not written yet.
        options: What to merge, what to leave out, what a weight may lose, and in which type it is
            written.
        decided: The norms as they were decided, which tell how large their rows are.
    """
    read = read_model(_readable(folded, pending), folder, isolate=options.isolate)
    written = None if options.to is None else Format.named(WRITTEN[options.to])
    held = Held(read_flow(read.scopes), folded, folder, pending, written)
    excluded = {norm.name for norm in read.norms if options.leaves_out(norm.name)}
    parts, opset = options.merged_parts, opset_of(folded)
    asked = Asked(parts, excluded, options.weight_loss, opset, options.accelerator)
    streams = Streams(held.channels, list(read.norms))
    if {"gamma", "mean"} <= {*asked.parts}:
        found = merge_means(held, read.norms, streams, asked, Changes(), tried=True)
        asked = replace(asked, freed={n for n, part in found.items() if part.state == "merged"})
    changes = Changes()
    gammas = dict[str, Part]()
    if "gamma" in asked.parts:
        gammas = {n.name: _gamma(held, n, asked, changes) for n in read.norms}
    means = dict[str, Part]()
    if "mean" in asked.parts:
        means = merge_means(held, read.norms, streams, asked, changes)
    divisions, products = dict[str, Part](), dict[str, ProductSize]()
    if "division" in asked.parts:
        rows = {each.norm.name: each for each in decided}
        mean_free = {name for name, part in means.items() if part.state == "merged"}
        divisions, products = defer_divisions(held, read.norms, rows, asked, changes, mean_free)
    norms = [
        MergedNorm(
            n.name,
            gammas.get(n.name),
            means.get(n.name),
            _form(n, changes),
            divisions.get(n.name),
            products.get(n.name),
        )
        for n in read.norms
    ]
    return Merges(tuple(norms), changes, _nodes(read, changes))


def without_proofs(
    decided: Sequence[ScaledNorm], merges: Merges, device: Accelerator
) -> list[ScaledNorm]:
    """The norms without certificates, if anything is merged.

    What was merged is rounded, and a norm that has no mean takes other steps than were proved: its
    safe radius is that of an RMS norm.
    """
    if not merges.changes:
        return list(decided)
    found = []
    for each in decided:
        one = each.unproved(Reason(Unproved.WEIGHTS_MERGED))
        if one.norm.name in merges.mean_free:
            rms = with_safe_radius(replace(one, norm=replace(one.norm, kind="rms")), device)
            one = replace(one, safe_radius=rms.safe_radius)
        if one.norm.name in merges.products:  # its products have limits of their own
            one = replace(one, safe_radius=None)
        found.append(one)
    return found


def _gamma(held: Held, norm: Norm, asked: Asked, changes: Changes) -> Part:
    if norm.gamma is None and norm.beta is None:
        return Part("before")
    if norm.name in asked.excluded:
        return Part("left", Reason(Unmerged.LEFT_OUT))
    if held.flow.tensor(norm.path, norm.input) in held.flow.constants:
        return Part("left", Reason(Unmerged.NO_DATA))
    if norm.broken or (norm.form not in FUSED and norm.form != "decomposed"):
        return Part("left", Reason(Unmerged.GAMMA_INSIDE))
    return merge_gamma(held, norm, asked, changes)


def _form(norm: Norm, changes: Changes) -> str:
    """What a norm is now."""
    at = NodeAt(norm.path, norm.nodes[-1])
    if at in changes.ops:
        return changes.ops[at][0]
    return "decomposed" if at in changes.decomposed else norm.form


def _readable(folded: onnx.ModelProto, pending: Pending) -> onnx.ModelProto:
    """A copy in which small tensors have their divided values, and large ones their old data.

    Norms are found by small values, and shapes.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(folded)
    for tensor in all_tensors(copy):
        made = pending.give(tensor)
        if made is not None and math.prod(tensor.dims) <= _SMALL:
            tensor.CopyFrom(numpy_helper.from_array(made(), tensor.name))
    return copy


def _nodes(read: ReadModel, changes: Changes) -> dict[str, tuple[int, int]]:
    """The nodes before and after, by type, where their number differs; the copy that was read is
    changed, and not read again."""
    graph = read.model.graph
    before = Counter(node.op_type for node in every_node(graph.node))
    write_changes(read.model, changes, None, read.folder)
    after = Counter(node.op_type for node in every_node(graph.node))
    return {
        op: (before[op], after[op]) for op in sorted({*before, *after}) if before[op] != after[op]
    }
