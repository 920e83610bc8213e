"""Rules for ops that pick elements: lookups, updates, the largest ones, sequences of tensors."""

from __future__ import annotations

import math

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import (
    CannotFollow,
    axis_of,
    broadcast,
    moved_by,
    refuse_large,
    taken_along,
    whole_numbers,
)
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Embedding, Input, Join, Known, Shares, Weight
from slanc_onnx.trace.values import (
    Const,
    ExpertWeights,
    Items,
    Unknown,
    Value,
    View,
    as_table,
    as_view,
    as_weight,
    either,
    ids_view,
    row,
    row_view,
)
from slanc_onnx.trace.visit import Rule, Visit, added, scaled


def gathered(visit: Visit) -> list[Value] | None:
    """The output of a Gather by data: rows of a table, matrices of a stack; None for any other."""
    data, indices = visit.known(0), visit.known(1)
    axis = int(visit.attributes.get("axis", 0))
    if isinstance(indices, Weight):
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    by_data = isinstance(indices, View) or indices.varies
    if isinstance(data, Weight) and len(data.shape) > 1 and axis == 0 and by_data:
        positions = indices.shape
        if visit.node.op == "GatherND":
            positions = positions[:-1]
        if len(data.shape) == 3 and isinstance(indices, View) and not _is_position(indices):
            return [ExpertWeights(data, (*positions, *data.shape[1:]))]
        return [looked_up(data, positions, indices)]
    if isinstance(data, View) and isinstance(indices, View):
        # Rows at positions that depend on the input: the same kind of row.
        where = np.zeros(indices.shape, np.int64)
        return [View(data.expr, taken_along(data.ids, where, axis))]
    if isinstance(data, Const) and isinstance(indices, View):
        if _is_quantised_table(data) and axis == 0 and visit.node.op == "Gather":
            name, values = visit.node.inputs[0].name, data.array
            table = Weight(name, values.shape, lambda: values.astype(np.float32), quantised=True)
            return [looked_up(table, indices.shape, indices)]
        return [_some_of(data, indices, axis, visit.node.op)]
    return None


def _is_quantised_table(data: Const) -> bool:
    """Whether a constant is a table of integers that stand for numbers."""
    return data.array.ndim == 2 and not data.varies and data.array.dtype.name in _QUANTISED


_QUANTISED = {"int8", "uint8", "int4", "uint4"}


def _some_of(data: Const, indices: View, axis: int, op: str) -> Value:
    """The elements of a small constant at positions that the data gives."""
    if op != "Gather" or not data.array.size:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    found = taken_along(data.array, np.zeros(indices.shape, np.int64), axis)
    if (data.array == data.array.reshape(-1)[0]).all():
        return Const(found, True)
    return ids_view("indices", found.shape)


def _is_position(indices: View) -> bool:
    return isinstance(indices.expr, Input) and "position" in indices.expr.name.lower()


def first_row(position: Const | View) -> int | None:
    """The row of a table that a position has at sequence length 1; None for token ids."""
    if (
        isinstance(position, Const)
        and position.array.size == 1
        and position.array.dtype.kind in "iu"
    ):
        return int(position.array.reshape(-1)[0])
    if isinstance(position, View) and isinstance(position.expr, Input):
        return 0 if _is_position(position) else None
    return None


def looked_up(table: Weight, shape: tuple[int, ...], positions: Const | View) -> View:
    """Rows of a table at `positions`, whose shape is `shape`."""
    rest = table.shape[1:]
    if not math.prod(table.shape):
        raise CannotFollow(Unread.MISFIT, table.shape)
    rows = as_table(table, table.shape[0])
    ids = np.arange(rows.shape[1], dtype=np.int32).reshape(rest)
    source = positions.expr if isinstance(positions, View) else None
    named = source.name if isinstance(source, Input) else ""
    expr = Embedding(rows.shape[1], rows, first_row(positions), named)
    return View(expr, broadcast(ids, (*shape, *rest)))


def _gather_elements(visit: Visit) -> list[Value]:
    """GatherElements: a Gather with an index per element."""
    data, indices = visit.known(0), visit.known(1)
    axis = int(visit.attributes.get("axis", 0))
    axis_of(axis, len(data.shape))
    if len(indices.shape) != len(data.shape):
        raise CannotFollow(Unread.MISFIT, indices.shape, data.shape)
    if isinstance(data, Const) and isinstance(indices, Const):
        chosen = indices.array.astype(np.int64)
        return [Const(moved_by(lambda x: np.take_along_axis(x, chosen, axis), data.array), True)]
    if isinstance(data, Const) and (data.array == data.array.reshape(-1)[:1]).all():
        return [Const(broadcast(data.array.reshape(-1)[:1], indices.shape), True)]
    if isinstance(indices, Weight):
        raise CannotFollow(Unread.CHOSEN_ELEMENTS)
    view = as_view(data)
    if axis % view.ids.ndim == view.ids.ndim - 1 and view.expr.channels > 1:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    start = broadcast(np.take(view.ids, [0], axis=axis), view.shape)
    inside = tuple(slice(0, n) for n in indices.shape)
    return [View(view.expr, broadcast(start[inside], indices.shape))]


