"""The rows of a norm's input: the elements of one row share a mean and a deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array


@dataclass(frozen=True)
class RowAxes:
    """How the rows of a norm lie in its input.

    Attributes:
        axes: The axes that are normalised together, ascending: (-1,) for most norms, (-2, -1) and
            so on for several last ones, (1,) for a LayerNorm of [batch, channels, ...]. Any other
            set counts from the first axis and needs `rank`. Unused where there are groups.
        rank: Rank of the input, where `axes` needs it.
        groups: The number of groups that axis 1 is cut into: a row is one group at all positions
            of a sample, as in GroupNormalization. 0 makes every channel a group, as in
            InstanceNormalization; None is for norms without groups.
        channels_last: Whether the groups are of the last axis, not of axis 1.
    """

    axes: tuple[int, ...] = (-1,)
    rank: int | None = None
    groups: int | None = None
    channels_last: bool = False

    @property
    def last_axis(self) -> bool:
        """Whether a row is the last axis alone, the usual case."""
        return self.groups is None and self.axes == (-1,)

    @property
    def grouped(self) -> bool:
        """Whether a row is a group of channels."""
        return self.groups is not None

    @property
    def trailing(self) -> int | None:
        """The number of last axes that a row is, None for rows that lie otherwise."""
        return -self.axes[0] if self.groups is None and self.axes[0] < 0 else None

    def permutation(self, rank: int) -> list[int]:
        """The axes of an input of that rank in an order that ends with the axes of a row."""
        own = [axis % rank for axis in self.axes]
        return [axis for axis in range(rank) if axis not in own] + own

    def rows(self, x: Array) -> Array:
        """The rows of an array x of the input's shape, as [rows, elements]."""
        if self.groups is None:
            moved = x.transpose(self.permutation(x.ndim))
            return moved.reshape(math.prod(moved.shape[: x.ndim - len(self.axes)]), -1)
        if self.channels_last:
            x = np.moveaxis(x, -1, 1)
        return x.reshape(x.shape[0] * (self.groups or x.shape[1]), -1)

    def restore(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The array of that shape whose rows, as `rows` gives them, are these."""
        places = self.rows(np.arange(math.prod(shape)).reshape(shape))
        flat = np.empty(places.size, rows.dtype)
        flat[places] = rows
        return flat.reshape(shape)


def row_axes(axes: Sequence[int], rank: int | None) -> RowAxes | None:
    """The rows of a reduction over some axes; None where only the input's rank could tell them.

    Last axes are counted from the end, whichever way they are written.

    Args:
        axes: The axes, as the file has them.
        rank: Rank of the input, None where it is not known.
    """
    if rank is not None:
        if any(not -rank <= axis < rank for axis in axes):
            return None
        axes = sorted(axis % rank for axis in axes)
        if len(set(axes)) < len(axes):
            return None
        if axes == list(range(rank - len(axes), rank)):
            return RowAxes(tuple(axis - rank for axis in axes))
        return RowAxes((1,)) if axes == [1] else RowAxes(tuple(axes), rank)
    axes = sorted(axes)
    if len(set(axes)) < len(axes):
        return None
    if axes and axes == list(range(-len(axes), 0)):
        return RowAxes(tuple(axes))
    return RowAxes((1,)) if axes == [1] else None
