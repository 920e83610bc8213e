"""dmx-compressor's formulas against the matrices written out."""

import numpy as np

from benchmarks.dmx import attention


def test_heads_are_tiled_as_that_package_does() -> None:
    rng = np.random.default_rng(1)
    gamma, value, project = rng.random(6), rng.random((6, 4)), rng.random((8, 6))
    first, second = value[:, :2], value[:, 2:]  # two heads of two channels, four query heads
    written = np.diag(gamma) @ (np.hstack([first, second, first, second]) @ project + np.eye(6))
    assert np.isclose(attention(gamma, value, project, 2), np.linalg.norm(written), rtol=1e-12)
    grouped = np.diag(gamma) @ (np.hstack([first, first, second, second]) @ project + np.eye(6))
    assert not np.isclose(attention(gamma, value, project, 2), np.linalg.norm(grouped))
