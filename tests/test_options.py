"""Options of the functions in memory: what does not fit the model is refused, as for a file."""

import math
import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, SlancError, compute_scales, protect, validate

PIXELS = """
    <ir_version: 10, opset_import: ["": 17]>
    main (float[2, 2] x) => (float[2, 2] y) <float[2] w = {3, 5}, float[2] g = {1, 1}>
        { h = Mul(x, w) y = LayerNormalization<axis = -1>(h, g) }
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(input_ranges={"z": (0, 1)}), "--input-range z: is no graph input of floats"),
        (Options(input_ranges={"x": (1, 0)}), "--input-range x: 1 to 0 is no range"),
        (Options(input_ranges={"x": (0, math.inf)}), "--input-range x: 0 to inf is no range"),
        (Options(inputs={"z": np.ones(2)}), "--inputs lacks x; it holds z"),
        (Options(jobs=0), "--jobs 0: must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_memory_too(options: Options, message: str) -> None:
    model = onnx.parser.parse_model(PIXELS)
    before = model.SerializeToString(deterministic=True)
    calls: list[Callable[[], object]] = [
        lambda: compute_scales(model, options),
        lambda: protect(model, options),
        lambda: validate(model, model, options),
    ]
    for call in calls:
        with pytest.raises(SlancError, match=re.escape(message)):
            call()
    assert model.SerializeToString(deterministic=True) == before


def test_options_that_fit_are_taken_in_memory() -> None:
    model = onnx.parser.parse_model(PIXELS)
    rows = {"x": np.array([[1, 2], [3, 5]], np.float32)}
    options = Options(inputs=rows, input_ranges={"x": (0, 5)}, jobs=1)
    [found] = protect(model, options)
    assert found.status == "scaled"
