"""The four runs of a validation: both models in FP32, and both with rounded arithmetic.

Where parts of norms are merged, the fold alone is run with rounded arithmetic as well, and once
more rounded otherwise.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx

from slanc_onnx.accelerator import SumOrder
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.run import (
    PREFIX,
    CannotRun,
    Feeds,
    SegmentedSession,
    Session,
    as_float32,
    instrument,
    read_in_float32,
    session_of,
)
from slanc_onnx.tokens import Tokens
from slanc_onnx.verify.beyond import beyond
from slanc_onnx.verify.compare import Runs, same_bits
from slanc_onnx.verify.emulate import Emulated, Everything, OfConstants, Watched, emulate
from slanc_onnx.verify.left import Left
from slanc_onnx.verify.perplexity import negative_log_likelihood

T = TypeVar("T")
# Outputs of so many runs are kept for comparison, or of the first alone where they are larger.
ORIGINAL_REWRITTEN = ("original", "rewritten")
COMPARED_RUNS, MOST_KEPT = 4, 1 << 30
FEW_RUNS = 4  # that take less time than to pack the weights for them
_OTHER_ORDER: dict[SumOrder, SumOrder] = {"sequential": "pairwise", "pairwise": "sequential"}


@dataclass(frozen=True, eq=False)
class FourRuns:
    """What both models gave on the same inputs.

    Attributes:
        plain: The original in FP32.
        scaled: The rewritten model in FP32.
        naive: The original, rounded as the accelerator rounds.
        protected: The rewritten model, rounded likewise.
        loaded: The file as it was given, in FP32, where functions of it were inlined or scales of
            another target taken out; None where none were.
        unstable: Outputs that no run can be held against.
        fold: The fold alone, where parts are merged, rounded as the accelerator rounds.
        fold_otherwise: The same rounded otherwise; None where ONNX Runtime does not run that.
    """

    plain: Runs
    scaled: Runs
    naive: Runs
    protected: Runs
    loaded: Runs | None
    unstable: list[str]
    fold: Runs | None = None
    fold_otherwise: Runs | None = None


@dataclass(frozen=True, eq=False)
class _Version:
    """A model that is run.

    Attributes:
        what: In words, for whoever waits.
        model: The model.
        folder: Where its external data lies.
        taps: What shows what happens inside.
        needed: Whether all is given up where ONNX Runtime refuses it.
    """

    what: str
    model: onnx.ModelProto
    folder: Path | None
    taps: _Taps
    needed: bool = True


def run_four(
    before: ReadModel,
    after: ReadModel,
    options: Options,
    sets: Sequence[Sequence[Feeds]],
    progress: Progress,
    alone: ReadModel | None = None,
) -> list[FourRuns | CannotRun]:
    """Run both models, with their FP16 and BF16 tensors in FP32.

    Args:
        before: The original.
        after: The rewritten model.
        options: The accelerator, what is emulated of it, and the ids behind the inputs.
        sets: Of inputs by name, one dict per run in each.
        progress: Called with what is being run and the finished share.
        alone: The fold without what was merged; None where nothing was.

    Returns:
        What came of each set; where ONNX Runtime cannot run the original on it, the reason.

    Raises:
        CannotRun: ONNX Runtime cannot load one of them.
    """
    device = options.accelerator
    models, norms = zip(*(read_in_float32(read, device) for read in (before, after)), strict=True)
    if any(norm.path for norm in norms[0]) and len(sets) > 1:
        # Whether rows in a loop can be read off depends on the inputs.
        return [run_four(before, after, options, [one], progress, alone)[0] for one in sets]
    loops = _shows_loops(models[0], norms[0], sets[0][0], before.folder)
    versions: list[_Version] = []
    for model, found, read, which in zip(
        models, norms, (before, after), ORIGINAL_REWRITTEN, strict=True
    ):
        shown = instrument(model, found, loops=loops)
        versions.append(_Version(f"FP32, {which}", shown.model, read.folder, _Taps(shown.sums)))
    for model, found, read, which in zip(
        models, norms, (before, after), ORIGINAL_REWRITTEN, strict=True
    ):
        everything = Everything(kept=read.kept) if options.everything else None
        rounded = emulate(model, found, device, loops, everything)
        versions.append(_rounded(f"{device.format} norms, {which}", rounded, read.folder))
    if alone is not None:
        versions += _of_the_fold(alone, options)
    gc.collect()  # what was read to make them: graphs that hold themselves, and weights with them
    results: list[list[Runs | CannotRun]] = []
    for index, version in enumerate(versions):

        def step(done: float, what: str = version.what, index: int = index) -> None:
            progress(f"validating: {what}", (index + done) / len(versions))

        results.append(_run_version(version, options, sets, step))
    ran = zip(sets, zip(*results, strict=True), strict=True)
    return [unless_refused(partial(_four, before, models[0], versions, *given)) for given in ran]


def _rounded(what: str, rounded: Emulated, folder: Path | None, needed: bool = True) -> _Version:
    """A model whose arithmetic is rounded, with what it shows."""
    taps = _Taps(rounded.mean_squares, rounded.arrived, rounded.watched)
    return _Version(what, rounded.model, folder, taps, needed)


def _run_version(
    version: _Version,
    options: Options,
    sets: Sequence[Sequence[Feeds]],
    progress: Callable[[float], None],
) -> list[Runs | CannotRun]:
    """What a version gives on each set.

    Raises:
        CannotRun: ONNX Runtime cannot load it, and it is needed.
    """
    progress(0.0)
    try:
        session = session_of(version.model, version.folder, packs=packs(sets[0]))
    except CannotRun as error:
        if version.needed:
            raise
        return [error for _ in sets]
    run = partial(_run, session, version.taps, tokens=options.tokens, progress=progress)
    return [unless_refused(partial(run, feeds)) for feeds in sets]


def _of_the_fold(alone: ReadModel, options: Options) -> list[_Version]:
    """The fold alone, rounded as the accelerator rounds and otherwise.

    Otherwise is with each result moved by up to one unit roundoff before it is rounded, the sums in
    another order, where that makes a difference, and subnormals kept.
    """
    device = options.accelerator
    order = _OTHER_ORDER.get(device.sum_order, device.sum_order)
    other = replace(device, sum_order=order, flush_subnormals=False)
    everything = Everything(kept=alone.kept) if options.everything else None
    model, norms = read_in_float32(alone, device)
    found = []
    for how, dither in ((device, False), (other, True)):
        rounded = emulate(model, norms, how, False, everything, dither)
        what = f"{device.format} norms, the fold alone{', rounded otherwise' if dither else ''}"
        found.append(_rounded(what, rounded, alone.folder, needed=not dither))
    return found


def unless_refused(run: Callable[[], T]) -> T | CannotRun:
    """What a run gives; or why ONNX Runtime cannot run the model."""
    try:
        return run()
    except CannotRun as error:
        return error


def _four(
    before: ReadModel,
    original: onnx.ModelProto,
    versions: Sequence[_Version],
    feeds: Sequence[Feeds],
    results: Sequence[Runs | CannotRun],
) -> FourRuns:
    """What each version gave on one set.

    Raises:
        CannotRun: one that is needed gave nothing, or another run fails.
    """
    ran, others = list[Runs](), list[Runs]()
    for version, one in zip(versions, results, strict=True):
        if isinstance(one, Runs):
            (ran if version.needed else others).append(one)
        elif version.needed:
            raise one
    plain, scaled, naive, protected, *fold = ran
    unstable = _unstable(original, before.folder, feeds, plain, scaled)
    loaded = None
    if before.loaded is not before.model and not before.written_out:
        model = as_float32(before.loaded, before.folder)
        session = session_of(model, before.folder, packs=packs(feeds))
        loaded = Runs([session.run(feed) for feed in feeds[: len(plain.outputs)]], {}, plain.losses)
    of_fold = (*fold, *others)
    return FourRuns(plain, scaled, naive, protected, loaded, unstable, *of_fold)


def run_in_float32(read: ReadModel, options: Options, feeds: Sequence[Feeds]) -> Runs:
    """What a model gives in FP32, with the sums of squares of its norms' rows."""
    model, norms = read_in_float32(read, options.accelerator)
    loops = _shows_loops(model, norms, feeds[0], read.folder)
    shown = instrument(model, norms, loops=loops)
    session = session_of(shown.model, read.folder, packs=packs(feeds))
    return _run(session, _Taps(shown.sums), feeds, options.tokens, _unwatched)


