"""Audit: static scales held against the user's own data.

The model runs once over these inputs, in FP32. Each norm's rows are held against the window that
its scale gives it and against what was predicted; the largest rows are named with their token and
position, because that is where massive activations are born.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.estimate import TYPICAL_QUANTILE
from slanc_onnx.graph import Array
from slanc_onnx.norms import ReadModel, as_computed
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.reasons import Reason, Seen
from slanc_onnx.run import Feeds, observe_rows
from slanc_onnx.scale import ScaledNorm

WORST = 3


@dataclass(frozen=True)
class Row:
    """One row of a norm's input.

    Attributes:
        sum_of_squares: Before scaling.
        run: Which set of inputs, from 0.
        sequence: Which sequence of the batch; None where the shape does not tell.
        position: Which token of the sequence; None likewise.
        token: Its id; None for an input without ids.
    """

    sum_of_squares: float
    run: int
    sequence: int | None = None
    position: int | None = None
    token: int | None = None

    @property
    def place(self) -> Reason:
        """Where it was seen."""
        if self.sequence is None or self.position is None or self.token is None:
            return Reason(Seen.IN_RUN, (self.run,))
        return Reason(Seen.AT_POSITION, (self.run, self.sequence, self.position, self.token))

    def __str__(self) -> str:
        where = [f"run {self.run}"]
        if self.sequence is not None:
            where.append(f"sequence {self.sequence}, position {self.position}")
        if self.token is not None:
            where.append(f"id {self.token}")
        return f"{self.sum_of_squares:.3g} at {', '.join(where)}"


@dataclass(frozen=True)
class Audit:
    """What one norm's rows did, against its scale and its estimate.

    Attributes:
        name: Of the norm.
        rows: How many there were.
        above: Rows whose scaled sum of squares is over the largest number.
        below: Rows whose scaled mean square is under the smallest normal number, but neither zero
            nor outweighed by epsilon.
        typical_ratio: Predicted over observed: `typical` over the lower 5 % of the rows; None
            without an estimate.
        upper_ratio: `upper` over the largest row; below 1 where that was not foreseen.
        worst: The largest rows, largest first.
    """

    name: str
    rows: int
    above: int
    below: int
    typical_ratio: float | None
    upper_ratio: float | None
    worst: tuple[Row, ...]

    @property
    def coverage(self) -> float:
        """The share of the rows inside the window."""
        return 1 - (self.above + self.below) / self.rows


def audit_scales(
    read: ReadModel,
    decided: Sequence[ScaledNorm],
    feeds: Sequence[Feeds],
    accelerator: Accelerator,
    progress: Progress = no_progress,
) -> list[Audit]:
    """One audit per norm that the inputs reach, in the norms' order.

    Args:
        read: The original model; its inputs of token ids name the rows.
        decided: Its norms with their scales; one that was skipped counts as divided by 1.
        feeds: Inputs by name, one dict per run.
        accelerator: Whose limits make the window.
        progress: Called with the share of the runs that are done.

    Raises:
        CannotRun: ONNX Runtime cannot run the model on these inputs.
    """
    norms = as_computed([d.norm for d in decided], accelerator.variance == "one-pass")
    text = next((spec.name for spec in read.specs if spec.is_text), "")
    sums: dict[str, list[Array]] = {}
    worst: dict[str, list[Row]] = {}
    lengths: dict[str, int] = {}
    for run, seen in enumerate(observe_rows(read.model, norms, feeds, read.folder)):
        for name, rows in seen.sums.items():
            sums.setdefault(name, []).append(rows.reshape(-1).astype(np.float64))
            found = worst.get(name, []) + largest_rows(rows, run, feeds[run].get(text))
            worst[name] = sorted(found, key=lambda row: -row.sum_of_squares)[:WORST]
        lengths.update(seen.lengths)
        progress("observing", (run + 1) / len(feeds))
    joined = {name: np.concatenate(parts) for name, parts in sums.items()}
    audits = []
    for norm in decided:
        name = norm.norm.name
        width = norm.norm.width or lengths.get(name)
        if width and name in joined and len(joined[name]):
            audits.append(audit(norm, joined[name], width, accelerator, worst[name]))
    return audits


def audit(
    decided: ScaledNorm, sums: Array, width: int, accelerator: Accelerator, worst: Sequence[Row]
) -> Audit:
    """Rows against the window of a norm's scale.

    Args:
        decided: The norm.
        sums: Sums of squares before scaling, shape [rows].
        width: Elements per row.
        accelerator: Whose limits make the window.
        worst: The largest rows.
    """
    square = decided.divisor**2
    largest, smallest = accelerator.square_limits(width)
    averaged = 1 if decided.norm.kind == "l2" else width  # what epsilon joins is divided by this
    outweighed = averaged * decided.norm.joined_epsilon
    known = sums[~np.isnan(sums)]
    typical = upper = None
    if decided.estimate is not None and known.size and known.max() > 0:
        lower = float(np.quantile(known, TYPICAL_QUANTILE))
        typical = decided.estimate.typical / lower if lower > 0 else None
        upper = decided.estimate.upper / float(known.max())
    below = (known > outweighed) & (known < averaged * smallest * square)
    above = int(np.count_nonzero(known > largest * square)) + int(np.isnan(sums).sum())
    return Audit(
        decided.norm.name,
        len(sums),
        above,
        int(np.count_nonzero(below)),
        typical,
        upper,
        tuple(worst),
    )


def largest_rows(sums: Array, run: int, ids: Array | None) -> list[Row]:
    """The largest rows of one run, with the tokens that they belong to.

    Args:
        sums: Sums of squares, shape [..., 1] with the sequences first, and among the other axes
            one for the positions; heads or groups may have others.
        run: Which run.
        ids: Token ids, shape [sequences, positions]; None where the model takes none.
    """
    flat = np.nan_to_num(sums.reshape(-1).astype(np.float64), nan=np.inf, posinf=np.inf)
    order = np.argsort(-flat, kind="stable")[:WORST]
    if ids is None or ids.ndim != 2:
        return [Row(float(flat[i]), run) for i in order]
    shape = sums.shape
    if flat.size == ids.size:
        shape = ids.shape
    axes = [axis for axis in range(1, len(shape)) if shape[axis] == ids.shape[1]]
    if shape[:1] != ids.shape[:1] or not axes:
        return [Row(float(flat[i]), run) for i in order]
    rows = []
    for i in order:
        at = np.unravel_index(i, shape)
        sequence, position = int(at[0]), int(at[axes[0]])
        rows.append(Row(float(flat[i]), run, sequence, position, int(ids[sequence, position])))
    return rows
