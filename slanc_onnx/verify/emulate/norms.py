"""Emulate: a model whose norms are computed as an accelerator does, step by step rounded.

ONNX Runtime's CPU provider computes FP16 norms in FP32 and would hide every overflow. So the norms
are written out in FP32 with an explicit rounding after each operation that the accelerator rounds.
FP32 has more than twice the bits of FP16, BF16 and FP8, and two more: so adding, multiplying,
dividing or taking a root in FP32 and rounding once is exactly the operation in the narrow format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.accelerator import FLOAT32, Accelerator, Step
from slanc_onnx.graph import graph_at
from slanc_onnx.norms import Norm, as_computed, residual_name
from slanc_onnx.run import END, Emitter
from slanc_onnx.verify.emulate.everything import computed, round_everything
from slanc_onnx.verify.emulate.rounding import round_to


@dataclass(frozen=True)
class Emulated:
    """An emulating model and, per norm, the output that shows what its arithmetic did.

    Attributes:
        model: Outputs of the original, then the mean squares.
        mean_squares: By norm name, the output with the mean square of each row as the accelerator
            has it: not finite where the row overflowed, zero where it underflowed. For a norm in a
            branch of an If it is empty where the branch is not taken.
    """

    model: onnx.ModelProto
    mean_squares: dict[str, str]


def can_emulate(norm: Norm) -> bool:
    """Whether the norm has an input tensor to compute it from, and an epsilon that is known."""
    return bool(norm.places) and norm.epsilon is not None


def emulate(
    model: onnx.ModelProto,
    norms: Sequence[Norm],
    accelerator: Accelerator,
    loops: bool = True,
    everything: bool = False,
) -> Emulated:
    """A copy of `model` whose norms round every step that the accelerator rounds.

    Args:
        model: Scaled or not; the same emulation serves both.
        norms: The norms of this model.
        accelerator: Its arithmetic.
        loops: Whether the mean squares of norms in loops are shown.
        everything: Whether all other operations are rounded as well.
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
        mean_square = _in_branch(emitter, norm, accelerator)
        if emitter.can_show(norm.path, loops):
            mean_squares[norm.name] = emitter.shown(norm.path, mean_square)
    for norm in norms:
        if norm.name in makers and not norm.by_ops:
            _unplug(makers[norm.name], norm, emitter)
    emitter.finish(list(mean_squares.values()))
    if everything:
        whole = [n for n in norms if n.name in makers and not n.by_ops]
        results, constants = computed(model, whole)
        form, flushed = accelerator.format, accelerator.flush_subnormals
        round_everything(
            emitter, results, constants, lambda x: round_to(emitter, x, form, flushed), form.largest
        )
    return Emulated(emitter.model, mean_squares)


def _unplug(node: NodeProto, norm: Norm, emitter: Emitter) -> None:
    """Take the norm's outputs from the node that made them."""
    for i, output in enumerate(node.output):
        if output == norm.output or (i == norm.residual and output):
            node.output[i] = emitter.name()


def _in_branch(emitter: Emitter, norm: Norm, accelerator: Accelerator) -> str:
    """Write out one norm in the branch of an If; returns the tensor with its rounded mean squares.

    ONNX Runtime's loading time grows with the square of a graph's number of casts: a subgraph per
    norm keeps it linear (31 s to 2 s on SmolLM2).
    """
    full = emitter.input_of(norm)
    _residual(emitter, norm, full)
    taken: list[NodeProto] = []
    with emitter.body(taken):
        y, mean_square = _emulate_norm(emitter, norm, full, accelerator)
    other: list[NodeProto] = []
    with emitter.body(other):
        same = [emitter.node("Identity", full) for _ in range(2)]
    then_branch = _branch(taken, [y, mean_square])
    else_branch = _branch(other, same)
    outputs = [emitter.name(), emitter.name()]
    if norm.by_ops:  # its own nodes make its output
        then_branch, else_branch = _branch(taken, [mean_square]), _branch(other, same[1:])
        outputs = outputs[1:]
    true = emitter.constant(np.array(True))
    emitter.add(
        helper.make_node("If", [true], outputs, then_branch=then_branch, else_branch=else_branch)
    )
    if not norm.by_ops:
        emitter.node("Cast", outputs[0], output=norm.output, to=norm.output_type)
    return outputs[-1]


def _branch(nodes: list[NodeProto], outputs: list[str]) -> onnx.GraphProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(nodes, "norm", [], infos)


def _emulate_norm(
    emitter: Emitter, norm: Norm, full: str, accelerator: Accelerator
) -> tuple[str, str]:
    """The norm's arithmetic, step by step: the output and the mean square, both rounded in FP32."""
    device = _Device(emitter, accelerator)
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


def _affine(device: _Device, norm: Norm, y: str, full: str) -> str:
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