def _scatter(visit: Visit) -> list[Value]:
    """Rows with some of them replaced, or added to."""
    data, updates = visit.known(0), visit.known(2)
    adds = visit.attributes.get("reduction", "none") == "add"
    numbers = isinstance(updates, Const) or (isinstance(updates, Weight) and len(updates.shape) < 2)
    if isinstance(data, Const) and not isinstance(updates, View) and numbers:
        if adds and isinstance(visit.value(1), View) and data.array.dtype.kind == "f":
            return [_counted(visit.node.outputs[0].name, data, as_weight(updates).read())]
        if isinstance(updates, Const):
            return [Const(data.array, True)]
    blank = isinstance(data, Const) and not data.array.any()
    fresh = as_view(updates)
    if fresh.shape[-1:] != data.shape[-1:]:
        if not fresh.ids.size:
            raise CannotFollow(Unread.CHOSEN_ELEMENTS)
        filled = View(fresh.expr, broadcast(fresh.ids.reshape(-1)[0], data.shape))
    else:
        filled = row_view(row(fresh), data.shape)
    if adds:  # rows that are added to the same row do so in quadrature
        counts = [math.prod(shape[:-1]) for shape in (fresh.shape, data.shape)]
        filled = scaled(filled, math.sqrt(max(1.0, counts[0] / max(1, counts[1]))))
    if blank:
        return [filled]
    if adds:
        return [added(as_view(data), filled)]
    return [either(as_view(data), filled)]


def _counted(name: str, data: Const, updates: Array) -> View:
    """How often the data chooses each place, times a number: at least once, where it is read."""
    start, step = np.unique(data.array), np.unique(updates)
    if len(start) != 1 or len(step) != 1:
        raise CannotFollow(Unread.CHOSEN_ELEMENTS)
    counts = (start + step * np.arange(1, MOST_COUNTED + 1)[:, None]).astype(np.float32)
    table = Weight(name, counts.shape, lambda: counts)
    return View(Embedding(1, table), np.zeros(data.shape, np.int32))


MOST_COUNTED = 16  # as many as the made inputs have in a sequence


def _indices(visit: Visit, output: int, shape: tuple[int, ...]) -> View:
    names = [tensor.name for tensor in visit.node.outputs]
    return ids_view(names[output] if output < len(names) else "", shape)


def _top_k(visit: Visit) -> list[Value]:
    view, count = visit.view(0), visit.array(1)
    axis = int(visit.attributes.get("axis", -1))
    if count is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "K")
    axis = axis_of(axis, view.ids.ndim)
    if not view.ids.size or not count.size:
        raise CannotFollow(Unread.EMPTY)
    k = max(1, min(whole_numbers(count)[0], view.shape[axis]))
    ids = np.take(view.ids, range(k), axis=axis)
    if isinstance(view.expr, Shares):
        return [View(Shares(1, k), ids), _indices(visit, 1, ids.shape)]
    return [View(view.expr, ids), _indices(visit, 1, ids.shape)]


def _positions_of(visit: Visit) -> list[Value]:
    """NonZero, ArgMax and ArgMin give indices."""
    source = visit.known(0)
    if visit.node.op == "NonZero":
        if isinstance(source, Const) and not source.varies:
            return [Const(np.array(np.nonzero(source.array)))]
        return [_indices(visit, 0, (max(1, len(source.shape)), 1))]
    axis = int(visit.attributes.get("axis", 0)) % max(1, len(source.shape))
    keep = visit.attributes.get("keepdims", 1)
    shape = [n for i, n in enumerate(source.shape) if i != axis or keep]
    if keep and shape:
        shape[axis] = 1
    return [_indices(visit, 0, tuple(shape))]


def _one_hot(visit: Visit) -> list[Value]:
    depth = visit.array(1)
    shape = visit.known(0).shape
    axis = axis_of(int(visit.attributes.get("axis", -1)), len(shape) + 1)
    count = 0 if depth is None or not depth.size else whole_numbers(depth)[0]
    if count < 1:
        raise CannotFollow(Unread.MISFIT, count)
    full = (*shape[:axis], count, *shape[axis:])
    return [_indices(visit, 0, full)]


