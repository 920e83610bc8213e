"""The scales that the benchmarks compare, by one name each, and models that carry them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import onnx

from benchmarks.dmx import dmx_scales
from slanc_onnx.accelerator import ACCUMULATE, Accelerator
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.load import load_model
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.job import carry_out
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.model import ReadModel, read_model
from slanc_onnx.norms.norm import Norm
from slanc_onnx.options import Options
from slanc_onnx.run.session import Feeds
from slanc_onnx.scale import ScaledNorm, scales_to_apply
from slanc_onnx.scale.decide import compute_scales_in

Scales = Literal["none", "paper", "weights", "probe", "folded", "calibrated", "dmx"]
SCALES: tuple[Scales, ...] = get_args(Scales)
# The six ways of summing: "order, subnormals".
MODES = {
    f"{order}, {'flushed' if flush else 'kept'}": Accelerator(flush_subnormals=flush).summing(order)
    for order in ACCUMULATE
    for flush in (False, True)
}
HEAD_SIZE = 64  # of SmolLM2, for dmx's repeated heads


@dataclass(frozen=True)
class Version:
    """A model with or without scales, and its norms."""

    model: onnx.ModelProto
    norms: list[Norm]


def read_source(path: Path) -> ReadModel:
    """The model and its norms; external data is read when it is needed."""
    return read_model(load_model(path), path.parent)


def decided_by(
    source: ReadModel, scales: Scales, accelerator: Accelerator, calibration: Sequence[Feeds] = ()
) -> list[ScaledNorm]:
    """Scales by this package's rules; `folded` are those of the probe, before folding.

    Raises:
        SlancError: calibrated without data.
    """
    if scales == "calibrated" and not calibration:
        raise SlancError("calibrated scales take data, which this benchmark does not have.")
    estimate = "probe" if scales == "folded" else scales
    options = Options(
        scale=scales if scales in ("paper", "calibrated") else "window",
        estimate=estimate if estimate in ("weights", "probe") else "auto",
        accelerator=accelerator,
        certify="off",
    )
    return compute_scales_in(source, options, calibration)


def scales_by(
    source: ReadModel,
    scales: Scales,
    accelerator: Accelerator,
    calibration: Sequence[Feeds] = (),
    head_size: int = HEAD_SIZE,
) -> dict[str, float]:
    """Scales by norm name: of this package's rules, or of dmx-compressor's formulas."""
    if scales == "none":
        return {}
    if scales == "dmx":
        return dmx_scales(source.model, source.norms, source.folder, head_size)
    return scales_to_apply(decided_by(source, scales, accelerator, calibration))


def version_by(
    source: ReadModel,
    scales: Scales,
    accelerator: Accelerator,
    calibration: Sequence[Feeds] = (),
    head_size: int = HEAD_SIZE,
) -> Version | None:
    """A copy of the model that carries the scales; None where dmx has no formula for it."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    if scales == "folded":
        decided = decided_by(source, scales, accelerator)
        options = Options(apply="fold", accelerator=accelerator)
        carry_out(replace(source, loaded=model), decided, options)
    else:
        wanted = scales_by(source, scales, accelerator, calibration, head_size)
        if scales == "dmx" and not wanted:
            return None
        apply_scales_in(model, source.norms, wanted)
    return Version(model, find_norms_in(read_graph(model, source.folder)))
