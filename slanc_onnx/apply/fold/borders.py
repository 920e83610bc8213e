"""Borders: where a stream may go on in another group, the most promising places first.

A border stands behind a tensor that a norm reads, so that all its readers are in the next group; or
in front of all that follows a norm, so that what is added to the stream there is in the next group,
and so is the sum. Both cost one node. Which is right depends on the sum: behind a tensor that
leaves the format a node comes too late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from slanc_onnx.apply.fold.group_scale import Window, choose, choose_for_each
from slanc_onnx.apply.fold.groups import Border, Partition, Site, parted
from slanc_onnx.graph import GraphPath

MOST_TRIED = 4  # borders behind tensors, and as many in front of what follows norms


class _Place(NamedTuple):
    """A border between the norms of a group.

    Attributes:
        border: The reads behind it.
        split: How many of the norms are in front of it.
        least: The least exponent of the tensor at which it stands; 0 for one that was no larger
            than what is in front of it.
    """

    border: Border
    split: int
    least: int


_Score = tuple[int, int]  # bits by which the tensor at a border leaves the format, and nodes
_Order = Mapping[tuple[GraphPath, int], int]  # node -> its place in topological order


def promising(parts: Partition, windows: Mapping[str, Window]) -> list[Border]:
    """Borders that may save more nodes than the one they cost, best first of each kind.

    Args:
        parts: The groups.
        windows: The window of each norm, by norm name.
    """
    behind: dict[Border, _Score] = {}
    in_front: dict[Border, _Score] = {}
    order = {node: place for place, node in enumerate(parts.flow.order)}
    for group in dict.fromkeys(s.group for s in parts.sites if s.group is not None):
        sites = [s for s in parts.sites if s.group == group]
        asked = [windows[s.norm.name] for s in sites]
        whole = choose(asked, lambda _: 0)
        now = whole.nodes + bool(whole.exponent)
        if len(sites) < 2 or now < 2:
            continue
        behind |= _scores(_places_behind(parts, sites, asked), asked, now)
        in_front |= _scores(_places_in_front(parts, sites, order), asked, now)
    ranked = [*_ranked(parts, behind), *_ranked(parts, in_front)]
    return [_narrowed(parts, border) for border in ranked]


def _scores(places: Iterator[_Place], asked: Sequence[Window], now: int) -> dict[Border, _Score]:
    """The borders of a group that may save nodes.

    Args:
        places: The borders.
        asked: The windows of the group's norms.
        now: The nodes that it takes without a border.
    """
    in_front = [(0, 0), *choose_for_each(asked, lambda _: 1)]  # with the beginning of the stream
    behind = [(0, 0), *choose_for_each(asked[::-1], lambda _: 0)][::-1]
    scored: dict[Border, _Score] = {}
    for border, split, least in places:
        exponent, front = in_front[split]
        nodes = front + behind[split][1] + 1
        if nodes < now:
            score = max(least - exponent, 0), nodes
            scored[border] = min(score, scored.get(border, score))
    return scored


def _ranked(parts: Partition, scored: Mapping[Border, _Score]) -> list[Border]:
    first = {border: min(parts.flow.reads[use] for use in border) for border in scored}
    return sorted(scored, key=lambda border: (scored[border], first[border]))[:MOST_TRIED]


def _places_behind(
    parts: Partition, sites: Sequence[Site], asked: Sequence[Window]
) -> Iterator[_Place]:
    """The borders behind what the norms of a group read."""
    crossed = {use for border in parts.borders for use in border}
    for i, site in enumerate(sites):
        tensor = parts.flow.read(site.uses[0])
        assert tensor is not None
        border = frozenset(parts.flow.uses[tensor])
        if not border & crossed:
            for split in (i, i + 1):
                yield _Place(border, split, asked[i].least)


def _places_in_front(parts: Partition, sites: Sequence[Site], order: _Order) -> Iterator[_Place]:
    """The borders in front of what follows the norms of a group: the reads of what is there."""
    flow = parts.flow
    uses = [use for use, group in parts.of_use.items() if group == sites[0].group]
    read = np.array([order[use.path, use.node] for use in uses])
    made = np.full(len(uses), -1)
    for number, use in enumerate(uses):
        path, index, _ = flow.makers.get(flow.reads[use], (None, 0, 0))
        if path == use.path:
            made[number] = order[path, index]
    for i, site in enumerate(sites[:-1]):
        path = site.norm.path
        place = order[path, site.norm.nodes[-1]]
        over = np.flatnonzero((made <= place) & (place < read))
        found = frozenset(uses[number] for number in over if uses[number].path == path)
        if found:
            yield _Place(found, i + 1, 0)


def _narrowed(parts: Partition, border: Border) -> Border:
    """The reads of a border whose tensors belong to a norm in front of it.

    What a graph makes early and adds to a stream later is not part of the stream in front.
    """
    flow = parts.flow
    tensors = {flow.reads[use] for use in border}
    if len(tensors) < 2:
        return border
    tried = parted(parts, border)
    held = {site.group for site in tried.sites}
    front = {t for t in tensors if tried.of_output.get(t) in held}
    front |= {
        t for t in tensors for u in flow.uses[t] if u not in border and tried.of_use.get(u) in held
    }
    return frozenset(use for use in border if flow.reads[use] in front)
