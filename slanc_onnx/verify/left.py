"""Left: the tensor that left the narrow format first, which is what a failure should name.

What follows it is infinite or nan, and a norm that gets that overflows through no fault of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slanc_onnx.graph import Array
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run import CannotRun, Feeds, read_in_float32, session_of
from slanc_onnx.verify.emulate import Everything, Watched, What, emulate

READ: tuple[What, ...] = ("read", "divided")  # what comes to a norm, and not of it


@dataclass(frozen=True)
class Left:
    """A tensor that left the format that it is rounded to.

    Attributes:
        tensor: Its name.
        op: The op that makes it, or the form of a norm.
        value: The largest number that did not fit: an element, or a sum inside the op; for rows
            of a norm the largest sum of squares.
        norm: The name of the norm that it belongs to; "" for none.
        what: Of that norm, the "rows", what it has "made" or "read", the "product" of its row, or
            what a fold has "divided" before it.
    """

    tensor: str
    op: str
    value: float
    norm: str = ""
    what: What = "made"


def all_left(read: ReadModel, options: Options, feeds: Sequence[Feeds]) -> list[Left] | None:
    """What leaves the format where all operations are rounded, run by run; None where ONNX Runtime
    does not run a model that shows so much."""
    try:
        return [left for found in each_left(read, options, feeds) for left in found]
    except CannotRun:
        return None


def first_of(left: Sequence[Left], sums: Mapping[str, Array]) -> Left | None:
    """The first that left, rows of a norm with their largest sum of squares; None for none.

    Args:
        left: From `all_left`.
        sums: Sums of squares of the rows in FP32, by the names of the norms whose lost rows count.
    """
    for one in left:
        if one.what != "rows":
            return one
        if one.norm in sums:
            return replace(one, value=largest_of(sums[one.norm]))
    return None


def each_left(
    read: ReadModel,
    options: Options,
    feeds: Sequence[Feeds],
    kept: frozenset[str] = frozenset(),
) -> Iterator[list[Left]]:
    """Run by run what leaves the format where all operations are rounded, in the model's order.

    What is infinite or nan because of what it reads does not leave it. Rows of a norm that came
    finite and are lost have no size here.

    Args:
        read: The rewritten model.
        options: The accelerator.
        feeds: Inputs by name, one dict per run.
        kept: The names of nodes that stay in FP32.

    Raises:
        CannotRun: ONNX Runtime does not run a model that shows so much.
    """
    device = options.accelerator
    model, norms = read_in_float32(read, device)
    shown = emulate(model, norms, device, False, Everything(True, kept | read.kept))
    session = session_of(shown.model, read.folder)
    for feed in feeds:
        values, found = session.run(feed), list[Left]()
        for watched in shown.watched:
            size = values[watched.output]
            if watched.what == "rows":
                size = np.where(values[shown.arrived[watched.norm]] > 0, 0.0, size)
            left = _left(watched, size)
            # A size that fits is of partial sums; or of what is lost already, as in a Softmax.
            if left is not None and (left.value > device.largest or not found):
                found.append(left)
        yield found


def _left(watched: Watched, shown: Array) -> Left | None:
    value = float(np.max(shown, initial=0.0)) if watched.what != "rows" else math.inf
    if not value or (watched.what == "rows" and np.isfinite(shown).all()):
        return None
    return Left(watched.tensor, watched.op, value, watched.norm, watched.what)


def largest_of(sums: Array) -> float:
    """The largest finite number; inf where there is none."""
    finite = sums[np.isfinite(sums)]
    return float(finite.max()) if finite.size else math.inf
