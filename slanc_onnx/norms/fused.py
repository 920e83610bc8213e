"""Find the norms that are one op, or lie inside another op."""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import TensorProto

from slanc_onnx.graph import (
    MOST_AXES,
    Scope,
    dims,
    element_count,
    element_type,
    last_dim,
    op_of,
)
from slanc_onnx.norms.described import less_mean
from slanc_onnx.norms.norm import Norm
from slanc_onnx.norms.reads import Read, leaks, places, with_known_scale
from slanc_onnx.norms.row_axes import RowAxes, row_axes
from slanc_onnx.ops import FUSED, INTERNAL, Fused, Internal, Kind
from slanc_onnx.reasons import Reason, Unscalable


def fused_norms(scope: Scope, node: gs.Node) -> list[Norm]:
    """The norm that a node is, or the norms inside it; [] for any other node."""
    op = op_of(node)
    if not node.outputs:
        return []
    fault = scope.fault(node)
    if fault is not None:
        parts = [part for part in INTERNAL.get(node.op, ()) if _has(node, part.gamma)]
        form = next(iter(parts), None) or FUSED.get(node.op)
        return [] if form is None else [_broken(scope, node, form.kind, fault)]
    if op in INTERNAL:
        held = [part for part in INTERNAL[op] if _has(node, part.gamma)]
        return [_internal(scope, node, part) for part in held]
    form = FUSED.get(op)
    if form is None or len(node.inputs) <= form.gamma or not node.inputs[0].name:
        return []
    return [_fused(scope, node, form)]


def _has(node: gs.Node, position: int) -> bool:
    return 0 <= position < len(node.inputs) and bool(node.inputs[position].name)


def _internal(scope: Scope, node: gs.Node, part: Internal) -> Norm:
    gamma, name = node.inputs[part.gamma], node.name or node.outputs[0].name
    given = (node.attrs[key] for key in part.epsilons if key in node.attrs)
    return Norm(
        name=f"{name}/{part.part}" if part.part else node.name,
        kind=part.kind,
        form=str(node.op),
        path=scope.path,
        input="",
        normalised="" if part.part else node.outputs[0].name,
        output=node.outputs[0].name,
        width=last_dim(scope, gamma),
        element_type=TensorProto.FLOAT,
        output_type=TensorProto.FLOAT,
        epsilon=float(next(iter(given), part.epsilon)),
        epsilon_place=None,
        epsilon_power=2,
        gamma=gamma.name,
        beta=node.inputs[part.beta].name if _has(node, part.beta) else None,
        places=(),
        nodes=(scope.index[id(node)],),
        skip_reason=Reason(part.obstacle),
    )


def _broken(scope: Scope, node: gs.Node, kind: Kind, fault: Reason) -> Norm:
    """A fused norm that breaks the rules of its op: nothing of it is read but where it is."""
    return Norm(
        name=node.name,
        kind=kind,
        form=str(node.op),
        path=scope.path,
        input="",
        normalised=node.outputs[0].name,
        output=node.outputs[0].name,
        width=None,
        element_type=TensorProto.FLOAT,
        output_type=TensorProto.FLOAT,
        epsilon=None,
        epsilon_place=None,
        epsilon_power=2,
        gamma=None,
        beta=None,
        places=(),
        nodes=(scope.index[id(node)],),
        skip_reason=Reason(Unscalable.BREAKS_RULES, (str(node.op),), behind=fault),
        broken=True,
    )


