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

Attributes = dict[str, Any]
# Arrays of the constant inputs, None for those that are absent.
Parameters = Sequence[Array | None]
Mover = Callable[[Array], Array]


MOST_TRACED = 2**26  # elements of an activation at sequence length 1


class CannotFollow(Exception):
    """A rule cannot say what an op does to its input; the message says why."""


def too_large(shape: tuple[int, ...]) -> bool:
    """Whether an activation of a shape, at sequence length 1, is none that a model has."""
    return math.prod(shape) > MOST_TRACED or len(shape) > 32


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that some shapes broadcast to.

    Raises:
        CannotFollow: they do not.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except (ValueError, RuntimeError):  # of more axes than NumPy broadcasts
        raise CannotFollow(f"combines the shapes {' and '.join(map(str, shapes))}") from None


def reshaped(x: Array, *shape: int) -> Array:
    """An array in another shape, with at most one size of -1.

    Raises:
        CannotFollow: it has another number of elements.
    """
    known = math.prod(n for n in shape if n != -1)
    fits = x.size == known if -1 not in shape else known > 0 and x.size % known == 0
    if not fits or min(shape, default=0) < -1:
        raise CannotFollow(f"reshapes {x.shape} to {shape}")
    return x.reshape(shape)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the first one.

    Raises:
        CannotFollow: a tensor of that rank has no such axis.
    """
    if not -rank <= axis < rank:
        raise CannotFollow(f"names axis {axis} of {rank}")
    return axis % rank


def taken(x: Array, indices: Array, axis: int) -> Array:
    """The elements of an array at some positions of an axis.

    Raises:
        CannotFollow: there are no such positions, or more elements than can be looked at.
    """
    own = axis_of(axis, x.ndim)
    count = math.prod(x.shape[:own]) * math.prod(x.shape[own + 1 :]) * indices.size
    size = x.shape[own]
    if count > MOST_TRACED:
        raise CannotFollow(f"takes {count} elements")
    if indices.size and not -size <= indices.min() <= indices.max() < size:
        raise CannotFollow(f"takes elements that are not among the {size} of axis {axis}")
    return np.take(x, indices, axis=own)


def moved_by(mover: Mover, x: Array) -> Array:
    """An array moved as the file says: NumPy tells whether that can be done.

    Raises:
        CannotFollow: it cannot; the array has not the axes, sizes or positions.
    """
    try:
        return mover(x)
    except (ValueError, IndexError) as error:
        raise CannotFollow(f"moves what is not there ({error})") from error


def _ints(value: Array | None, fallback: Any) -> list[int] | None:
    if value is not None:
        return [int(v) for v in np.asarray(value).reshape(-1)]
    if fallback is None:
        return None
    return [int(v) for v in np.asarray(fallback).reshape(-1)]


def _reshape(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    shape = _ints(parameters[0], None)
    if shape is None:
        raise CannotFollow("reshapes to a shape that is not known")
    allow_zero = attributes.get("allowzero", 0)

    def move(x: Array) -> Array:
        wanted = [x.shape[i] if n == 0 and not allow_zero else n for i, n in enumerate(shape)]
        size = math.prod(wanted)
        if MOST_TRACED >= size > x.size > 0 and size % x.size == 0 and -1 not in wanted:
            x = np.resize(x, size)  # the export is for more positions, all of one kind
        return x.reshape(wanted)

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
        raise CannotFollow("expands to a shape that is not known")
    return [lambda x: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))]


def _tile(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    repeats = _ints(parameters[0], None)
    if repeats is None:
        raise CannotFollow("tiles by numbers that are not known")
    return [lambda x: np.tile(x, repeats)]


def _slice(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    padded = [*parameters, None, None, None, None]
    starts = _ints(padded[0], attributes.get("starts"))
    ends = _ints(padded[1], attributes.get("ends"))
    if starts is None or ends is None:
        raise CannotFollow("slices at positions that are not known")
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
        raise CannotFollow("gathers at positions that are not known")
    axis = int(attributes.get("axis", 0))
    where = np.asarray(indices).astype(np.int64)
    return [lambda x: taken(x, where, axis)]


def _gather_nd(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    indices = parameters[0]
    if indices is None or attributes.get("batch_dims", 0):
        raise CannotFollow("gathers at positions that are not known")
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
