"""Building: a graph that grows construct by construct.

Its rows are always in `x`, [batch, length, width].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Dim = int | str
InputKind = Literal["ids", "floats", "mask", "flag"]
FLOAT, INT64, BOOL = int(TensorProto.FLOAT), int(TensorProto.INT64), int(TensorProto.BOOL)


@dataclass(frozen=True)
class Input:
    """A graph input, and how feeds fill it.

    Attributes:
        name: Its name.
        kind: "ids" of the table's rows; "floats" of any size, inf and nan too; "mask", whole
            numbers that should be 0 or 1 and need not; "flag", a bool.
        element_type: ONNX element type.
        dims: Sizes, or names of what each feed decides.
        optional: Whether an initializer of that name is the default.
    """

    name: str
    kind: InputKind
    element_type: int
    dims: tuple[Dim, ...]
    optional: bool = False


class Building:
    """A graph under construction.

    Attributes:
        rng: What every choice is drawn from.
        opset: Of the standard domain.
        batch: Size of the first axis of `x`, or its name.
        length: Of the second.
        width: Elements per row of `x`.
        x: The tensor that the next construct reads and replaces.
        inputs: The graph's inputs.
        nodes: Its nodes, in order.
        weights: Its initializers by name.
        matrices: Those that rows are multiplied with, for rows that they stretch most.
        half: Whether `x` and the floats that are made next are FP16.
    """

    def __init__(
        self, rng: np.random.Generator, opset: int, batch: Dim, length: Dim, width: int
    ) -> None:
        self.rng, self.opset, self.batch, self.length, self.width = rng, opset, batch, length, width
        self.x = ""
        self.inputs: list[Input] = []
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.matrices: list[Array] = []
        self.half = False
        self._names = 0

    @property
    def dims(self) -> tuple[Dim, Dim]:
        """Of the ids."""
        return self.batch, self.length

    def name(self, stem: str) -> str:
        """A name that is not taken."""
        self._names += 1
        return f"{stem}{self._names}"

    def chance(self, share: float) -> bool:
        """True in that share of the draws."""
        return bool(self.rng.random() < share)

    def one_of(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; the output's name."""
        output = self.name(op[:3].lower())
        made = helper.make_node(op, list(inputs), [output], name=output, domain=domain)
        for key, value in attributes.items():
            made.attribute.append(helper.make_attribute(key, value))
        self.nodes.append(made)
        return output

    def outputs(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs; their names."""
        names = [self.name(op[:3].lower()) for _ in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names

    def several(
        self, op: str, outputs: Sequence[str], inputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node of ONNX Runtime's with these outputs, "" for one that it leaves out."""
        made = helper.make_node(op, inputs, outputs, outputs[0], domain="com.microsoft")
        made.attribute.extend(helper.make_attribute(*each) for each in attributes.items())
        self.nodes.append(made)

    def constant(self, value: Array | float | int | bool, dtype: Any = None) -> str:
        """An initializer, or sometimes a Constant node, with this value; its name."""
        array = np.asarray(value, dtype)
        if array.dtype == np.float64:
            with np.errstate(over="ignore"):
                array = array.astype(np.float16 if self.half else np.float32)
        name = self.name("c")
        if self.chance(0.2):
            tensor = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights[name] = array
        return name

    def ints(self, *values: int) -> str:
        """A vector of int64."""
        return self.constant(np.array(values, np.int64))

    def vector(self, spread: float = 1.0) -> str:
        """A row of random numbers, as long as rows of `x`."""
        return self.constant(self.rng.standard_normal(self.width) * spread)

    def matrix(self, rows: int, columns: int, spread: float = 1.0) -> str:
        """A random matrix that rows are multiplied with."""
        values = self.rng.standard_normal((rows, columns)) * spread
        if self.chance(0.3):  # of rank one: some row is stretched by all of it
            values = np.outer(values[:, 0], values[0])
        if rows == self.width:
            self.matrices.append(values)
        return self.constant(values)

    def input(self, stem: str, kind: InputKind, element_type: int, dims: tuple[Dim, ...]) -> str:
        """A further graph input; its name."""
        name = self.name(stem)
        self.inputs.append(Input(name, kind, element_type, dims))
        return name

    def overridable(self, default: Array) -> str:
        """An initializer that is a graph input too."""
        name = self.name("given")
        self.weights[name] = default
        kind: InputKind = "flag" if default.dtype == np.bool_ else "floats"
        element_type = int(helper.np_dtype_to_tensor_dtype(default.dtype))
        self.inputs.append(Input(name, kind, element_type, default.shape, optional=True))
        return name

    def reduce(self, op: str, x: str, *axes: int, keepdims: int = 1) -> str:
        """A reduction, its axes where this opset wants them."""
        if self.opset >= 18 or op == "ReduceSum":
            return self.node(op, x, self.ints(*axes), keepdims=keepdims)
        return self.node(op, x, axes=list(axes), keepdims=keepdims)

    def reshape(self, x: str, *dims: int) -> str:
        """A Reshape to these dims."""
        return self.node("Reshape", x, self.ints(*dims))

    def transpose(self, x: str, *perm: int) -> str:
        """A Transpose."""
        return self.node("Transpose", x, perm=list(perm))

    def length_now(self) -> str:
        """The number of positions of the data, int64 and without axes."""
        shape = self.node("Shape", self.x)
        return self.node("Gather", shape, self.constant(1, np.int64))

    def as_float(self, x: str) -> str:
        """A Cast to the type of `x`."""
        return self.node("Cast", x, to=int(TensorProto.FLOAT16 if self.half else FLOAT))

    def norm(self) -> None:
        """A LayerNorm or RMSNorm on `x`, in one of its spellings."""
        gamma = self.constant(np.ones(self.width) if self.chance(0.5) else self._gamma())
        spelling = self.one_of("fused", "fused", "layer", "by hand", "by hand")
        if spelling == "layer" and self.opset >= 17:
            arguments = [self.x, gamma, *([self.vector()] if self.chance(0.3) else [])]
            self.x = self.node("LayerNormalization", *arguments, axis=-1, epsilon=1e-5)
        elif spelling == "fused":
            if self.opset >= 23 and self.chance(0.5):
                self.x = self.node("RMSNormalization", self.x, gamma, axis=-1, epsilon=1e-5)
                return
            op = "SimplifiedLayerNormalization"
            self.x = self.node(op, self.x, gamma, axis=-1, epsilon=1e-5)
        else:
            self.x = self.node("Mul", self.norm_by_hand(self.x), gamma)

    def _gamma(self) -> Array:
        return np.asarray(self.rng.uniform(-2, 2, self.width))

    def norm_by_hand(self, x: str, epsilon: str | None = None) -> str:
        """A norm of the last axis in basic ops, without gamma."""
        epsilon = epsilon or self.constant(1e-5)
        if self.chance(0.4):
            x = self.node("Sub", x, self.reduce("ReduceMean", x, -1))
        if self.chance(0.5):
            square = self.node("Mul", x, x)
        else:
            square = self.node("Pow", x, self.constant(2.0))
        mean = self.reduce("ReduceMean", square, -1)
        root = self.node("Sqrt", self.node("Add", mean, epsilon))
        if self.chance(0.3):
            return self.node("Mul", x, self.node("Reciprocal", root))
        return self.node("Div", x, root)

    def model(self) -> onnx.ModelProto:
        """The model; its one output is `x`."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(i.name, i.element_type, i.dims) for i in self.inputs],
            [helper.make_tensor_value_info(self.x, self.output_type(), None)],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def output_type(self) -> int:
        """Of `x`."""
        return int(TensorProto.FLOAT16) if self.half else FLOAT
