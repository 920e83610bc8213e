"""Constructs: what may stand between two norms; `CONSTRUCTS` holds all."""

from benchmarks.random_graphs.constructs import (
    attacked,
    attacked_again,
    attacked_third,
    attention,
    channels,
    constants,
    deferred,
    false_norms,
    functions,
    plain,
    positions,
    precision,
)
from benchmarks.random_graphs.constructs.construct import CONSTRUCTS, Construct

_MODULES = (
    *(attacked, attacked_again, attacked_third, attention, channels, constants, deferred),
    *(false_norms, functions, plain, positions, precision),
)

__all__ = ["CONSTRUCTS", "Construct"]
