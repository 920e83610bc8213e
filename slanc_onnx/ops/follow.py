"""What an op does to an array of a known shape, or why it cannot be followed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.reasons import Fact, Reason, Unread


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


def taken_along(array: Array, indices: Array, axis: int) -> Array:
    """The elements at indices along an axis.

    Raises:
        CannotFollow: there are fewer, as where a trace at length 1 gathers a later position.
    """
    try:
        return np.take(array, indices, axis=axis)
    except IndexError:
        largest = int(indices.max(initial=0))
        raise CannotFollow(Unread.OUT_OF_RANGE, largest, array.shape) from None
