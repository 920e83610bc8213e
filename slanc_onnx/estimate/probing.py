"""Estimate by self-probing: the model's own arithmetic on random token ids, without data.

Random sequences show ordinary rows. Single tokens show the largest ones: every first position
computes the row of a single token, and massive activations are born there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx

from slanc_onnx.estimate.estimate import Estimate, from_rows
from slanc_onnx.graph import Array, InputSpec
from slanc_onnx.norms import Norm
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import (
    CannotRun,
    Feeds,
    Instrumented,
    SegmentedSession,
    Session,
    first_feeds,
    random_ids,
    run_showing,
)

SEQUENCES, LENGTH, SINGLES, SEED = 8, 32, 256, 0
SHORTER, MOST_RUNS = (16, 8), 64
_NONE = np.zeros(0)


def probe(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    specs: Sequence[InputSpec],
    folder: Path | None,
    inputs: Mapping[str, Array] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Estimate]:
    """Estimates by norm name, for the norms that a run reaches.

    Args:
        model: The original model.
        norms: Its norms.
        specs: Its inputs.
        folder: Where its external data lies.
        inputs: Inputs that the user gave; only their token ids are replaced by random ones.
        progress: Called with the share of the work that is done.

    Raises:
        CannotRun: ONNX Runtime cannot run this model, or not on inputs of our making.
    """

    def run(session: Session | SegmentedSession, shown: Instrumented) -> dict[str, Estimate]:
        return _probe(session, shown, norms, specs, inputs or {}, progress)

    return run_showing(model, norms, folder, run, magnitudes=True) or {}


def _probe(
    session: Session | SegmentedSession,
    instrumented: Instrumented,
    norms: Sequence[Norm],
    specs: Sequence[InputSpec],
    given: Mapping[str, Array],
    progress: Progress,
) -> dict[str, Estimate]:
    rng = np.random.default_rng(SEED)
    ordinary = list(_runs(session, specs, rng, (SEQUENCES, LENGTH), given))
    progress("probing", 0.6)
    singles: list[dict[str, Array]] = []
    text = any(spec.is_text for spec in specs)
    keeps_floats = bool(given) and any(spec.is_float and not spec.is_cache for spec in specs)
    if text and not keeps_floats and _fixed(specs, 1) in (None, 1):
        with suppress(CannotRun):  # exports that were unrolled to one length
            singles = list(_runs(session, specs, rng, (SINGLES, 1), {}))
    progress("probing", 1.0)
    estimates = {}
    for norm in norms:
        output = instrumented.sums.get(norm.name)
        if output is not None:
            few, many = _joined(singles, output), _joined(ordinary, output)
            length = _joined(ordinary, instrumented.lengths.get(norm.name, ""))
            shown = instrumented.magnitudes.get(norm.name, "")
            plain = np.concatenate([_joined(singles, shown), _joined(ordinary, shown)])
            width = int(length.max(initial=0)) or norm.width
            found = from_rows(many, few, "probe", width, plain)
            if found is not None:
                estimates[norm.name] = found
    return estimates


def _joined(runs: Sequence[Mapping[str, Array]], output: str) -> Array:
    """All values of an output, flat; an empty array where no run has it."""
    return np.concatenate([run[output].reshape(-1) for run in runs if output in run] or [_NONE])


def _runs(
    session: Session | SegmentedSession,
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    shape: tuple[int, int],
    given: Mapping[str, Array],
) -> Iterator[dict[str, Array]]:
    """The outputs of one run on `shape` = (sequences, length), or of several smaller runs.

    Some exports take only a batch of one, have few positions, or were unrolled to one length.
    """
    batch, length = shape
    if given:
        try:
            for draw in range(_draws(given, specs, batch * length)):
                yield session.run(_like(given, specs, draw))
        except CannotRun:  # an export that was traced with one routing takes no other ids
            yield session.run(given)
        return
    first = (_fixed(specs, 0) or batch, length)
    attempts = [first, (1, length), *((1, n) for n in SHORTER if n < length)]
    for some, long in attempts:
        try:
            for draw in range(max(1, min(batch // some, MOST_RUNS))):
                yield session.run(first_feeds(session, specs, rng, some, long, draw))
            return
        except CannotRun:
            if (some, long) == attempts[-1]:
                raise


def _draws(given: Mapping[str, Array], specs: Sequence[InputSpec], tokens: int) -> int:
    """The number of runs on the given inputs that make up so many token ids; 1 without ids."""
    sizes = [given[spec.name].size for spec in specs if spec.is_text and spec.name in given]
    return max(1, min(tokens // max(1, *sizes), MOST_RUNS)) if sizes else 1


def _fixed(specs: Sequence[InputSpec], axis: int) -> int | None:
    """The size of an axis (0: sequences, 1: tokens) of the token ids where the file fixes it."""
    sizes = (spec.dims[axis] for spec in specs if spec.is_text and len(spec.dims) == 2)
    return next((size for size in sizes if isinstance(size, int)), None)


def _like(given: Mapping[str, Array], specs: Sequence[InputSpec], draw: int) -> Feeds:
    """The given inputs with random token ids."""
    feeds = dict(given)
    for spec in specs:
        if spec.is_text and spec.name in feeds:
            ids = random_ids(spec.rows, feeds[spec.name].shape, draw)
            feeds[spec.name] = ids.astype(feeds[spec.name].dtype)
    return feeds
