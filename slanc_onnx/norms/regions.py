"""Regions: parts of a graph through which a scale of their input cancels.

The input has degree 1, and the walk gives every tensor behind it a degree (`ops/degrees.py`) until
that is 0: there the scale is gone. What stands outside the region reads its input undivided, so
only values that leave it with another degree, its leaks, would change.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_graphsurgeon as gs

from slanc_onnx.graph import Scope
from slanc_onnx.norms.origins import forks, origins
from slanc_onnx.norms.region import Region
from slanc_onnx.norms.walk import Surroundings, Walk
from slanc_onnx.reasons import Reason, Untaken

_MOST_STARTS = 6


def region_of(
    scope: Scope, order: dict[int, int], root: gs.Node, squared_in: gs.Tensor
) -> Region | Reason:
    """The region around a sum of squares, or why none closes.

    The nearest input from which one closes is taken, or the one behind it of which the mean is
    subtracted; products with weights are passed where none closes without, or where one that is
    divided by a root of the same input closes nearer.

    Args:
        scope: The graph.
        order: The places of its nodes in topological order, by id.
        root: The node that sums squares.
        squared_in: The tensor that is squared.
    """
    first = _nearest(Surroundings(scope, order, root, squared_in, weights=False))
    if isinstance(first, Region) and first.beside is None:
        return first
    if isinstance(first, Reason) and first.kind is Untaken.ROOT_OF_SCALE:
        return first
    second = _nearest(Surroundings(scope, order, root, squared_in, weights=True))
    found = [region for region in (first, second) if isinstance(region, Region)]
    for wide in {id(r.beside): r.beside for r in found if r.beside is not r.x}.values():
        if wide is not None:  # what is squared is a cast of it
            third = _nearest(Surroundings(scope, order, root, wide, weights=True))
            found += [third] if isinstance(third, Region) else []
    nearest = min(found, key=lambda region: len(region.nodes), default=None)
    return nearest or first or second or Reason(Untaken.NOT_DIVIDED)


def _nearest(around: Surroundings) -> Region | Reason | None:
    """The region around a sum of squares from the nearest input, or why none closes, if that is
    known."""
    refused: Reason | None = None
    starts = [around.squared]
    for start in starts:
        found, end = _closing(around, start)
        if isinstance(found, Region):
            return Reason(Untaken.ROOT_OF_SCALE) if found.fractional else found
        refused = refused or found
        starts += [t for t in forks(around.scope, end) if len(starts) < _MOST_STARTS]
    return refused


def _closing(around: Surroundings, start: gs.Tensor) -> tuple[Region | Reason | None, gs.Tensor]:
    """The region that closes from a tensor or from one that it is made of, and the last of those.

    Where none closes, why.
    """
    best: Region | None = None
    refused: Reason | None = None
    x = start
    for x, centred in origins(around.scope, start):
        if best is not None and not centred:
            continue
        walk = Walk(around, x)
        walk.run()
        found = walk.region()
        if found is None:
            refused = refused or walk.why()
            if best is not None:
                break
            continue
        best = replace(found, nearer=best)
        if centred:
            break
    return best or refused, x