class Roundable:
    """A model that is run with all operations rounded but those of some nodes.

    Args:
        read: The model.
        options: The accelerator, and the ids behind the inputs.
        feed: Inputs, to see whether rows in loops can be read off.
    """

    def __init__(self, read: ReadModel, options: Options, feed: Feeds) -> None:
        self._options, self._folder = options, read.folder
        self._model, self._norms = read_in_float32(read, options.accelerator)
        self._loops = _shows_loops(self._model, self._norms, feed, read.folder)

    @property
    def ways(self) -> tuple[OfConstants, ...]:
        """How constants are rounded: in both ways where the format does not hold one."""
        largest = self._options.accelerator.largest
        found = any(beyond(self._model, self._folder, largest))
        return ("largest", "infinite") if found else ("largest",)

    def run(
        self, feeds: Sequence[Feeds], kept: frozenset[str], constants: OfConstants = "largest"
    ) -> Runs:
        """What it gives with the nodes of these names in FP32.

        Raises:
            CannotRun: ONNX Runtime does not run it.
        """
        device = self._options.accelerator
        everything = Everything(kept=kept, beyond=constants)
        rounded = emulate(self._model, self._norms, device, self._loops, everything)
        taps = _Taps(rounded.mean_squares, rounded.arrived, rounded.watched)
        session = session_of(rounded.model, self._folder, packs=packs(feeds))
        return _run(session, taps, feeds, self._options.tokens, _unwatched)


