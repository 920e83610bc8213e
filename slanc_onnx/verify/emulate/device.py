"""Device: an accelerator's arithmetic as ONNX nodes, its roundings and its sums.

Every sum of an emulation is made here: those of norms, and those of reductions outside of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.accelerator import FLOAT32, Accelerator, Format, Step
from slanc_onnx.norms import Norm
from slanc_onnx.run import END, Emitter
from slanc_onnx.verify.emulate.rounding import round_to

_FREQUENCY = 1234567.0  # turns even the smallest normal FP16 number around some times
_BRANCHES_DIFFER = 11  # the opset from which on the results of an If may differ in their shapes


def in_branch(
    emitter: Emitter, source: str, make: Callable[[], Sequence[str]], output: str = ""
) -> list[str]:
    """Nodes in the branch of an If, which is taken; returns the names that their results have.

    ONNX Runtime's loading time grows with the square of a graph's number of casts: a subgraph per
    norm or op keeps it linear (31 s to 2 s on SmolLM2).

    Args:
        emitter: Takes the nodes.
        source: A tensor that is there, for the other branch.
        make: Emits the nodes; gives FP32 results.
        output: The name of the first result; "" for a new one.
    """
    if emitter.opset < _BRANCHES_DIFFER:
        first, *rest = make()
        return [emitter.node("Identity", first, output=output), *rest]
    taken: list[NodeProto] = []
    with emitter.body(taken):
        results = make()
    other: list[NodeProto] = []
    with emitter.body(other):
        same = [emitter.node("Identity", source) for _ in results]
    branches = [
        helper.make_graph(
            nodes,
            "taken",
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        )
        for nodes, names in ((taken, results), (other, same))
    ]
    outputs = [output or emitter.name(), *(emitter.name() for _ in results[1:])]
    true = emitter.constant(np.array(True))
    emitter.add(
        helper.make_node("If", [true], outputs, then_branch=branches[0], else_branch=branches[1])
    )
    return outputs


class Device:
    """The accelerator's arithmetic on FP32 tensors.

    Args:
        emitter: Takes the nodes.
        accelerator: The arithmetic.
        dither: 1, 2 and so on where a result is moved by up to one unit roundoff before it is
            rounded, so that it is rounded otherwise, with each number in another way; not the adds
            of a sum, nor what is stored. 0 where it is not.
    """

    def __init__(self, emitter: Emitter, accelerator: Accelerator, dither: int = 0) -> None:
        self.emitter = emitter
        self.accelerator = accelerator
        self._dither = dither

    def round(self, step: Step, x: str) -> str:
        """The result of a step as the device has it."""
        device = self.accelerator
        form = FLOAT32 if step in device.fp32_steps else device.format
        return round_to(self.emitter, self._moved(x, form), form, device.flush_subnormals)

    def rounded(self, x: str) -> str:
        """The result of an op that is no step of a norm."""
        return self.stored(self._moved(x, self.accelerator.format))

    def stored(self, x: str) -> str:
        """A constant or an input as the device stores it."""
        return round_to(self.emitter, x, self.accelerator.format, self.accelerator.flush_subnormals)

    def _moved(self, x: str, form: Format) -> str:
        """x (1 + u sin(k f x)) with the unit roundoff u: noise where f x is many turns, and for
        each k another, as these sines are orthogonal.

        What that would take out of the format stays as it is: a mask's largest number, or infinity.
        """
        if not self._dither or form == FLOAT32:
            return x
        emitter, turns = self.emitter, self._dither * _FREQUENCY
        sine = emitter.node("Sin", emitter.node("Mul", x, emitter.number(turns)))
        noise = emitter.node("Mul", sine, emitter.number(form.unit_roundoff))
        moved = emitter.node("Add", x, emitter.node("Mul", x, noise))
        beyond = emitter.number(float(np.nextafter(np.float32(form.largest), np.float32(np.inf))))
        within = emitter.node("Less", emitter.node("Abs", moved), beyond)  # nan is not
        return emitter.node("Where", within, moved, x)

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
