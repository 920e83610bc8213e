"""Rows whose elements are rounded, and the set that is widened by that."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slanc_onnx.prove.moved import scaled_by
from slanc_onnx.prove.trusted.values import widened
from tests.prove.test_sets import any_set, check, member, seeds


@settings(max_examples=150, deadline=None)
@given(seeds, st.integers(1, 8))
def test_rows_that_are_rounded_are_in_the_set_that_is_widened(seed: int, channels: int) -> None:
    """Also of channels that are far smaller than others, down to what underflow takes."""
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.uniform(-9, 3, channels)
    reach, share, at_least = any_set(rng, channels), 2.0**-11, float(rng.choice([0.0, 2.0**-25]))
    row = member(reach, rng) * sizes
    moved = row + rng.choice([-1.0, 1.0], channels) * (share * np.abs(row) + at_least)
    check(widened(scaled_by(reach, sizes), share, at_least), moved, rng)
