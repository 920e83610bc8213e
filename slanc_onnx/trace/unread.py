"""Outputs of ops that no rule can read: opaque sources, as large as the inputs of the op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import onnx_graphsurgeon as gs

from slanc_onnx.graph import op_of
from slanc_onnx.ops import CannotFollow, common_shape, too_large
from slanc_onnx.trace.expression import Expr, Opaque, Shares, Weight, is_ids
from slanc_onnx.trace.rules import KEEPS_SHAPE
from slanc_onnx.trace.values import Const, ExpertWeights, Unknown, Value, View, row_view


def opaque(
    node: gs.Node,
    tensor: gs.Tensor,
    inputs: Sequence[Value | None],
    shapes: Mapping[str, tuple[int, ...]],
) -> Value:
    """The value of an output that no rule gave: opaque, or unknown where its shape is."""
    culprit = next((v for v in inputs if isinstance(v, Unknown)), None)
    op, name = (culprit.op, culprit.tensor) if culprit else (node.op, tensor.name)
    views = [v.expr for v in inputs if isinstance(v, View) and _has_a_size(v.expr)]
    behind = [e for v in inputs if isinstance(v, Unknown) for e in v.reads]
    reads = tuple({e.serial: e for e in (*views, *behind)}.values())
    if any(isinstance(v, Unknown) and not v.reads for v in inputs):
        reads = ()  # of any size, whatever it is combined with
    shape = _shape_of(node, tensor, inputs, shapes)
    if not shape or too_large(shape):
        return Unknown(op, name, reads)
    return row_view(Opaque(shape[-1], op, name, reads), shape)


def _has_a_size(expr: Expr) -> bool:
    """Whether the size of a row matters to an op's output; that of ids and shares does not."""
    return expr.channels > 0 and not isinstance(expr, Shares) and not is_ids(expr)


def _shape_of(
    node: gs.Node,
    tensor: gs.Tensor,
    inputs: Sequence[Value | None],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[int, ...] | None:
    """The shape of an output at sequence length 1, from the op's inputs or from the file."""
    known = [v.shape for v in inputs if isinstance(v, (Const, Weight, View, ExpertWeights))]
    with suppress(CannotFollow):  # shapes that do not fit: one of them was read wrongly
        if op_of(node) in KEEPS_SHAPE and len(known) == len(inputs):
            return common_shape(*known)
        if op_of(node) == "MatMul" and len(known) == 2 and min(len(s) for s in known) >= 2:
            return (*common_shape(known[0][:-2], known[1][:-2]), known[0][-2], known[1][-1])
    if tensor.name in shapes:
        return shapes[tensor.name]
    if tensor.shape and isinstance(tensor.shape[-1], int) and tensor.shape[-1] >= 0:
        return tuple(d if isinstance(d, int) and d >= 0 else 1 for d in tensor.shape)
    return None
