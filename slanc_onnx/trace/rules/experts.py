"""Rules for mixtures of experts: a token's row goes through the matrices of a few experts.

The output is a convex combination of the experts' rows, read as the row of one of them.
"""

from __future__ import annotations

import numpy as np

from slanc_onnx.trace.expression import Apply, Embedding, Experts, Expr, Product, Sum, Weight
from slanc_onnx.trace.movement import CannotFollow, broadcast
from slanc_onnx.trace.values import (
    Const,
    ExpertWeights,
    Value,
    View,
    as_view,
    combine,
    pick,
    row,
    row_view,
)
from slanc_onnx.trace.visit import Rule, Visit


def moved(visit: Visit, source: ExpertWeights) -> list[Value]:
    """Experts' matrices after an op that moves data: at most their rows and columns swap."""
    rows, columns = source.shape[-2:]
    ids = np.broadcast_to(np.arange(rows * columns).reshape(rows, columns), source.shape)
    after = [mover(ids) for mover in visit.movers()]
    matrices = [a.reshape(-1, *a.shape[-2:])[0] for a in after]
    if np.array_equal(matrices[0], ids.reshape(-1, rows, columns)[0]):
        return [ExpertWeights(source.stack, a.shape) for a in after]
    if np.array_equal(matrices[0], ids.reshape(-1, rows, columns)[0].T):
        return [ExpertWeights(_transposed(source.stack), a.shape) for a in after]
    raise CannotFollow("cuts the matrices of experts into pieces")


def _transposed(stack: Weight) -> Weight:
    experts, rows, columns = stack.shape
    return Weight(stack.name, (experts, columns, rows), lambda: stack.read().swapaxes(1, 2))


def multiplied(a: Value | None, b: Value | None) -> View:
    """A matrix product with experts' matrices on one side."""
    if isinstance(a, ExpertWeights) and isinstance(b, View):
        expr = through_experts(row(b, axis=-2), _transposed(a.stack))
        ids = np.arange(expr.channels, dtype=np.int32)[:, None]
        shape = (*broadcast(a.shape[:-2], b.shape[:-2]), expr.channels, b.shape[-1])
        return View(expr, np.broadcast_to(ids, shape))
    if isinstance(b, ExpertWeights) and isinstance(a, View):
        expr = through_experts(row(a), b.stack)
        lead = broadcast(a.shape[:-2], b.shape[:-2])
        return row_view(expr, (*lead, a.shape[-2], expr.channels))
    raise CannotFollow("multiplies weights that the data chooses with something that is no row")


def through_experts(x: Expr, stack: Weight) -> Expr:
    """A row times one matrix of a stack [experts, in, out]."""
    if x.channels != stack.shape[1]:
        raise CannotFollow(f"multiplies rows of {x.channels} with experts {stack.shape}")
    return Experts(stack.shape[2], x, stack)


def _moe(visit: Visit) -> list[Value]:
    """com.microsoft MoE: two or three stacks of matrices with their biases."""
    x = visit.view(0)
    inner = _layer(visit, 2, row(x))
    kind = str(visit.attributes.get("activation_type", "relu"))
    if kind == "swiglu" and visit.value(6) is None:
        gate, value = _halves(inner, int(visit.attributes.get("swiglu_fusion", 1)))
        alpha = float(visit.attributes.get("activation_alpha", 1.0))
        beta = float(visit.attributes.get("activation_beta", 0.0))
        gate = Apply(gate.channels, "Swish", gate, (alpha,))
        shifted = combine(Sum, _view(value), as_view(Const(np.array(beta, np.float32))))
        hidden = combine(Product, _view(gate), shifted).expr
    else:
        hidden = _activated(kind, inner)
        if visit.value(6) is not None:
            other = _layer(visit, 6, row(x))
            hidden = Product(hidden.channels, hidden, other)
    return [row_view(_layer(visit, 4, hidden), x.shape)]


def _view(expr: Expr) -> View:
    return row_view(expr, (expr.channels,))


def _halves(expr: Expr, fusion: int) -> tuple[Expr, Expr]:
    """Gate and value of a fused first layer; with `fusion` 1 they are interleaved."""
    numbers = np.arange(expr.channels)
    if fusion == 1:
        return pick(expr, numbers[::2]), pick(expr, numbers[1::2])
    half = expr.channels // 2
    return pick(expr, numbers[:half]), pick(expr, numbers[half:])


def _activated(kind: str, expr: Expr) -> Expr:
    names = {"relu": "Relu", "gelu": "Gelu", "silu": "Swish", "swiglu": "Swish"}
    if kind == "identity":
        return expr
    if kind not in names:
        raise CannotFollow(f"has the activation {kind}, which has no rule")
    parameters = (1.0,) if names[kind] == "Swish" else ()
    return Apply(expr.channels, names[kind], expr, parameters)


def _layer(visit: Visit, position: int, x: Expr) -> Expr:
    """A row times one matrix of the stack at an input position, plus the bias behind it.

    The stack is [experts, out, in] or [experts, in, out].
    """
    stack, bias = visit.known(position), visit.value(position + 1)
    if not isinstance(stack, Weight) or len(stack.shape) != 3:
        raise CannotFollow("has experts that are no constants")
    if stack.shape[2] == x.channels:
        stack = _transposed(stack)
    result = through_experts(x, stack)
    if isinstance(bias, Weight):
        return Sum(result.channels, result, Embedding(result.channels, bias))
    return result


EXPERTS: dict[str, Rule] = {"MoE": _moe}
