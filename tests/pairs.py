"""The cases of two sweeps at once, most of which are slow."""

from collections.abc import Sequence
from typing import Any

import pytest


def a_third(ones: Sequence[object], others: Sequence[object]) -> list[Any]:
    """All pairs, of which the suite has those that give each a third of the others.

    Each value of both sweeps is met several times, by other values each time: what goes wrong with
    one, or with one of few properties that others share, fails there too.
    """
    return [
        pytest.param(one, other, marks=() if (i + j) % 3 == 0 else (pytest.mark.slow,))
        for i, one in enumerate(ones)
        for j, other in enumerate(others)
    ]
