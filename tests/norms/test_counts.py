"""By what a sum of squares is divided: the width, another number, or more than that."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import find_norms
from slanc_onnx.norms.norm import Norm
from tests.models.small_graphs import graph

NORM = """
    square = Mul(x, x)
    {mean}
    with = Add(mean, epsilon)
    root = Sqrt(with)
    [only] y = Div(x, root)
"""
MEANS = {
    "a mean": "mean = ReduceMean<axes = [-1], keepdims = 1>(square)",
    "the width": "sum = ReduceSum(square, last) mean = Div(sum, width)",
    "a million": "sum = ReduceSum(square, last) mean = Div(sum, million)",
    "a smaller mean": "m = ReduceMean<axes = [-1], keepdims = 1>(square) mean = Mul(m, small)",
}
WEIGHTS: dict[str, NDArray[Any]] = {
    "epsilon": np.array(1e-5, np.float32),
    "last": np.array([-1], np.int64),
    "width": np.array(8, np.float32),
    "million": np.array(1e6, np.float32),
    "small": np.array(1e-4, np.float32),
}


def only(mean: str, width: str) -> Norm:
    nodes = NORM.format(mean=MEANS[mean])
    model: onnx.ModelProto = graph(nodes, WEIGHTS, inputs=f"float[b, s, {width}] x")
    (norm,) = find_norms(model)
    return norm


@pytest.mark.parametrize("width", ["8", "d"])
def test_a_mean_or_the_width_makes_a_plain_norm(width: str) -> None:
    for mean in ("a mean", "the width"):
        norm = only(mean, width)
        assert norm.kind == "rms" and norm.is_row_norm
        assert norm.width == (None if mean == "a mean" and width == "d" else 8)


@pytest.mark.parametrize("mean", ["a million", "a smaller mean"])
def test_another_number_makes_no_plain_norm_of_that_width(mean: str) -> None:
    """Its output is longer than sqrt(8)."""
    assert not only(mean, "8").is_row_norm
    norm = only(mean, "d")
    assert not norm.is_row_norm or norm.width == 1_000_000
