"""Estimate by self-probing: the model's own arithmetic on random token ids, without data.

Random sequences show ordinary rows. Single tokens are what every first position computes, and
where massive activations are born, so they show the largest rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx

from slanc_onnx.estimate import Estimate, from_rows
from slanc_onnx.inputs import IMAGE_SIZES, InputSpec, make_feeds, random_ids
from slanc_onnx.instrument import Instrumented, instrument
from slanc_onnx.load import Array
from slanc_onnx.norms import Norm
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.runtime import CannotRun, Feeds, Session

SEQUENCES, LENGTH, SINGLES, SEED = 4, 64, 256, 0
SHORTER, MOST_RUNS = (16, 8), 64


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
        inputs: Inputs that the user gave: their shapes are kept, and the values of all but the
            token ids.
        progress: Called with the share of the work that is done.

    Raises:
        CannotRun: ONNX Runtime cannot run this model, or not on inputs of our making.
    """
    instrumented = instrument(model, norms, keep_outputs=False)
    if not instrumented.sums:
        return {}
    try:
        return _probe(instrumented, norms, specs, folder, inputs or {}, progress)
    except CannotRun:  # some attention kernels need their cache outputs to be asked for
        instrumented = instrument(model, norms)
        return _probe(instrumented, norms, specs, folder, inputs or {}, progress)


def _probe(
    instrumented: Instrumented,
    norms: Sequence[Norm],
    specs: Sequence[InputSpec],
    folder: Path | None,
    given: Mapping[str, Array],
    progress: Progress,
) -> dict[str, Estimate]:
    session = Session(instrumented.model, folder)
    rng = np.random.default_rng(SEED)
    text = any(spec.is_text for spec in specs)
    ordinary = list(_rows(session, instrumented, specs, rng, (SEQUENCES, LENGTH), given))
    progress("probing", 0.6)
    singles: list[dict[str, Array]] = []
    if text and not given and _fixed(specs, 1) in (None, 1):
        with suppress(CannotRun):  # exports that were unrolled to one length
            singles = list(_rows(session, instrumented, specs, rng, (SINGLES, 1), given))
    progress("probing", 1.0)
    estimates = {}
    for norm in norms:
        if norm.name in instrumented.sums:
            empty = [np.zeros(0)]
            few = [run[norm.name].reshape(-1) for run in singles] or empty
            many = [run[norm.name].reshape(-1) for run in ordinary]
            found = from_rows(np.concatenate(many), np.concatenate(few), "probe")
            if found is not None:
                estimates[norm.name] = found
    return estimates


def _rows(
    session: Session,
    instrumented: Instrumented,
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    shape: tuple[int, int],
    given: Mapping[str, Array],
) -> Iterator[dict[str, Array]]:
    """Sums of squares by norm name, from one run on `shape` = (sequences, length), or from several.

    Some exports take a batch of one only, some have few positions or an unrolled length.
    """
    if given:
        values = session.run(_like(given, specs))
        yield {name: values[output] for name, output in instrumented.sums.items()}
        return
    batch, length = shape
    first = (_fixed(specs, 0) or batch, length)
    attempts = [first, (1, length), *((1, n) for n in SHORTER if n < length)]
    for some, long in attempts:
        try:
            for draw in range(max(1, min(batch // some, MOST_RUNS))):
                values = session.run(first_feeds(session, specs, rng, some, long, draw))
                yield {name: values[output] for name, output in instrumented.sums.items()}
            return
        except CannotRun:
            if (some, long) == attempts[-1]:
                raise


def _fixed(specs: Sequence[InputSpec], axis: int) -> int | None:
    """The size of an axis (0: sequences, 1: tokens) of the token ids where the file fixes it."""
    sizes = (spec.dims[axis] for spec in specs if spec.is_text and len(spec.dims) == 2)
    return next((size for size in sizes if isinstance(size, int)), None)


def _like(given: Mapping[str, Array], specs: Sequence[InputSpec]) -> Feeds:
    """The given inputs with random token ids."""
    feeds = dict(given)
    for spec in specs:
        if spec.is_text and spec.name in feeds:
            ids = random_ids(spec.rows, feeds[spec.name].shape)
            feeds[spec.name] = ids.astype(feeds[spec.name].dtype)
    return feeds


def first_feeds(
    session: Session, specs: Sequence[InputSpec], rng: np.random.Generator, batch: int, length: int,
    draw: int = 0,
) -> Feeds:  # fmt: skip
    """The first inputs that run, trying image sizes where the file leaves the size open.

    Raises:
        CannotRun: none of them does.
    """
    images = any(s.is_float and len(s.dims) == 4 and isinstance(s.dims[2], str) for s in specs)
    if not images:
        return make_feeds(specs, rng, batch=batch, sequence=length, draw=draw)
    failure: CannotRun | None = None
    for size in IMAGE_SIZES:
        feeds = make_feeds(specs, rng, batch=batch, sequence=length, size=size, draw=draw)
        try:
            session.run(feeds)
            return feeds
        except CannotRun as error:
            failure = error
    assert failure is not None
    raise failure
