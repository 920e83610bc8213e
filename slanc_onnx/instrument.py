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
    """A model that also outputs, per norm of its main graph, the rows' sums of squares and width.

    Attributes:
        model: The instrumented copy.
        sums: By norm name, the output of shape [..., 1]: sum of squares per row, FP32, of the
            centred input for a LayerNorm.
        widths: By norm name, the output (a scalar) with the length of the rows.
    """

    model: onnx.ModelProto
    sums: dict[str, str]
    widths: dict[str, str]


def instrument(
    model: onnx.ModelProto, norms: Sequence[Norm], keep_outputs: bool = True
) -> Instrumented:
    """A copy of `model` that outputs each norm's sums of squares.

    Args:
        model: The model; it is not changed.
        norms: Its norms. Those in subgraphs, or without an input tensor, are passed over.
        keep_outputs: Whether the original outputs stay; without them dead nodes go too.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    emitter = Emitter(copy)
    sums: dict[str, str] = {}
    widths: dict[str, str] = {}
    for norm in norms:
        if norm.path or norm.form in INTERNAL:
            continue
        emitter.place(norm.path, norm.nodes[-1])
        x = emitter.input_of(norm)
        shape = emitter.node("Shape", x)
        width = emitter.node("Gather", shape, emitter.integers(-1))
        widths[norm.name] = emitter.to_float(width)
        if norm.kind == "layer":
            x = emitter.node("Sub", x, emitter.mean(x))
        sums[norm.name] = emitter.sum(emitter.node("Mul", x, x))
    emitter.finish([*sums.values(), *widths.values()], keep_outputs)
    return Instrumented(copy, sums, widths)
