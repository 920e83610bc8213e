"""Default level: what the scales change where ONNX Runtime optimises as it does by itself.

"Bit-identical" is measured with optimisation off, where both files are run as they are written.
At the default level ONNX Runtime fuses what it finds, and a Div may keep it from that or change the
order of a sum: then the last bits differ through no fault of the scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from slanc_onnx.graph import Array
from slanc_onnx.norms import ReadModel
from slanc_onnx.run import (
    CannotRun,
    Feeds,
    Session,
    as_float32,
    holds_16_bits,
    too_large_at_once,
)
from slanc_onnx.verify.compare import Difference, Runs, compare
from slanc_onnx.verify.versions import COMPARED_RUNS, keeps


def at_default_level(
    before: ReadModel, after: ReadModel, feeds: Sequence[Feeds]
) -> tuple[Runs, Runs] | None:
    """The outputs of both files, in FP32, at the default level.

    Costs two more sessions, and two runs on each of the first `COMPARED_RUNS` inputs at most.

    Args:
        before: The original, of which the file as it was given is run.
        after: The rewritten model.
        feeds: Inputs by name, one dict per run.

    Returns:
        Those of each; None where ONNX Runtime does not run one of them there, or where they are
        too large to be run as a whole.
    """
    if too_large_at_once(before.model):
        return None
    try:
        one, other = (
            _run(as_float32(r.loaded, r.folder), r.folder, feeds) for r in (before, after)
        )
    except CannotRun:
        return None
    return one, other


def as_they_round(
    before: ReadModel, after: ReadModel, feeds: Sequence[Feeds]
) -> tuple[Runs, Runs] | None:
    """The outputs of both files as they are, which round what they hold in 16 bits themselves.

    A comparison in FP32 does not see that: a weight that is merged may move what is behind it by
    one roundoff of FP16. Graph optimisation is off.

    Args:
        before: The original, of which the file as it was given is run.
        after: The rewritten model.
        feeds: Inputs by name, one dict per run.

    Returns:
        Those of each; None where the file holds nothing of 16 bits, ONNX Runtime does not run one
        of them, as it does few with BF16, or they are too large to be run as a whole.
    """
    if not holds_16_bits(before.loaded) or too_large_at_once(before.model):
        return None
    try:
        one, other = (_run(r.loaded, r.folder, feeds, optimised=False) for r in (before, after))
    except CannotRun:
        return None
    return one, other


def as_written(
    before: ReadModel,
    after: onnx.ModelProto,
    folder: Path,
    feeds: Sequence[Feeds],
    without: Sequence[str],
    *,
    optimised: bool = True,
) -> Difference | None:
    """How far a file of 16 bits, run as it is, is from the original in FP32, at the default level.

    This says that it loads and runs. It says nothing of overflow: ONNX Runtime's CPU provider
    computes in FP32 between nodes.

    Args:
        before: The original.
        after: The file of 16 bits.
        folder: Where that lies.
        feeds: Inputs by name, one dict per run.
        without: Outputs to leave out.
        optimised: Whether the file is run at that level too, not with graph optimisation off.

    Returns:
        The difference; None where the original is not run there, or where inputs or outputs are
        BF16, so that the file is loaded and not run.

    Raises:
        CannotRun: ONNX Runtime does not load or run the file.
    """
    ends = (*after.graph.input, *after.graph.output)
    types = {info.type.tensor_type.elem_type for info in ends}
    if TensorProto.BFLOAT16 in types:  # NumPy has no such type, and so it is loaded alone
        Session(after, folder, packs=True, optimised=optimised)
        return None
    ran = _run(after, folder, feeds, optimised)
    if too_large_at_once(before.model):
        return None
    try:
        plain = _in_float32(before, feeds)
    except CannotRun:
        return None
    return compare(plain, ran, without, floats_only=True)


def _in_float32(read: ReadModel, feeds: Sequence[Feeds]) -> Runs:
    return _run(as_float32(read.loaded, read.folder), read.folder, feeds)


def _run(
    model: onnx.ModelProto, folder: Path | None, feeds: Sequence[Feeds], optimised: bool = True
) -> Runs:
    """The outputs of a model, and nothing else of it."""
    session = Session(model, folder, packs=True, optimised=optimised)
    return Runs(list(_kept(session, feeds)), {}, [])


def _kept(session: Session, feeds: Sequence[Feeds]) -> Iterator[dict[str, Array]]:
    """The outputs of the first runs, or of the first alone where they are large."""
    for run, feed in enumerate(feeds[:COMPARED_RUNS]):
        outputs = session.run(feed)
        yield outputs
        if not keeps(run + 1, outputs):
            return
