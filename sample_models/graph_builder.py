"""A plain builder for ONNX graphs: append nodes and weights, then save.

Example::

    g = GraphBuilder(opset=18, norms="decomposed")
    x = g.input("x", "float32", ["batch", "sequence", 64])
    gamma = g.initializer("norm.weight", np.ones(64, np.float32))
    with g.scope("mlp"):
        y = g.rms_norm(x, gamma, 1e-5)
        y = g.linear(y, g.initializer("mlp.up.weight", lambda: load_weight()))
    g.output("y", y, "float32", ["batch", "sequence", 128])
    g.save("model.onnx", external=True)

Every method takes tensor names and returns the name it made. A weight is an array or a function
without arguments; functions are called one at a time in `save`, so a model larger than memory can
be written. Float weights are stored in the builder's `dtype`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array: TypeAlias = NDArray[Any]
Weight: TypeAlias = Array | Callable[[], Array]
Norms: TypeAlias = Literal["decomposed", "fused", "skip"]
FloatName: TypeAlias = Literal["float32", "float16"]

MICROSOFT = "com.microsoft"
_ALIGNMENT = 64  # bytes, of every tensor in the external data file
_INLINE = 1024  # bytes, up to which a tensor stays in the model file: shapes, axes, scalars


class GraphBuilder:
    """Builds one ONNX graph.

    Args:
        opset: version of the default operator set.
        norms: how the norms are written: in elementary operations, as one operation, or as one
            operation that includes the residual addition (com.microsoft) where there is one.
        dtype: type of float weights and constants.
    """

    def __init__(
        self, opset: int = 18, norms: Norms = "decomposed", dtype: FloatName = "float32"
    ) -> None:
        self.opset = opset
        self.norms = norms
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._graph = onnx.GraphProto(name="main_graph")
        self._weights: dict[str, Weight] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._counts: dict[str, int] = {}
        self._scopes: list[str] = []
        self._domains: set[str] = set()

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Declare a graph input; a string in the shape is a dynamic dimension."""
        self._graph.input.append(_value_info(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Make `value` a graph output and rename it to `name`."""
        for node in self._graph.node:
            for names in (node.input, node.output):
                names[:] = [name if existing == value else existing for existing in names]
        self._graph.output.append(_value_info(name, dtype, shape))

    def initializer(self, name: str, value: Weight) -> str:
        """Add a weight, given as an array or as a function that loads it."""
        if name in self._weights:
            raise ValueError(f"initializer {name} exists; reuse its name to share the weight")
        self._weights[name] = value
        return name

    def constant(self, value: Any, dtype: str | None = None) -> str:
        """Return a small constant, made once per value; Python floats take the builder's dtype."""
        array = np.asarray(value, dtype)
        if dtype is None and array.dtype == np.float64:
            array = array.astype(self.dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(f"const_{len(self._constants)}", array)
        return self._constants[key]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the nodes made inside, as a module path; scopes nest."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def node(self, op: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the name of that output."""
        return self.nodes(op, inputs, 1, domain, **attributes)[0]

    def nodes(
        self, op: str, inputs: Sequence[str], outputs: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node and return the names of its outputs."""
        stem = "/".join(["", *self._scopes, op])
        count = self._counts[stem] = self._counts.get(stem, -1) + 1
        name = f"{stem}_{count}" if count else stem
        names = [f"{name}_output_{index}" for index in range(outputs)]
        node = helper.make_node(op, inputs, names, name=name, domain=domain, **attributes)
        self._graph.node.append(node)
        self._domains.add(domain)
        return names

    def cast(self, x: str, dtype: str) -> str:
        """Convert to another type."""
        return self.node("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def mean(self, x: str) -> str:
        """Mean over the last axis, which is kept."""
        if self.opset < 18:
            return self.node("ReduceMean", [x], axes=[-1], keepdims=1)
        return self.node("ReduceMean", [x, self.constant([-1])], keepdims=1)

    def rms_norm(self, x: str, gamma: str, eps: float) -> str:
        """Root-mean-square norm over the last axis."""
        if self.norms != "decomposed":
            return self._fused_norm("SimplifiedLayerNormalization", [x, gamma], eps)
        mean_square = self.mean(self.node("Pow", [x, self.constant(2.0)]))
        root = self.node("Sqrt", [self.node("Add", [mean_square, self.constant(eps)])])
        normalised = self.node("Mul", [x, self.node("Reciprocal", [root])])
        return self.node("Mul", [gamma, normalised])

    def layer_norm(self, x: str, gamma: str, beta: str, eps: float) -> str:
        """Layer norm over the last axis; one operation needs opset 17."""
        if self.norms != "decomposed":
            return self._fused_norm("LayerNormalization", [x, gamma, beta], eps)
        centred = self.node("Sub", [x, self.mean(x)])
        variance = self.mean(self.node("Pow", [centred, self.constant(2.0)]))
        deviation = self.node("Sqrt", [self.node("Add", [variance, self.constant(eps)])])
        scaled = self.node("Mul", [self.node("Div", [centred, deviation]), gamma])
        return self.node("Add", [scaled, beta])

    def add_rms_norm(self, x: str, residual: str, gamma: str, eps: float) -> tuple[str, str]:
        """Return the norm of `residual + x`, and that sum, which is the next residual."""
        if self.norms == "skip":
            return self._skip_norm("SkipSimplifiedLayerNormalization", [residual, x, gamma], eps)
        total = self.node("Add", [residual, x])
        return self.rms_norm(total, gamma, eps), total

    def add_layer_norm(
        self, x: str, residual: str, gamma: str, beta: str, eps: float
    ) -> tuple[str, str]:
        """Return the layer norm of `residual + x`, and that sum."""
        if self.norms == "skip":
            return self._skip_norm("SkipLayerNormalization", [residual, x, gamma, beta], eps)
        total = self.node("Add", [residual, x])
        return self.layer_norm(total, gamma, beta, eps), total

    def _fused_norm(self, op: str, inputs: list[str], eps: float) -> str:
        return self.node(op, inputs, "", axis=-1, epsilon=eps, stash_type=1)

    def _skip_norm(self, op: str, inputs: list[str], eps: float) -> tuple[str, str]:
        names = self.nodes(op, inputs, 4, MICROSOFT, epsilon=eps)
        self._graph.node[-1].output[1:3] = ["", ""]  # mean and deviation, only for training
        return names[0], names[3]

    def linear(self, x: str, weight: str, bias: str | None = None) -> str:
        """`x @ weight + bias`; the weight is stored [in, out]."""
        y = self.node("MatMul", [x, weight])
        return y if bias is None else self.node("Add", [y, bias])

    def save(self, path: str | os.PathLike[str], external: bool = False) -> None:
        """Write the model; if external, its larger weights to `<path>.data` beside it."""
        path = Path(path)
        data_path, temporary, data_temporary = (
            path.with_name(path.name + suffix) for suffix in (".data", ".tmp", ".data.tmp")
        )
        del self._graph.initializer[:]
        try:
            with data_temporary.open("wb") if external else nullcontext() as data:
                for name in self._weights:
                    self._graph.initializer.append(self._tensor(name, data, data_path.name))
            domains = sorted({"", *self._domains})
            opsets = [helper.make_opsetid(name, 1 if name else self.opset) for name in domains]
            model = helper.make_model(self._graph, opset_imports=opsets, ir_version=10)
            temporary.write_bytes(model.SerializeToString())
            if external:
                os.replace(data_temporary, data_path)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            data_temporary.unlink(missing_ok=True)

    def _tensor(self, name: str, data: BinaryIO | None, location: str) -> TensorProto:
        weight = self._weights[name]
        array = np.asarray(weight() if callable(weight) else weight)
        if array.dtype.kind == "f" and name not in self._constants.values():
            array = array.astype(self.dtype, copy=False)
        if data is None or array.nbytes <= _INLINE:
            return numpy_helper.from_array(array, name)
        data.write(b"\0" * (-data.tell() % _ALIGNMENT))
        tensor = TensorProto(name=name, dims=array.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        where = {"location": location, "offset": data.tell(), "length": array.nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        data.write(np.ascontiguousarray(array).data)
        return tensor


def _value_info(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, shape)
