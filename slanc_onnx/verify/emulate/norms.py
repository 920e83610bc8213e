"""Emulate: a model whose norms are computed as an accelerator does, step by step rounded.

ONNX Runtime's CPU provider computes FP16 norms in FP32 and would hide every overflow. So the norms
are written out in FP32 with an explicit rounding after each operation that the accelerator rounds.
FP32 has more than twice the bits of FP16, BF16 and FP8, and two more: so adding, multiplying,
dividing or taking a root in FP32 and rounding once is exactly the operation in the narrow format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import NodeProto

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.graph import GraphPath, Tensor, graph_at
from slanc_onnx.norms import Norm, as_computed, residual_name
from slanc_onnx.run import Emitter
from slanc_onnx.verify.emulate.device import Device, in_branch
from slanc_onnx.verify.emulate.everything import (
    Computed,
    Everything,
    computed,
    round_everything,
)
from slanc_onnx.verify.emulate.inputs import Stored, store_inputs
from slanc_onnx.verify.emulate.kept import apart_from_kept
from slanc_onnx.verify.emulate.lost import Watched, finite, lost
from slanc_onnx.verify.emulate.stored import StoredReads


@dataclass(frozen=True)
class Emulated:
    """An emulating model and, per norm, the output that shows what its arithmetic did.

    Attributes:
        model: Outputs of the original, then the mean squares.
        mean_squares: By norm name, the output with the mean square of each row as the accelerator
            has it: not finite where the row overflowed, zero where it underflowed. For a norm in a
            branch of an If it is empty where the branch is not taken.
        watched: Outputs that show what left the format, in the order of the model: with the norms
            alone, what they read, and what a fold divides before them.
        arrived: By norm name, the output with 1 for each row that was not finite before the norm
            read it, and 0 for others; shapes as in `mean_squares`.
    """

    model: onnx.ModelProto
    mean_squares: dict[str, str]
    watched: list[Watched] = field(default_factory=list)
    arrived: dict[str, str] = field(default_factory=dict)


def can_emulate(norm: Norm) -> bool:
    """Whether the norm has an input tensor to compute it from, and an epsilon that is known."""
    return bool(norm.places) and norm.epsilon is not None


def emulate(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    accelerator: Accelerator,
    loops: bool = True,
    everything: Everything | None = None,
    dither: int = 0,
) -> Emulated:
    """A copy of `model` whose norms round every step that the accelerator rounds.

    Args:
        model: Scaled or not; the same emulation serves both.
        norms: The norms of this model.
        accelerator: Its arithmetic.
        loops: Whether the mean squares of norms in loops are shown.
        everything: That all other operations are rounded as well, and how.
        dither: How results are moved by up to one roundoff first, 0 for not; see `Device`.
    """
    emitter = Emitter(model)
    mean_squares, arrived = dict[str, str](), dict[str, str]()
    made, makers = dict[str, Watched](), dict[str, NodeProto]()
    watched: list[Watched] = []
    device = Device(emitter, accelerator, dither)
    how = everything or Everything()
    norms = as_computed(norms, accelerator.variance == "one-pass")
    norms, boundary = apart_from_kept(device, norms, how.kept, how.watch)
    inputs = Stored() if everything is None else store_inputs(device, how.kept, how.watch)
    norms = [replace(n, input=inputs.rounded.get(n.input, n.input)) for n in norms]
    emulated = list(filter(can_emulate, norms))
    stored = StoredReads(device, model, emulated if everything is None else (), loops)
    for norm in emulated:
        nodes = graph_at(emitter.model, norm.path).node
        index = next(i for i, node in enumerate(nodes) if norm.output in node.output)
        makers[norm.name] = nodes[index]
        shows = emitter.can_show(norm.path, loops)
        watched += stored.before(norm)
        emitter.place(norm.path, index)
        of_rows = _written_out(device, norm)
        if shows:
            outputs = [_shown_from(emitter, norm.path, index, inner) for inner in of_rows]
            mean_squares[norm.name], arrived[norm.name], size = outputs
            made[norm.name] = Watched(norm.output, norm.form, size, norm.name)
            if everything is None:
                watched.append(made[norm.name])
    plain = _unplugged([norm for norm in norms if norm.name in makers], makers, emitter)
    shown = [w.output for w in watched if w.what != "made"] + boundary.outputs + inputs.outputs
    shown += [w.output for w in made.values() if how.watch or everything is None]
    emitter.finish([*mean_squares.values(), *arrived.values(), *shown])
    own = {(n.path, i) for n in norms if n.name in makers for i in _by_ops(n, accelerator)}
    if everything is not None or own:  # nothing else rounds these
        found = computed(model, plain, emitter.opset, None if everything else own, own)
        products = [] if how.watch else _products(found, model, norms, made, everything is None)
        left = round_everything(emitter, found, device, how)
        watched += [replace(p, output=left[p.tensor]) for p in products if p.tensor in left]
    if how.watch:
        by_output = {n.output: n for n in norms if n.name in mean_squares}
        watched = [Watched(name, "input", output) for name, output in inputs.lost.items()]
        watched += _watched(found, left, by_output, mean_squares, made)
        watched += [Watched(*one, what="read") for one in boundary.lost]
    return Emulated(emitter.model, mean_squares, watched, arrived)


def _by_ops(norm: Norm, accelerator: Accelerator) -> list[int]:
    """The nodes of a norm that are rounded one by one; none where its steps are written out.

    Where some steps are in FP32, ops are not known by their steps, but for products.
    """
    if norm.by_ops and not accelerator.fp32_steps:
        return list(norm.nodes)
    return [one.product for one in norm.deferred]


def _products(
    found: Computed,
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    made: Collection[str],
    alone: bool,
) -> list[Watched]:
    """Let products be shown before they are divided.

    What reads one behind its division may hide that it left the format.

    Args:
        found: What is rounded, and shown of that.
        model: The model.
        norms: Its norms.
        made: The names of those of which something is shown.
        alone: Whether nothing else but norms is rounded: not the weights of products either.

    Returns:
        What is watched of them, without its output.
    """
    products = dict[Tensor, Watched]()
    for norm in norms:
        nodes = graph_at(model, norm.path).node
        for one in norm.deferred:
            node = nodes[one.product]
            if alone:
                found.constants.discard(Tensor(norm.path, node.input[1]))
            if norm.name in made:
                watched = Watched(node.output[0], node.op_type, "", norm.name, "product")
                products[Tensor(norm.path, watched.tensor)] = watched
    found.shown.update(products)
    return list(products.values())


def _shown_from(emitter: Emitter, path: GraphPath, index: int, x: str) -> str:
    """What `Emitter.shown` gives, with the pen behind the same node before and after it."""
    emitter.place(path, index)
    shown = emitter.shown(path, x)
    emitter.place(path, index)
    return shown


def _watched(
    found: Computed,
    left: dict[str, str],
    norms: dict[str, Norm],
    mean_squares: dict[str, str],
    made: dict[str, Watched],
) -> list[Watched]:
    """What a model shows, in its order; norms by output."""
    watched = []
    for tensor, op in found.order.items():
        norm = norms.get(tensor.name)
        if norm is not None and norm.path == tensor.path:
            rows = mean_squares[norm.name]
            watched.append(Watched(norm.output, norm.form, rows, norm.name, "rows"))
            watched.append(made[norm.name])
        elif tensor.name in left:
            watched.append(Watched(tensor.name, op, left[tensor.name]))
    return watched


def _unplugged(
    norms: Sequence[Norm], makers: Mapping[str, NodeProto], emitter: Emitter
) -> list[Norm]:
    """Take the outputs of norms from the nodes that made them.

    Args:
        norms: The norms that are written out.
        makers: Those nodes, by the name of the norm.
        emitter: Gives new names.

    Returns:
        The norms, without those whose own nodes make their outputs.
    """
    plain = [norm for norm in norms if not norm.by_ops]
    for norm in plain:
        node = makers[norm.name]
        for i, output in enumerate(node.output):
            if output == norm.output or (i == norm.residual and output):
                node.output[i] = emitter.name()
    return plain


def _written_out(device: Device, norm: Norm) -> tuple[str, str, str]:
    """Write out one norm.

    Returns its rounded mean squares, which rows came not finite, and the largest number of its
    output that left the format.
    """
    emitter = device.emitter
    full = emitter.input_of(norm)
    _residual(emitter, norm, full)
    y, *of_rows = in_branch(emitter, full, lambda: _emulate_norm(device, norm, full))
    if not norm.by_ops:  # its own nodes make its output
        emitter.node("Cast", y, output=norm.output, to=norm.output_type)
    mean_square, arrived, left = of_rows
    return mean_square, arrived, left


def _emulate_norm(device: Device, norm: Norm, full: str) -> tuple[str, str, str, str]:
    """The norm's arithmetic, step by step: the output and the mean square, both rounded in FP32.

    The third result has 1 for each row that was not finite before it was read, else 0; the fourth
    is the largest number that left the format when gamma and beta were applied.
    """
    emitter, width = device.emitter, norm.width
    rows = emitter.rows(full, norm.axes, norm.channels)
    arrived = emitter.largest(emitter.to_float(emitter.node("Not", finite(emitter, rows))))
    x = device.input(rows)
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
    y, left = _affine(device, norm, y, full)
    return y, mean_square, arrived, left


def _affine(device: Device, norm: Norm, y: str, full: str) -> tuple[str, str]:
    """Gamma and beta on normalised rows, in the shape of the input again.

    The second result is the largest number that left the format in that.
    """
    emitter, grouped = device.emitter, norm.axes.grouped
    left = emitter.node("Identity", emitter.constant(np.zeros(1, np.float32)))
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
            exact = emitter.node(op, y, constant)
            y = device.round("affine", exact)
            left = emitter.node("Max", left, lost(emitter, exact, y, exact))
    if norm.silu:
        y = device.round("affine", emitter.node("Mul", y, emitter.node("Sigmoid", y)))
    return emitter.from_channels_first(y, full, norm.axes) if grouped else y, left


def _residual(emitter: Emitter, norm: Norm, full: str) -> None:
    """The output of a Skip op that is the plain sum of its addends."""
    residual = residual_name(graph_at(emitter.model, norm.path).node[norm.nodes[-1]], norm)
    if residual:
        emitter.node("Cast", full, output=residual, to=norm.element_type)
