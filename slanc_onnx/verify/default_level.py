"""Default level: what the scales change where ONNX Runtime optimises as it does by itself.

"Bit-identical" is measured with optimisation off, where both files are run as they are written.
At the default level ONNX Runtime fuses what it finds, and a Div may keep it from that or change the
order of a sum: then the last bits differ through no fault of the scales.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

from slanc_onnx.graph import Array
from slanc_onnx.norms import ReadModel
from slanc_onnx.run import CannotRun, Feeds, Session, as_float32, too_large_at_once
from slanc_onnx.verify.compare import Difference, Runs, compare
from slanc_onnx.verify.runs import COMPARED_RUNS, keeps


def at_default_level(
    before: ReadModel, after: ReadModel, feeds: Sequence[Feeds], without: Sequence[str]
) -> Difference | None:
    """How far the outputs of both files, in FP32, are apart at the default level.

    Costs two more sessions, and two runs on each of the first `COMPARED_RUNS` inputs at most.

    Args:
        before: The original, of which the file as it was given is run.
        after: The rewritten model.
        feeds: Inputs by name, one dict per run.
        without: Outputs to leave out.

    Returns:
        The difference; None where ONNX Runtime does not run one of them there, or where they are
        too large to be run as a whole.
    """
    if too_large_at_once(before.model):
        return None
    files = (before.loaded, before.folder), (after.loaded, after.folder)
    found: list[Runs] = []
    try:
        for model, folder in files:
            session = Session(as_float32(model, folder), folder, packs=True, optimised=True)
            found.append(Runs(list(_kept(session, feeds)), {}, []))
            del session  # it holds the weights
            gc.collect()
    except CannotRun:
        return None
    return compare(found[0], found[1], without)


def _kept(session: Session, feeds: Sequence[Feeds]) -> Iterator[dict[str, Array]]:
    """The outputs of the first runs, or of the first alone where they are large."""
    for run, feed in enumerate(feeds[:COMPARED_RUNS]):
        outputs = session.run(feed)
        yield outputs
        if not keeps(run + 1, outputs):
            return
