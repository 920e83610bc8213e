"""Sensitivity: how far rounding in any norm moves a model's outputs, whatever the scales are.

Dynamic quantisation turns any rounding into a step of 1/127, and a length that a model computes may
flip. What the original itself gives with noise of the target's size tells that from a wrong scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from slanc_onnx.graph import graph_at
from slanc_onnx.norms import Norm, ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run import (
    CannotRun,
    Emitter,
    Feeds,
    read_in_float32,
    session_of,
)
from slanc_onnx.verify.compare import Difference, Runs, compare
from slanc_onnx.verify.emulate import can_emulate

_FREQUENCY = 12345.0  # of the sine that makes noise of a norm's own numbers


def sensitivity(
    read: ReadModel, options: Options, feeds: Sequence[Feeds], plain: Runs, without: Sequence[str]
) -> Difference | None:
    """How far the original's outputs in FP32 move with noise of one roundoff at every norm.

    Args:
        read: The original.
        options: The accelerator, whose coarsest unit roundoff is the largest of the noise.
        feeds: Inputs by name, one dict per run.
        plain: What the original gave without noise.
        without: Outputs to leave out.

    Returns:
        The difference; None where the model with noise does not run.
    """
    device = options.accelerator
    model, norms = read_in_float32(read, device)
    model = with_noise(model, norms, device.coarsest_roundoff)
    try:
        session = session_of(model, read.folder)
        names = set(plain.outputs[0])
        runs = [session.run(feed) for feed in feeds[: len(plain.outputs)]]
    except CannotRun:
        return None
    kept = [{name: value for name, value in run.items() if name in names} for run in runs]
    return compare(plain, Runs(kept, {}, []), without, floats_only=True)


def with_noise(model: onnx.ModelProto, norms: Sequence[Norm], roundoff: float) -> onnx.ModelProto:
    """A copy whose norms give y (1 + roundoff sin(f y)), which is noise where f y is many turns."""
    emitter = Emitter(model)
    ends = {(norm.path, norm.output): norm for norm in norms if can_emulate(norm)}
    for norm in ends.values():  # a cosine is the end of two norms
        graph = graph_at(emitter.model, norm.path)
        index = next(i for i, node in enumerate(graph.node) if norm.output in node.output)
        made = graph.node[index]
        own = emitter.name()
        made.output[list(made.output).index(norm.output)] = own
        emitter.place(norm.path, index)
        y = emitter.to_float(own)
        sine = emitter.node("Sin", emitter.node("Mul", y, emitter.number(_FREQUENCY)))
        noise = emitter.node("Mul", sine, emitter.number(roundoff))
        moved = emitter.node("Add", y, emitter.node("Mul", y, noise))
        emitter.node("Cast", moved, output=norm.output, to=norm.output_type)
    emitter.finish([])
    return emitter.model
