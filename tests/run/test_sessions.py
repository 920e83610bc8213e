"""What a session gives outlives it, but keeps none of its memory."""

import numpy as np

from slanc_onnx.run import Session
from tests.models.small_graphs import D, between, normal


def test_results_are_copies() -> None:
    session = Session(between("total = MatMul(x, w)", {"w": normal(1, D, D)}), None)
    values = session.run({"ids": np.zeros((1, 3), np.int64)})
    assert values and all(value.flags.owndata for value in values.values())
