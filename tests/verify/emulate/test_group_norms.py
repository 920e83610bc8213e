"""Emulated norms over groups or several axes have every bit of a loop of float16 operations."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.accelerator import Accelerator, Variance
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.verify.emulate.norms import can_emulate, emulate
from tests.oracles.half_norm import SUMS
from tests.oracles.unoptimised import run
from tests.pairs import a_third
from tests.spellings.row_norms import RowNorm
from tests.spellings.rows import ROW_NORMS

PASSES: list[Variance] = ["two-pass", "one-pass"]
DEVICES = [
    Accelerator(flush_subnormals=flush, variance=variance).summing(accumulate)
    for accumulate, flush, variance in product(SUMS, (False, True), PASSES)
]
SIZES = [1, 32, 128, 2.0**9, 2.0**15, 2.0**-4, 2.0**-9, 2.0**-14, 2.0**-20]


def same(actual: NDArray[np.generic], expected: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(actual.reshape(expected.shape), expected, equal_nan=True))


# Each spelling meets flushing or not in one pass and in two, and every order of sums.
@pytest.mark.parametrize(("spelling", "device"), a_third(ROW_NORMS, DEVICES), ids=str)
def test_every_step_is_rounded_as_in_a_loop_of_float16(
    spelling: RowNorm, device: Accelerator
) -> None:
    model = spelling.model()
    (norm,) = find_norms_in(read_graph(model))
    assert can_emulate(norm)
    emulated = emulate(model, [norm], device)
    x = spelling.samples(SIZES)
    outputs = run(emulated.model, x=x)
    y, mean_squares = spelling.in_half(x, device)
    assert same(outputs[emulated.mean_squares[norm.name]], mean_squares)
    assert outputs["y"].dtype == np.float32
    assert same(outputs["y"], y)
    assert not np.isfinite(mean_squares).all()  # the sizes are such that some rows overflow
