"""Quantised weights: the matrix or table the tracer reads is the one ONNX Runtime computes with."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from slanc_onnx.trace.expression import Embedding, Linear, Normalised, walk
from tests.models.small_graphs import D, Weights, graph, normal, paper, read
from tests.oracles.unoptimised import run
from tests.versions import needs_onnx_runtime

RANDOM = np.random.default_rng(0)
K, N, BLOCK = 40, 12, 16  # the last block of a row is not full
BLOCKS = 3

RANGES: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 128),
    TensorProto.UINT8: (0, 256),
    TensorProto.INT4: (-8, 8),
    TensorProto.UINT4: (0, 16),
    TensorProto.FLOAT8E4M3FN: (-9, 9),
}


def add(model: onnx.ModelProto, name: str, kind: int, values: NDArray[np.generic]) -> None:
    """An initializer of any element type, from NumPy values that fit it."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(dtype), name))


def weight_read(model: onnx.ModelProto) -> NDArray[np.float32]:
    """The matrix or the table of the only Linear or Embedding in front of the last norm."""
    traced, norms = read(model)
    (found,) = [
        e.weight if isinstance(e, Linear) else e.table
        for e in walk(traced.inputs[norms[-1].name], lambda e: isinstance(e, Normalised))
        if isinstance(e, (Linear, Embedding))
    ]
    values = np.asarray(found.read())
    assert values.shape == found.shape
    np.testing.assert_array_equal(found.rows(np.array([2, 0])), values[[2, 0]])
    return values


MATMUL = """
    [first] x = SimplifiedLayerNormalization<axis = -1>(given, gamma)
    total = {matmul}
    [last] y = SimplifiedLayerNormalization<axis = -1>(total, ones)
"""


def matmul_model(matmul: str, k: int = K) -> onnx.ModelProto:
    """A matrix multiplication between two norms of a float input."""
    weights = {"gamma": np.ones(k, np.float32), "ones": np.ones(N, np.float32)}
    inputs = f"float[batch, sequence, {k}] given"
    return graph(MATMUL.format(matmul=matmul), weights, inputs, opset=21)


def weight_computed(matmul: str, model: onnx.ModelProto, k: int = K) -> NDArray[np.float32]:
    """What the multiplication makes of the identity matrix."""
    alone = graph(f"total = {matmul}", {}, f"float[a, {k}] x", "float[a, b] total", opset=21)
    alone.graph.initializer.extend(model.graph.initializer)
    for extra in [t for t in alone.graph.initializer if t.name in ("gamma", "ones")]:
        alone.graph.initializer.remove(extra)
    return np.asarray(run(alone, x=np.eye(k, dtype=np.float32))["total"], np.float32)


BITS = {
    "4 bits": (4, None),
    "4 bits, packed zero points": (4, TensorProto.UINT8),
    "4 bits, float zero points": (4, TensorProto.FLOAT),
    "8 bits": (8, None),
    "8 bits, zero points": (8, TensorProto.UINT8),
    "2 bits": (2, None),
}


