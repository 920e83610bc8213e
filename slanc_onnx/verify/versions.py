"""A version of the model that is run: the original or the rewritten one, in FP32 or rounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx

from slanc_onnx.graph import Array
from slanc_onnx.options import Options
from slanc_onnx.run import (
    PREFIX,
    CannotRun,
    Feeds,
    SegmentedSession,
    Session,
    session_of,
)
from slanc_onnx.tokens import Tokens
from slanc_onnx.verify.compare import Runs
from slanc_onnx.verify.emulate import Emulated, Watched
from slanc_onnx.verify.left import Left
from slanc_onnx.verify.perplexity import negative_log_likelihood

T = TypeVar("T")
# Outputs of so many runs are kept for comparison, or of the first alone where they are larger.
COMPARED_RUNS, MOST_KEPT = 4, 1 << 30
FEW_RUNS = 4  # that take less time than to pack the weights for them


@dataclass(frozen=True)
class Taps:
    """The outputs that show what happens inside a model; see `Emulated`."""

    rows: dict[str, str]
    arrived: dict[str, str] = field(default_factory=dict)
    watched: list[Watched] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Version:
    """A model that is run.

    Attributes:
        what: In words, for whoever waits.
        model: The model.
        folder: Where its external data lies.
        taps: What shows what happens inside.
        needed: Whether all is given up where ONNX Runtime refuses it.
        showing_less: Makes what is run in its place where ONNX Runtime refuses to show so much.
    """

    what: str
    model: onnx.ModelProto
    folder: Path | None
    taps: Taps
    needed: bool = True
    showing_less: Callable[[], Version] | None = None


def rounded_version(
    what: str, rounded: Emulated, folder: Path | None, needed: bool = True
) -> Version:
    """A model whose arithmetic is rounded, with what it shows."""
    taps = Taps(rounded.mean_squares, rounded.arrived, rounded.watched)
    return Version(what, rounded.model, folder, taps, needed)


def run_version(
    version: Version,
    options: Options,
    sets: Sequence[Sequence[Feeds]],
    progress: Callable[[float], None],
) -> list[Runs | CannotRun]:
    """What a version gives on each set.

    Raises:
        CannotRun: ONNX Runtime cannot load it, and it is needed.
    """
    progress(0.0)
    less = version.showing_less
    try:
        session = session_of(version.model, version.folder, packs=packs(sets[0]))
    except CannotRun as error:
        if less is not None:
            return run_version(less(), options, sets, progress)
        if version.needed:
            raise
        return [error for _ in sets]
    run = partial(run_showing_taps, session, version.taps, tokens=options.tokens, progress=progress)
    found = [unless_refused(partial(run, feeds)) for feeds in sets]
    if less is not None and any(isinstance(one, CannotRun) for one in found):
        return run_version(less(), options, sets, progress)
    return found


def unless_refused(run: Callable[[], T]) -> T | CannotRun:
    """What a run gives; or why ONNX Runtime cannot run the model."""
    try:
        return run()
    except CannotRun as error:
        return error


def run_showing_taps(
    session: Session | SegmentedSession,
    taps: Taps,
    feeds: Sequence[Feeds],
    tokens: Tokens | None,
    progress: Callable[[float], None],
) -> Runs:
    """What a model gives on inputs, and what its taps show of them.

    Raises:
        CannotRun: ONNX Runtime cannot run it, or no output holds logits where tokens are given.
    """
    hidden = {*taps.rows.values(), *taps.arrived.values()}
    hidden |= {n for n in session.outputs if n.startswith(PREFIX)}
    kept: list[dict[str, Array]] = []
    rows: dict[str, list[Array]] = {name: [] for name in taps.rows}
    arrived: dict[str, list[Array]] = {name: [] for name in taps.arrived}
    sizes = [0.0 for _ in taps.watched]
    losses: list[float] = []
    for i, feed in enumerate(feeds):
        values = session.run(feed)
        for shown, found in ((taps.rows, rows), (taps.arrived, arrived)):
            for name, output in shown.items():
                found[name].append(values[output].reshape(-1))
        for place, watched in enumerate(taps.watched):
            sizes[place] = max(sizes[place], float(values[watched.output].max(initial=0.0)))
        outputs = {name: value for name, value in values.items() if name not in hidden}
        if tokens is not None:
            ids = tokens.sequences[i]
            losses.append(negative_log_likelihood(_logits(outputs, ids), ids))
        if keeps(i, outputs):
            kept.append(outputs)
        del values, outputs  # or the next run is beside them
        progress((i + 1) / len(feeds))
    joined = [{n: np.concatenate(parts) for n, parts in found.items()} for found in (rows, arrived)]
    left = [
        Left(watched.tensor, watched.op, size, watched.norm, watched.what)
        for watched, size in zip(taps.watched, sizes, strict=True)
        if size
    ]
    return Runs(kept, joined[0], losses, joined[1], left)


def unwatched(done: float) -> None:
    """Progress that nobody watches."""


def packs(feeds: Sequence[Feeds]) -> bool:
    """Whether so many runs are worth the time and the memory of packed weights."""
    return len(feeds) > FEW_RUNS


def keeps(run: int, outputs: Mapping[str, Array]) -> bool:
    """Whether the outputs of a run are kept for comparison."""
    size = sum(value.nbytes for value in outputs.values())
    return run == 0 or (run < COMPARED_RUNS and size * COMPARED_RUNS <= MOST_KEPT)


def _logits(outputs: dict[str, Array], ids: Array) -> Array:
    for value in outputs.values():
        if value.ndim == 3 and value.shape[:2] == ids.shape and value.shape[2] > int(ids.max()):
            return value
    raise CannotRun(
        "no output holds logits of shape [1, sequence, vocabulary]: --tokens needs a causal "
        "language model, and ids of its own vocabulary."
    )
