"""One record per op between norms that gives out what it reads, or numbers as large.

The trace reads how an op moves elements, proofs what kind of movement it is, folding which inputs
the op joins and which weights pass it, the emulation whether it rounds. To add an op that moves
elements is to add a record. Ops that compute a function of one tensor are in `elementwise.py`; any
other that computes needs a rule of the trace besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slanc_onnx.ops import movement
from slanc_onnx.ops.movement import Movers

EVERY = (-1,)

Movement = Literal[
    "keeps",  # gives its input
    "drops",  # its input, but in training
    "casts",  # its input in another element type
    "reshapes",  # to the shape in input 1
    "turns",  # the axes, by the attribute `perm`
    "inserts",  # or takes away axes of length 1: those of input 1 or of the attribute `axes`
    "repeats",  # along any axes
    "slices",  # along the axes in input 3 or in the attribute `axes`
    "splits",  # along the attribute `axis`
    "picks",  # along the attribute `axis`, which is 0 if left out, by input 1
    "points",  # elements or rows, by the indices in input 1
    "mixes",  # anything else: no proof uses it
]


@dataclass(frozen=True)
class Moves:
    """How an op moves the elements of its first input.

    Attributes:
        kind: What it does to them, as far as proofs ask.
        movers: Gives the functions that move an array, one per output; None for an op that gives
            its input.
        shifts: Whether it may move a row to another position than it has in other tensors.
        by_length: Whether its shape, bounds or positions may depend on the sequence length.
    """

    kind: Movement
    movers: Movers | None = None
    shifts: bool = True
    by_length: bool = False


@dataclass(frozen=True)
class Between:
    """An op that gives out what it reads, or numbers as large.

    Attributes:
        joins: Positions of the inputs that have one scale with the output: the op is linear in
            them, or homogeneous of degree 1. () for none.
        outputs: Positions of the outputs that have it.
        moves: How it moves elements; None where it computes.
        exact: Whether every number of the output is one of the inputs' or zero: no rounding.
        passes: Whether a weight may pass it on its way to where it multiplies, so that dividing
            the weight divides the output.
    """

    joins: tuple[int, ...]
    outputs: tuple[int, ...] = (0,)
    moves: Moves | None = None
    exact: bool = False
    passes: bool = False


def _moving(
    kind: Movement,
    movers: Movers | None = None,
    *,
    shifts: bool = True,
    by_length: bool = False,
    passes: bool = True,
) -> Between:
    """A movement of the first input to one output, exact but for a cast."""
    moves = Moves(kind, movers, shifts, by_length)
    return Between((0,), moves=moves, exact=kind != "casts", passes=passes)


_EXACT = Between((0,), exact=True)

BETWEEN: dict[str, Between] = {
    "Identity": _moving("keeps", shifts=False),
    "Dropout": _moving("drops", shifts=False, passes=False),
    **dict.fromkeys(("Cast", "CastLike"), _moving("casts", shifts=False)),
    "Reshape": _moving("reshapes", movement.reshape, by_length=True),
    "Flatten": _moving("reshapes", movement.flatten, shifts=False),
    "Transpose": _moving("turns", movement.transpose),
    "Unsqueeze": _moving("inserts", movement.unsqueeze),
    "Squeeze": _moving("inserts", movement.squeeze),
    "Expand": _moving("repeats", movement.expand, shifts=False, by_length=True),
    "Tile": _moving("repeats", movement.tile, by_length=True),
    "Slice": _moving("slices", movement.cut, by_length=True),
    "Split": Between((0,), EVERY, Moves("splits", movement.split, by_length=True), exact=True),
    "Gather": _moving("picks", movement.gather, by_length=True),
    "GatherND": _moving("points", movement.gather_nd, passes=False),
    # These have a rule of the trace, or none.
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), Between(EVERY)),
    **dict.fromkeys(("Concat", "Max", "Min"), Between(EVERY, exact=True)),
    "Where": Between((1, 2), exact=True),
    **dict.fromkeys(("Pad", "ScatterND", "ScatterElements"), Between((0, 2), exact=True)),
    **dict.fromkeys(
        (
            "GatherElements",
            "ReduceMax",
            "ReduceMin",
            "MaxPool",
            "Trilu",
            "DepthToSpace",
            "SpaceToDepth",
        ),
        _EXACT,
    ),
    **dict.fromkeys(
        (
            "PRelu",
            "ReduceMean",
            "ReduceSum",
            "AveragePool",
            "GlobalAveragePool",
            "Resize",
            "CumSum",
            "RotaryEmbedding",
        ),
        Between((0,)),
    ),
    "DynamicQuantizeLinear": Between((0,), outputs=(1,)),
    "TopK": Between((), exact=True),
}
# Op -> how it moves elements.
MOVES: dict[str, Moves] = {op: b.moves for op, b in BETWEEN.items() if b.moves is not None}
