"""The four runs of a validation: both models in FP32, and both with rounded arithmetic.

Where parts of norms are merged, the fold alone is run with rounded arithmetic as well, and once
more rounded otherwise.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from slanc_onnx.accelerator import FLOAT16, SumOrder
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress
from slanc_onnx.run import (
    CannotRun,
    Emitter,
    Feeds,
    as_float32,
    instrument,
    read_in_float32,
    session_of,
)
from slanc_onnx.verify.beyond import beyond
from slanc_onnx.verify.compare import Runs, same_bits
from slanc_onnx.verify.emulate import Everything, OfConstants, Watched, emulate
from slanc_onnx.verify.outside import show_outside
from slanc_onnx.verify.versions import (
    Taps,
    Version,
    packs,
    rounded_version,
    run_showing_taps,
    run_version,
    unless_refused,
    unwatched,
)

ORIGINAL_REWRITTEN = ("original", "rewritten")
WAYS = 8  # to round the fold otherwise, the first always and the others where that one decides
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
    versions: list[Version] = []
    for model, found, read, which in zip(
        models, norms, (before, after), ORIGINAL_REWRITTEN, strict=True
    ):
        shows = which == "rewritten" and device.format == FLOAT16 and not options.everything
        outside = sets if shows else None
        versions.append(_in_float32(f"FP32, {which}", model, (read, found), loops, outside))
    for model, found, read, which in zip(
        models, norms, (before, after), ORIGINAL_REWRITTEN, strict=True
    ):
        everything = Everything(kept=read.kept) if options.everything else None
        rounded = emulate(model, found, device, loops, everything)
        versions.append(rounded_version(f"{device.format} norms, {which}", rounded, read.folder))
    if alone is not None:
        versions += _of_the_fold(alone, options)
    gc.collect()  # what was read to make them: graphs that hold themselves, and weights with them
    results: list[list[Runs | CannotRun]] = []
    for index, version in enumerate(versions):

        def step(done: float, what: str = version.what, index: int = index) -> None:
            progress(f"validating: {what}", (index + done) / len(versions))

        results.append(run_version(version, options, sets, step))
    ran = zip(sets, zip(*results, strict=True), strict=True)
    return [unless_refused(partial(_four, before, models[0], versions, *given)) for given in ran]


def _in_float32(
    what: str,
    model: onnx.ModelProto,
    of: tuple[ReadModel, Sequence[Norm]],
    loops: bool,
    outside: Sequence[Sequence[Feeds]] | None,
) -> Version:
    """A model in FP32, with the sums of squares of its norms' rows.

    Args:
        what: In words.
        model: In FP32.
        of: What it was read as, and its norms in FP32.
        loops: Whether rows of norms in loops are shown.
        outside: The inputs, where it shows the sizes of what lies outside of norms; else None.
    """
    read, norms = of
    if outside is None:
        shown = instrument(model, norms, loops=loops)
        return Version(what, shown.model, read.folder, Taps(shown.sums))
    watched: list[Watched] = []

    def show(emitter: Emitter) -> list[str]:
        watched.extend(show_outside(emitter, read, norms, outside))
        return [one.output for one in watched]

    shown = instrument(model, norms, loops=loops, also=show)
    taps = Taps(shown.sums, watched=watched)
    less = partial(_in_float32, what, model, of, loops, None)
    return Version(what, shown.model, read.folder, taps, showing_less=less)


def _of_the_fold(alone: ReadModel, options: Options) -> list[Version]:
    """The fold alone, rounded as the accelerator rounds and otherwise.

    Otherwise is with each result moved by up to one unit roundoff before it is rounded, the sums in
    another order, where that makes a difference, and subnormals kept.
    """
    read = read_in_float32(alone, options.accelerator)
    return [_of_the_fold_in(read, alone, options, dither) for dither in (0, 1)]


def _of_the_fold_in(
    read: tuple[onnx.ModelProto, Sequence[Norm]], alone: ReadModel, options: Options, dither: int
) -> Version:
    """The fold alone in one of the ways to round it, 0 for that of the accelerator.

    Args:
        read: Its model and norms in FP32.
        alone: The fold.
        options: The accelerator, and what is emulated of it.
        dither: Which way; see `emulate`.
    """
    how, (model, norms) = options.accelerator, read
    what = f"{how.format} norms, the fold alone{', rounded otherwise' if dither else ''}"
    if dither:
        order = _OTHER_ORDER.get(how.sum_order, how.sum_order)
        how = replace(how, sum_order=order, flush_subnormals=False)
    everything = Everything(kept=alone.kept) if options.everything else None
    rounded = emulate(model, norms, how, False, everything, dither)
    return rounded_version(what, rounded, alone.folder, needed=not dither)


def in_further_ways(alone: ReadModel, options: Options, feeds: Sequence[Feeds]) -> Iterator[Runs]:
    """The fold alone, rounded in each way but the first two; none where ONNX Runtime refuses it.

    Args:
        alone: The fold.
        options: The accelerator, and what is emulated of it.
        feeds: Inputs by name, one dict per run.
    """
    read = read_in_float32(alone, options.accelerator)
    for dither in range(2, WAYS + 1):
        version = _of_the_fold_in(read, alone, options, dither)
        [found] = run_version(version, replace(options, tokens=None), [feeds], unwatched)
        if isinstance(found, Runs):
            yield found


def _four(
    before: ReadModel,
    original: onnx.ModelProto,
    versions: Sequence[Version],
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
    return run_showing_taps(session, Taps(shown.sums), feeds, options.tokens, unwatched)


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
        taps = Taps(rounded.mean_squares, rounded.arrived, rounded.watched)
        session = session_of(rounded.model, self._folder, packs=packs(feeds))
        return run_showing_taps(session, taps, feeds, self._options.tokens, unwatched)


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
