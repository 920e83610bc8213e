"""Observe: the sums of squares at the norms' inputs, read off a run of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx

from slanc_onnx.norms import Norm
from slanc_onnx.run.emit import Emitter


@dataclass(frozen=True)
class Instrumented:
    """A model that also outputs, per norm, the rows' sums of squares.

    Attributes:
        model: The instrumented copy.
        sums: By norm name, the output with the sum of squares of each row, FP32: of the centred
            input for a LayerNorm, of the input itself for one whose arithmetic sums that
            (`Norm.one_pass`). Shape [..., 1]; [rows] for a norm in a branch of an If, empty where
            the branch is not taken; [iterations, rows] for one in a loop.
        lengths: By norm name, the output with the number of elements per row, for the norms whose
            `width` the file does not tell.
        magnitudes: By norm name, the output with the sum of magnitudes of each row, for the norms
            that subtract the mean; shapes as in `sums`. Only where they are asked for.
    """

    model: onnx.ModelProto
    sums: dict[str, str]
    lengths: dict[str, str]
    magnitudes: dict[str, str] = field(default_factory=dict)


def instrument(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    keep_outputs: bool = True,
    loops: bool = True,
    magnitudes: bool = False,
    also: Callable[[Emitter], Sequence[str]] | None = None,
) -> Instrumented:
    """A copy of `model` that outputs each norm's sums of squares.

    Args:
        model: The model; it is not changed.
        norms: Its norms. Those out of reach, or without an input tensor, are passed over.
        loops: Whether those in loops are shown; each iteration has to have as many rows.
        keep_outputs: Whether the original outputs stay; without them dead nodes go too.
        magnitudes: Whether sums of magnitudes are shown as well.
        also: Lets the same copy show more, and gives the outputs with that.
    """
    emitter = Emitter(model)
    sums: dict[str, str] = {}
    lengths: dict[str, str] = {}
    plain: dict[str, str] = {}
    for norm in norms:
        if not norm.places or not emitter.can_show(norm.path, loops):
            continue
        emitter.place(norm.path, norm.nodes[-1])
        x = emitter.rows(emitter.input_of(norm), norm.axes, norm.channels)
        if norm.width is None:
            length = emitter.length(x)
        if magnitudes and norm.centred:
            absolute = emitter.sum(emitter.node("Abs", x))
        if norm.sums_centred:
            x = emitter.node("Sub", x, emitter.mean(x))
        total = emitter.sum(emitter.node("Mul", x, x))
        sums[norm.name] = emitter.shown(norm.path, total)
        if norm.width is None:
            emitter.place(norm.path, norm.nodes[-1])
            lengths[norm.name] = emitter.shown(norm.path, length)
        if magnitudes and norm.centred:
            emitter.place(norm.path, norm.nodes[-1])
            plain[norm.name] = emitter.shown(norm.path, absolute)
    more = [] if also is None else also(emitter)
    emitter.finish([*sums.values(), *lengths.values(), *plain.values(), *more], keep_outputs)
    return Instrumented(emitter.model, sums, lengths, plain)
