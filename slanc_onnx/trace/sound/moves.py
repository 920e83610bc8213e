"""Checks, as in `checks.py`, of ops that move, cut, join or pick elements.

A trace at sequence length 1 sees one position where there are many. So these checks ask which axes
hold channels and which may hold positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slanc_onnx.graph import Array, op_of
from slanc_onnx.ops import MOVES
from slanc_onnx.reasons import Doubt
from slanc_onnx.trace.expression import Embedding, Shares
from slanc_onnx.trace.sound.checks import channel_axes, has_zero, views_in
from slanc_onnx.trace.values import Const, Items, Value, View
from slanc_onnx.trace.visit import Visit, is_shares


def _dynamic(shape: Sequence[int], declared: object) -> list[int]:
    """Axes of length 1 in the trace whose length the file leaves open: they may hold positions."""
    known = list(declared) if isinstance(declared, (list, tuple)) else []
    fits = len(known) == len(shape)
    return [a for a, n in enumerate(shape) if n == 1 and not (fits and known[a] == 1)]


def _before(shape: Sequence[int], axes: Sequence[int]) -> set[int]:
    """The number of elements in the axes before each of some axes, but for 1."""
    return {int(np.prod(shape[:axis], dtype=int)) for axis in axes} - {1}


def reshape(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Reshape has to keep positions and channels apart."""
    source, target = visit.value(0), outputs[0]
    if not isinstance(source, View) or not isinstance(target, View):
        return None
    if source.ids.size != target.ids.size:
        return Doubt.MORE_POSITIONS
    before = _dynamic(source.shape, visit.node.inputs[0].shape)
    after = _dynamic(target.shape, visit.node.outputs[0].shape)
    asked = visit.value(1)
    if isinstance(asked, Const) and not asked.varies and asked.array.size == target.ids.ndim:
        after = [a for a in after if asked.array.reshape(-1)[a] != 1]
    if asked is None:  # a Flatten
        after = [a for a in after if target.shape[a] == 1]
    if _before(source.shape, before) != _before(target.shape, after):
        return Doubt.AXES_MIXED
    return None


