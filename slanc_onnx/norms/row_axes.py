"""Which elements of a norm's input make one row: those that share a mean and a deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slanc_onnx.graph import Array


@dataclass(frozen=True)
class RowAxes:
    """How rows lie in a norm's input.

    Attributes:
        axes: The axes that are normalised together, ascending: (-1,) for most norms, (-2, -1) and
            so on for several last ones, (1,) for a LayerNorm of [batch, channels, ...]. Any other
            set counts from the first axis and needs `rank`. Unused where there are groups.
        rank: Of the input, where `axes` needs it.
        groups: Into how many groups axis 1 is cut, so that a row is one group at all positions of
            a sample, as in GroupNormalization; 0 for every channel its own, as in
            InstanceNormalization; None for norms without groups.
        channels_last: Whether the channels of the groups are the last axis.
    """

    axes: tuple[int, ...] = (-1,)
    rank: int | None = None
    groups: int | None = None
    channels_last: bool = False

    @property
    def last_axis(self) -> bool:
        """Whether a row is the last axis alone: the usual case, in which nothing moves."""
        return self.groups is None and self.axes == (-1,)

    @property
    def grouped(self) -> bool:
        return self.groups is not None

    @property
    def trailing(self) -> int | None:
        """The number of last axes that a row is, None for rows that lie otherwise."""
        return -self.axes[0] if self.groups is None and self.axes[0] < 0 else None

    def permutation(self, rank: int) -> list[int]:
        """The axes of an input in an order with those of a row at its end."""
        own = [axis % rank for axis in self.axes]
        return [axis for axis in range(rank) if axis not in own] + own

    def rows(self, x: Array) -> Array:
        """The rows of an array of the input's shape, [rows, elements]."""
        if self.groups is None:
            moved = x.transpose(self.permutation(x.ndim))
            return moved.reshape(math.prod(moved.shape[: x.ndim - len(self.axes)]), -1)
        if self.channels_last:
            x = np.moveaxis(x, -1, 1)
        return x.reshape(x.shape[0] * (self.groups or x.shape[1]), -1)

    def restore(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The array of the input's shape whose rows are `rows`."""
        places = self.rows(np.arange(math.prod(shape)).reshape(shape))
        flat = np.empty(places.size, rows.dtype)
        flat[places] = rows
        return flat.reshape(shape)


def row_axes(axes: Sequence[int], rank: int | None) -> RowAxes | None:
    """The rows of a reduction over some axes of an input; None where its rank is missing for that.

    A set of last axes is counted from the end, whichever way it is written.
    """
    if rank is not None:
        if any(not -rank <= axis < rank for axis in axes):
            return None
        axes = sorted(axis % rank for axis in axes)
        if axes == list(range(rank - len(axes), rank)):
            return RowAxes(tuple(axis - rank for axis in axes))
        return RowAxes((1,)) if axes == [1] else RowAxes(tuple(axes), rank)
    axes = sorted(axes)
    if axes and axes == list(range(-len(axes), 0)):
        return RowAxes(tuple(axes))
    return RowAxes((1,)) if axes == [1] else None
