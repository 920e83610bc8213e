"""Which norms need somebody's attention, and what is to say of all the others together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum

from slanc_onnx.options import Required
from slanc_onnx.prove import WITHDRAWN
from slanc_onnx.reasons import Reason
from slanc_onnx.report.rows import NormRow
from slanc_onnx.report.shown import some
from slanc_onnx.report.wording import reason_text
from slanc_onnx.scale import ScaledNorm

MOST_NAMES = 2  # of a group of norms with one reason


class Concern(IntEnum):
    """Why a norm needs attention; the first come first."""

    OVERFLOWS = 1
    WITHDRAWN = 2
    SKIPPED = 3
    OUTSIDE = 4
    UNDERFLOWS = 5
    UNPROVED = 6


def concern_of(row: NormRow, required: Collection[Required]) -> Concern | None:
    """Why a norm needs attention; None for one that does not, and for one that the user left out.

    Args:
        row: The norm.
        required: What had to hold: with "certified", a norm that is not needs attention.
    """
    proof, audit = row.decided.certificate, row.audit
    if row.decided.excluded:
        return None
    withdrawn = proof is not None and proof.reason is not None and proof.reason.kind in WITHDRAWN
    unproved = proof is None or not proof.certified
    known = {
        Concern.OVERFLOWS: row.overflows_after,
        Concern.WITHDRAWN: withdrawn,
        Concern.SKIPPED: row.decided.status == "skipped",
        Concern.OUTSIDE: audit is not None and bool(audit.above or audit.below),
        Concern.UNDERFLOWS: row.underflowed > 0,
        Concern.UNPROVED: unproved and "certified" in required,
    }
    return next((concern for concern, is_so in known.items() if is_so), None)


def in_order(
    rows: Sequence[NormRow], required: Collection[Required]
) -> tuple[list[NormRow], list[NormRow]]:
    """The norms that need attention, the worst first, and the others, as the network has them."""
    concerns = [(concern_of(row, required), row) for row in rows]
    urgent = sorted(
        ((concern, row) for concern, row in concerns if concern is not None),
        key=lambda each: each[0],
    )
    return [row for _, row in urgent], [row for concern, row in concerns if concern is None]


def counted_together(rows: Sequence[NormRow]) -> Iterator[str]:
    """A line per status: how many norms, their scales, the rows they lost, and what is proved."""
    by_status: dict[str, list[NormRow]] = {}
    for row in rows:
        by_status.setdefault(row.decided.status, []).append(row)
    for status, group in by_status.items():
        scales = [row.decided.scale for row in group if row.decided.scale is not None]
        least, most = min(scales, default=0.0), max(scales, default=0.0)
        line = f"{len(group)} {status}"
        if scales:
            line += f" by {least:g}" + (f" to {most:g}" if most > least else "")
        if any(row.seen is not None for row in group):
            before, after = (sum(r.lost_before for r in group), sum(r.lost_after for r in group))
            line += f"; rows lost {before} -> {after}"
        proofs = [row.decided.certificate for row in group]
        if any(proof is not None for proof in proofs):
            proved = [proof for proof in proofs if proof is not None and proof.certified]
            conditional = sum(proof.conditional for proof in proved)
            counts = {
                "certified": len(proved) - conditional,
                "certified on a condition": conditional,
                "not certified": len(group) - len(proved),
            }
            line += "; " + ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        yield line


def reason_lines(norms: Sequence[ScaledNorm], skipped: bool) -> Iterator[str]:
    """A line per kind of reason, of the norms that were skipped or of the others.

    Reasons of one kind may name different tensors: the line has those of its first norm.
    """
    groups: dict[tuple[object, ...], list[ScaledNorm]] = {}
    for norm in norms:
        if norm.reasons and (norm.status == "skipped") is skipped:
            groups.setdefault((norm.status, *map(_kind, norm.reasons)), []).append(norm)
    for (status, *_), group in groups.items():
        told = "; ".join(map(reason_text, group[0].reasons))
        count = f"{len(group)} norms: " if len(group) > 1 else ""
        names = some([norm.norm.name for norm in group], MOST_NAMES)
        yield f"{status}: {count}{names}: {told}"


def _kind(reason: Reason | None) -> object:
    """What a reason is but for the names and numbers in it."""
    return None if reason is None else (reason.kind, reason.op, _kind(reason.behind))
