"""The mean: centred away in everything that writes into a stream, so that its norms need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from slanc_onnx.apply.merge.changes import Asked, Changes, Decomposition, Part
from slanc_onnx.apply.merge.fitting import refusal
from slanc_onnx.apply.merge.held import Centred, Held
from slanc_onnx.apply.merge.streams import Stream, Streams
from slanc_onnx.graph import NodeAt, Tensor, Use
from slanc_onnx.norms import Norm
from slanc_onnx.ops import FUSED
from slanc_onnx.reasons import Reason, Unmerged

RMS_OPSET = 23  # the first with RMSNormalization
_SKIP = ("SkipSimplifiedLayerNormalization", "com.microsoft")
_SIMPLIFIED = "SimplifiedLayerNormalization"


def merge_means(
    held: Held,
    norms: Sequence[Norm],
    streams: Streams,
    asked: Asked,
    changes: Changes,
    *,
    tried: bool = False,
) -> dict[str, Part]:
    """Centre what writes into the streams of LayerNorms, where all of it can be.

    Args:
        held: The constants of the folded model.
        norms: Its norms; what is merged of their gammas is in `changes`.
        streams: What they read.
        asked: What the file and the user allow.
        changes: Takes the changes.
        tried: Whether no weight is read, to see which means could go.

    Returns:
        What became of each LayerNorm's mean, by its name.
    """
    opset = asked.opset
    found = dict[str, Part]()
    simplified = any(norm.form == _SIMPLIFIED for norm in norms)
    centred: dict[int, Reason | None] = {}
    for norm in norms:
        if norm.kind != "layer":
            continue
        why = _obstacle(held, norm, opset, simplified)
        if norm.name in asked.excluded:
            why = Reason(Unmerged.LEFT_OUT)
        stream = None if norm.axes.grouped or len(norm.axes.axes) != 1 else streams.of(norm)
        if stream is None:
            why = why or Reason(Unmerged.ROWS)
        elif why is None:
            if id(stream) not in centred:
                centred[id(stream)] = stream.reason
                if not tried and stream.reason is None:
                    centred[id(stream)] = _centre(held, stream, asked.loss, changes)
            why = centred[id(stream)]
        if why is None:
            _take_away(held, norm, opset, simplified, changes)
        found[norm.name] = Part("merged") if why is None else Part("left", why)
    return found


def _obstacle(held: Held, norm: Norm, opset: int, simplified: bool) -> Reason | None:
    """Why a norm itself cannot do without its mean."""
    if held.flow.tensor(norm.path, norm.input) in held.flow.constants:
        return Reason(Unmerged.NO_DATA)
    rebuilt = norm.form in ("LayerNormalization", "SkipLayerNormalization")
    if norm.form in FUSED and not rebuilt and _centring(held, norm) is None:
        return Reason(Unmerged.SPELLING)
    if norm.form == "decomposed" and (norm.by_ops or _centring(held, norm) is None):
        return Reason(Unmerged.SPELLING)
    if norm.skip_reason is not None:
        return Reason(Unmerged.NOT_READ, behind=norm.skip_reason)
    plain = norm.form == "LayerNormalization" and opset < RMS_OPSET and not simplified
    if plain and norm.element_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        return Reason(Unmerged.NO_FORM)
    return None


def _centring(held: Held, norm: Norm) -> tuple[str, list[int], list[Tensor]] | None:
    """How a norm of several nodes subtracts its mean; None for a way that is not known.

    Returns:
        The tensor that is centred, the nodes that do it, and what they make.
    """
    flow, here = held.flow, norm.path
    means: dict[str, tuple[int, str]] = {}
    for index in norm.nodes:
        node = flow.node(here, index)
        if flow.op(here, index) == "ReduceMean":
            means[node.output[0]] = (index, node.input[0])
    reads = {flow.node(here, p.node).input[p.position] for p in norm.places}
    found: list[tuple[str, int, int, Tensor]] = []
    for index in norm.nodes:
        node = flow.node(here, index)
        if flow.op(here, index) == "Sub" and node.input[1] in means:
            mean, source = means[node.input[1]]
            if node.input[0] == source and source in reads:
                found.append((source, mean, index, Tensor(here, node.output[0])))
    sources = {one[0] for one in found}
    if len(sources) != 1 or reads != sources:
        return None
    nodes = {index for one in found for index in one[1:3]}
    for name in (name for name, (index, _) in means.items() if index in nodes):
        readers = flow.uses.get(Tensor(here, name), ())
        if any(use.node not in nodes or use.path != here for use in readers):
            return None  # something else reads the mean
    if any(place.node not in nodes for place in norm.places):
        return None
    return sources.pop(), sorted(nodes), [one[3] for one in found]


def _centre(held: Held, stream: Stream, accepted: float, changes: Changes) -> Reason | None:
    """Centre the weights of a stream; why they are not."""
    rounding = {}
    for root, axis in stream.weights.items():
        steps = (*changes.steps.get(root, ()), Centred(axis))
        why, rounding[root.name] = refusal(held, root, steps, accepted)
        if why is not None:
            return why
    for root, axis in stream.weights.items():
        changes.add(root, Centred(axis))
    for tensor in stream.cuts:
        made = held.flow.makers[tensor]
        changes.centred[NodeAt(*made[:2])] = (made[2], stream.axes[tensor])
    for use, copy in changes.copies.items():
        if _made(held, use) in stream.axes:
            changes.copies[use] = replace(copy, steps=(*copy.steps, Centred(-1)))
    for at, bias in changes.biases.items():
        if Tensor(at.path, held.flow.node(*at).output[0]) in stream.axes:
            changes.biases[at] = replace(bias, steps=(*bias.steps, Centred(-1)))
    changes.rounding.update(rounding)
    return None


def _made(held: Held, use: Use) -> Tensor:
    return Tensor(use.path, held.flow.node(use.path, use.node).output[0])


def _take_away(held: Held, norm: Norm, opset: int, simplified: bool, changes: Changes) -> None:
    """Let a norm do without its mean."""
    at = NodeAt(norm.path, norm.nodes[-1])
    changes.names[at] = norm.name
    if norm.form not in ("LayerNormalization", "SkipLayerNormalization"):
        found = _centring(held, norm)
        assert found is not None
        source, nodes, made = found
        changes.skipped.update(dict.fromkeys(made, source))
        changes.removed.update(NodeAt(norm.path, index) for index in nodes)
        return
    form = FUSED[norm.form]
    beta = norm.beta if Use(*at, form.beta) not in changes.dropped else None
    if norm.form == "SkipLayerNormalization":
        changes.ops[at] = _SKIP
    elif opset >= RMS_OPSET or simplified:
        changes.ops[at] = ("RMSNormalization" if opset >= RMS_OPSET else _SIMPLIFIED, "")
    else:
        weightless = Use(*at, form.gamma) in changes.ones
        gamma = None if weightless else norm.gamma
        changes.decomposed[at] = Decomposition(
            norm.name, norm.epsilon or 0.0, norm.element_type, gamma, beta
        )
        return
    if beta is not None:
        changes.betas[at] = beta
