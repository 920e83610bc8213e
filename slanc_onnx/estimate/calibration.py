"""Calibrate: estimates from the user's own data, as the alternative to static ones.

The paper compares SLaNC with it (section 3.1, dynamic calibration): run the model over a data set,
keep the median and the largest sum of squares of each norm, and place the scale by these two. Here
they go through the same placement as the static figures (`window.py`),

    max / largest  <=  s^2  <=  median / (d * smallest normal),

so that a comparison differs in the source of the figures alone. The scale holds for rows like those
that were seen, without allowance for larger ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.run import Feeds, observe_rows


def calibrate(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    feeds: Sequence[Feeds],
    folder: Path | None,
    progress: Progress = no_progress,
) -> dict[str, Estimate]:
    """Estimates by norm name from runs on these inputs, for the norms that the runs reach.

    Args:
        model: The original model.
        norms: Its norms.
        feeds: The data set: inputs by name, one dict per run.
        folder: Where its external data lies.
        progress: Called with the share of the runs that are done.

    Raises:
        CannotRun: ONNX Runtime cannot run the model on these inputs.
    """
    rows: dict[str, list[Array]] = {}
    lengths: dict[str, int] = {}
    plain: dict[str, float] = {}
    for i, seen in enumerate(observe_rows(model, norms, feeds, folder)):
        for name, sums in seen.sums.items():
            rows.setdefault(name, []).append(sums.reshape(-1))
        lengths.update(seen.lengths)
        for name, size in seen.magnitudes.items():
            plain[name] = max(size, plain.get(name, 0.0))
        progress("calibrating", (i + 1) / len(feeds))
    widths = {norm.name: lengths.get(norm.name) or norm.width for norm in norms}
    found = {name: from_data(np.concatenate(parts), widths[name]) for name, parts in rows.items()}
    return {
        name: replace(estimate, magnitudes=plain.get(name, 0.0))
        for name, estimate in found.items()
        if estimate is not None
    }


def from_data(sums: Array, width: int | None = None) -> Estimate | None:
    """The estimate of a data set: the median is `typical`, the maximum `upper`.

    None where no row is finite and above zero.

    Args:
        sums: Sums of squares of the rows of a data set, shape [rows].
        width: Elements per row, where it is known.
    """
    usable = sums[np.isfinite(sums) & (sums > 0)].astype(np.float64)
    if not usable.size:
        return None
    largest = float(usable.max())
    return Estimate(
        float(np.median(usable)), largest, float(usable.min()), "calibrated", width, largest
    )
