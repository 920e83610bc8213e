"""How ops move the elements of an array: each gives a function per output, from the constants.

The tracer runs these on concrete arrays (of channel numbers, of shape values), so that a reshape
is followed by doing it. `between.py` says which op moves how.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.ops.follow import (
    CannotFollow,
    Mover,
    broadcast,
    common_shape,
    places_cut,
    refuse_large,
    taken_along,
    whole_numbers,
)
from slanc_onnx.reasons import Unread

# Of the node; "outputs" is how many it has.
Attributes = dict[str, Any]
# Arrays of the constant inputs after the first, None for those that are absent.
Parameters = Sequence[Array | None]
Movers = Callable[[Attributes, Parameters], list[Mover]]


def _ints(value: Array | None, fallback: Any) -> list[int] | None:
    given = fallback if value is None else value
    return None if given is None else whole_numbers(given)


def _first(parameters: Parameters) -> Array | None:
    return parameters[0] if parameters else None


def _indices(parameters: Parameters) -> Array:
    indices = _first(parameters)
    if indices is None or indices.dtype.kind not in "iu":
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    return np.asarray(indices, dtype=np.int64)


def reshape(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Reshape; an export for more positions than the array has repeats what it has."""
    shape = _ints(_first(parameters), attributes.get("shape"))  # before opset 5
    if shape is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "shape")
    allow_zero = attributes.get("allowzero", 0)

    def move(x: Array) -> Array:
        if not allow_zero and any(n == 0 and i >= x.ndim for i, n in enumerate(shape)):
            raise CannotFollow(Unread.NO_FIT, x.shape, tuple(shape))
        wanted = [x.shape[i] if n == 0 and not allow_zero else n for i, n in enumerate(shape)]
        size = math.prod(wanted)
        if size > x.size > 0 and size % x.size == 0 and -1 not in wanted:
            refuse_large(size)
            x = np.broadcast_to(
                x.reshape(1, -1), (size // x.size, x.size)
            )  # the export is for more positions, all of one kind
        return x.reshape(wanted)

    return [move]


def transpose(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Transpose."""
    return [lambda x: x.transpose(attributes.get("perm"))]


def unsqueeze(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """An Unsqueeze."""
    axes = _ints(parameters[0] if parameters else None, attributes.get("axes")) or []
    return [lambda x: np.expand_dims(x, tuple(axes))]


def squeeze(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Squeeze."""
    axes = _ints(parameters[0] if parameters else None, attributes.get("axes"))
    return [lambda x: np.squeeze(x, None if axes is None else tuple(axes))]


def flatten(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Flatten."""
    axis = int(attributes.get("axis", 1))
    return [lambda x: x.reshape(int(np.prod(x.shape[:axis], dtype=int)), -1)]


def expand(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """An Expand."""
    shape = _ints(_first(parameters), None)
    if shape is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "shape")
    return [lambda x: broadcast(x, common_shape(x.shape, tuple(shape)))]


def tile(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Tile."""
    repeats = _ints(_first(parameters), None)
    if repeats is None:
        raise CannotFollow(Unread.UNKNOWN_INPUT, "repeats")

    def move(x: Array) -> Array:
        refuse_large(x.size * math.prod(repeats))
        return np.tile(x, repeats)

    return [move]


def cut(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Slice."""
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
            places = places_cut(x.shape[axis], start, end, step)
            past = places.stop < 0  # below the first element, which a slice counts from the end
            index[axis] = slice(places.start, None if past else places.stop, places.step)
        return x[tuple(index)]

    return [move]


def split(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Split."""
    axis = int(attributes.get("axis", 0))
    sizes = _ints(parameters[0] if parameters else None, attributes.get("split"))
    count = int(attributes.get("num_outputs") or attributes["outputs"])

    def piece(i: int) -> Mover:
        def move(x: Array) -> Array:
            total = x.shape[axis]
            each = -(-total // count)
            lengths = sizes or [min(each, total - k * each) for k in range(count)]
            if sum(lengths) != total or min(lengths) < 0:
                raise ValueError(f"pieces of {sum(lengths)} of an axis of {total}")
            return np.split(x, np.cumsum(lengths)[:-1], axis=axis)[i]

        return move

    return [piece(i) for i in range(attributes["outputs"])]


def gather(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A Gather."""
    indices, axis = _indices(parameters), int(attributes.get("axis", 0))
    return [lambda x: taken_along(x, indices, axis)]


def gather_nd(attributes: Attributes, parameters: Parameters) -> list[Mover]:
    """A GatherND."""
    indices = _indices(parameters)
    if not indices.ndim or attributes.get("batch_dims", 0):
        raise CannotFollow(Unread.UNKNOWN_INPUT, "indices")
    where = np.moveaxis(indices, -1, 0)
    return [lambda x: x[tuple(where)]]
