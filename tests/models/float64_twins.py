"""The models of `float_kinds` in FP64: the same graphs with doubles for floats."""

import re
from dataclasses import replace

import numpy as np

from tests.models.float_kinds import Kind, Values

_FLOAT = re.compile(r"\bfloat(?=\[| [a-z{])")
_TO_FLOAT = re.compile(r"\b(to|dtype)( ?: ?int)? = 1\b")


def in_fp64(kind: Kind) -> Kind:
    """The same model with FP64 in the place of FP32."""
    text = _TO_FLOAT.sub(lambda found: found[0][:-1] + "11", _FLOAT.sub("double", kind.text))
    return replace(kind, text=text, feeds=_wide(kind.feeds), weights=_wide(kind.weights))


def _wide(values: Values) -> Values:
    return {n: v.astype(np.float64) if v.dtype == np.float32 else v for n, v in values.items()}


# Models whose ops know no FP64, or say FP32 in another way than by a type that is written.
WITHOUT = {
    "no float at all",
    "a weight read by FP16 and FP32-only inputs",
    "Constant: value_float",
    "Constant: value_floats",
    "a Constant read by FP16 and FP32-only inputs",
    "ConstantOfShape without value",
    "a Loop over a sequence",
    "a function whose caller gives constants and types",
    "a function that gives on what its caller gives",
    "NonMaxSuppression",
    "Resize with computed scales",
    "Upsample-9",
    "RandomNormal and RandomUniform",
    "DequantizeLinear-19",
    "DequantizeLinear-13",
    "QuantizeLinear and DequantizeLinear, 13",
    "QuantizeLinear and DequantizeLinear, 21",
    "DynamicQuantizeLinear and MatMulInteger",
    "QLinearMatMul",
    "SkipLayerNormalization's sum",
    "LayerNormalization's mean and deviation",
    "com.microsoft.Gelu",
    "MatMulNBits",
    "an FP16 model",
    "doubles inside",
}
