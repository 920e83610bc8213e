"""Observe: the sums of squares at the norms' inputs, read off a run of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from slanc_onnx.emit import Emitter
from slanc_onnx.norm_patterns import INTERNAL
from slanc_onnx.norms import Norm


@dataclass(frozen=True)
class Instrumented:
    """A model that also outputs, per norm, the rows' sums of squares.

    Attributes:
        model: The instrumented copy.
        sums: By norm name, the output with the sum of squares of each row, FP32: of the centred
            input for a LayerNorm, of the input itself for one whose arithmetic sums that
            (`Norm.one_pass`). Shape [..., 1]; [rows] for a norm in a branch of an If, empty where
            the branch is not taken. Norms in loops and in nested subgraphs have none.
    """

    model: onnx.ModelProto
    sums: dict[str, str]


def instrument(
    model: onnx.ModelProto, norms: Sequence[Norm], keep_outputs: bool = True
) -> Instrumented:
    """A copy of `model` that outputs each norm's sums of squares.

    Args:
        model: The model; it is not changed.
        norms: Its norms. Those out of reach, or without an input tensor, are passed over.
        keep_outputs: Whether the original outputs stay; without them dead nodes go too.
    """
    emitter = Emitter(model)
    sums: dict[str, str] = {}
    for norm in norms:
        if norm.form in INTERNAL or not emitter.can_show(norm.path):
            continue
        emitter.place(norm.path, norm.nodes[-1])
        x = emitter.input_of(norm)
        if norm.kind == "layer" and not norm.one_pass:
            x = emitter.node("Sub", x, emitter.mean(x))
        total = emitter.sum(emitter.node("Mul", x, x))
        sums[norm.name] = emitter.shown(norm.path, total)
    emitter.finish(list(sums.values()), keep_outputs)
    return Instrumented(emitter.model, sums)
