"""Merge on the way from a fold to its file, or in memory; weights are changed one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from onnx import numpy_helper

from slanc_onnx.apply.fold import Fold, apply_fold
from slanc_onnx.apply.merge.changes import Merges
from slanc_onnx.apply.merge.merging import merge
from slanc_onnx.apply.merge.write import write_changes
from slanc_onnx.graph import Array, Draft, Pending, all_tensors
from slanc_onnx.options import Options
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.scale import ScaledNorm


def plan_merges(
    model: onnx.ModelProto,
    folded: Fold,
    folder: Path | None,
    options: Options,
    decided: Sequence[ScaledNorm],
) -> Merges:
    """Decide what is merged in a model once it is folded; it is not changed.

    Args:
        model: The model that the fold was decided for.
        folded: The fold.
        folder: Where its external data lies.
        options: What to merge.
        decided: The norms as the fold left them.
    """
    copy, pending = onnx.ModelProto(), Pending()
    copy.CopyFrom(model)
    apply_fold(copy, folded, folder, pending)
    return merge(copy, folder, pending, options, decided)


def write_merged(
    model: onnx.ModelProto,
    folded: Fold,
    merges: Merges,
    draft: Draft,
    progress: Progress = no_progress,
) -> None:
    """Fold, merge and write; external weights that change go to a data file of their own.

    Args:
        model: The model; it is changed in place.
        folded: The fold.
        merges: What is merged.
        draft: The output that it becomes.
        progress: Called with the share of the data that is copied.

    Raises:
        SlancError: as for `Draft.write`.
    """
    pending, folder, data = Pending(), draft.source.parent, draft.new_data()
    with draft.written():
        apply_fold(model, folded, folder, pending)
        write_changes(model, merges.changes, pending, folder)
        for tensor in all_tensors(model):
            made: Callable[[], Array] | None = pending.give(tensor)
            if made is not None:
                data.put(tensor, made)
    draft.write(model, progress)


def merge_in_memory(
    model: onnx.ModelProto,
    folder: Path | None,
    options: Options,
    decided: Sequence[ScaledNorm] = (),
) -> Merges:
    """Merge in a model that was folded, in place; changed weights are taken into it.

    Args:
        model: The model.
        folder: Where its external data lies.
        options: What to merge.
        decided: The norms as the fold left them.
    """
    pending = Pending()
    merges = merge(model, folder, pending, options, decided)
    write_changes(model, merges.changes, pending, folder, odd=options.to is not None)
    for tensor in all_tensors(model):
        made = pending.give(tensor)
        if made is not None:
            tensor.CopyFrom(numpy_helper.from_array(made(), tensor.name))
    return merges
