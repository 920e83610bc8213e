"""What folding did, group by group, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from slanc_onnx.apply.fold import Fold, FoldedGroup
from slanc_onnx.report.wording import reason_text


def fold_line(count: int, fold: Fold) -> str:
    """How many norms are folded, and what that cost, in a line."""
    ways = list(fold.applied.values())
    folded, divided = ways.count("fold"), ways.count("div")
    line = f"{count} norms: {folded} folded, {divided} Div"
    if count > len(ways):
        line += f", {count - len(ways)} as they were"
    line += f"; {fold.inserted} nodes inserted, {len(fold.weights)} weights rewritten "
    line += f"({fold.rewritten_bytes / 1e6:.3g} MB)"
    if fold.copied:
        line += f", {fold.copied} small shared weights copied"
    if fold.lost:
        line += f"; {len(fold.lost)} weights lost {_lost_elements(fold)} elements, the largest "
        line += f"relative loss {_largest_loss(fold):.2g}"
    return line


def fold_entry(fold: Fold) -> dict[str, Any]:
    """The `fold` object of the report."""
    ways = list(fold.applied.values())
    return {
        "norms_folded": ways.count("fold"),
        "norms_div": ways.count("div"),
        "inserted_nodes": fold.inserted,
        "rewritten_weights": len(fold.weights),
        "rewritten_bytes": fold.rewritten_bytes,
        "copied_weights": fold.copied,
        "lossy_weights": len(fold.lost),
        "lost_elements": _lost_elements(fold),
        "largest_relative_loss": _largest_loss(fold),
        "notes": [reason_text(note) for note in fold.notes],
        "groups": [asdict(group) for group in fold.groups],
    }


def _lost_elements(fold: Fold) -> int:
    return sum(loss.elements for loss in fold.lost.values())


def _largest_loss(fold: Fold) -> float:
    return max((loss.relative for loss in fold.lost.values()), default=0.0)


def explain_groups(groups: tuple[FoldedGroup, ...]) -> Iterator[str]:
    """A few lines per group, as `--explain-groups` prints them."""
    for number, group in enumerate(groups, 1):
        yield f"group {number}: {group.tensors} tensors, divided by {group.sigma:g}"
        for what, names in (
            ("enters", group.enters),
            ("leaves by norms", group.folded),
            ("leaves by norms with a Div", group.divided),
            ("leaves otherwise", group.leaves),
        ):
            if names:
                yield f"  {what}: {'; '.join(names)}"
