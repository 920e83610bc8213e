"""Masked: whether outputs are off at positions alone that an input masks, as of padding.

What attention gives where a mask covers all that a position may read is a mean of what nobody
should read, and depends on the last bit of the mask's number. That nothing reads it in turn is
tried: the original is run once more with something else at those positions. So segments, or a mask
whose ones are padding, are no such input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.run import CannotRun, Feeds
from slanc_onnx.verify.compare import Runs, compare
from slanc_onnx.verify.runs import FourRuns

UNREAD = 1e-5  # RMS of what outputs move by where nothing reads what was changed
_SEQUENCE_AT = {2: 1, 3: 1, 4: 2}  # the axis of positions, by rank: [b, s, d], [b, h, s, d]


def off_where_masked(
    runs: FourRuns,
    limit: float,
    feeds: Sequence[Feeds],
    original: Callable[[Sequence[Feeds]], Runs],
) -> Reason | None:
    """That outputs are within a limit elsewhere; None where they are not, or nothing masks.

    Args:
        runs: What the original gave, and the rewritten model.
        limit: The largest relative RMS error of the rewritten model, in FP32 and rounded.
        feeds: Inputs by name, one dict per run.
        original: Runs the original in FP32.
    """
    for name in _masks(feeds[0]):

        def off(other: Runs, name: str = name) -> float:
            plain, kept = (_elsewhere(run, name, feeds) for run in (runs.plain, other))
            return compare(plain, kept, runs.unstable, floats_only=True).rms

        error = max(off(runs.protected), off(runs.scaled))
        if not error <= limit:
            continue
        try:
            changed = original([_changed(feed, name) for feed in feeds[: len(runs.plain.outputs)]])
        except CannotRun:
            continue
        if off(changed) <= UNREAD:
            return Reason(Failure.OFF_WHERE_MASKED, (name, error))
    return None


def _changed(feed: Feeds, name: str) -> Feeds:
    """The inputs with something else of their own at the positions that are masked."""
    mask = np.asarray(feed[name])
    found = {}
    for other, given in feed.items():
        values = np.asarray(given)
        if other != name and values.shape[:2] == mask.shape:
            moved = np.roll(values.reshape(values.shape[0] * values.shape[1], -1), 1, axis=0)
            values = values.copy()
            values[mask == 0] = moved.reshape(values.shape)[mask == 0]
        found[other] = values
    return found


def _masks(feed: Feeds) -> Iterator[str]:
    """The inputs [batch, sequence] of zeros and ones, some of which are zeros, and not all."""
    for name, given in feed.items():
        values = np.asarray(given)
        if values.ndim == 2 and values.dtype.kind in "biuf":
            found = set(np.unique(values).tolist())
            if found == {0, 1}:
                yield name


def _elsewhere(runs: Runs, name: str, feeds: Sequence[Feeds]) -> Runs:
    """The outputs at the positions that are not masked."""
    kept = []
    for found, feed in zip(runs.outputs, feeds, strict=False):
        mask, lengths = np.asarray(feed[name]), _lengths(feed)
        kept.append({output: _not_masked(one, mask, lengths) for output, one in found.items()})
    return Runs(kept, {}, [])


def _lengths(feed: Feeds) -> set[int]:
    """How many positions there may be: as in inputs [batch, sequence] and [batch, sequence, any].

    A mask may be longer than the sequence, by what a cache holds. Another length, as of classes, is
    none of positions.
    """
    shapes = (np.shape(given) for given in feed.values())
    return {shape[1] for shape in shapes if len(shape) in (2, 3)}


def _not_masked(value: Array, mask: Array, lengths: set[int]) -> Array:
    """The rows of the positions with a 1; all where the axes are not those of the mask."""
    axis = _SEQUENCE_AT.get(value.ndim)
    if axis is None or value.shape[0] != mask.shape[0]:
        return value
    length = value.shape[axis]
    if length not in lengths or not 0 < length <= mask.shape[1]:
        return value
    rows: Array = np.moveaxis(value, axis, 1)[mask[:, -length:] != 0]
    return rows
