"""Attention: shares that mix positions, and scores, masks and reshapes that make them none."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from benchmarks.random_graphs.building import BOOL, FLOAT, INT64, Building
from benchmarks.random_graphs.constructs.construct import construct
from benchmarks.random_graphs.constructs.plain import projected

LOWEST = float(np.finfo(np.float32).min)


def scores_of(g: Building, spread: float = 0.3) -> str:
    """[batch, length, length], of each position against each."""
    q, k = projected(g, g.x, g.width, spread), projected(g, g.x, g.width, spread)
    return g.node("MatMul", q, g.transpose(k, 0, 2, 1))


def mixed(g: Building, shares: str) -> None:
    """Put the values that the shares mix into `x`, with or without a residual."""
    out = g.node("MatMul", shares, projected(g, g.x, g.width))
    g.x = g.node("Add", g.x, out) if g.chance(0.5) else out


def softmax(g: Building, scores: str, axis: int = -1) -> str:
    return g.node("Softmax", scores, axis=axis)


@construct("plain")
def attention(g: Building) -> None:
    mixed(g, softmax(g, scores_of(g)))


@construct("plain")
def attention_of_heads(g: Building) -> None:
    def heads(x: str, *perm: int) -> str:
        return g.transpose(g.reshape(x, 0, 0, 2, g.width // 2), *perm)

    q, k, v = (projected(g, g.x, g.width) for _ in range(3))
    shares = softmax(g, g.node("MatMul", heads(q, 0, 2, 1, 3), heads(k, 0, 2, 3, 1)))
    out = g.node("MatMul", shares, heads(v, 0, 2, 1, 3))
    g.x = g.node("Add", g.x, g.reshape(g.transpose(out, 0, 2, 1, 3), 0, 0, g.width))


@construct("plain", opset=14)
def causal_attention(g: Building) -> None:
    scores = scores_of(g)
    shape = g.node("Shape", scores)
    full = g.node("ConstantOfShape", shape, value=_filled(g.one_of(-np.inf, LOWEST, -1e4)))
    above = g.node("Trilu", full, g.constant(1, np.int64), upper=1)
    mixed(g, softmax(g, g.node("Add", scores, above)))


def _filled(value: float) -> TensorProto:
    return numpy_helper.from_array(np.array([value], np.float32))


@construct("plain")
def multi_head_attention(g: Building) -> None:
    q, k, v = (projected(g, g.x, g.width) for _ in range(3))
    g.x = g.node("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=2)


@construct("plain", opset=23)
def attention_op(g: Building) -> None:
    q, k, v = (projected(g, g.x, g.width) for _ in range(3))
    g.x = g.node("Attention", q, k, v, q_num_heads=2, kv_num_heads=2)


def mask_of(g: Building, element_type: int = INT64) -> str:
    return g.input("mask", "mask", element_type, g.dims)


@construct("softmax_nan")
def additive_mask_of_ids(g: Building) -> None:
    wide = g.as_float(g.node("Unsqueeze", mask_of(g), g.ints(1)))
    away = g.node("Sub", g.constant(1.0), wide)
    far = g.node("Mul", away, g.constant(g.one_of(LOWEST, LOWEST, -np.inf, -1e4)))
    mixed(g, softmax(g, g.node("Add", scores_of(g), far)))


@construct("softmax_nan")
def masked_with_infinity(g: Building) -> None:
    wide = g.node("Unsqueeze", mask_of(g), g.ints(1))
    hidden = g.node("Equal", wide, g.constant(0, np.int64))
    far = g.constant(g.one_of(-np.inf, -np.inf, LOWEST))
    mixed(g, softmax(g, g.node("Where", hidden, far, scores_of(g))))


@construct("softmax_nan")
def masked_by_bools(g: Building) -> None:
    wide = g.node("Unsqueeze", mask_of(g, BOOL), g.ints(1))
    scores = scores_of(g)
    mixed(g, softmax(g, g.node("Where", wide, scores, g.constant(-np.inf))))


@construct("softmax_nan")
def float_mask(g: Building) -> None:
    mask = g.as_float(g.input("bias", "floats", FLOAT, (g.batch, g.length, g.length)))
    mixed(g, softmax(g, g.node("Add", scores_of(g), mask)))


@construct("softmax_nan")
def bias_of_multi_head_attention(g: Building) -> None:
    mask = g.input("bias", "floats", FLOAT, (1, 2, g.length, g.length))
    inputs = [g.x, g.x, g.x, "", "", mask]
    g.x = g.node("MultiHeadAttention", *inputs, domain="com.microsoft", num_heads=2)


@construct("softmax_nan", opset=23)
def mask_of_attention_op(g: Building) -> None:
    kind = g.one_of(BOOL, FLOAT)
    dims = (g.length, g.length)
    mask = g.input("m", "flag" if kind == BOOL else "floats", kind, dims)
    g.x = g.node("Attention", g.x, g.x, g.x, mask, q_num_heads=2, kv_num_heads=2)


@construct("softmax_nan")
def scores_beyond_fp32(g: Building) -> None:
    scores = g.node("Mul", scores_of(g), g.constant(float(g.one_of(1e30, 3e38, 1e36))))
    mixed(g, softmax(g, g.node("Mul", scores, g.constant(float(g.one_of(1.0, 1e10, -1e10))))))


@construct("softmax_nan")
def log_of_softmax(g: Building) -> None:
    logs = g.node(g.one_of("LogSoftmax", "LogSoftmax", "Softmax"), g.x, axis=-1)
    g.x = g.node(g.one_of("Exp", "Identity", "Log"), logs)


@construct("shares_reshaped")
def shares_turned(g: Building) -> None:
    mixed(g, g.transpose(softmax(g, scores_of(g)), 0, 2, 1))


@construct("shares_reshaped")
def softmax_of_another_axis(g: Building) -> None:
    mixed(g, softmax(g, scores_of(g), g.one_of(1, 0, -2)))


@construct("shares_reshaped", fixed=True)
def shares_in_longer_rows(g: Building) -> None:
    batch, length = int(g.batch), int(g.length)
    shares = softmax(g, scores_of(g))
    if length % 2:
        return mixed(g, g.reshape(shares, batch, length, length))
    longer = g.reshape(shares, batch, length // 2, 2 * length)
    values = projected(g, g.x, g.width)
    out = g.node("MatMul", longer, g.node("Concat", values, values, axis=1))
    g.x = g.node("Concat", out, out, axis=1)
    return None


@construct("shares_reshaped")
def shares_summed(g: Building) -> None:
    shares = softmax(g, scores_of(g))
    total = g.reduce(g.one_of("ReduceSum", "ReduceMean", "ReduceMax"), shares, 1)
    g.x = g.node("Add", g.x, g.node("MatMul", total, g.x))


@construct("shares_reshaped")
def shares_times_something(g: Building) -> None:
    shares = softmax(g, scores_of(g))
    other = g.one_of(shares, g.constant(3.0), g.node("Neg", shares))
    op = g.one_of("Mul", "Add", "Sub", "Div", "Max")
    mixed(g, g.node(op, shares, other))


@construct("mix_rounding")
def shares_of_exp_by_hand(g: Building) -> None:
    scores = scores_of(g)
    if g.chance(0.5):
        scores = g.node("Sub", scores, g.reduce("ReduceMax", scores, -1))
    exp = g.node("Exp", scores)
    mixed(g, g.node("Div", exp, g.reduce("ReduceSum", exp, -1)))


@construct("mix_rounding")
def running_mean(g: Building) -> None:
    counts = g.node("CumSum", g.node("Abs", g.node("Sign", g.x)), g.constant(1, np.int64))
    g.x = g.node("Div", g.node("CumSum", g.x, g.constant(1, np.int64)), counts)
