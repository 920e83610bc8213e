"""Shares of a softmax in the sample rows: they leave a row's length, and are few large ones."""

import numpy as np
import pytest

from slanc_onnx.estimate import sample_rows as rows_module
from slanc_onnx.estimate.sample_rows import SPARSITY
from tests.models.small_graphs import D, between, normal
from tests.oracles.shown_rows import estimated, extremes, shown, sums


@pytest.mark.parametrize("count", [4, 64])
def test_shares_of_one_row_leave_it_as_long_as_it_is(count: int) -> None:
    """x is written as the sum of p_i x over what a softmax gives, however many these are."""
    nodes = """
        logits = MatMul(x, router) p = Softmax<axis = -1>(logits) each = Unsqueeze(p, last)
        row = Unsqueeze(x, two) many = Mul(each, row) total = ReduceSum<keepdims = 0>(many, two)
    """
    weights = {"router": normal(7, D, count), "last": np.array([-1]), "two": np.array([2])}
    model = between(nodes, weights)
    truth = sums(shown(model))
    assert extremes(estimated(model)) == pytest.approx([truth.min(), truth.max()], rel=1e-4)


def test_shares_in_attention_are_few_large_ones() -> None:
    """Even shares would make the mean of n independent rows, of 1 / n of their squares."""
    layout = rows_module._Layout(0, 400, 16)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((layout.rows, 64)).astype(np.float32)
    mixed = layout.mixed(x, rng).astype(np.float64).reshape(400, 16, 64)
    # E of the sum of squared shares of a Dirichlet with concentration a: (1 + a) / (1 + n a).
    expected = [(1 + SPARSITY) / (1 + n * SPARSITY) for n in range(1, 17)]
    np.testing.assert_allclose((mixed**2).mean(axis=(0, 2)), expected, rtol=0.15)
