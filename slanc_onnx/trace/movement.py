"""Data movement: ops that only rearrange an array, and arithmetic on constants.

The tracer runs these on concrete arrays (of channel numbers, of shape values), so that a reshape
is followed by doing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops import ELEMENTWISE
from slanc_onnx.reasons import Fact, Reason, Unread

Attributes = dict[str, Any]
# Arrays of the constant inputs, None for those that are absent.
Parameters = Sequence[Array | None]
Mover = Callable[[Array], Array]


class CannotFollow(Exception):
    """A rule cannot say what an op does to its input.

    Attributes:
        reason: Why.
    """

    def __init__(self, kind: Unread, *facts: Fact) -> None:
        super().__init__(kind, *facts)
        self.reason = Reason(kind, facts)


def common_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to which arrays of these shapes broadcast.

    Raises:
        CannotFollow: there is none. A trace at length 1 may have read one of them wrongly.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise CannotFollow(Unread.SHAPES_DIFFER, *shapes[:2]) from None


def broadcast(array: Array, shape: Sequence[int]) -> Array:
    """An array broadcast to a shape; raises as `common_shape` does."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise CannotFollow(Unread.SHAPES_DIFFER, array.shape, tuple(shape)) from None


def _ints(value: Array | None, fallback: Any) -> list[int] | None:
    if value is not None:
        return [int(v) for v in np.asarray(value).reshape(-1)]
    if fallback is None:
        return None
    return [int(v) for v in np.asarray(fallback).reshape(-1)]


def _reshape(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    shape = _ints(parameters[0], None)
    if shape is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "shape")
    allow_zero = attributes.get("allowzero", 0)

    def move(x: Array) -> Array:
        wanted = [x.shape[i] if n == 0 and not allow_zero else n for i, n in enumerate(shape)]
        size = math.prod(wanted)
        if size > x.size > 0 and size % x.size == 0 and -1 not in wanted:
            x = np.resize(x, size)  # the export is for more positions, all of one kind
        try:
            return x.reshape(wanted)
        except ValueError:
            raise CannotFollow(Unread.NO_FIT, x.size, tuple(wanted)) from None

    return [move]


def _transpose(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    return [lambda x: x.transpose(attributes.get("perm"))]


def _unsqueeze(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    axes = _ints(parameters[0] if parameters else None, attributes.get("axes")) or []
    return [lambda x: np.expand_dims(x, tuple(axes))]


def _squeeze(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    axes = _ints(parameters[0] if parameters else None, attributes.get("axes"))
    return [lambda x: np.squeeze(x, None if axes is None else tuple(axes))]


def _flatten(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    axis = int(attributes.get("axis", 1))
    return [lambda x: x.reshape(int(np.prod(x.shape[:axis], dtype=int)), -1)]


def _expand(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    shape = _ints(parameters[0], None)
    if shape is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "shape")
    return [lambda x: broadcast(x, common_shape(x.shape, tuple(shape)))]


def _tile(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    repeats = _ints(parameters[0], None)
    if repeats is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "repeats")
    return [lambda x: np.tile(x, repeats)]


def _slice(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    padded = [*parameters, None, None, None, None]
    starts = _ints(padded[0], attributes.get("starts"))
    ends = _ints(padded[1], attributes.get("ends"))
    if starts is None or ends is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "starts")
    axes = _ints(padded[2], attributes.get("axes")) or list(range(len(starts)))
    steps = _ints(padded[3], None) or [1] * len(starts)

    def move(x: Array) -> Array:
        index = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            # A negative step runs down to an end before the first element, which is None here.
            past = step < 0 and end < -x.shape[axis]
            index[axis] = slice(start, None if past else end, step)
        return x[tuple(index)]

    return [move]


def _split(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    axis = int(attributes.get("axis", 0))
    sizes = _ints(parameters[0] if parameters else None, attributes.get("split"))
    count = int(attributes.get("num_outputs") or attributes["outputs"])

    def piece(i: int) -> Mover:
        def move(x: Array) -> Array:
            total = x.shape[axis]
            each = -(-total // count)
            lengths = sizes or [min(each, total - k * each) for k in range(count)]
            start = sum(lengths[:i])
            return np.take(x, range(start, start + lengths[i]), axis=axis)

        return move

    return [piece(i) for i in range(attributes["outputs"])]


def _gather(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    indices = parameters[0]
    if indices is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    axis = int(attributes.get("axis", 0))
    return [lambda x: taken_along(x, np.asarray(indices, dtype=np.int64), axis)]


def taken_along(x: Array, indices: Array, axis: int) -> Array:
    """The elements at indices along an axis.

    Raises:
        CannotFollow: there are fewer, as where a trace at length 1 gathers a later position.
    """
    try:
        return np.take(x, indices, axis=axis)
    except IndexError:
        raise CannotFollow(Unread.OUT_OF_RANGE, int(indices.max(initial=0)), x.shape) from None


def _gather_nd(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    indices = parameters[0]
    if indices is None or attributes.get("batch_dims", 0):
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    where = np.moveaxis(np.asarray(indices, dtype=np.int64), -1, 0)
    return [lambda x: x[tuple(where)]]


# Op -> the movers of its first input, one per output. A missing constant raises CannotFollow.
MOVERS: dict[str, Callable[[Attributes, Parameters], list[Mover]]] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "GatherND": _gather_nd,
}


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        return np.asarray(np.trunc(a / b)).astype(a.dtype)
    return np.asarray(a / b)


# Arithmetic on values that are known: shapes, positions, masks, and constants of the model.
FOLDS: dict[str, Callable[..., Array]] = {
    **{name: record.arithmetic for name, record in ELEMENTWISE.items()},
    "Add": np.add,
    "Sub": np.subtract,
    "Sum": lambda *xs: np.asarray(sum(xs)),
    "Mul": np.multiply,
    "Div": _divide,
    "Mod": np.mod,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Min": lambda *xs: np.asarray(np.minimum.reduce(np.broadcast_arrays(*xs))),
    "Max": lambda *xs: np.asarray(np.maximum.reduce(np.broadcast_arrays(*xs))),
    "Equal": np.equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Where": np.where,
    "Sign": np.sign,
}
