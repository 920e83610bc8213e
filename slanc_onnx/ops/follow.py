"""What an op does to an array of a known shape, or why it cannot be followed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.reasons import Fact, Reason, Unread

Mover = Callable[[Array], Array]
MOST_AXES = 32  # of an activation, which NumPy broadcasts
MOST_TRACED = 2**24  # elements of an activation at sequence length 1
MOST_CHANNELS = 2**22  # elements of one of its rows
_MOST_NUMBERS = 2**12  # that say how an op moves its input


class CannotFollow(Exception):
    """A rule cannot say what an op does to its input.

    Attributes:
        reason: Why.
    """

    def __init__(self, kind: Unread, *facts: Fact, behind: Reason | None = None) -> None:
        super().__init__(kind, *facts)
        self.reason = Reason(kind, facts, behind=behind)


@contextmanager
def damage_cannot_be_followed() -> Iterator[None]:
    """Work on a node that may be damaged: whatever fails there says nothing of its outputs.

    Raises:
        CannotFollow: the work raised that, or anything else.
    """
    try:
        yield
    except CannotFollow:
        raise
    except Exception as error:
        raise CannotFollow(Unread.FAILED, str(error)[:200]) from error


def too_large(shape: tuple[int, ...]) -> bool:
    """Whether an activation of a shape, at sequence length 1, is none that a model has."""
    return math.prod(shape) > MOST_TRACED or len(shape) > MOST_AXES


def refuse_large(elements: int) -> None:
    """Refuse to make an array of more elements than an activation has.

    Raises:
        CannotFollow: it would have more.
    """
    if elements > MOST_TRACED:
        raise CannotFollow(Unread.TOO_LARGE, elements)


def whole_numbers(value: Array | Sequence[int]) -> list[int]:
    """Sizes, axes, positions or pads as a list.

    Raises:
        CannotFollow: they are more than any op takes, or not finite.
    """
    numbers = np.asarray(value).reshape(-1)
    if numbers.size > _MOST_NUMBERS or not np.isfinite(numbers).all():
        raise CannotFollow(Unread.MISFIT, numbers.size)
    return [int(number) for number in numbers]


def common_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to which arrays of these shapes broadcast.

    Raises:
        CannotFollow: there is none. A trace at length 1 may have read one of them wrongly.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except (ValueError, RuntimeError):  # of more axes than NumPy broadcasts
        raise CannotFollow(Unread.SHAPES_DIFFER, *shapes[:2]) from None


def broadcast(array: Array, shape: Sequence[int]) -> Array:
    """An array broadcast to a shape; raises as `common_shape` does."""
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise CannotFollow(Unread.SHAPES_DIFFER, array.shape, tuple(shape)) from None


def reshaped(array: Array, *shape: int) -> Array:
    """An array in another shape, with at most one size of -1.

    Raises:
        CannotFollow: it has another number of elements.
    """
    known = math.prod(n for n in shape if n != -1)
    fits = array.size == known if -1 not in shape else known > 0 and array.size % known == 0
    if not fits or min(shape, default=0) < -1:
        raise CannotFollow(Unread.NO_FIT, array.shape, shape)
    return array.reshape(shape)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the first one.

    Raises:
        CannotFollow: a tensor of that rank has no such axis.
    """
    if not -rank <= axis < rank:
        raise CannotFollow(Unread.NO_AXIS, axis, rank)
    return axis % rank


def taken_along(array: Array, indices: Array, axis: int) -> Array:
    """The elements of an array at some positions of an axis.

    Raises:
        CannotFollow: there are no such positions, as where a trace at length 1 gathers a later
            one, or more elements than can be looked at.
    """
    own = axis_of(axis, array.ndim)
    kept = math.prod(array.shape[:own]) * math.prod(array.shape[own + 1 :])
    if kept * indices.size > MOST_TRACED:
        raise CannotFollow(Unread.TOO_LARGE, kept * indices.size)
    size = array.shape[own]
    if indices.size and not -size <= indices.min() <= indices.max() < size:
        raise CannotFollow(Unread.OUT_OF_RANGE, size, axis)
    return np.take(array, indices, axis=own)


def places_cut(size: int, start: int, end: int, step: int) -> range:
    """The places of an axis that a Slice keeps.

    ONNX takes the first one for a start below it, a slice of Python keeps nothing there if the step
    is negative.
    """
    first = max(start, -size) if step < 0 else start
    return range(size)[first:end:step]


def computed(function: Callable[..., Array], arrays: Sequence[Array]) -> Array:
    """What NumPy makes of constants.

    Raises:
        CannotFollow: it cannot, as a whole number to a negative power.
    """
    try:
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays))
    except (TypeError, ValueError) as error:
        raise CannotFollow(Unread.NOT_COMPUTED, str(error)) from error


def moved_by(mover: Mover, array: Array) -> Array:
    """An array moved as the file says: NumPy tells whether that can be done.

    Raises:
        CannotFollow: it cannot; the array has not the axes, sizes or positions.
    """
    try:
        return mover(array)
    except (ValueError, IndexError) as error:
        raise CannotFollow(Unread.NOT_THERE, str(error)) from error