def _unwatched(done: float) -> None:
    """Progress that nobody watches."""


def _shows_loops(
    original: onnx.ModelProto, norms: Sequence[Norm], feed: Feeds, folder: Path | None
) -> bool:
    """Whether the rows of norms in loops can be read off: every iteration has as many."""
    try:
        if any(norm.path for norm in norms):
            session_of(instrument(original, norms).model, folder).run(feed)
    except CannotRun:
        return False
    return True


@dataclass(frozen=True)
class _Taps:
    """The outputs that show what happens inside a model; see `Emulated`."""

    rows: dict[str, str]
    arrived: dict[str, str] = field(default_factory=dict)
    watched: list[Watched] = field(default_factory=list)


def _run(
    session: Session | SegmentedSession,
    taps: _Taps,
    feeds: Sequence[Feeds],
    tokens: Tokens | None,
    progress: Callable[[float], None],
) -> Runs:
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


def _unstable(
    original: onnx.ModelProto,
    folder: Path | None,
    feeds: Sequence[Feeds],
    plain: Runs,
    scaled: Runs,
) -> list[str]:
    """Outputs that no run can be held against: caches with uninitialised memory.

    Those of a sliding window are known by their op, others by differing from run to run.
    """
    windows = {
        name
        for node in original.graph.node
        if node.op_type == "GroupQueryAttention"
        and any(a.name == "local_window_size" and a.i > 0 for a in node.attribute)
        for name in node.output[1:]
    }
    first, second = plain.outputs[0], scaled.outputs[0]
    uninitialised = [name for name in first if name in windows]
    differing = [n for n in first if n not in windows and not same_bits(first[n], second[n])]
    if differing:
        session = session_of(original, folder, packs=packs(feeds))
        again = [session.run(feeds[0]) for _ in range(2)]
        differing = [n for n in differing if any(not same_bits(first[n], run[n]) for run in again)]
    return uninitialised + differing
