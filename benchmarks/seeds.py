"""The models that `benchmarks.fuzz` damages: small ones of every kind that the tool reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.zoo_rows import exports_in
from tests.models.four_norms import four_norms
from tests.models.growing import decoder, nested_loops
from tests.models.small_graphs import Weights, between, normal
from tests.places import ROOT
from tests.spellings.attention import GROUPED, OPS, Attention, shape
from tests.spellings.fused import FUSED
from tests.spellings.in_functions import wrapped
from tests.spellings.layer import DECOMPOSED_LAYER
from tests.spellings.rms import DECOMPOSED_RMS
from tests.spellings.row_norms import RowNorm
from tests.spellings.rows import ROW_NORMS
from tests.spellings.spelling import Spelling

_EVERY = 4  # of the spellings, one in so many

QUANTISED = """
    xq, xs, xz = DynamicQuantizeLinear(x)
    first_product = MatMulInteger(xq, w8, xz, zero)
    as_float = Cast<to = 1>(first_product)
    rescaled = Mul(as_float, xs)
    q = QuantizeLinear(rescaled, step, zero)
    back = DequantizeLinear(q, step, zero)
    w = DequantizeLinear(w8, step, zero)
    product = MatMul(back, w)
    packed = com.microsoft.MatMulNBits<K = 8, N = 8, block_size = 16, bits = 4>(product, w4, steps)
    total = Add(x, packed)
"""
MOVED = """
    rows_of_it = Shape(x)
    one = Gather<axis = 0>(rows_of_it, zero_index)
    left, right = Split<axis = -1>(x, halves)
    joined = Concat<axis = -1>(right, left)
    three = Reshape(joined, heads)
    turned = Transpose<perm = [0, 2, 1, 3]>(three)
    cut = Slice(turned, zeros1, ones1, ones1)
    back = Transpose<perm = [0, 2, 1, 3]>(turned)
    flat = Reshape(back, whole)
    gated = Sigmoid(flat)
    kept = Where(mask, flat, gated)
    padded = Pad(kept, pads)
    conv_in = Transpose<perm = [0, 2, 1]>(x)
    conv = Conv<kernel_shape = [1]>(conv_in, kernel)
    conv_out = Transpose<perm = [0, 2, 1]>(conv)
    both = Add(kept, conv_out)
    total = Add(x, both)
"""


def _quantised() -> onnx.ModelProto:
    weights: Weights = {
        "w8": np.arange(64, dtype=np.uint8).reshape(8, 8),
        "zero": np.array(3, np.uint8),
        "step": np.array(0.1, np.float32),
        "w4": np.arange(64, dtype=np.uint8).reshape(8, 1, 8),
        "steps": np.full((8, 1), 0.1, np.float32),
    }
    return between(QUANTISED, weights, opset=21)


def _moved() -> onnx.ModelProto:
    weights: Weights = {
        "zero_index": np.array(1, np.int64),
        "halves": shape(4, 4),
        "heads": shape(0, 0, 4, 2),
        "whole": shape(0, 0, 8),
        "zeros1": shape(0),
        "ones1": shape(1),
        "mask": np.array([True, False] * 4),
        "pads": shape(0, 0, 0, 0, 0, 0),
        "kernel": normal(4, 8, 8, 1),
    }
    return between(MOVED, weights, opset=18)


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float weights, inputs and outputs are FP16."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for info in (*copy.graph.input, *copy.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
    return copy


def _read_as_defaults() -> onnx.ModelProto:
    """Weights that are graph inputs as well."""
    model = decoder(1)
    for tensor in model.graph.initializer[:2]:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)
    return model


def seeds(zoo: Path | None = None) -> dict[str, bytes | Path]:
    """Models by name, as bytes or where they lie; `zoo` has further ones in folders."""
    found: dict[str, bytes | Path] = {}
    for path in sorted((ROOT / "sample_models").glob("*.onnx")):
        found[path.stem] = path
    made = {
        "four norms": four_norms(),
        "four norms, none leaks": four_norms(leaky=False),
        "decoder": decoder(2),
        "decoder in FP16": _half(decoder(2)),
        "decoder, weights are inputs": _read_as_defaults(),
        "loops": nested_loops(2),
        "quantised": _quantised(),
        "moved": _moved(),
    }
    attentions: list[Attention] = [GROUPED, *OPS]
    for each in attentions:
        made[f"attention: {each}"] = between(each.nodes, each.weights, each.inputs, each.opset)
    spellings: list[Spelling | RowNorm] = [*DECOMPOSED_LAYER, *DECOMPOSED_RMS, *FUSED, *ROW_NORMS]
    for norm in spellings[::_EVERY]:
        made[f"norm: {norm}"] = norm.model()
    for norm in (DECOMPOSED_LAYER[0], DECOMPOSED_RMS[0], FUSED[0]):
        made[f"in a function: {norm}"] = wrapped(norm.model())
    found |= {name: model.SerializeToString() for name, model in made.items()}
    for folder in exports_in(zoo) if zoo is not None else []:
        found[f"zoo: {folder.name}"] = folder / "model.onnx"
    return found