@pytest.mark.parametrize(("bits", "zero"), BITS.values(), ids=BITS)
def test_matmul_nbits(bits: int, zero: int | None) -> None:
    if bits == 2:
        needs_onnx_runtime(1, 24, for_what="2 bits")
    attributes = f"K = {K}, N = {N}, bits = {bits}, block_size = {BLOCK}"
    inputs = "x, w, scales" if zero is None else "x, w, scales, zero"
    matmul = f"com.microsoft.MatMulNBits<{attributes}>({inputs})"
    model = matmul_model(matmul)
    packed = RANDOM.integers(0, 256, (N, BLOCKS, BLOCK * bits // 8))
    add(model, "w", TensorProto.UINT8, packed)
    add(model, "scales", TensorProto.FLOAT, RANDOM.uniform(0.1, 1, (N, BLOCKS)))
    if zero == TensorProto.UINT8:
        add(model, "zero", zero, RANDOM.integers(0, 256, (N, -(-BLOCKS * bits // 8))))
    elif zero is not None:
        add(model, "zero", zero, RANDOM.uniform(4, 12, (N, BLOCKS)))
    truth = weight_computed(matmul, model)
    np.testing.assert_allclose(weight_read(model), truth, rtol=1e-6, atol=1e-5)
    assert paper(model)["last"] == pytest.approx(np.sqrt(np.sum(truth.astype(float) ** 2)), 1e-6)


def test_the_bias_of_matmul_nbits_is_no_part_of_the_matrix() -> None:
    matmul = f"com.microsoft.MatMulNBits<K = {K}, N = {N}, block_size = {BLOCK}>"
    model = matmul_model(matmul + "(x, w, scales, , , bias)")
    add(model, "w", TensorProto.UINT8, RANDOM.integers(0, 256, (N, BLOCKS, BLOCK // 2)))
    add(model, "scales", TensorProto.FLOAT, np.ones((N, BLOCKS)))
    truth = weight_computed(matmul + "(x, w, scales)", model)
    add(model, "bias", TensorProto.FLOAT, normal(0, N, spread=1e3))
    np.testing.assert_array_equal(weight_read(model), truth)
    assert paper(model)["last"] == pytest.approx(np.sqrt(np.sum(truth.astype(float) ** 2)), 1e-6)


def test_matmul_nbits_with_scales_that_the_rows_choose() -> None:
    """g_idx names each row's block; who ignores it reads another matrix."""
    attributes = f"K = {K}, N = {N}, bits = 4, block_size = {BLOCK}"
    matmul = f"com.microsoft.MatMulNBits<{attributes}>(x, w, scales, , groups)"
    model = matmul_model(matmul)
    add(model, "w", TensorProto.UINT8, RANDOM.integers(0, 256, (N, BLOCKS, BLOCK // 2)))
    add(model, "scales", TensorProto.FLOAT, RANDOM.uniform(0.1, 1, (N, BLOCKS)))
    add(model, "groups", TensorProto.INT32, RANDOM.permutation(np.arange(K) // BLOCK))
    truth = weight_computed(matmul, model)
    np.testing.assert_allclose(weight_read(model), truth, rtol=1e-6, atol=1e-5)


GATHERS = {
    "uint8, 4 bits": (TensorProto.UINT8, 4, False),
    "uint8, 4 bits, zero points": (TensorProto.UINT8, 4, True),
    "uint8, 8 bits": (TensorProto.UINT8, 8, False),
    "uint8, 8 bits, zero points": (TensorProto.UINT8, 8, True),
    "int4": (TensorProto.INT4, 4, False),
    "int4, zero points": (TensorProto.INT4, 4, True),
    "uint4": (TensorProto.UINT4, 4, False),
    "uint4, zero points": (TensorProto.UINT4, 4, True),
}


@pytest.mark.parametrize(("kind", "bits", "zero"), GATHERS.values(), ids=GATHERS)
def test_gather_block_quantized(kind: int, bits: int, zero: bool) -> None:
    """All ids looked up at once give the whole table."""
    rows, width, block = 10, 32, 16
    per_byte = 8 // bits if kind == TensorProto.UINT8 else 1
    low, high = RANGES[kind]
    attributes = f"block_size = {block}, bits = {bits}, gather_axis = 0, quantize_axis = 1"
    inputs = "table, ids, scales, zero" if zero else "table, ids, scales"
    nodes = f"""looked_up = com.microsoft.GatherBlockQuantized<{attributes}>({inputs})
        [last] y = SimplifiedLayerNormalization<axis = -1>(looked_up, ones)"""
    model = graph(nodes, {"ones": np.ones(width, np.float32)}, opset=21)
    add(model, "table", kind, RANDOM.integers(low, high, (rows, width // per_byte)))
    add(model, "scales", TensorProto.FLOAT, RANDOM.uniform(0.1, 1, (rows, width // block)))
    if zero:
        shape = (rows, -(-(width // block) // per_byte))
        add(model, "zero", kind, RANDOM.integers(low, high, shape))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.add(name="looked_up").type.tensor_type.elem_type = TensorProto.FLOAT
    truth = run(probe, ids=np.arange(rows)[None])["looked_up"][0]
    np.testing.assert_allclose(weight_read(model), truth, rtol=1e-6)
    mean_square = float(np.sum(truth.astype(float) ** 2)) / rows
    assert paper(model)["last"] == pytest.approx(mean_square**0.5, 1e-6)


DEQUANTIZED = {
    "int8, per tensor": (TensorProto.INT8, (), ""),
    "int8, per tensor, scale of shape [1]": (TensorProto.INT8, (1,), ""),
    "uint8, per column": (TensorProto.UINT8, (N,), ""),
    "int8, per row": (TensorProto.INT8, (K,), "axis = 0"),
    "int8, per row, negative axis": (TensorProto.INT8, (K,), "axis = -2"),
    "int8, blocks of a column": (TensorProto.INT8, (BLOCKS, N), f"axis = 0, block_size = {BLOCK}"),
    "uint4, blocks of a row": (TensorProto.UINT4, (K, 3), "axis = 1, block_size = 4"),
    "int4, per column": (TensorProto.INT4, (N,), "axis = 1"),
    "float8": (TensorProto.FLOAT8E4M3FN, (), ""),
}


@pytest.mark.parametrize("zero", [False, True], ids=["no zero points", "zero points"])
@pytest.mark.parametrize(("kind", "shape", "attributes"), DEQUANTIZED.values(), ids=DEQUANTIZED)
def test_dequantize_linear(kind: int, shape: tuple[int, ...], attributes: str, zero: bool) -> None:
    inputs = "w, scale, zero" if zero else "w, scale"
    model = matmul_model("MatMul(x, matrix)")
    dequantize = f"matrix = DequantizeLinear<{attributes}>({inputs})".replace("<>", "")
    parsed = graph(dequantize, {}, opset=21).graph.node[0]
    model.graph.node.insert(0, parsed)
    add(model, "w", kind, RANDOM.integers(*RANGES[kind], (K, N)))
    add(model, "scale", TensorProto.FLOAT, RANDOM.uniform(0.1, 1, shape))
    if zero:
        # those of floats are zero
        zeros = RANDOM.integers(*RANGES[kind], shape) * (kind != TensorProto.FLOAT8E4M3FN)
        add(model, "zero", kind, np.asarray(zeros))
    alone = graph(dequantize, {}, "float[a] unused", "float[a, b] matrix", opset=21)
    alone.graph.initializer.extend(model.graph.initializer)
    truth = run(alone, unused=np.zeros(1, np.float32))["matrix"]
    np.testing.assert_allclose(weight_read(model), truth, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_float_weight_quantised_and_dequantised_in_the_graph(axis: int) -> None:
    """As explicit quantisation for TensorRT exports it: the weight itself is still FP32."""
    nodes = f"""
        [first] x = SimplifiedLayerNormalization<axis = -1>(given, gamma)
        q = QuantizeLinear<axis = {axis}>(w, scale, zero)
        matrix = DequantizeLinear<axis = {axis}>(q, scale, zero)
        total = MatMul(x, matrix)
        [last] y = SimplifiedLayerNormalization<axis = -1>(total, ones)
    """
    weights: Weights = {
        "gamma": np.ones(D, np.float32),
        "ones": np.ones(N, np.float32),
        "w": normal(1, D, N),
        "scale": np.linspace(0.005, 0.05, (D, N)[axis], dtype=np.float32),
        "zero": np.full((D, N)[axis], 3, np.int8),
    }
    model = graph(nodes, weights, f"float[batch, sequence, {D}] given", opset=21)
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.add(name="matrix").type.tensor_type.elem_type = TensorProto.FLOAT
    truth = run(probe, given=np.ones((1, 1, D), np.float32))["matrix"]
    assert np.abs(truth - weights["w"]).max() > 0.1  # what does not fit 8 bits is clipped
    np.testing.assert_allclose(weight_read(model), truth, rtol=1e-6)


def test_activations_that_are_quantised_and_come_back_are_followed() -> None:
    nodes = """
        q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero)
        total = MatMul(d, w)
    """
    model = matmul_model("Identity(x)", D)
    del model.graph.node[1]
    for i, node in enumerate(graph(nodes, {}).graph.node):
        model.graph.node.insert(1 + i, node)
    add(model, "w", TensorProto.FLOAT, normal(1, D, N))
    add(model, "scale", TensorProto.FLOAT, np.array(0.1))
    add(model, "zero", TensorProto.INT8, np.array(0))
    np.testing.assert_array_equal(weight_read(model), normal(1, D, N))
