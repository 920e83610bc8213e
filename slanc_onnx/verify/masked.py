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
        tried = [_changed(feed, name) for feed in feeds[: len(runs.plain.outputs)]]
        given = [feed for feed in tried if feed is not None]
        if len(given) < len(tried):
            continue
        try:
            changed = original(given)
        except CannotRun:
            continue
        if off(changed) <= UNREAD:
            return Reason(Failure.OFF_WHERE_MASKED, (name, error))
    return None


def _changed(feed: Feeds, name: str) -> Feeds | None:
    """The inputs with something else of their own at the positions that are masked.

    None where none of them changes, so that nothing would be tried.
    """
    found = dict(feed)
    if np.all(feed[name]):
        return found
    for other, given in feed.items():
        values = np.asarray(given)
        here = _mask_of(values, feed, name)
        if other == name or here is None or not (here == 0).any():
            continue
        rows = np.moveaxis(values, _SEQUENCE_AT[values.ndim], 1)
        moved = np.roll(rows.reshape(here.size, -1), 1, axis=0).reshape(rows.shape)
        changed = rows.copy()
        changed[here == 0] = moved[here == 0]
        if not np.array_equal(changed, rows, equal_nan=rows.dtype.kind in "fc"):
            found[other] = np.moveaxis(changed, 1, _SEQUENCE_AT[values.ndim])
    return found if any(found[other] is not feed[other] for other in feed) else None


def _mask_of(values: Array, feed: Feeds, name: str) -> Array | None:
    """The part of a mask that is of the positions of a tensor; None where it has others.

    A mask may be longer than the sequence by what a cache holds, and then begins with that.
    """
    mask = np.asarray(feed[name])
    axis = _SEQUENCE_AT.get(values.ndim)
    if axis is None or values.shape[0] != mask.shape[0] or not values.shape[axis]:
        return None
    length, total = values.shape[axis], mask.shape[1]
    caches = [np.shape(given) for given in feed.values() if np.ndim(given) == 4]
    held = {shape[2] for shape in caches if shape[0] == mask.shape[0] and 0 < shape[2] < total}
    if length == total:
        return mask
    if values.ndim == 4:
        return mask[:, :length] if length in held else None
    return mask[:, -length:] if total - length in held else None


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
    kept = [
        {output: _not_masked(value, feed, name) for output, value in found.items()}
        for found, feed in zip(runs.outputs, feeds, strict=False)
    ]
    return Runs(kept, {}, [])


def _not_masked(value: Array, feed: Feeds, name: str) -> Array:
    """The rows of the positions with a 1; all where the axes are not those of the mask."""
    mask = _mask_of(value, feed, name)
    if mask is None:
        return value
    rows: Array = np.moveaxis(value, _SEQUENCE_AT[value.ndim], 1)[mask != 0]
    return rows
