"""Gamma and beta: merged into the weights that read a norm's output.

    (gamma x + beta) W + b = x (diag(gamma) W) + (beta W + b)

FlashNorm (arXiv 2407.09577), equation 2, with the beta of LayerNorm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slanc_onnx.apply.merge.changes import Asked, Changes, Copy, NewBias, Part
from slanc_onnx.apply.merge.channels import along
from slanc_onnx.apply.merge.fitting import refusal
from slanc_onnx.apply.merge.held import Added, Held, Scaled, as_stored
from slanc_onnx.apply.merge.readers import (
    Reader,
    factors,
    graph_outputs,
    read_by,
    readers_of,
    shifted,
)
from slanc_onnx.graph import Array, NodeAt, Tensor, Use
from slanc_onnx.norms import Norm
from slanc_onnx.ops import FUSED
from slanc_onnx.reasons import Reason, Unmerged

_MOST_AFTER = 8  # nodes between the division and beta


@dataclass(frozen=True)
class _Affine:
    """Where a norm has its gamma and beta.

    Attributes:
        gamma: The factors, FP64.
        beta: What is added, or None.
        source: What its readers read instead; None for a fused op, whose output stays.
        nodes: The nodes that multiply and add.
    """

    gamma: Array
    beta: Array | None
    source: str | None
    nodes: tuple[NodeAt, ...]


def merge_gamma(held: Held, norm: Norm, asked: Asked, changes: Changes) -> Part:
    """Merge gamma and beta of a norm into what reads it, where that can be.

    Args:
        held: The constants of the folded model.
        norm: The norm.
        asked: What the file and the user allow.
        changes: Takes the changes.
    """
    found = _affine(held, norm)
    if isinstance(found, Reason):
        return Part("left", found)
    if np.all(found.gamma == 1) and (found.beta is None or not found.beta.any()):
        return Part("before")
    axis = _axis(held, norm)
    if axis is None or not _along(held, norm, axis):
        return Part("left", Reason(Unmerged.ROWS))
    output = Tensor(norm.path, norm.output)
    readers, why = readers_of(held, output, axis, len(found.gamma))
    if why is None:
        adds = int(found.source is not None or norm.name in asked.freed)
        why = _obstacle(held, readers, found, adds)
        why = why or _refusal(held, readers, found, asked.loss, changes)
    if why is not None:
        return Part("left", why)
    for reader in _each_once(readers):
        changes.add(reader.weight, Scaled(factors(held, reader, found.gamma)))
    if found.beta is not None and found.beta.any():
        for reader in readers:
            _shift(held, reader, found.beta, changes)
    _take_away(held, norm, found, changes)
    return Part("merged")


def _axis(held: Held, norm: Norm) -> int | None:
    """The one axis that gamma lies along, from the end; None for other rows."""
    axes = norm.axes
    if axes.grouped or len(axes.axes) != 1:
        return None
    (axis,) = axes.axes
    if axis < 0:
        return axis
    sizes = held.channels.dims(Tensor(norm.path, norm.output))
    rank = axes.rank if sizes is None else len(sizes)
    return None if rank is None else axis - rank


def _affine(held: Held, norm: Norm) -> _Affine | Reason:
    """Gamma and beta of a norm; why they cannot be taken away."""
    if norm.silu or norm.axes.grouped:
        return Reason(Unmerged.ROWS)
    flow = held.flow
    values = []
    for name in (norm.gamma, norm.beta):
        value = None if name is None else held.vector(flow.tensor(norm.path, name))
        if name is not None and (value is None or not np.isfinite(value).all()):
            return Reason(Unmerged.AFFINE_COMPUTED)
        values.append(value)
    gamma, beta = values
    width = max(v.size for v in values if v is not None)
    gamma = np.ones(width) if gamma is None else gamma
    if gamma.size != width or (beta is not None and beta.size != width):
        return Reason(Unmerged.ROWS)
    if norm.form in FUSED:
        return _Affine(gamma, beta, None, ())
    found = _between(held, norm)
    if found is None:
        return Reason(Unmerged.GAMMA_INSIDE)
    return _Affine(gamma, beta, *found)


def _between(held: Held, norm: Norm) -> tuple[str, tuple[NodeAt, ...]] | None:
    """What the Mul by gamma of a decomposed norm reads, and the nodes from there to the output."""
    flow, by_op = held.flow, {"Mul": norm.gamma, "Add": norm.beta}
    wanted = {op: name for op, name in by_op.items() if name is not None}  # may be one constant
    tensor, nodes = Tensor(norm.path, norm.output), list[NodeAt]()
    outputs = graph_outputs(flow)
    for _ in range(_MOST_AFTER):
        if not wanted:
            return tensor.name, tuple(nodes)
        if tensor.name == norm.normalised or tensor not in flow.makers:
            return None
        path, index, _ = flow.makers[tensor]
        node, op = flow.node(path, index), flow.op(path, index)
        read = [name for name in node.input if name]
        kind = "Add" if op == "Sum" else op
        if kind in wanted and len(read) == 2 and wanted[kind] in read:
            ours = wanted.pop(kind)
            (other,) = (name for name in read if name != ours)
            if _adds_axes(held, norm, ours, other):
                return None
        elif op in ("Cast", "Identity", "Dropout"):
            other = read[0]
        else:
            return None
        users = flow.uses.get(tensor, ())
        if nodes and (len(users) != 1 or tensor in outputs):
            return None
        nodes.append(NodeAt(path, index))
        tensor = Tensor(path, other)
    return None


def _adds_axes(held: Held, norm: Norm, ours: str, other: str) -> bool:
    """Whether gamma or beta has more axes than what it meets, so that the result has them too."""
    of = [held.channels.dims(held.flow.tensor(norm.path, name)) for name in (ours, other)]
    rank = norm.axes.rank if of[1] is None else len(of[1])
    return of[0] is None or len(of[0]) > max(1, rank or 0)


def _along(held: Held, norm: Norm, axis: int) -> bool:
    """Whether gamma and beta lie along the axis of the rows, and along no other."""
    for name in filter(None, (norm.gamma, norm.beta)):
        sizes = held.channels.dims(held.flow.tensor(norm.path, name))
        if sizes is None:
            return False
        if any(d != 1 and place - len(sizes) != axis for place, d in enumerate(sizes)):
            return False
    return True


def _each_once(readers: Sequence[Reader]) -> list[Reader]:
    """One reader per weight."""
    return list({reader.weight: reader for reader in readers}.values())


def _obstacle(held: Held, readers: Sequence[Reader], found: _Affine, most: int) -> Reason | None:
    """Why not all weights can take gamma, or not all biases beta, with so many Adds at most."""
    here = {reader.at for reader in readers}
    for reader in readers:
        same = {(r.axis, r.groups) for r in readers if r.weight == reader.weight}
        uses = held.weights.uses(reader.weight)
        if len(same) > 1 or any(u is None or NodeAt(u.path, u.node) not in here for u in uses):
            return Reason(Unmerged.TIED, (reader.weight.name,))
    if found.beta is None or not found.beta.any():
        return None
    for reader in readers:
        rank = len(held.flow.data[reader.weight].dims)
        node = held.flow.node(*reader.at)
        if reader.scaled is not None:  # beta would need the factor
            return read_by(held.flow, Use(*reader.scaled, 0))
        if reader.padded:
            return Reason(Unmerged.PADDED, op=node.op_type, tensor=node.output[0])
        if reader.bias_factor == 0 or (rank > 2 and reader.op != "Conv"):
            return Reason(Unmerged.READ_OTHERWISE, op=node.op_type, tensor=node.output[0])
        if reader.bias is not None and not _is_row(held, reader, reader.bias):
            return Reason(Unmerged.NO_ROW, (reader.bias.name,))
    adds = sum(reader.bias is None and reader.bias_at is None for reader in readers)
    return Reason(Unmerged.NO_BIAS, (adds,)) if adds > most else None


def _is_row(held: Held, reader: Reader, bias: Tensor) -> bool:
    """Whether a bias is a constant with a number per output, or one number."""
    value = held.vector(bias)
    out = held.flow.data[reader.weight].dims[reader.out]
    sizes = held.channels.dims(bias)
    if value is None or value.size not in (1, out):
        return False
    return not sizes or (sizes[-1] == value.size and all(d == 1 for d in sizes[:-1]))


def _refusal(
    held: Held, readers: Sequence[Reader], found: _Affine, accepted: float, changes: Changes
) -> Reason | None:
    """Why a merged weight would not be as good as before."""
    made = {}
    for reader in _each_once(readers):
        steps = (*changes.steps.get(reader.weight, ()), Scaled(factors(held, reader, found.gamma)))
        why, rounding = refusal(held, reader.weight, steps, accepted)
        if why is not None:
            return why
        made[reader.weight.name] = rounding
    changes.rounding.update(made)
    return None


def _shift(held: Held, reader: Reader, beta: Array, changes: Changes) -> None:
    """Let the bias of a product take what it makes of beta."""
    row = shifted(held, reader, beta) * (reader.factor / reader.bias_factor)
    node = held.flow.node(*reader.at)
    kind = held.flow.element_type(Tensor(reader.at.path, node.output[0]))
    if reader.bias is None:
        position = None if reader.bias_at is None else reader.bias_at.position
        changes.biases[reader.at] = NewBias(position, (Added(row),), len(row), kind)
        return
    assert reader.bias_at is not None
    data = held.flow.data.get(reader.bias)
    uses = held.weights.uses(reader.bias) if data is not None else ()
    if data is not None and data.dims and len(uses) == 1 and math.prod(data.dims) == len(row):
        where = int(np.argmax(np.array(data.dims)))
        changes.add(reader.bias, Added(along(row, where, len(data.dims))))
        return
    known = held.vector(reader.bias)
    assert known is not None
    whole = np.broadcast_to(known, row.shape)
    kind = held.flow.element_type(reader.bias)
    changes.copies[reader.bias_at] = Copy(whole, kind, (Added(row),))


def _take_away(held: Held, norm: Norm, found: _Affine, changes: Changes) -> None:
    """Take gamma and beta out of the norm itself."""
    if found.source is not None:
        changes.skipped[Tensor(norm.path, norm.output)] = found.source
        changes.removed.update(found.nodes)
        maker = held.flow.makers[Tensor(norm.path, norm.normalised)]
        changes.names[NodeAt(*maker[:2])] = norm.name
        return
    form, at = FUSED[norm.form], NodeAt(norm.path, norm.nodes[-1])
    gamma = Use(*at, form.gamma)
    if norm.gamma is not None:
        tensor = held.flow.read(gamma)
        assert tensor is not None
        sizes = held.channels.dims(tensor)
        shape = tuple(d for d in sizes or () if isinstance(d, int)) or (len(found.gamma),)
        changes.ones[gamma] = as_stored(np.ones(shape), held.flow.element_type(tensor))
    if norm.beta is not None:
        beta = Use(*at, form.beta)
        if form.indices:  # EmbedLayerNormalization asks for one
            tensor = held.flow.read(beta)
            assert tensor is not None
            zeros = np.zeros(len(found.gamma))
            changes.ones[beta] = as_stored(zeros, held.flow.element_type(tensor))
        else:
            changes.dropped.add(beta)
    changes.names[at] = norm.name
