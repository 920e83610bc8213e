"""The MoE op: experts that are all alike are one MLP, others agree with a run up to a factor."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from tests.models.small_graphs import D, Matrix, Weights, between, exact, normal
from tests.oracles.shown_rows import (
    ROWS,
    estimated,
    extremes,
    shown,
    sums,
    table_of,
    within_a_factor,
    x_rows,
)
from tests.spellings.attention import shape
from tests.trace.rules.test_experts import IDS, MANY, E, I, K, stack
from tests.versions import needs_onnx_runtime


def sigmoid(x: Matrix) -> Matrix:
    return np.asarray(1 / (1 + np.exp(-x)))


def silu(x: Matrix) -> Matrix:
    return np.asarray(x * sigmoid(x))


def gelu(x: Matrix) -> Matrix:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))))


def swiglu(alpha: float, beta: float) -> Callable[[Matrix], Matrix]:
    def of(h: Matrix) -> Matrix:
        gate, value = h[..., ::2], h[..., 1::2]
        return np.asarray(gate * sigmoid(alpha * gate) * (value + beta))

    return of


def halves(h: Matrix) -> Matrix:
    gate, value = np.split(h, 2, axis=-1)
    return np.asarray(silu(gate) * value)


# Activation -> its attributes, the width of the first layer, and what it does.
ACTIVATIONS: dict[str, tuple[str, int, Callable[[Matrix], Matrix]]] = {
    "relu": ('activation_type = "relu"', I, lambda h: np.maximum(h, 0)),
    "gelu": ('activation_type = "gelu"', I, gelu),
    "silu": ('activation_type = "silu"', I, silu),
    "identity": ('activation_type = "identity"', I, lambda h: h),
    "silu, square": ('activation_type = "silu"', D, silu),
    "swiglu": ('activation_type = "swiglu", swiglu_fusion = 1', 2 * I, swiglu(1.0, 0.0)),
    "swiglu as gpt-oss has it": (
        'activation_type = "swiglu", swiglu_fusion = 1, activation_alpha = 1.702, '
        "activation_beta = 1.0",
        2 * I,
        swiglu(1.702, 1.0),
    ),
    "swiglu in halves": ('activation_type = "swiglu", swiglu_fusion = 2', 2 * I, halves),
}


@dataclass(frozen=True)
class Moe:
    """The MoE op between two norms, and its arithmetic in NumPy: w1 and w2 are [experts, in, out].

    Attributes:
        name: Of the activation.
        turned: Whether the op gets the matrices as [experts, out, in], as it documents them.
        third: Whether there is a third matrix, beside the first.
        alike: Whether all experts are.
    """

    name: str
    turned: bool
    third: bool
    alike: bool

    @property
    def runs(self) -> bool:
        """Whether ONNX Runtime's CPU provider takes it."""
        return not self.third and "halves" not in self.name

    @property
    def weights(self) -> Weights:
        width = ACTIVATIONS[self.name][1]
        inner = width // 2 if "swiglu" in self.name else width
        third = {
            "w3": stack(5, D, width, alike=self.alike),
            "b3": stack(6, width, alike=self.alike),
        }
        return {
            "w1": stack(1, D, width, alike=self.alike),
            "b1": stack(2, width, alike=self.alike),
            "w2": stack(3, inner, D, alike=self.alike),
            "b2": stack(4, D, alike=self.alike),
            **(third if self.third else {}),
        }

    @property
    def model(self) -> onnx.ModelProto:
        inputs = "flat, logits, w1, b1, w2, b2" + (", w3, b3" if self.third else "")
        more = f"k = {K}, normalize_routing_weights = 1, {ACTIVATIONS[self.name][0]}"
        nodes = f"""dims = Shape(x) flat = Reshape(x, two_d) logits = MatMul(flat, router)
            moe = com.microsoft.MoE<{more}>({inputs}) total = Reshape(moe, dims)"""
        given = self.weights
        if self.turned:
            given = {n: w.swapaxes(1, 2).copy() if w.ndim == 3 else w for n, w in given.items()}
        table = table_of(ROWS if self.alike else MANY)
        numbers: Weights = {"router": normal(7, D, E), "two_d": shape(-1, D), "table": table}
        return between(nodes, {**given, **numbers})

    def truth(self, x: Matrix) -> Matrix:
        w = {name: exact(value) for name, value in self.weights.items()}
        logits = x @ exact(normal(7, D, E))
        chosen = np.argsort(-logits, axis=-1)[:, :K]
        top = np.exp(np.take_along_axis(logits, chosen, axis=-1))
        shares = top / top.sum(axis=-1, keepdims=True)
        hidden = ACTIVATIONS[self.name][2](np.einsum("nd,edh->neh", x, w["w1"]) + w["b1"])
        if self.third:
            hidden = hidden * (np.einsum("nd,edh->neh", x, w["w3"]) + w["b3"])
        each = np.einsum("neh,ehd->ned", hidden, w["w2"]) + w["b2"]
        picked = np.take_along_axis(each, chosen[:, :, None], axis=1)
        return np.asarray((shares[:, :, None] * picked).sum(axis=1))


PLAIN = [name for name in ACTIVATIONS if "swiglu" not in name]
ONCE = [(name, False) for name in ACTIVATIONS] + [(name, True) for name in PLAIN]
each_moe = pytest.mark.parametrize(("name", "third"), ONCE)
WAYS = [(n, t, True) for n, t in ONCE] + [(n, t, False) for n, t in ONCE if n != "silu, square"]
each_way_round = pytest.mark.parametrize(("name", "third", "turned"), WAYS)


@each_moe
def test_the_moe_op_within_a_factor_of_a_run(name: str, third: bool) -> None:
    """ONNX Runtime's CPU provider has no third matrix; there NumPy says what comes out."""
    moe = Moe(name, True, third, alike=False)
    truth = moe.truth(x_rows(MANY))
    if moe.runs:
        needs_onnx_runtime(1, 24, for_what="MoE on a CPU")
        outputs = shown(moe.model, ids=IDS).reshape(truth.shape)
        np.testing.assert_allclose(outputs, truth, atol=0.005)  # its Gelu is the tanh one
    assert within_a_factor(estimated(moe.model), sums(truth))


@each_way_round
def test_alike_experts_of_the_moe_op_are_one_mlp(name: str, third: bool, turned: bool) -> None:
    """Square matrices can only be [experts, out, in], as the op documents them."""
    moe = Moe(name, turned, third, alike=True)
    truth = sums(moe.truth(x_rows()))
    assert extremes(estimated(moe.model)) == pytest.approx([truth.min(), truth.max()], rel=1e-4)