def _fused(scope: Scope, node: gs.Node, form: Fused) -> Norm:
    here = scope.index[id(node)]
    uses = [Read(node, p) for p in form.addends if _has(node, p)]
    source, kind = node.inputs[form.addends[0]], form.kind
    addends = tuple(read.tensor.name for read in uses)
    nodes: tuple[int, ...] = (here,)
    gamma = node.inputs[form.gamma]
    axes, fault = _axes(node, kind), _fault(node, kind)
    width = _width(scope, axes, source, gamma)
    centred = less_mean(scope, source, axes, width) if kind == "rms" and len(uses) == 1 else None
    if centred is not None:  # an RMS op on a centred input is a LayerNorm without beta
        kind = "layer"
        reads, before = centred
        if not leaks(scope, before, [node], node.outputs):
            uses, source = reads, reads[0].tensor
            nodes = (*sorted(scope.index[id(n)] for n in before), here)
    norm = Norm(
        name=node.name,
        kind=kind,
        form=str(node.op),
        path=scope.path,
        input=source.name,
        normalised=node.outputs[0].name,
        output=node.outputs[0].name,
        width=width,
        element_type=element_type(scope, source, gamma),
        output_type=element_type(scope, node.outputs[0], gamma),
        epsilon=float(node.attrs.get("epsilon", form.epsilon)),
        epsilon_place=None,
        epsilon_power=2,
        gamma=gamma.name or None,
        beta=node.inputs[form.beta].name if _has(node, form.beta) else None,
        places=places(scope, uses, gamma),
        nodes=nodes,
        axes=axes or RowAxes(),
        channels=last_dim(scope, gamma) if kind == "group" else None,
        addends=addends if len(addends) > 1 else (),
        residual=form.residual,
        silu=bool(node.attrs.get("activation", 0)) and kind == "group",
        skip_reason=fault or _obstacle(scope, node, axes),
        broken=fault is not None,
    )
    return with_known_scale(scope, norm)


def _fault(node: gs.Node, kind: str) -> Reason | None:
    """How a fused norm makes no sense; None where it does."""
    if not node.inputs[FUSED[op_of(node)].gamma].name:
        return Reason(Unscalable.NO_GAMMA)
    if kind == "group":
        grouped = op_of(node) != "InstanceNormalization"
        count = int(node.attrs.get("num_groups", node.attrs.get("groups", 0)))
        return Reason(Unscalable.NO_GROUPS, (count,)) if grouped and count < 1 else None
    first, shape = int(node.attrs.get("axis", -1)), node.inputs[0].shape
    rank = MOST_AXES if shape is None else len(shape)
    if -rank <= first < rank:
        return None
    return Reason(Unscalable.NO_SUCH_AXIS, (first, rank))


def _axes(node: gs.Node, kind: str) -> RowAxes | None:
    """The rows of a fused norm; None where its `axis` cannot be counted from the end."""
    if _fault(node, kind) is not None:
        return None
    if kind == "group":
        count = int(node.attrs.get("num_groups", node.attrs.get("groups", 0)))
        last = node.domain == "com.microsoft" and bool(node.attrs.get("channels_last", 1))
        return RowAxes(groups=count, channels_last=last)
    first = int(node.attrs.get("axis", -1))
    if first < 0:
        return RowAxes(tuple(range(first, 0)))
    rank = None if node.inputs[0].shape is None else len(node.inputs[0].shape)
    return None if rank is None else row_axes(range(first, rank), rank)


def _width(scope: Scope, axes: RowAxes | None, source: gs.Tensor, gamma: gs.Tensor) -> int | None:
    """The number of elements of a row, where gamma or the input's shape tells it."""
    if axes is None or axes.trailing is None:
        return None
    shapes = [dims(scope, source), dims(scope, gamma)]
    ends = [shape[-axes.trailing :] for shape in shapes if shape and len(shape) >= axes.trailing]
    widths = [element_count(end) for end in ends if 1 not in end]  # gamma may broadcast
    known = last_dim(scope, source) if axes.last_axis else None
    return next((width for width in (known, *widths) if width is not None), None)


def _obstacle(scope: Scope, node: gs.Node, axes: RowAxes | None) -> Reason | None:
    """Why a fused norm cannot be scaled; None where it can."""
    if axes is None:
        return Reason(Unscalable.AXIS_UNKNOWN, (int(node.attrs.get("axis", -1)),))
    shown = op_of(node).endswith("LayerNormalization") and not FUSED[op_of(node)].indices
    statistics = node.outputs[1:3] if shown else []
    kinds = (
        (Unscalable.MEAN_READ, Unscalable.MEAN_OUTPUT),
        (Unscalable.DEVIATION_READ, Unscalable.DEVIATION_OUTPUT),
    )
    for (read, given), tensor in zip(kinds, statistics, strict=False):
        if tensor.outputs:
            reader = tensor.outputs[0]
            return Reason(read, (reader.op, reader.name))
        if tensor.name and any(tensor is output for output in scope.graph.outputs):
            return Reason(given)
    return None
