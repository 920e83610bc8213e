"""The steps of the job on a model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import NodeAt, node_at
from slanc_onnx.job import carry_out, decide
from slanc_onnx.norms import Norm, read_model
from slanc_onnx.options import ApplyRule, Options
from slanc_onnx.run import validation_inputs, with_checked_inputs
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Exactness, Validation, validate_on


def find_norms(model: onnx.ModelProto, folder: Path | None = None) -> list[Norm]:
    """Every LayerNorm and RMSNorm of a model, in topological order.

    Args:
        model: The model; it is not changed and its large weights are not read.
        folder: Where its external data lies, if it has any that was not loaded.

    Raises:
        SlancError: the graph cannot be read.
    """
    return read_model(model, folder).norms


def compute_scales(
    model: onnx.ModelProto, options: Options | None = None, *, folder: Path | None = None
) -> list[ScaledNorm]:
    """Decide the scale of every norm; the model is not changed.

    Args:
        model: The model.
        options: Which rule and which estimate, for which accelerator.
        folder: Where its external data lies.

    Raises:
        SlancError: bad input.
    """
    read = read_model(model, folder)
    return decide(read, with_checked_inputs(options or Options(), read.specs))


def apply_scales(
    model: onnx.ModelProto,
    scales: Sequence[ScaledNorm],
    *,
    folder: Path | None = None,
    apply: ApplyRule = "div",
    accelerator: Accelerator | None = None,
) -> bool:
    """Put the scales of `compute_scales` into the same model, in place.

    Args:
        model: The model for which they were computed, unchanged since.
        scales: The decisions; those whose status is not "scaled" are passed over.
        folder: Where its external data lies, if it has any.
        apply: "div" for a Div before each norm, "fold" to divide the weights before it instead;
            external weights that change are taken into the model.
        accelerator: Whose limits bound the scale of a group, with "fold".

    Returns:
        Whether the model was modified.

    Raises:
        SlancError: the model is another one than the scales are for, or a scale to fold is no
            power of two; the model is unchanged.
    """
    read = read_model(model, folder)
    for norm in (s.norm for s in scales):
        if not _is_there(read.model, norm):
            raise SlancError(
                f"norm {norm.name!r} is not where it was found. Call compute_scales on this "
                "very model, and apply its result before changing anything else."
            )
    options = Options(apply=apply, accelerator=accelerator or Accelerator())
    modified, _ = carry_out(read, scales, options)
    return modified


def _is_there(model: onnx.ModelProto, norm: Norm) -> bool:
    try:
        nodes = [node_at(model, NodeAt(norm.path, index)) for index in norm.nodes]
    except (IndexError, StopIteration):
        return False
    return any((norm.normalised or norm.output) in node.output for node in nodes)


def validate(
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    options: Options | None = None,
    *,
    folder: Path | None = None,
) -> Validation:
    """Compare both models on ONNX Runtime, in FP32 and with norms rounded to FP16 at each step.

    Args:
        original: The model before.
        rewritten: The model after.
        options: The accelerator to emulate, and the inputs or tokens to run.
        folder: Where the external data of both lies.

    Raises:
        SlancError: the inputs do not fit, or the models cannot be run here.
    """
    before, after = read_model(original, folder), read_model(rewritten, folder)
    options = with_checked_inputs(options or Options(), before.specs)
    inputs = validation_inputs(before, options)
    exact = options.scale != "paper" and not options.weight_loss
    merged = 0.0 if options.merge else None
    return validate_on(before, after, options, inputs, Exactness(exact and merged is None, merged))
