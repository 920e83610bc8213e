"""Estimate by self-probing: the model's own arithmetic on made inputs, without data.

Random sequences show ordinary rows. Single tokens show the largest ones: every first position
computes the row of a single token, and massive activations are born there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx

from slanc_onnx.estimate.estimate import Estimate, from_rows
from slanc_onnx.feed import Values
from slanc_onnx.graph import Array, InputSpec
from slanc_onnx.norms import Norm
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import (
    TRIED,
    CannotRun,
    Feeds,
    Instrumented,
    Said,
    SegmentedSession,
    Session,
    Sizes,
    first_run,
    make_feeds,
    random_ids,
    run_showing,
    shapes_of,
    tried,
    ways_to_say,
)

SEQUENCES, LENGTH, SINGLES, SEED = 8, 32, 256, 0
SHORTER, MOST_RUNS = (16, 8), 64
_NONE = np.zeros(0)


def probe(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    specs: Sequence[InputSpec],
    folder: Path | None,
    said: Said | None = None,
    progress: Progress = no_progress,
) -> dict[str, Estimate]:
    """Estimates by norm name, for the norms that a run reaches.

    Args:
        model: The original model.
        norms: Its norms.
        specs: Its inputs.
        folder: Where its external data lies.
        said: What the user says of the inputs; the token ids of a data set are replaced by random
            ones.
        progress: Called with the share of the work that is done.

    Raises:
        CannotRun: ONNX Runtime cannot run this model, or not on inputs of our making.
    """

    def run(session: Session | SegmentedSession, shown: Instrumented) -> dict[str, Estimate]:
        return _probe(session, shown, norms, (specs, said or Said()), progress)

    return run_showing(model, norms, folder, run, magnitudes=True) or {}


def _probe(
    session: Session | SegmentedSession,
    instrumented: Instrumented,
    norms: Sequence[Norm],
    inputs: _Inputs,
    progress: Progress,
) -> dict[str, Estimate]:
    specs, said = inputs
    rng = np.random.default_rng(SEED)
    ordinary = list(runs(session, inputs, rng, (SEQUENCES, LENGTH)))
    progress("probing", 0.6)
    singles: list[dict[str, Array]] = []
    if takes_single_ids(specs, said):
        with suppress(CannotRun):  # exports that were unrolled to one length
            alone = specs, replace(said, given={})
            singles = list(runs(session, alone, rng, (SINGLES, 1)))
    if any(norm.width is None for norm in norms):
        ordinary += _at_another_size(session, inputs, rng)
    wider = list(ordinary)
    for assumed in TRIED[1:] if tried(specs, said) else ():
        other = specs, replace(said, assumed=assumed)
        with suppress(CannotRun):  # a loop may depend on the values
            wider += runs(session, other, np.random.default_rng(SEED), (SEQUENCES, LENGTH))
    progress("probing", 1.0)
    estimates = {}
    for norm in norms:
        found = _estimate(norm, instrumented, ordinary, singles)
        if found is not None:
            beside = None
            if len(wider) > len(ordinary):
                beside = _estimate(norm, instrumented, wider, singles)
            beside = None if beside is None else replace(beside, any_size=True)
            estimates[norm.name] = replace(found, wider=beside)
    return estimates


_Inputs = tuple[Sequence[InputSpec], Said]


def _at_another_size(
    session: Session | SegmentedSession, inputs: _Inputs, rng: np.random.Generator
) -> list[dict[str, Array]]:
    """The outputs of one run on larger inputs, for norms whose rows grow with them."""
    specs, said = inputs
    high, wide = Sizes().image
    with suppress(CannotRun):  # positions may be limited
        sizes = Sizes(sequence=2 * LENGTH, image=(2 * high, 2 * wide))
        return [session.run(make_feeds(specs, rng, sizes, said))]
    return []


def _estimate(
    norm: Norm,
    instrumented: Instrumented,
    ordinary: Sequence[Mapping[str, Array]],
    singles: Sequence[Mapping[str, Array]],
) -> Estimate | None:
    """The estimate of a norm from the outputs of runs; None where they do not show it."""
    output = instrumented.sums.get(norm.name)
    if output is None:
        return None
    few, many = _joined(singles, output), _joined(ordinary, output)
    length = _joined(ordinary, instrumented.lengths.get(norm.name, ""))
    shown = instrumented.magnitudes.get(norm.name, "")
    plain = np.concatenate([_joined(singles, shown), _joined(ordinary, shown)])
    width = int(length.max(initial=0)) or norm.width
    return from_rows(many, few, "probe", width, plain)


def _joined(runs: Sequence[Mapping[str, Array]], output: str) -> Array:
    """All values of an output, flat; an empty array where no run has it."""
    return np.concatenate([run[output].reshape(-1) for run in runs if output in run] or [_NONE])


def runs(
    session: Session | SegmentedSession,
    inputs: _Inputs,
    rng: np.random.Generator,
    shape: tuple[int, int],
) -> Iterator[dict[str, Array]]:
    """The outputs of one run on `shape` = (sequences, length), or of several smaller runs.

    Some exports take only a batch of one, have few positions, or were unrolled to one length.
    """
    (specs, said), (batch, length) = inputs, shape
    if said.given and all(spec.name in said.given for spec in specs):
        try:
            for draw in range(_draws(specs, said, batch * length)):
                yield session.run(_like(specs, said, draw))
        except CannotRun:  # an export that was traced with one routing takes no other ids
            yield session.run(said.given)
        return
    first = (_fixed(specs, 0) or batch, length)
    attempts = [first, (1, length), *((1, n) for n in SHORTER if n < length)]
    failure: CannotRun | None = None
    for way, (some, long) in product(ways_to_say(specs, said), attempts):
        try:
            sizes, _, values = first_run(session, specs, rng, (some, long), way)
            yield values
            for draw in range(1, min(batch // some, MOST_RUNS)):
                yield session.run(make_feeds(specs, rng, sizes, way, draw=draw))
            return
        except CannotRun as error:
            failure = error
    assert failure is not None
    raise failure


def takes_single_ids(specs: Sequence[InputSpec], said: Said) -> bool:
    """Whether there are ids, of which a sequence may have one alone, and no floats are given."""
    keeps_floats = any(s.name in said.given and s.is_float and not s.is_cache for s in specs)
    if keeps_floats or _fixed(specs, 1) not in (None, 1):
        return False
    shapes = shapes_of(specs, Sizes(SINGLES, 1), replace(said, given={}))
    return any(s.is_text and shapes[s.name][1:] in ((), (1,)) for s in specs)


def _random_ids_for(specs: Sequence[InputSpec], said: Said) -> list[InputSpec]:
    """The inputs of a data set whose token ids are replaced by random ones."""
    files = {name for name, feed in said.feeds.items() if isinstance(feed, Values)}
    return [s for s in specs if s.is_text and s.name in said.given and s.name not in files]


def _draws(specs: Sequence[InputSpec], said: Said, tokens: int) -> int:
    """The number of runs on the given inputs that make up so many token ids; 1 without ids."""
    sizes = [said.given[spec.name].size for spec in _random_ids_for(specs, said)]
    return max(1, min(tokens // max(1, *sizes), MOST_RUNS)) if sizes else 1


def _fixed(specs: Sequence[InputSpec], axis: int) -> int | None:
    """The size of an axis (0: sequences, 1: tokens) of the token ids where the file fixes it."""
    sizes = (spec.dims[axis] for spec in specs if spec.is_text and len(spec.dims) == 2)
    return next((size for size in sizes if isinstance(size, int)), None)


def _like(specs: Sequence[InputSpec], said: Said, draw: int) -> Feeds:
    """The given inputs with random token ids."""
    feeds = dict(said.given)
    for spec in _random_ids_for(specs, said):
        ids = random_ids(spec.rows, feeds[spec.name].shape, draw)
        feeds[spec.name] = ids.astype(feeds[spec.name].dtype)
    return feeds
