"""The joint bound of gated MLPs: above every output that NumPy finds, and not far above."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.prove.joint import GatedMlp, factor_of, joint_bound
from slanc_onnx.prove.sets import Bounded, Ellipsoids, Gate, ball, constant, total

Double = NDArray[np.float64]
Rng = np.random.Generator


def sigmoid(values: Double) -> Double:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))


# Each as its share s: activation(t) = s(t) t.
SHARES: dict[str, tuple[Callable[[Double], Double], tuple[float, float]]] = {
    "silu": (sigmoid, (0.0, 1.0)),
    "gelu": (lambda t: (1 + np.tanh(0.79788456 * (t + 0.044715 * t**3))) / 2, (0.0, 1.0)),
    "relu": (lambda t: np.asarray(t > 0, np.float64), (0.0, 1.0)),
    "leaky": (lambda t: np.where(t > 0, 1.0, 0.1), (0.1, 1.0)),
    "linear": (np.ones_like, (1.0, 1.0)),
    "signs": (np.sign, (-1.0, 1.0)),
}


def made(rng: Rng, shape: tuple[int, int, int], spread: float = 1.0) -> GatedMlp:
    channels, neurons, out = shape
    gate, up = rng.standard_normal((2, channels, neurons)) * spread
    return GatedMlp(gate, up, rng.standard_normal((neurons, out)), (0.0, 1.0))


def outputs(mlp: GatedMlp, rows: Double, share: Callable[[Double], Double]) -> Double:
    gate = rows @ mlp.gate
    return np.asarray((share(gate) * gate * (rows @ mlp.up)) @ mlp.down)


def longest(mlp: GatedMlp, rows: Double, share: Callable[[Double], Double], rng: Rng) -> float:
    """The longest output of unit rows, by random search that keeps what is longer."""
    for size in np.geomspace(1.0, 0.02, 80):
        tried = rows + size * rng.standard_normal(rows.shape)
        tried /= np.linalg.norm(tried, axis=1, keepdims=True)
        lengths = [np.linalg.norm(outputs(mlp, r, share), axis=1) for r in (rows, tried)]
        rows = np.where((lengths[1] > lengths[0])[:, None], tried, rows)
    return float(np.linalg.norm(outputs(mlp, rows, share), axis=1).max())


def unit_rows(rng: Rng, count: int, channels: int) -> Double:
    rows = rng.standard_normal((count, channels))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (5, 12, 5), (8, 40, 6), (16, 4, 16)])
def test_no_output_is_longer_and_some_are_not_much_shorter(
    name: str, shape: tuple[int, int, int]
) -> None:
    share, ends = SHARES[name]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        mlp = made(rng, shape, spread=float(rng.choice([0.1, 1.0, 30.0])))
        mlp = GatedMlp(mlp.gate, mlp.up, mlp.down, ends)
        found = longest(mlp, unit_rows(rng, 60, shape[0]), share, rng)
        bound = joint_bound(mlp, ball(shape[0], 1.0))
        assert found <= bound <= 6 * found


def test_any_share_within_the_limits_counts() -> None:
    """Even one that has nothing to do with the row."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mlp = made(rng, (6, 20, 5))
        bound = joint_bound(mlp, ball(6, 2.0))
        rows = 2.0 * unit_rows(rng, 2000, 6)
        products = (rows @ mlp.gate) * (rows @ mlp.up)
        chosen = (products @ (mlp.down @ rng.standard_normal(5))[:, None] > 0) | (
            rng.random(products.shape) < 0.5
        )
        out = (chosen * products) @ mlp.down
        assert np.linalg.norm(out, axis=1).max() <= bound


@pytest.mark.parametrize("kind", ["gamma", "beta", "matrix", "slack", "all"])
def test_rows_of_any_set_of_ellipsoids(kind: str) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        mlp = made(rng, (6, 16, 5))
        gamma, beta = rng.uniform(0.1, 4.0, 6), rng.standard_normal(6)
        matrix = rng.standard_normal((4, 6))
        by_gamma = ball(6, 1.0).scaled(gamma)
        mapped = ball(4, 1.0).through(matrix, True)
        loose = Ellipsoids(np.full(6, 9.0), (gamma,), slack=0.5)
        within = {
            "gamma": by_gamma,
            "beta": total([by_gamma, constant(beta)]),
            "matrix": mapped,
            "slack": loose,
            "all": total([by_gamma, constant(beta), mapped, loose]),
        }[kind]
        assert isinstance(within, Ellipsoids)
        count = 3000
        on_ball = unit_rows(rng, count, 6) * gamma
        by_matrix = unit_rows(rng, count, 4) @ matrix
        off = on_ball + 0.5 * unit_rows(rng, count, 6)
        rows = {
            "gamma": on_ball,
            "beta": on_ball + rng.choice([-1, 1], (count, 1)) * beta,
            "matrix": by_matrix,
            "slack": off,
            "all": on_ball + beta + by_matrix + off,
        }[kind]
        bound = joint_bound(mlp, within)
        found = np.linalg.norm(outputs(mlp, np.asarray(rows), sigmoid), axis=1).max()
        assert found <= bound
        factor = factor_of(within)
        spread = np.linalg.pinv(np.diag(factor) if factor.ndim == 1 else factor)
        assert np.linalg.norm(np.asarray(rows) @ spread, axis=1).max() <= 1 + 1e-9


def test_what_the_device_computes_in_fp32_is_within_it() -> None:
    """At the longest row, where half of the outputs cancel."""
    rng = np.random.default_rng(3)
    gate, up = rng.standard_normal((2, 30, 100))
    mlp = GatedMlp(gate, up, rng.standard_normal((100, 8)), (0.0, 1.0))
    rows = unit_rows(rng, 4000, 30)
    bound = joint_bound(mlp, ball(30, 1.0))
    single = [np.asarray(part, np.float32) for part in (rows, mlp.gate, mlp.up, mlp.down)]
    opened = single[0] @ single[1]
    out = (opened / (1 + np.exp(-opened)) * (single[0] @ single[2])) @ single[3]
    assert np.linalg.norm(out.astype(np.float64), axis=1).max() <= bound


def test_it_is_tighter_than_rows_apart() -> None:
    for seed in range(5):
        mlp = made(np.random.default_rng(seed), (24, 80, 24))
        rows = ball(24, 1.0)
        gate, up = rows.through(mlp.gate, True), rows.through(mlp.up, True)
        product = Gate(gate.each * up.each, Bounded(gate.each, gate, 1.0), up)
        assert joint_bound(mlp, rows) < product.through(mlp.down, True).length() / 1.2


@pytest.mark.parametrize("broken", ["gate", "down", "neuron", "same", "rows"])
def test_zeros_and_neurons_that_repeat(broken: str) -> None:
    rng = np.random.default_rng(5)
    mlp, within = made(rng, (5, 8, 4)), ball(5, 1.0)
    if broken == "gate":
        mlp.gate[:] = 0
    elif broken == "down":
        mlp.down[:] = 0
    elif broken == "neuron":
        mlp.gate[:, 3] = mlp.down[3] = 0
    elif broken == "same":
        mlp.gate[:], mlp.up[:], mlp.down[:] = mlp.gate[:, :1], mlp.gate[:, :1], mlp.down[:1]
    else:
        within = ball(5, 0.0)
    bound = joint_bound(mlp, within)
    rows = unit_rows(rng, 500, 5) * within.length()
    found = np.linalg.norm(outputs(mlp, rows, sigmoid), axis=1).max()
    assert np.isfinite(bound) and found <= bound <= 4 * found + 1e-9
