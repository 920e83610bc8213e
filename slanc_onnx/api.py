"""The steps of the job on a model in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.errors import SlancError
from slanc_onnx.graph import NodeAt, input_specs, node_at, read_graph
from slanc_onnx.job import carry_out, decide
from slanc_onnx.norms import Norm, find_norms_in, inline_norm_functions
from slanc_onnx.options import ApplyRule, Options
from slanc_onnx.run import validation_feeds, with_checked_inputs
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Validation, validate_pair


def find_norms(model: onnx.ModelProto, folder: Path | None = None) -> list[Norm]:
    """Every LayerNorm and RMSNorm of a model, in topological order.

    Args:
        model: The model; it is not changed and its large weights are not read.
        folder: Where its external data lies, if it has any that was not loaded.

    Raises:
        SlancError: the graph cannot be read.
    """
    inlined, _ = inline_norm_functions(model, folder)
    return find_norms_in(read_graph(inlined, folder))


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
    model, _ = inline_norm_functions(model, folder)
    scopes = read_graph(model, folder)
    options = with_checked_inputs(options or Options(), input_specs(scopes[0]))
    return decide(model, scopes, find_norms_in(scopes), options, folder)


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
    inlined, _ = inline_norm_functions(model, folder)
    for norm in (s.norm for s in scales):
        if not _is_there(inlined, norm):
            raise SlancError(
                f"norm {norm.name!r} is not where it was found. Call compute_scales on this "
                "very model, and apply its result before changing anything else."
            )
    modified, _ = carry_out(model, inlined, scales, apply, accelerator or Accelerator(), folder)
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
    options = options or Options()
    inlined, names = inline_norm_functions(original, folder)
    scopes = read_graph(inlined, folder)
    specs = input_specs(scopes[0])
    options = with_checked_inputs(options, specs)
    return validate_pair(
        inlined,
        rewritten,
        find_norms_in(scopes),
        find_norms(rewritten, folder),
        validation_feeds(inlined, specs, options, folder),
        options.accelerator,
        folder=folder,
        exact=options.scale != "paper",
        tokens=options.tokens,
        everything=options.emulate == "all",
        as_loaded=original if names else None,
    )
