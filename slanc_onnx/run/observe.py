"""Observing: the rows of each norm over given inputs, in FP32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.run.float32 import as_float32, norms_in_float32
from slanc_onnx.run.instrumented import instrument
from slanc_onnx.run.segments import session_of
from slanc_onnx.run.session import Feeds


@dataclass(frozen=True, eq=False)
class ObservedRows:
    """What one run shows, by norm name; norms that are out of reach are missing.

    Attributes:
        sums: Sums of squares of the rows, in the shape that the graph gives them.
        lengths: Elements per row, where only the data tells.
        magnitudes: The largest sum of magnitudes, for norms that subtract the mean.
    """

    sums: dict[str, Array]
    lengths: dict[str, int]
    magnitudes: dict[str, float]


def observe_rows(
    model: onnx.ModelProto, norms: Sequence[Norm], feeds: Sequence[Feeds], folder: Path | None
) -> Iterator[ObservedRows]:
    """Run a model as far as its norms, once on each of the inputs.

    Args:
        model: The original model.
        norms: Its norms.
        feeds: Inputs by name, one dict per run.
        folder: Where its external data lies.

    Raises:
        CannotRun: ONNX Runtime cannot run the model on these inputs.
    """
    copy, own = as_float32(model, folder), norms_in_float32(norms)
    shown = instrument(copy, own, keep_outputs=False, magnitudes=True)
    if not shown.sums:
        return
    session = session_of(shown.model, folder, list(shown.sums.values()))
    for feed in feeds:
        values = session.run(feed)
        yield ObservedRows(
            {name: values[output] for name, output in shown.sums.items()},
            {name: int(values[o].max(initial=0)) for name, o in shown.lengths.items()},
            {name: _largest(values[o]) for name, o in shown.magnitudes.items()},
        )


def _largest(sums: Array) -> float:
    return float(sums[np.isfinite(sums)].max(initial=0.0))
