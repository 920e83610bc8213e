"""Reductions outside norms: ops that sum inside, written out with the sums of the device.

ONNX Runtime sums in FP32 and gives a mean that fits where its sum does not: a mean over 96 x 96
positions of 10 is the quotient of 92160. So each such op becomes its steps, as a norm does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from slanc_onnx.graph import Flow, GraphPath, Tensor, Use, known_op, read_tensor
from slanc_onnx.run import END, Emitter
from slanc_onnx.verify.emulate.device import Device

_LOGARITHMS = ("ReduceLogSum", "ReduceLogSumExp")
SUMS = {"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", *_LOGARITHMS}
_SOFTMAX = ("Softmax", "LogSoftmax")
_OF_INPUTS = ("Sum", "Mean")
_BY_POWER = {1: "ReduceL1", 2: "ReduceL2"}
REDUCTIONS = {
    *SUMS,
    *_SOFTMAX,
    *_OF_INPUTS,
    "Einsum",
    "GlobalLpPool",
    "GlobalAveragePool",
    "AveragePool",
    "MeanVarianceNormalization",
    "LpNormalization",
}
_MOST_IN_A_WINDOW = 1024  # of a pooling, which are moved side by side
_MVN_EPSILON = 1e-9  # of the op's definition


@dataclass(frozen=True)
class Reduction:
    """An op that sums.

    Attributes:
        op: Its type.
        axes: The axes of its input that are summed together, from the first one on, ascending.
        rank: Of its input.
        width: Elements per sum; None where the file does not tell.
        attributes: Of the node.
    """

    op: str
    axes: tuple[int, ...]
    rank: int
    width: int | None
    attributes: Mapping[str, Any]


Shapes = Mapping[Tensor, tuple[int | str, ...]]


def shapes_of(flow: Flow) -> Shapes:
    """The shapes that the file tells; a dynamic size is its name."""
    return {
        Tensor(path, name): tuple(d if isinstance(d, int) and d >= 0 else str(d) for d in t.shape)
        for path, scope in flow.scopes.items()
        for name, t in scope.tensors.items()
        if t.shape is not None
    }


def read_reduction(
    flow: Flow, path: GraphPath, index: int, shapes: Shapes, opset: int
) -> Reduction | None:
    """A node as an op that sums; None for any other, and where its axes are not known.

    Args:
        flow: Of the model.
        path: The graph of the node.
        index: Of the node.
        shapes: From `shapes_of`.
        opset: The version of ONNX's own ops.
    """
    node = flow.node(path, index)
    op, x = known_op(node), flow.read(Use(path, index, 0))
    if op in _OF_INPUTS and len(node.input) > 1:
        return Reduction(op, (), 0, len(node.input), {})
    if op not in REDUCTIONS or x is None or x not in shapes or op in _OF_INPUTS:
        return None
    shape = shapes[x]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axes = _axes(flow, Use(path, index, 1), op, attributes, (len(shape), opset))
    if axes is None or not all(-len(shape) <= axis < len(shape) for axis in axes):
        return None
    axes = tuple(sorted({axis % len(shape) for axis in axes}))
    sizes = [shape[axis] for axis in axes]
    if op == "AveragePool":
        sizes = list(attributes["kernel_shape"])
    known = [size for size in sizes if isinstance(size, int)]
    width = math.prod(known) if len(known) == len(sizes) else None
    if not axes or width == 0 or (op == "AveragePool" and not _pools(attributes, width or 0)):
        return None
    return Reduction(op, axes, len(shape), width, attributes)


def _axes(
    flow: Flow, given: Use, op: str, attributes: Mapping[str, Any], about: tuple[int, int]
) -> tuple[int, ...] | None:
    """The axes that an op sums over, given the rank of its input and the opset."""
    rank, opset = about
    every = tuple(range(rank))
    if op in ("GlobalAveragePool", "AveragePool"):
        return every[2:]
    if op == "GlobalLpPool":
        return every[2:] if attributes.get("p", 2) in _BY_POWER else None
    if op == "Einsum":
        return _summed_letters(attributes["equation"].decode(), rank)
    if op == "LpNormalization":
        return (int(attributes.get("axis", -1)),)
    if op in _SOFTMAX:
        axis = int(attributes.get("axis", -1 if opset >= 13 else 1))
        return (axis,) if opset >= 13 else every[axis:]
    if op == "MeanVarianceNormalization":
        return tuple(attributes.get("axes", (0, 2, 3)))
    tensor = flow.read(given)
    if tensor is not None:
        data = flow.data.get(tensor)
        if data is None or tensor in flow.overridable:
            return None
        axes = tuple(
            int(axis) for axis in read_tensor(data, flow.scopes[tensor.path].folder).reshape(-1)
        )
    else:
        axes = tuple(attributes.get("axes", ()))
    return axes or (None if attributes.get("noop_with_empty_axes", 0) else every)


def _summed_letters(equation: str, rank: int) -> tuple[int, ...] | None:
    """The axes that an Einsum of one operand sums over; None where it does more than that."""
    operand, arrow, result = equation.replace(" ", "").partition("->")
    plain = bool(arrow) and operand.isalpha() and len(set(operand)) == len(operand) == rank
    if not plain or [c for c in operand if c in result] != list(result):
        return None
    return tuple(axis for axis, letter in enumerate(operand) if letter not in result)


def _pools(attributes: Mapping[str, Any], width: int) -> bool:
    """Whether the windows of a pooling are told by its attributes, and small."""
    auto = attributes.get("auto_pad", b"NOTSET") or b"NOTSET"
    return auto in (b"NOTSET", b"VALID") and width <= _MOST_IN_A_WINDOW


def written_out(
    device: Device, what: Reduction, inputs: Sequence[str], given: str
) -> tuple[str, str]:
    """The output of an op that sums, each step rounded, and its sums in FP32.

    Args:
        device: Rounds and sums.
        what: The op.
        inputs: Its inputs, FP32 those that are summed.
        given: Its output as ONNX Runtime gives it, which has the shape.
    """
    emitter, op, x = device.emitter, what.op, inputs[0]
    if op in _OF_INPUTS:
        return _added(device, what, inputs)
    if op == "GlobalLpPool":
        op = _BY_POWER[what.attributes.get("p", 2)]
    if op == "AveragePool":
        return _average_pool(device, what, x, given)
    rows = _rows(emitter, what, x)
    if op in (*_SOFTMAX, "LpNormalization", "MeanVarianceNormalization"):
        y, summed = _normalised(device, what, rows)
        return _from_rows(emitter, what, y, x), emitter.sum(summed)
    if op == "ReduceL1":
        rows = emitter.node("Abs", rows)
    elif op in ("ReduceL2", "ReduceSumSquare"):
        rows = device.rounded(emitter.node("Mul", rows, rows))
    elif op == "ReduceLogSumExp":
        largest = emitter.largest(rows)
        rows = _powers(device, device.rounded(emitter.node("Sub", rows, largest)))
    total = device.sum(rows, what.width)
    if op in ("ReduceMean", "GlobalAveragePool"):
        total = device.rounded(emitter.node("Div", total, emitter.length(rows)))
    elif op == "ReduceL2":
        total = device.rounded(emitter.node("Sqrt", total))
    elif op in _LOGARITHMS:
        total = device.rounded(emitter.node("Log", total))
        if op == "ReduceLogSumExp":
            total = device.rounded(emitter.node("Add", total, largest))
    else:
        total = device.rounded(total)
    return emitter.node("Reshape", total, emitter.node("Shape", given)), emitter.sum(rows)


def _added(device: Device, what: Reduction, inputs: Sequence[str]) -> tuple[str, str]:
    """The sum or the mean of tensors, added one after the other."""
    emitter = device.emitter
    total = exact = inputs[0]
    for tensor in inputs[1:]:
        total, exact = device.add(total, tensor), emitter.node("Add", exact, tensor)
    total = device.rounded(total)
    if what.op == "Mean":
        total = device.rounded(emitter.node("Div", total, emitter.number(len(inputs))))
    return total, exact


def _normalised(device: Device, what: Reduction, rows: str) -> tuple[str, str]:
    """Rows divided by what their sum gives, and what was summed."""
    emitter, width = device.emitter, what.width
    if what.op in _SOFTMAX:
        lower = device.rounded(emitter.node("Sub", rows, emitter.largest(rows)))
        summed = _powers(device, lower)
        total = device.sum(summed, width)
        if what.op == "LogSoftmax":
            logarithm = device.rounded(emitter.node("Log", total))
            return device.rounded(emitter.node("Sub", lower, logarithm)), summed
        return device.rounded(emitter.node("Div", summed, total)), summed
    if what.op == "LpNormalization":
        squares = int(what.attributes.get("p", 2)) == 2
        summed = emitter.node("Mul", rows, rows) if squares else emitter.node("Abs", rows)
        total = device.sum(device.rounded(summed), width)
        size = device.rounded(emitter.node("Sqrt", total) if squares else total)
        # A row of zeros stays one.
        zero = emitter.node("Equal", size, emitter.number(0.0))
        size = emitter.node("Where", zero, emitter.number(1.0), size)
        return device.rounded(emitter.node("Div", rows, size)), summed
    length = emitter.length(rows)
    mean = device.rounded(emitter.node("Div", device.sum(rows, width), length))
    centred = device.rounded(emitter.node("Sub", rows, mean))
    one_pass = device.accelerator.variance == "one-pass"
    squared = rows if one_pass else centred
    summed = device.rounded(emitter.node("Mul", squared, squared))
    variance = device.rounded(emitter.node("Div", device.sum(summed, width), length))
    if one_pass:
        square = device.rounded(emitter.node("Mul", mean, mean))
        variance = device.rounded(emitter.node("Sub", variance, square))
    deviation = device.rounded(emitter.node("Sqrt", variance))
    epsilon = emitter.number(device.accelerator.held_epsilon(_MVN_EPSILON))
    deviation = device.rounded(emitter.node("Add", deviation, epsilon))
    return device.rounded(emitter.node("Div", centred, deviation)), summed


def _powers(device: Device, x: str) -> str:
    return device.rounded(device.emitter.node("Exp", x))


def _order(what: Reduction) -> list[int]:
    """The axes of the input, those that are summed last."""
    return [axis for axis in range(what.rank) if axis not in what.axes] + list(what.axes)


def _rows(emitter: Emitter, what: Reduction, x: str) -> str:
    """The input with all that is summed together in the last axis."""
    order = _order(what)
    if order != sorted(order):
        x = emitter.node("Transpose", x, perm=order)
    if len(what.axes) == 1:
        return x
    before = emitter.sizes(x, 0, what.rank - len(what.axes))
    return emitter.node("Reshape", x, emitter.node("Concat", before, emitter.integers(-1), axis=0))


def _from_rows(emitter: Emitter, what: Reduction, y: str, x: str) -> str:
    """What `_rows` made, in the shape of x again."""
    order = _order(what)
    turned = x if order == sorted(order) else emitter.node("Transpose", x, perm=order)
    y = emitter.node("Reshape", y, emitter.node("Shape", turned))
    if turned == x:
        return y
    return emitter.node("Transpose", y, perm=[order.index(axis) for axis in range(what.rank)])


def _average_pool(device: Device, what: Reduction, x: str, given: str) -> tuple[str, str]:
    """The elements of each window side by side, their sum, and its quotient."""
    emitter = device.emitter
    shape = emitter.node("Shape", given)
    windows = _windows(emitter, what, x, given)
    fill = numpy_helper.from_array(np.ones(1, np.float32))
    ones = emitter.node("ConstantOfShape", emitter.node("Shape", x), value=fill)
    inside = emitter.node("Reshape", emitter.sum(_windows(emitter, what, ones, given)), shape)
    # Whether padding counts is the op's business: its mean of ones tells by what it divides.
    count = emitter.node("Div", inside, emitter.node("AveragePool", ones, **what.attributes))
    total = emitter.node("Reshape", device.sum(windows, what.width), shape)
    return device.rounded(emitter.node("Div", total, count)), emitter.sum(windows)


def _windows(emitter: Emitter, what: Reduction, x: str, given: str) -> str:
    """The elements of each window in one more axis; zeros where it reaches over the edge."""
    count = len(what.axes)
    kernel = what.attributes["kernel_shape"]
    strides, steps = (
        list(what.attributes.get(name) or [1] * count) for name in ("strides", "dilations")
    )
    pads = list(what.attributes.get("pads") or [0] * 2 * count)
    # With ceil_mode the last window may reach a stride further.
    ends = [pad + stride for pad, stride in zip(pads[count:], strides, strict=True)]
    x = emitter.pad(x, [0, 0, *pads[:count], 0, 0, *ends])
    sizes = emitter.sizes(given, 2, END)
    span = emitter.node(
        "Mul", emitter.node("Sub", sizes, emitter.integers(1)), emitter.integers(*strides)
    )
    one_more = emitter.node("Concat", emitter.node("Shape", given), emitter.integers(1), axis=0)
    axes = emitter.integers(*what.axes)
    pieces = []
    for offset in itertools.product(*map(range, kernel)):
        start = [n * step for n, step in zip(offset, steps, strict=True)]
        stop = emitter.node("Add", span, emitter.integers(*(n + 1 for n in start)))
        bounds = emitter.integers(*start), stop, axes, emitter.integers(*strides)
        pieces.append(emitter.node("Reshape", emitter.node("Slice", x, *bounds), one_more))
    return emitter.node("Concat", *pieces, axis=-1)