def _pad(visit: Visit) -> list[Value]:
    """Pad repeats a row along positions and adds zeros along channels."""
    source = visit.known(0)
    pads = visit.array(1) if len(visit.inputs) > 1 else visit.attributes.get("pads")
    if pads is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "pads")
    numbers = whole_numbers(pads)
    rank = len(source.shape)
    axes = list(range(rank))
    if visit.value(3) is not None:
        axes = [axis_of(axis, rank) for axis in whole_numbers(np.asarray(visit.array(3)))]
    before, after = [0] * rank, [0] * rank
    if len(numbers) != 2 * len(axes):
        raise CannotFollow(Unread.MISFIT, rank, tuple(numbers))
    for i, axis in enumerate(axes):
        before[axis], after[axis] = numbers[i], numbers[i + len(axes)]
    grown_to = zip(source.shape, before, after, strict=True)
    refuse_large(math.prod(max(0, b) + n + max(0, a) for n, b, a in grown_to))
    if isinstance(source, Const):
        cut = tuple(
            slice(max(0, -b), n - max(0, -a))
            for b, a, n in zip(before, after, source.shape, strict=True)
        )
        width = [(max(0, b), max(0, a)) for b, a in zip(before, after, strict=True)]
        return [Const(np.pad(source.array[cut], width), source.varies)]
    view = as_view(source)
    if view.ids.size and (view.ids != view.ids[..., :1]).any():
        view = _padded_channels(view, before[-1], after[-1])
        before[-1] = after[-1] = 0
    shape = [max(0, n + b + a) for n, b, a in zip(view.shape, before, after, strict=True)]
    grown = np.pad(
        view.ids, [(0, max(0, m - n)) for m, n in zip(shape, view.shape, strict=True)], mode="edge"
    )
    return [View(view.expr, grown[tuple(slice(0, n) for n in shape)])]


def _padded_channels(view: View, before: int, after: int) -> View:
    """A row with zeros added on both sides; negative numbers take channels away."""
    kept = view.ids[..., max(0, -before) : view.shape[-1] - max(0, -after)]
    count = max(0, before) + max(0, after)
    if not count:
        return View(view.expr, kept)
    blank = Known(1, as_weight(Const(np.zeros(1, np.float32))))
    width = [*([(0, 0)] * (kept.ndim - 1)), (max(0, before), max(0, after))]
    ids = np.pad(kept, width, constant_values=view.expr.channels)
    return View(Join(view.expr.channels + 1, (view.expr, blank)), ids)


def _split_to_sequence(visit: Visit) -> list[Value]:
    source = visit.view(0)
    axis = axis_of(int(visit.attributes.get("axis", 0)), len(source.shape))
    lengths, size = visit.array(1), source.shape[axis]
    if lengths is not None and lengths.min(initial=1) < 1:
        raise CannotFollow(Unread.MISFIT, tuple(map(int, lengths)))
    if lengths is None:
        sizes = [1] * size
    elif lengths.ndim == 0:
        sizes = [min(int(lengths), size - i) for i in range(0, size, int(lengths))]
    else:
        sizes = [int(n) for n in lengths]
    if sum(sizes) != size:
        raise CannotFollow(Unread.MISFIT, size, tuple(sizes))
    starts = np.cumsum([0, *sizes])
    pieces = [
        np.take(source.ids, range(a, a + n), axis=axis)
        for a, n in zip(starts[:-1], sizes, strict=True)
    ]
    if lengths is None and not visit.attributes.get("keepdims", 1):
        pieces = [np.squeeze(piece, axis) for piece in pieces]
    return [Items(tuple(View(source.expr, piece) for piece in pieces))]


def _sequence_at(visit: Visit) -> list[Value]:
    items, index = visit.value(0), visit.array(1)
    if not isinstance(items, Items) or index is None:
        raise CannotFollow(Unread.UNKNOWN_VALUE)
    place = int(index.reshape(-1)[0]) if index.size == 1 else len(items.values)
    return [items.values[axis_of(place, len(items.values))]]


def _sequence_construct(visit: Visit) -> list[Value]:
    return [Items(tuple(v or Unknown(visit.node.op, "") for v in visit.inputs))]


SELECTIONS: dict[str, Rule] = {
    "GatherElements": _gather_elements,
    "ScatterND": _scatter,
    "ScatterElements": _scatter,
    "TopK": _top_k,
    "NonZero": _positions_of,
    "ArgMax": _positions_of,
    "ArgMin": _positions_of,
    "OneHot": _one_hot,
    "Pad": _pad,
    "SplitToSequence": _split_to_sequence,
    "SequenceAt": _sequence_at,
    "SequenceConstruct": _sequence_construct,
}
