"""The ops of an RMS norm that is written out, up to its root, and the sum that it reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, helper

from slanc_onnx.accelerator import OF_16_BITS
from slanc_onnx.apply.merge.changes import Decomposition
from slanc_onnx.graph import Array, unused_name
from slanc_onnx.ops import FUSED

_AXES_AS_INPUT = 18  # the opset from which ReduceMean reads its axes


class RmsOps:
    """Makes nodes with unused names.

    Args:
        opset: The version of ONNX's own ops in the model.
        used: The names that the model has; new ones are added.
        constant: Gives the name of the initializer with some values.
    """

    def __init__(self, opset: int, used: set[str], constant: Callable[[str, Array], str]) -> None:
        self._opset, self._used, self._constant = opset, used, constant

    def summed(self, node: NodeProto, norm: str) -> tuple[str, list[NodeProto]]:
        """The row that a fused norm reads, and the Adds that make it, in the order of the op.

        ONNX Runtime adds the skip to the input, and its bias to that.

        Args:
            node: The norm's op. The sum has the name that the op gives it, if it does.
            norm: The norm's name.
        """
        form, made = FUSED[node.op_type], list[NodeProto]()
        row, *others = (node.input[p] for p in form.addends if any(node.input[p : p + 1]))
        given = "" if form.residual is None else "".join(node.output[form.residual :])
        for place, other in enumerate(others, 1):
            end = given if place == len(others) and given else self.named(norm, "row")
            name = self.named(norm, "Add")
            made.append(helper.make_node("Add", [row, other], [end], name=name))
            row = end
        return row, made

    def root(self, how: Decomposition, row: str) -> list[NodeProto]:
        """The ops whose last one gives the root of the mean square of rows, and epsilon.

        Rows of 16 bits are squared and added up in FP32, as in a fused op.
        """
        base, kind, made = how.name, how.element_type, list[NodeProto]()
        if kind in OF_16_BITS:
            made.append(self._cast(base, row, kind := TensorProto.FLOAT))
            row = made[-1].output[0]
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        epsilon = self._constant("epsilon", np.array(how.epsilon, dtype))
        names = ("square", "mean", "sum", "root")
        square, mean, shifted, root = (self.named(base, what) for what in names)
        average = self.average(square, mean, f"{base}/slanc_ReduceMean", -1)
        made += [
            helper.make_node("Mul", [row, row], [square], name=self.named(base, "Mul")),
            average,
            helper.make_node("Add", [mean, epsilon], [shifted], name=self.named(base, "Add")),
            helper.make_node("Sqrt", [shifted], [root], name=self.named(base, "Sqrt")),
        ]
        if kind != how.element_type:
            made.append(self._cast(base, root, how.element_type))
        return made

    def average(self, source: str, made: str, name: str, axis: int) -> NodeProto:
        """A mean along an axis, which is kept."""
        name, read = unused_name(name, self._used), [source]
        if self._opset >= _AXES_AS_INPUT:
            read.append(self._constant("axes", np.array([axis], np.int64)))
            return helper.make_node("ReduceMean", read, [made], name=name)
        return helper.make_node("ReduceMean", read, [made], name=name, axes=[axis])

    def named(self, norm: str, what: str) -> str:
        """A new name for a node or a tensor of a norm."""
        return unused_name(f"{norm}/slanc_{what}", self._used)

    def _cast(self, norm: str, source: str, to: int) -> NodeProto:
        made, name = self.named(norm, "cast"), self.named(norm, "Cast")
        return helper.make_node("Cast", [source], [made], name=name, to=to)
