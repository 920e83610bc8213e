"""Emulate: a model whose norms are computed as an accelerator does, step by step rounded.

ONNX Runtime's CPU provider computes FP16 norms in FP32 and would hide every overflow. So the norms
are written out in FP32 with an explicit rounding after each operation that the accelerator rounds.
FP32 has more than twice the bits of FP16, BF16 and FP8, and two more: so adding, multiplying,
dividing or taking a root in FP32 and rounding once is exactly the operation in the narrow format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import graph_at
from slanc_onnx.norms import Norm, as_computed, residual_name
from slanc_onnx.run import Emitter
from slanc_onnx.verify.emulate.device import Device, in_branch
from slanc_onnx.verify.emulate.everything import Computed, computed, round_everything


@dataclass(frozen=True)
class Emulated:
    """An emulating model and, per norm, the output that shows what its arithmetic did.

    Attributes:
        model: Outputs of the original, then the mean squares.
        mean_squares: By norm name, the output with the mean square of each row as the accelerator
            has it: not finite where the row overflowed, zero where it underflowed. For a norm in a
            branch of an If it is empty where the branch is not taken.
        watched: Outputs that show what left the format, in the order of the model.
    """

    model: onnx.ModelProto
    mean_squares: dict[str, str]
    watched: list[Watched] = field(default_factory=list)


@dataclass(frozen=True)
class Watched:
    """A tensor of which a model shows whether it left the format.

    Attributes:
        tensor: Its name.
        op: The op that makes it, or the form of a norm.
        output: The output with the largest number that left the format, 0 where none did; for a
            norm that with its mean squares.
        norm: The name of the norm whose output it is; "" for any other.
    """

    tensor: str
    op: str
    output: str
    norm: str = ""


def can_emulate(norm: Norm) -> bool:
    """Whether the norm has an input tensor to compute it from, and an epsilon that is known."""
    return bool(norm.places) and norm.epsilon is not None


def emulate(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    accelerator: Accelerator,
    loops: bool = True,
    everything: bool = False,
    watch: bool = False,
) -> Emulated:
    """A copy of `model` whose norms round every step that the accelerator rounds.

    Args:
        model: Scaled or not; the same emulation serves both.
        norms: The norms of this model.
        accelerator: Its arithmetic.
        loops: Whether the mean squares of norms in loops are shown.
        everything: Whether all other operations are rounded as well.
        watch: Whether the model also shows, of these, which left the format.
    """
    emitter = Emitter(model)
    mean_squares: dict[str, str] = {}
    makers: dict[str, NodeProto] = {}
    norms = as_computed(norms, accelerator.variance == "one-pass")
    for norm in norms:
        if not can_emulate(norm):
            continue
        graph = graph_at(emitter.model, norm.path)
        index = next(i for i, node in enumerate(graph.node) if norm.output in node.output)
        makers[norm.name] = graph.node[index]
        emitter.place(norm.path, index)
        mean_square = _written_out(emitter, norm, accelerator)
        if emitter.can_show(norm.path, loops):
            mean_squares[norm.name] = emitter.shown(norm.path, mean_square)
    for norm in norms:
        if norm.name in makers and not norm.by_ops:
            _unplug(makers[norm.name], norm, emitter)
    emitter.finish(list(mean_squares.values()))
    watched: list[Watched] = []
    if everything:
        found = computed(
            model, [n for n in norms if n.name in makers and not n.by_ops], emitter.opset
        )
        lost = round_everything(emitter, found, Device(emitter, accelerator), watch)
        shown = {n.output: n for n in norms if watch and n.name in mean_squares}
        watched = _watched(found, lost, shown, mean_squares)
    return Emulated(emitter.model, mean_squares, watched)


def _watched(
    found: Computed, lost: dict[str, str], norms: dict[str, Norm], mean_squares: dict[str, str]
) -> list[Watched]:
    """What a model shows, in its order; norms by output."""
    watched = []
    for tensor, op in found.order.items():
        norm = norms.get(tensor.name)
        if norm is not None and norm.path == tensor.path:
            watched.append(Watched(norm.output, norm.form, mean_squares[norm.name], norm.name))
        elif tensor.name in lost:
            watched.append(Watched(tensor.name, op, lost[tensor.name]))
    return watched


def _unplug(node: NodeProto, norm: Norm, emitter: Emitter) -> None:
    """Take the norm's outputs from the node that made them."""
    for i, output in enumerate(node.output):
        if output == norm.output or (i == norm.residual and output):
            node.output[i] = emitter.name()


