"""Arrangements: how angles are made of rows by position.

That they are is shown by computing them, whatever ops do so. Changes of one position tell which
axes of the angles are those of the positions; then the angles of other positions, in another order
and another shape, have to be the same rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slanc_onnx.apply.convert.angle_islands import Island
from slanc_onnx.graph import Array
from slanc_onnx.reasons import Untabled

_TRIALS = ((5, 3, 4, 2), (2, 7, 3, 5), (1, 1, 1, 1), (3, 2, 1, 4))  # sizes of axes that are open
_CLOSE = 1e-12  # of angles in FP64, relative and absolute
_SPARE = 8  # positions that a trial leaves out


@dataclass(frozen=True)
class Arrangement:
    """How angles are made of rows by position.

    Attributes:
        axes: What each axis of the angles is: axis i of the positions as i, axis j of a row as
            `rank` + j, and an axis of size 1 that is neither as -1.
        row: The shape of a row.
        rank: How many axes the positions have.
    """

    axes: tuple[int, ...]
    row: tuple[int, ...]
    rank: int

    @property
    def dropped(self) -> tuple[int, ...]:
        """Axes of the positions, of size 1, that the angles do not have."""
        return tuple(axis for axis in range(self.rank) if axis not in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """The axes that gathered rows then have, in the order of the angles."""
        kept = sorted(axis for axis in self.axes if axis >= 0)
        return tuple(kept.index(axis) for axis in self.axes if axis >= 0)

    @property
    def added(self) -> tuple[int, ...]:
        """The axes of size 1 that gathered rows do not have."""
        return tuple(place for place, axis in enumerate(self.axes) if axis < 0)

    def shape(self, positions: Sequence[int]) -> tuple[int, ...]:
        """The shape of the angles of positions of a shape."""
        sizes = (*positions, *self.row, 1)
        return tuple(sizes[axis] for axis in self.axes)

    def of(self, gathered: Array) -> Array:
        """Rows as angles.

        Args:
            gathered: Of the shape of the positions, and then that of a row.
        """
        kept = np.squeeze(gathered, self.dropped).transpose(self.order)
        return np.expand_dims(kept, self.added)

    def rows(self, angles: Array) -> Array:
        """Angles as rows, one for each position in order."""
        bare = np.squeeze(angles, self.added).transpose(np.argsort(self.order))
        return bare.reshape(-1, *self.row)


def arranged(island: Island) -> Arrangement:
    """How the angles of an island are made of rows.

    Raises:
        NoTable: they are not, or cannot be computed alone.
    """
    shape = _shape(island, _TRIALS[0])
    first = island.run(np.zeros(shape, np.int64))
    places = [_place(island, first, shape, axis) for axis in range(len(shape))]
    known = [place for place in places if place is not None]
    if len(set(known)) < len(known):
        raise island.no(Untabled.NO_ARRANGEMENT)
    row: list[int] = []
    axes = []
    for place, size in enumerate(first.shape):
        if place in known:
            axes.append(places.index(place))
        elif size == 1:
            axes.append(-1)
        else:
            axes.append(len(shape) + len(row))
            row.append(size)
    _fit_ones(axes, shape)
    arrangement = Arrangement(tuple(axes), tuple(row), len(shape))
    _check(island, arrangement)
    return arrangement


def rows_of(island: Island, arrangement: Arrangement, first: int, stop: int) -> Array:
    """The angles of the positions from `first` to before `stop`, a row each, in FP64.

    Raises:
        NoTable: the angles of as many positions are no such rows.
    """
    open_axes = [axis for axis, d in enumerate(island.dims) if not isinstance(d, int)]
    shape = [d if isinstance(d, int) else 1 for d in island.dims]
    if open_axes:
        shape[open_axes[-1]] = stop - first
    at_once = math.prod(shape)
    blocks = []
    for start in range(first, stop, at_once):
        positions = np.minimum(np.arange(start, start + at_once), stop - 1).reshape(shape)
        angles = island.run(positions)
        if angles.shape != arrangement.shape(shape):
            raise island.no(Untabled.NO_ARRANGEMENT)
        blocks.append(arrangement.rows(angles)[: stop - start])
    return np.concatenate(blocks)


def _shape(island: Island, sizes: Sequence[int]) -> tuple[int, ...]:
    """A shape of the positions with sizes for the axes that are open."""
    free = itertools.cycle(sizes)
    return tuple(d if isinstance(d, int) else next(free) for d in island.dims)


def _place(island: Island, first: Array, shape: tuple[int, ...], axis: int) -> int | None:
    """The axis of the angles that is an axis of the positions; None for one of size 1.

    Args:
        island: The ops.
        first: The angles of positions that are all 0.
        shape: Of the positions.
        axis: Of the positions.

    Raises:
        NoTable: no axis is, or more than one.
    """
    if shape[axis] == 1:
        return None
    changed = []
    for moved in (0, 1):
        positions = np.zeros(shape, np.int64)
        positions[tuple(moved if a == axis else 0 for a in range(len(shape)))] = 1
        differ = np.nonzero(np.abs(island.run(positions) - first) > _CLOSE)
        changed.append([set(indices.tolist()) for indices in differ])
    found = [a for a, at in enumerate(zip(*changed, strict=True)) if at == ({0}, {1})]
    if len(found) != 1 or first.shape[found[0]] != shape[axis]:
        raise island.no(Untabled.NO_ARRANGEMENT)
    return found[0]


def _fit_ones(axes: list[int], shape: tuple[int, ...]) -> None:
    """Take the axes of the positions that have size 1 for such axes of the angles, in order."""
    for axis, size in enumerate(shape):
        if size == 1:
            before = [place for place, a in enumerate(axes) if 0 <= a < axis]
            behind = [place for place, a in enumerate(axes) if axis < a]
            between = range(max(before, default=-1) + 1, min(behind, default=len(axes)))
            free = next((place for place in between if axes[place] == -1), None)
            if free is not None:
                axes[free] = axis


def _check(island: Island, arrangement: Arrangement) -> None:
    """Check that the angles of other positions are the same rows.

    Raises:
        NoTable: they are not.
    """
    rng = np.random.default_rng(0)
    for trial, sizes in enumerate(_TRIALS):
        shape = _shape(island, sizes)
        count = math.prod(shape)
        positions = rng.permutation(count + _SPARE)[:count].reshape(shape)
        made = arrangement.of(rows_of(island, arrangement, 0, count + _SPARE)[positions])
        angles = island.run(positions, trial)
        if made.shape != angles.shape or not np.allclose(made, angles, rtol=_CLOSE, atol=_CLOSE):
            raise island.no(Untabled.NO_ARRANGEMENT)
