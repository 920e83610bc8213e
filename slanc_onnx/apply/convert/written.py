"""Write a model whose scales are folded with floats of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from slanc_onnx.apply.convert.convert import Converted, convert
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.apply.fold import Fold, apply_fold
from slanc_onnx.graph import Draft, Pending
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress


@dataclass(frozen=True)
class Conversion:
    """How a file of 16 bits was made.

    Attributes:
        converted: What became of nodes and constants.
        positions: For how many there are tables of angles, or angles that stay in FP32; 0 where
            nothing is computed of positions.
    """

    converted: Converted
    positions: int = 0

    @property
    def kept(self) -> frozenset[str]:
        """The names of the nodes that compute in FP32."""
        return frozenset(node.name for node in self.converted.nodes)


def write_converted(
    model: onnx.ModelProto,
    folded: Fold,
    draft: Draft,
    options: Options,
    progress: Progress = no_progress,
) -> Conversion:
    """Fold, convert and write; no more than one weight is in memory at a time.

    Args:
        model: The model as it was read; it is changed in place.
        folded: The fold that was decided for it.
        draft: The output that it becomes.
        options: The accelerator, and what of the file stays as it is.
        progress: Called with the share of the data that is copied.

    Raises:
        SlancError: as for `Draft.write` and `convert`.
    """
    folder, pending = draft.source.parent, Pending()
    with draft.written():
        apply_fold(model, folded, folder, pending)
        weights = Weights(folder, draft.new_data(), pending)
        keeps = options.keep_io_types
        converted = convert(model, weights, options.accelerator, keep_io_types=keeps)
    draft.write(model, progress)
    return Conversion(converted)


def convert_in_memory(model: onnx.ModelProto, folder: Path | None, options: Options) -> Converted:
    """Convert a model that was folded, in place.

    Args:
        model: The model.
        folder: Where its external data lies; converted tensors are taken into the model.
        options: The accelerator, and what of the model stays as it is.

    Raises:
        SlancError: as for `convert`.
    """
    keeps = options.keep_io_types
    return convert(model, Weights(folder), options.accelerator, keep_io_types=keeps)