def _written_out(emitter: Emitter, norm: Norm, accelerator: Accelerator) -> str:
    """Write out one norm; returns the tensor with its rounded mean squares."""
    full = emitter.input_of(norm)
    _residual(emitter, norm, full)
    y, mean_square = in_branch(
        emitter, full, lambda: _emulate_norm(emitter, norm, full, accelerator)
    )
    if not norm.by_ops:  # its own nodes make its output
        emitter.node("Cast", y, output=norm.output, to=norm.output_type)
    return mean_square


def _emulate_norm(
    emitter: Emitter, norm: Norm, full: str, accelerator: Accelerator
) -> tuple[str, str]:
    """The norm's arithmetic, step by step: the output and the mean square, both rounded in FP32."""
    device = Device(emitter, accelerator)
    width = norm.width
    x = device.input(emitter.rows(full, norm.axes, norm.channels))
    length = emitter.length(x) if width is None else emitter.number(width)
    centred, mean = x, ""
    if norm.centred:
        mean = device.round("mean", emitter.node("Div", device.sum(x, width), length))
        centred = device.round("centred", emitter.node("Sub", x, mean))
    squared = x if norm.one_pass else centred
    squares = device.round("square", emitter.node("Mul", squared, squared))
    total = device.sum(squares, width)
    count = emitter.node("Sub", length, emitter.number(1)) if norm.unbiased else length
    mean_square = total
    if norm.kind != "l2":
        mean_square = device.round("mean_square", emitter.node("Div", total, count))
    if norm.one_pass:
        square_of_mean = device.round("square", emitter.node("Mul", mean, mean))
        difference = emitter.node("Sub", mean_square, square_of_mean)
        mean_square = device.round("mean_square", difference)
    if norm.epsilon_power == 2:
        epsilon = device.epsilon("variance", norm)
        variance = device.round("variance", emitter.node("Add", mean_square, epsilon))
        deviation = device.round("deviation", emitter.node("Sqrt", variance))
    else:
        epsilon = device.epsilon("deviation", norm)
        root = device.round("deviation", emitter.node("Sqrt", mean_square))
        deviation = device.round("deviation", emitter.node("Add", root, epsilon))
    inverse = device.round("inverse", emitter.node("Reciprocal", deviation))
    y = device.round("normalised", emitter.node("Mul", centred, inverse))
    return _affine(device, norm, y, full), mean_square


def _affine(device: Device, norm: Norm, y: str, full: str) -> str:
    """Gamma and beta on normalised rows, in the shape of the input again."""
    emitter, grouped = device.emitter, norm.axes.grouped
    per_group = bool(norm.axes.groups) and norm.channels == norm.axes.groups
    if grouped and not per_group:
        channels = emitter.channels_first(full, norm.axes, norm.channels)
        y = emitter.node("Reshape", y, emitter.node("Shape", channels))
    elif not grouped:
        y = emitter.from_rows(y, full, norm.axes)
    for op, name in (("Mul", norm.gamma), ("Add", norm.beta)):
        if name is not None:
            constant = device.round("affine", emitter.to_float(name))
            if grouped:  # one number per channel, or per group in opset 18
                constant = emitter.node("Reshape", constant, emitter.integers(-1, 1))
            y = device.round("affine", emitter.node(op, y, constant))
    if norm.silu:
        y = device.round("affine", emitter.node("Mul", y, emitter.node("Sigmoid", y)))
    return emitter.from_channels_first(y, full, norm.axes) if grouped else y


def _residual(emitter: Emitter, norm: Norm, full: str) -> None:
    """The output of a Skip op that is the plain sum of its addends."""
    residual = residual_name(graph_at(emitter.model, norm.path).node[norm.nodes[-1]], norm)
    if residual:
        emitter.node("Cast", full, output=residual, to=norm.element_type)