def transpose(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Transpose of shares has to leave their last axis the last."""
    source = visit.value(0)
    if isinstance(source, View) and is_shares(source.expr):
        order = visit.attributes.get("perm") or [0]
        return None if order[-1] == source.ids.ndim - 1 else Doubt.SHARES_MOVED
    return None


def insert(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Squeeze of shares may not take away the last axis, along which they add up."""
    source, target = visit.value(0), outputs[0]
    if not isinstance(source, View) or not isinstance(target, View) or not is_shares(source.expr):
        return None
    axes = visit.array(1) if len(visit.inputs) > 1 else visit.attributes.get("axes")
    rank = max(source.ids.ndim, target.ids.ndim)
    last = axes is None or any(int(a) % rank == rank - 1 for a in np.asarray(axes).reshape(-1))
    return Doubt.SHARES_MOVED if last and target.ids.ndim < source.ids.ndim else None


def tile(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Shares may not be repeated."""
    if any(is_shares(view.expr) for view in views_in(visit.inputs)):
        return Doubt.SHARES_MOVED
    return None


def cut(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """Slice and Split have to cut channels at fixed places; they may cut positions anywhere."""
    source = visit.value(0)
    varies = any(isinstance(v, Const) and v.varies for v in visit.inputs[1:])
    if not isinstance(source, View) or not varies:
        return None
    axes: Array | None = None
    if MOVES[op_of(visit.node)].kind == "slices":
        axes = visit.array(3) if visit.value(3) is not None else None
    else:
        axes = np.array(visit.attributes.get("axis", 0))
    every = range(source.ids.ndim) if axes is None else np.asarray(axes).reshape(-1)
    if any(int(a) % source.ids.ndim in channel_axes(source) for a in every):
        return Doubt.CUT_BY_LENGTH
    return None


def gather(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Gather may pick rows by data, but no channels, shares or numbers."""
    data, indices = visit.value(0), visit.value(1)
    if isinstance(data, Const) and isinstance(indices, View) and not isinstance(outputs[0], Const):
        rows = isinstance(outputs[0], View) and isinstance(outputs[0].expr, Embedding)
        return None if rows else Doubt.CHOSEN_BY_DATA
    if not isinstance(data, View):
        return None
    fixed = isinstance(indices, Const) and not indices.varies
    axis = int(visit.attributes.get("axis", 0)) % max(1, data.ids.ndim)
    if is_shares(data.expr):
        return Doubt.SHARES_MOVED
    return Doubt.CHOSEN_BY_DATA if not fixed and axis in channel_axes(data) else None


def point(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A GatherND may pick elements at fixed places, and nothing by data."""
    if not isinstance(visit.value(0), View):
        return gather(visit, outputs)
    indices = visit.value(1)
    fixed = isinstance(indices, Const) and not indices.varies
    return None if fixed else Doubt.CHOSEN_BY_DATA


def concat(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Concat has to join channels, or positions of one kind."""
    views = [v for v in views_in(visit.inputs) if v.ids.size]  # others are past values
    if not views or not isinstance(outputs[0], View):
        return None
    if any(is_shares(view.expr) for view in views):
        return Doubt.SHARES_MOVED
    if any(isinstance(v, Const) and v.varies and v.array.any() for v in visit.inputs):
        return Doubt.NUMBERS_BY_LENGTH
    if isinstance(visit.value(0), Items):
        return None
    axis = int(visit.attributes["axis"])
    if (
        len({(v.expr.serial, np.take(v.ids, 0, axis=axis).tobytes()) for v in views})
        == 1
        == len({type(v) for v in visit.inputs})
    ):
        return None
    for value, tensor in zip(visit.inputs, visit.node.inputs, strict=True):
        if isinstance(value, View) and axis % value.ids.ndim in _dynamic(value.shape, tensor.shape):
            return Doubt.SEVERAL_KINDS
        if isinstance(value, Const) and value.varies:
            return Doubt.NUMBERS_BY_LENGTH
    return None


def pad(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Pad has to add zeros: to channels by fixed numbers, between rows that may be zero."""
    source = visit.value(0)
    if not isinstance(source, View) or not isinstance(outputs[0], View):
        return None
    value = visit.array(2) if visit.value(2) is not None else visit.attributes.get("value", 0.0)
    mode = visit.attributes.get("mode", "constant")
    if mode == "constant" and np.any(np.asarray(value)):
        return Doubt.PADDED
    on_channels = outputs[0].expr is not source.expr
    pads = visit.value(1)
    if (mode != "constant" and on_channels) or (isinstance(pads, Const) and pads.varies):
        return Doubt.PADDED
    if mode == "constant" and not on_channels and not has_zero(source.expr):
        return Doubt.ZEROS_BETWEEN
    return (
        Doubt.SEVERAL_KINDS
        if on_channels and source.ids.ndim and (source.ids.ndim - 1 not in channel_axes(source))
        else None
    )


def block_table(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """GatherBlockQuantized has to look up rows whose blocks lie along the last axis."""
    rank = len(visit.known(0).shape)
    rows = int(visit.attributes.get("gather_axis", 0)) == 0
    last = int(visit.attributes.get("quantize_axis", 1)) in (-1, rank - 1)
    return None if rows and last and rank == 2 else Doubt.CHOSEN_ALONG_OTHER_AXIS


def resize(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """A Resize has to give convex combinations of positions and leave the channels."""
    source = visit.value(0)
    if not isinstance(source, View):
        return None
    attributes = visit.attributes
    mode = attributes.get("mode", "nearest")
    plain = attributes.get("coordinate_transformation_mode", "") != "tf_crop_and_resize"
    if mode not in ("nearest", "linear") or not plain or attributes.get("axes"):
        return Doubt.RESIZED
    shape, scales = visit.shape(), visit.value(1 if visit.node.op == "Upsample" else 2)
    fixed = isinstance(scales, Const) and bool((scales.array.reshape(-1)[:2] == 1).all())
    kept = shape is not None and tuple(shape[:2]) == source.shape[:2]
    by_scales = fixed and isinstance(scales, Const) and scales.array.size > 2
    return None if kept or by_scales else Doubt.RESIZED


def top_k(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """TopK is sound for shares alone: some of them still add up to at most 1."""
    source = visit.value(0)
    rank = source.ids.ndim if isinstance(source, View) else 0
    last = int(visit.attributes.get("axis", -1)) in (-1, rank - 1)
    if isinstance(source, View) and isinstance(source.expr, Shares) and last:
        return None
    return Doubt.SORTED


def split_sequence(visit: Visit, outputs: Sequence[Value]) -> Doubt | None:
    """SplitToSequence has to split channels."""
    source = visit.value(0)
    axis = int(visit.attributes.get("axis", 0))
    if isinstance(source, View) and axis % source.ids.ndim in channel_axes(source):
        return None
    return Doubt.POSITIONS_SPLIT