class _Device:
    """The accelerator's arithmetic on FP32 tensors."""

    def __init__(self, emitter: Emitter, accelerator: Accelerator) -> None:
        self.emitter = emitter
        self.accelerator = accelerator

    def round(self, step: Step, x: str) -> str:
        """The result of a step as the device has it."""
        device = self.accelerator
        form = FLOAT32 if step in device.fp32_steps else device.format
        return round_to(self.emitter, x, form, device.flush_subnormals)

    def input(self, x: str) -> str:
        """A norm's input, as it is stored and then as the arithmetic reads it."""
        device = self.accelerator
        stored = device.input_format or device.format
        if stored != device.format and "input" not in device.fp32_steps:
            x = round_to(self.emitter, x, stored, device.flush_subnormals)
        return self.round("input", x)

    def epsilon(self, step: Step, norm: Norm) -> str:
        """The norm's epsilon, in the format of the step that adds it."""
        epsilon = float(norm.epsilon or 0.0)
        exact = step in self.accelerator.fp32_steps
        return self.emitter.number(epsilon if exact else self.accelerator.held_epsilon(epsilon))

    def sum(self, x: str, width: int | None) -> str:
        """The sum over the last axis in the accelerator's order; that axis stays with length 1.

        `width` is the axis' length, None where only the data tells it.
        """
        order = self.accelerator.sum_order
        if order == "any":
            total = self.emitter.sum(x)
        elif order == "pairwise":
            total = self._pairwise(x) if width is None else self._unrolled_pairwise(x, width)
        else:
            total = self._sequential(x)
        return total if self.accelerator.sum_format is None else self.round("sum", total)

    def add(self, one: str, other: str) -> str:
        """One add of a sum, as the accumulator holds it."""
        device, total = self.accelerator, self.emitter.node("Add", one, other)
        return round_to(self.emitter, total, device.accumulator, device.flush_subnormals)

    def _unrolled_pairwise(self, x: str, width: int) -> str:
        while width > 1:
            half, odd = divmod(width, 2)
            first, second = self._slice(x, 0, half), self._slice(x, half, 2 * half)
            total = self.add(first, second)
            if odd:
                last = self._slice(x, 2 * half, width)
                total = self.emitter.node("Concat", total, last, axis=-1)
            x, width = total, half + odd
        return x

    def _pairwise(self, x: str) -> str:
        """The same tree level by level in a Loop, until one element is left."""
        emitter = self.emitter
        step, before, going = emitter.name(), emitter.name(), emitter.name()
        nodes: list[NodeProto] = []
        with emitter.body(nodes):
            width = emitter.sizes(before, -1, END)
            half = emitter.node("Div", width, emitter.integers(2))
            twice = emitter.node("Mul", half, emitter.integers(2))
            axis = emitter.integers(-1)
            first = emitter.node("Slice", before, emitter.integers(0), half, axis)
            second = emitter.node("Slice", before, half, twice, axis)
            last = emitter.node("Slice", before, twice, width, axis)
            total = self.add(first, second)
            after = emitter.node("Concat", total, last, axis=-1)
            more = self._longer_than_one(after)
        infos = [
            helper.make_tensor_value_info(step, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(before, TensorProto.FLOAT, None),
        ]
        results = [
            helper.make_tensor_value_info(more, TensorProto.BOOL, []),
            helper.make_tensor_value_info(after, TensorProto.FLOAT, None),
        ]
        body = helper.make_graph(nodes, "halve", infos, results)
        return emitter.node("Loop", "", self._longer_than_one(x), x, body=body)

    def _longer_than_one(self, x: str) -> str:
        emitter = self.emitter
        longer = emitter.node("Greater", emitter.sizes(x, -1, END), emitter.integers(1))
        return emitter.node("Squeeze", longer)

    def _slice(self, x: str, start: int, end: int) -> str:
        ends = (self.emitter.integers(n) for n in (start, end, -1))
        return self.emitter.node("Slice", x, *ends)

    def _sequential(self, x: str) -> str:
        """One running sum, as a Scan over the elements of the rows, [rows, width]."""
        emitter = self.emitter
        width = emitter.sizes(x, -1, END)
        rows = emitter.node("Concat", emitter.integers(-1), width, axis=0)
        flat = emitter.node("Reshape", x, rows)
        start = emitter.node("ConstantOfShape", emitter.sizes(flat, 0, 1))
        nodes: list[NodeProto] = []
        before, element = emitter.name(), emitter.name()
        with emitter.body(nodes):
            after = self.add(before, element)
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"])
            for name in (before, element, after)
        ]
        body = helper.make_graph(nodes, "add", infos[:2], infos[2:])
        total = emitter.node("Scan", start, flat, body=body, num_scan_inputs=1, scan_input_axes=[1])
        shape = emitter.node("Concat", emitter.sizes(x, 0, -1), emitter.integers(1), axis=0)
        return emitter.node("Reshape", total, shape)
