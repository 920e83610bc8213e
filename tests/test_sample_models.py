"""The small sample models: rebuilt byte for byte, and really unsafe in naive FP16."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from sample_models import bert_like, llama_like, sandwich_like
from tests.places import SAMPLES

FOLDER = SAMPLES
BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "bert_like": bert_like.build,
    "llama_like": llama_like.build,
    "sandwich_like": sandwich_like.build,
}
NORMS = {"bert_like": 5, "llama_like": 7, "sandwich_like": 13}
LARGEST_FP16 = 65504.0

samples = pytest.mark.parametrize("name", BUILDERS)


def load(name: str) -> onnx.ModelProto:
    return onnx.load(FOLDER / f"{name}.onnx")


def norm_inputs(model: onnx.ModelProto) -> list[str]:
    """The tensors that the norms square: of fused nodes the input, else what Pow squares."""
    squared = {
        tensor.name
        for tensor in model.graph.initializer
        if not tensor.dims and onnx.numpy_helper.to_array(tensor) == 2
    }
    return [
        node.input[0]
        for node in model.graph.node
        if node.op_type in ("LayerNormalization", "SimplifiedLayerNormalization")
        or (node.op_type == "Pow" and node.input[1] in squared)
    ]


def random_inputs(model: onnx.ModelProto) -> dict[str, NDArray[np.int64]]:
    """Two sequences of random ids; masks of ones; all of the first type."""
    ids = np.random.default_rng(0).integers(0, 200, (2, 16))
    arrays = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {value.name: arrays.get(value.name, ids) for value in model.graph.input}


def run(model: onnx.ModelProto, tensors: list[str]) -> list[NDArray[np.float32]]:
    """Run the model and return these tensors too, after its own output."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    for name in tensors:
        extended.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        extended.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(array) for array in session.run(None, random_inputs(model))]


def norm_rows(name: str) -> list[NDArray[np.float64]]:
    """The rows that each norm squares, [rows, width]; centred for LayerNorm."""
    model = load(name)
    tensors = norm_inputs(model)
    _, *inputs = run(model, tensors)
    rows = [array.reshape(-1, array.shape[-1]).astype(np.float64) for array in inputs]
    if any(node.op_type == "LayerNormalization" for node in model.graph.node):
        rows = [row - row.mean(axis=-1, keepdims=True) for row in rows]
    return rows


def sequential_fp16_sum_of_squares(rows: NDArray[np.float64]) -> NDArray[np.float16]:
    """One running FP16 sum, as an accelerator adds; np.sum would add in FP32."""
    total = np.zeros(len(rows), np.float16)
    with np.errstate(over="ignore"):
        for column in rows.astype(np.float16).T:
            total = total + column * column
    assert total.dtype == np.float16
    return total


@samples
def test_rebuilding_gives_the_shipped_bytes(name: str) -> None:
    shipped = (FOLDER / f"{name}.onnx").read_bytes()
    assert BUILDERS[name]().SerializeToString(deterministic=True) == shipped
    assert len(shipped) < 1_000_000


@samples
def test_descriptions_are_there_to_be_kept(name: str) -> None:
    model = load(name)
    assert model.doc_string and model.graph.doc_string
    assert model.metadata_props and model.graph.metadata_props
    assert all(node.metadata_props for node in model.graph.node)


@samples
def test_runs_in_fp32(name: str) -> None:
    model = load(name)
    [output] = run(model, [])
    assert output.shape[:2] == (2, 16)
    assert np.isfinite(output).all()


@samples
def test_naive_fp16_norms_overflow(name: str) -> None:
    rows = norm_rows(name)
    overflowing = sum(bool(np.isinf(sequential_fp16_sum_of_squares(norm)).any()) for norm in rows)
    assert len(rows) == NORMS[name]
    assert overflowing * 2 >= len(rows)


@samples
def test_one_power_of_two_can_serve_each_norm(name: str) -> None:
    for rows in norm_rows(name):
        sums = np.square(rows).sum(axis=-1)
        assert np.abs(rows).max() < LARGEST_FP16
        assert sums.max() / sums.min() < 1e3
        scale = 2.0 ** np.round(np.log2(np.sqrt(np.sqrt(sums.max() * sums.min()))))
        scaled = sequential_fp16_sum_of_squares(rows / scale)
        assert np.isfinite(scaled).all() and (scaled > 0).all()
