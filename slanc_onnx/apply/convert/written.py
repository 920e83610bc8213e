"""Write a model whose scales are folded with floats of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from slanc_onnx.apply.convert.angles import read_circular
from slanc_onnx.apply.convert.convert import Converted, convert
from slanc_onnx.apply.convert.positions import Positions, positions_of
from slanc_onnx.apply.convert.tables import Tables, write_tables
from slanc_onnx.apply.convert.weights import Weights
from slanc_onnx.apply.fold import Fold, apply_fold
from slanc_onnx.apply.merge import Merges, write_changes
from slanc_onnx.graph import Draft, Pending
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress


@dataclass(frozen=True)
class Conversion:
    """How a file of 16 bits was made.

    Attributes:
        converted: What became of nodes and constants.
        tables: What became of the Cos and Sin of positions.
        positions: For how many positions there are tables.
    """

    converted: Converted
    tables: Tables
    positions: Positions

    @property
    def kept(self) -> frozenset[str]:
        """The names of the nodes that compute in FP32, and of Casts that read what these make."""
        return self.converted.as_is.union(node.name for node in self.converted.nodes)

    @property
    def longest(self) -> int:
        """For how many positions the file is made; 0 where it computes nothing of positions."""
        return self.positions.count if self.tables.made or self.tables.kept else 0


def write_converted(
    model: onnx.ModelProto,
    folded: Fold,
    draft: Draft,
    options: Options,
    merges: Merges | None = None,
    progress: Progress = no_progress,
) -> Conversion:
    """Fold, merge, convert and write; weights are in memory one at a time, tables as a whole.

    Args:
        model: The model as it was read; it is changed in place.
        folded: The fold that was decided for it.
        draft: The output that it becomes.
        options: The accelerator, and what of the file stays as it is.
        merges: What is merged, if anything.
        progress: Called with the share of the data that is copied.

    Raises:
        SlancError: as for `Draft.write`, `read_circular`, `write_tables` and `convert`.
    """
    folder, pending = draft.source.parent, Pending()
    with draft.written():
        apply_fold(model, folded, folder, pending)
        if merges is not None:
            write_changes(model, merges.changes, pending, folder, odd=True)
        weights = Weights(folder, draft.new_data(), pending)
        conversion = _converted(model, draft.source, weights, options)
    draft.write(model, progress)
    return conversion


def convert_in_memory(model: onnx.ModelProto, folder: Path | None, options: Options) -> Conversion:
    """Convert a model that was folded, in place.

    Args:
        model: The model.
        folder: Where its external data lies; converted tensors are taken into the model.
        options: The accelerator, and what of the model stays as it is.

    Raises:
        SlancError: as for `read_circular`, `write_tables` and `convert`.
    """
    return _converted(model, None, Weights(folder), options)


def _converted(
    model: onnx.ModelProto, file: Path | None, weights: Weights, options: Options
) -> Conversion:
    """Make tables, then convert."""
    device = options.accelerator
    circular = read_circular(model, weights.folder)
    positions = positions_of(model, file, options.positions, circular)
    tables = write_tables(model, circular, device.format, positions.count)
    kept = {at: each.why for each in tables.kept for at in each.nodes}
    keeps = options.keep_io_types
    converted = convert(model, weights, device, keep_io_types=keeps, kept=kept)
    return Conversion(converted, tables, positions)
