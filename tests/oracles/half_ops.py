"""A graph run node by node in NumPy: FP16 behind every op, but FP32 for the nodes of a list.

It shares nothing with the emulator: the nodes' own definitions, a rounding to NumPy's float16 of
what every other node gives, and of the weights and tensors that such a node reads.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Value = NDArray[Any]


def half_run(
    model: onnx.ModelProto, kept: Collection[str], **feeds: Value
) -> tuple[dict[str, Value], bool]:
    """The outputs, FP32, and whether every tensor that is rounded is finite."""
    values: dict[str, Value] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values.update(feeds)
    fits = True
    for node in model.graph.node:
        read = [values[name] for name in node.input]
        if node.name not in kept:
            read = [_half(x) for x in read]
        with np.errstate(all="ignore"):
            y = _OPS[node.op_type](node, read)
        if node.name not in kept:
            y = _half(y)
            fits &= bool(np.isfinite(y).all())
        fits &= all(bool(np.isfinite(x).all()) for x in read)
        values[node.output[0]] = y
    return {output.name: values[output.name] for output in model.graph.output}, fits


def _half(x: Value) -> Value:
    if x.dtype != np.float32:
        return x
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def _axes(node: onnx.NodeProto) -> tuple[int, ...]:
    return tuple(next(a.ints for a in node.attribute if a.name == "axes"))


def _rms_norm(node: onnx.NodeProto, read: Sequence[Value]) -> Value:
    """Its steps, each rounded: the square, the running sum, the mean, the root, the product."""
    x, gamma = read
    total = np.zeros(x.shape[:-1], np.float16)
    for column in np.moveaxis(_half(x * x), -1, 0):
        total = (total + column.astype(np.float16)).astype(np.float16)
    mean = _half(total.astype(np.float32) / np.float32(x.shape[-1]))
    root = _half(np.sqrt(_half(mean + np.float32(1e-5))))[..., None]
    return _half(x * _half(1 / root)) * gamma


_OPS: Mapping[str, Callable[[onnx.NodeProto, Sequence[Value]], Value]] = {
    "MatMul": lambda _, r: r[0] @ r[1],
    "Mul": lambda _, r: r[0] * r[1],
    "Div": lambda _, r: r[0] / r[1],
    "Add": lambda _, r: r[0] + r[1],
    "Sub": lambda _, r: r[0] - r[1],
    "Sqrt": lambda _, r: np.sqrt(r[0]),
    "Tanh": lambda _, r: np.tanh(r[0]),
    "Transpose": lambda _, r: np.swapaxes(r[0], -1, -2),
    "ReduceMean": lambda n, r: r[0].mean(axis=_axes(n), keepdims=True, dtype=np.float32),
    "SimplifiedLayerNormalization": _rms_norm,
}
