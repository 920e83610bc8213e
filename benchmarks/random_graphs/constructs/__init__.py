"""Constructs: what may stand between two norms; `CONSTRUCTS` holds all that are drawn at random."""

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
from benchmarks.random_graphs.constructs.merged import TO_MERGE

_MODULES = (
    *(attacked, attacked_again, attacked_third, attention, channels, constants, deferred),
    *(false_norms, functions, plain, positions, precision),
)

__all__ = ["CONSTRUCTS", "TO_MERGE", "Construct"]
