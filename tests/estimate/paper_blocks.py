"""The weights and the gated MLPs that the tests of the paper's equations share."""

import numpy as np
import pytest

from tests.models.small_graphs import (
    GAMMA,
    D,
    Weights,
    exact,
    normal,
)

IDENTITY = np.eye(D)


DIAGONAL = np.diag(exact(GAMMA))  # Γ


E, B, G = normal(1, D, 12), normal(2, D, 12), normal(3, 12, D)


MLP: Weights = {
    "e": E,
    "b": B,
    "g": G,
    "half": np.array(0.5, np.float32),
    "one": np.array(1, np.float32),
    "root": np.array(2**0.5, np.float32),
    "three": np.array(3, np.float32),
    "cubic": np.array(0.044715, np.float32),
    "factor": np.array(0.79788456, np.float32),
    "alpha": np.array(1.702, np.float32),
    "bias": normal(4, 12),
    "bias_out": normal(5, D) * 100,
}


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-6)


SILU = "s = Sigmoid(h) a = Mul(s, h)"


GATES = {
    "gate first": f"h = MatMul(x, e) u = MatMul(x, b) {SILU} p = Mul(a, u)",
    "gate second": f"h = MatMul(x, e) u = MatMul(x, b) {SILU} p = Mul(u, a)",
    "Gelu": "h = MatMul(x, e) u = MatMul(x, b) a = com.microsoft.Gelu(h) p = Mul(a, u)",
    "E and B in one matrix": f"both = MatMul(x, eb) h, u = Split<axis = -1>(both) {SILU} "
    "p = Mul(u, a)",
    "E and B in one matrix, sliced": "both = MatMul(x, eb) h = Slice(both, n0, n12, n2) "
    f"u = Slice(both, n12, n24, n2) {SILU} p = Mul(u, a)",
}
