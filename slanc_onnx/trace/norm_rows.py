"""The rows that a norm reads from a view, and the view that it gives."""

from __future__ import annotations

import numpy as np

from slanc_onnx.graph import Scope
from slanc_onnx.norms import Norm
from slanc_onnx.ops import CannotFollow
from slanc_onnx.reasons import Unread
from slanc_onnx.trace.expression import Alternatives, Expr, Join, Normalised, Pooled
from slanc_onnx.trace.values import View, pick, row, row_view

_POSITIONS = 16  # of a sample whose extents are open: as many as the made inputs have


def normalise(view: View, norm: Norm, is_open: bool = False) -> tuple[Expr, View]:
    """The row that a norm reads, and its normalised output before gamma.

    Args:
        view: The norm's input.
        norm: The norm.
        is_open: Whether the file leaves open how many elements its rows have.
    """
    if norm.axes.last_axis and not _repeats(view):
        expr = row(view)
        x = Normalised(expr.channels, norm.name, norm.centred, expr)
        return expr, row_view(x, view.shape)
    check_rank(norm, view)
    kinds: dict[bytes, tuple[int, Expr]] = {}  # by the channels in it: offset in the join, row
    counts: dict[bytes, int] = {}
    channels = 0
    ids = norm.axes.rows(view.ids)
    result = np.empty(ids.shape, np.int32)
    least = _POSITIONS if is_open and norm.axes.grouped else 1
    for i, elements in enumerate(ids):
        distinct, places = np.unique(elements, return_inverse=True)
        key = distinct.tobytes()
        if key not in kinds:
            kinds[key] = channels, _row_of(view, distinct, len(elements), least)
            channels += len(distinct)
        counts[key] = counts.get(key, 0) + 1
        result[i] = kinds[key][0] + places
    rows = [expr for _, expr in kinds.values()]
    normal = tuple(Normalised(e.channels, norm.name, norm.centred, e) for e in rows)
    expr = rows[0]
    if len(rows) > 1:
        shares = tuple(counts[key] / len(ids) for key in kinds)
        expr = Alternatives(rows[0].channels, tuple(rows), shares)
    joined = normal[0] if len(normal) == 1 else Join(channels, normal)
    return expr, View(joined, norm.axes.restore(result, view.shape))


def check_rank(norm: Norm, view: View) -> None:
    """Whether an input has the axes that a norm's rows lie in.

    Raises:
        CannotFollow: it has not.
    """
    rank, axes = len(view.shape), norm.axes
    if axes.grouped:
        fits = rank >= 2 and view.shape[-1 if axes.channels_last else 1] % (axes.groups or 1) == 0
    else:
        fits = all(-rank <= axis < rank for axis in axes.axes) and axes.rank in (None, rank)
    if not fits or not view.ids.size:
        raise CannotFollow(Unread.MISFIT, view.shape)


def _repeats(view: View) -> bool:
    """Whether a row of the last axis holds a channel at several positions."""
    first = view.ids.reshape(-1, (view.shape or (1,))[-1])[:1] if view.ids.size else view.ids
    return len(np.unique(first)) < first.size


def _row_of(view: View, distinct: np.ndarray, elements: int, least: int) -> Expr:
    """The row of some channels, each at as many positions; one position is no extent at all."""
    expr = pick(view.expr, distinct)
    positions = max(1, elements // len(distinct))
    positions = least if positions == 1 else positions
    return expr if positions == 1 else Pooled(expr.channels, expr, positions)


def along_channels(constant: View, norm: Norm, x: View) -> View:
    """Gamma or beta in a shape that broadcasts to the norm's input x."""
    if not norm.axes.grouped or norm.axes.channels_last:
        return constant
    ids = constant.ids.reshape(-1)
    if 0 < len(ids) < x.shape[1]:  # one number per group, as in opset 18
        ids = np.repeat(ids, x.shape[1] // len(ids))
    if len(ids) != x.shape[1]:
        raise CannotFollow(Unread.MISFIT, len(ids), x.shape[1])
    return View(constant.expr, ids.reshape(-1, *([1] * (x.ids.ndim - 2))))


def open_rows(scope: Scope, norm: Norm, view: View) -> bool:
    """Whether the file leaves open how many elements the rows of a norm have."""
    rank = len(view.shape)
    if rank == 0:
        return True
    if norm.axes.last_axis and not _repeats(view):
        return view.shape[-1] == 1 and norm.width != 1
    tensor = scope.graph.tensors().get(norm.input)
    sizes = tensor.shape if tensor is not None else None
    if not isinstance(sizes, (list, tuple)) or len(sizes) != rank:
        return True
    axes = range(1, rank) if norm.axes.grouped else [a % rank for a in norm.axes.axes]
    return not all(isinstance(sizes[a], int) and sizes[a] > 0 for a in axes)
