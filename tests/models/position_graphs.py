"""Small graphs with angles of positions, and the angles in FP64."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx.accelerator import FLOAT16, Format
from slanc_onnx.apply.convert.angles import read_circular
from slanc_onnx.apply.convert.tables import Tables, write_tables
from slanc_onnx.graph import every_node
from tests.models.small_graphs import graph

N, D = 4096, 6
FREQ = (10000.0 ** -(np.arange(0, D, 2) / D)).astype(np.float32)
SLOW = (1e6 ** -(np.arange(0, D, 2) / D)).astype(np.float32)
CONSTANTS: dict[str, Any] = {
    "freq": FREQ,
    "slow": SLOW,
    "column": FREQ[None, :, None],
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "limit": np.array(64),
    "axis0": np.array([0]),
    "axis1": np.array([1]),
    "axis2": np.array([2]),
    "minus": np.array([-1]),
    "half": np.array(0.5, np.float32),
    "start": np.array(0, np.float32),
    "step": np.array(1, np.float32),
}
IDS, SHAPES = "int64[batch, sequence] ids", "float[a, b] y, float[c, d] z"
POSITIONS = "int64[batch, sequence] positions"
LENGTH = "shape = Shape(ids) length = Gather(shape, one)"
FLOATS = "c = Cast<to = 1>(u)"
MASK = "int64[batch, sequence] mask"
SPREAD = np.random.default_rng(1).integers(0, N, (2, 9))
COUNTED = f"{LENGTH} t = Range(zero, length, one)"


def model_of(
    nodes: str, inputs: str = IDS, outputs: str = "float[a, b, c] y", opset: int = 17
) -> onnx.ModelProto:
    model = graph(nodes, {}, inputs, outputs, opset)
    read = {name for node in every_node(model.graph.node) for name in node.input}
    kept = {name: value for name, value in CONSTANTS.items() if name in read}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in kept.items())
    return model


def tabled(
    model: onnx.ModelProto, positions: int = N, form: Format = FLOAT16
) -> tuple[onnx.ModelProto, Tables]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = write_tables(copy, read_circular(copy, None), form, positions)
    onnx.checker.check_model(copy, full_check=True)
    return copy, found


def made(model: onnx.ModelProto, positions: int = N) -> onnx.ModelProto:
    """The model with tables, where all that is Cos or Sin has one."""
    copy, found = tabled(model, positions)
    assert found.made and not found.kept
    assert not ops(copy) & {"Cos", "Sin", "Mul", "MatMul", "Einsum"}
    return copy


def ops(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in every_node(model.graph.node)}


def half(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return values.astype(np.float16).astype(np.float32)


def angles(positions: NDArray[Any], freq: NDArray[np.float32] = FREQ) -> NDArray[np.float64]:
    """In FP64, with the frequencies on a last axis."""
    return np.asarray(positions, np.float64)[..., None] * freq.astype(np.float64)


def twice(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate((values, values), -1)


def ids(*shape: int) -> NDArray[np.int64]:
    return np.zeros(shape, np.int64)
