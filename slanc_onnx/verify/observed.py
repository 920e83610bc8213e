"""Observed: what the rows of each norm did in the four runs of a validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.verify.runs import FourRuns

_NONE = np.zeros(0)


@dataclass(frozen=True)
class Observed:
    """What a norm's rows did, over all inputs that were run.

    Attributes:
        sum_of_squares: Of every row in the original, FP32, shape [rows].
        scaled: Of every row in the rewritten model.
        overflowed: Rows whose FP16 mean square is not finite in the rewritten model.
        underflowed: Rows whose FP16 mean square is zero, though the row is not.
        overflowed_before: As `overflowed`, in the original.
        arrived: Rows of the rewritten model that were not finite before the norm read them.
        zeros_lost: Rows of zeros, or that underflow, which are not finite where the target rounds
            the epsilon of the rewritten model to nearest.
        vanished_before: Rows of the original whose FP16 mean square is zero, though it is larger
            than epsilon.
        undivided: The epsilon with which those are lost, where no scale divides it: the original
            loses them too. None elsewhere.
        off: The largest relative error of a finite FP16 mean square of the rewritten model, among
            rows that epsilon does not outweigh.
    """

    sum_of_squares: Array
    scaled: Array
    overflowed: int
    underflowed: int
    overflowed_before: int
    arrived: int = 0
    vanished_before: int = 0
    zeros_lost: int = 0
    undivided: float | None = None
    off: float = 0.0


def observe(
    before: Sequence[Norm], after: Sequence[Norm], runs: FourRuns, device: Accelerator
) -> dict[str, Observed]:
    """What the rows of the norms did that both FP32 runs show, by norm name.

    Args:
        before: The norms of the original.
        after: Those of the rewritten model.
        runs: What was run.
        device: The accelerator.
    """
    observed = {norm.name: _observe(norm, runs) for norm in _shown(before, runs)}
    return _with_zeros(observed, after, device)


def lost_before(observed: Mapping[str, Observed]) -> int:
    """Rows that lose their norm as exported: they overflow, or vanish though epsilon is smaller."""
    return sum(seen.overflowed_before + seen.vanished_before for seen in observed.values())


def _with_zeros(
    observed: Mapping[str, Observed], rewritten: Sequence[Norm], device: Accelerator
) -> dict[str, Observed]:
    """The same, with the rows that vanish and for which the target does not keep an epsilon."""
    found = dict(observed)
    for norm in rewritten:
        seen = found.get(norm.name)
        if seen is None or not device.rounds_away(norm.epsilon or 0.0, norm.epsilon_power):
            continue
        zeros = int(np.count_nonzero(seen.sum_of_squares == 0))
        own = norm.epsilon if norm.scaled_by in (None, 1.0) else None
        lost = zeros + seen.underflowed
        found[norm.name] = replace(seen, zeros_lost=lost, undivided=own)
    return found


def _shown(norms: Sequence[Norm], runs: FourRuns) -> Iterator[Norm]:
    """The norms whose rows both FP32 runs show."""
    for norm in norms:
        if all(run.rows.get(norm.name, _NONE).size for run in (runs.plain, runs.scaled)):
            yield norm


def _observe(norm: Norm, runs: FourRuns) -> Observed:
    name = norm.name
    sums = runs.plain.rows[name].astype(np.float64)
    after = runs.protected.rows.get(name, _NONE)
    before = runs.naive.rows.get(name, _NONE)
    # What is not finite in FP32 cannot be held against the norm.
    known = np.isfinite(sums) if after.shape == before.shape == sums.shape else True
    lost = (after == 0) & (sums > 0) if after.shape == sums.shape else np.zeros(0, bool)
    arrived = runs.protected.arrived.get(name, _NONE) > 0
    arrived = arrived & known if arrived.shape == sums.shape else np.zeros(0, bool)
    least = norm.joined_epsilon * (norm.width or 1 if norm.kind != "l2" else 1)
    vanished = (before == 0) & (sums > least) if before.shape == sums.shape else np.zeros(0, bool)
    return Observed(
        sum_of_squares=sums,
        scaled=runs.scaled.rows[name].astype(np.float64),
        overflowed=int(np.count_nonzero(~np.isfinite(after) & known)),
        underflowed=int(np.count_nonzero(lost)),
        overflowed_before=int(np.count_nonzero(~np.isfinite(before) & known)),
        arrived=int(np.count_nonzero(arrived)),
        vanished_before=int(np.count_nonzero(vanished)),
        off=_mean_square_off(norm, runs, sums > least),
    )


def _mean_square_off(norm: Norm, runs: FourRuns, counts: Array) -> float:
    """The largest relative error of the rewritten model's rounded mean squares; 0 for none.

    Args:
        norm: The norm, of the original.
        runs: What was run.
        counts: Which rows matter.
    """
    sums = runs.scaled.rows[norm.name].astype(np.float64)
    squares = runs.protected.rows.get(norm.name, _NONE).astype(np.float64)
    if squares.shape != sums.shape or counts.shape != sums.shape or norm.width is None:
        return 0.0
    known = counts & np.isfinite(squares) & np.isfinite(sums) & (sums > 0)
    elements = 1 if norm.kind == "l2" else norm.width
    errors = np.abs(squares[known] * elements / sums[known] - 1)
    return float(errors.max(initial=0.0))
