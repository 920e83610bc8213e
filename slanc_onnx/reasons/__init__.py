"""Reasons: why something is not done, not proved or worth knowing, as values without words.

Every package gives a `Reason` where it leaves something: its kind, and the names and numbers that
belong to it. The kinds stand by what they are about: reading, writing, judging. `report/texts.py`
has the words, and no other code reads those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slanc_onnx.reasons.judging import (
    NOT_RUN_ITSELF,
    OFF,
    Failure,
    Next,
    Note,
)
from slanc_onnx.reasons.reading import (
    Decision,
    Fault,
    Seen,
    Unproved,
    Unread,
    Unscalable,
    Untaken,
)
from slanc_onnx.reasons.writing import (
    InFp32,
    Keeping,
    PositionsFrom,
    Undivided,
    Unmerged,
    Unraised,
    Untabled,
)

Kind = (
    Unread
    | Fault
    | Unproved
    | Seen
    | Unscalable
    | Untaken
    | Decision
    | Undivided
    | Unmerged
    | Unraised
    | Failure
    | Next
    | InFp32
    | Keeping
    | Untabled
    | PositionsFrom
    | Note
)
Fact = str | float | tuple[int, ...] | tuple[str, str] | tuple[str, int]


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        kind: What kind it is.
        facts: Names and numbers that belong to it; its kind says which.
        op: The type of the op that it is about; "" where it is about none.
        tensor: The output of that op.
        behind: The reason behind it.
    """

    kind: Kind
    facts: tuple[Fact, ...] = ()
    op: str = ""
    tensor: str = ""
    behind: Reason | None = None

    def at(self, op: str, tensor: str) -> Reason:
        """The reason as one about an op and its output."""
        return replace(self, op=op, tensor=tensor)


def reason(kind: Kind, *facts: Fact) -> Reason:
    """A reason about no op."""
    return Reason(kind, facts)


__all__ = [
    "NOT_RUN_ITSELF",
    "OFF",
    "Decision",
    "Fact",
    "Failure",
    "Fault",
    "InFp32",
    "Keeping",
    "Kind",
    "Next",
    "Note",
    "PositionsFrom",
    "Reason",
    "Seen",
    "Undivided",
    "Unmerged",
    "Unproved",
    "Unraised",
    "Unread",
    "Unscalable",
    "Untabled",
    "Untaken",
    "reason",
]
