"""What the whole job on a file did, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.fold import Fold
from slanc_onnx.report.as_json import Report
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify import Audit, Validation


@dataclass(frozen=True)
class Outcome:
    """What the job on a file did.

    Attributes:
        norms: Every norm with its decision, in topological order.
        validation: None where it was not asked for or could not be done.
        not_validated: Why it could not be done; "" otherwise.
        accelerator: What was protected and emulated.
        report: The report, as written to --report.
        notes: What a user should know beyond the norms: functions that were inlined, means that
            belong to no norm, weights that a caller may override, an option without effect.
        fold: What was folded into which weights; None where that was not asked for.
        audits: What the norms' rows did on the data of `Options.observe`.
    """

    norms: list[ScaledNorm]
    validation: Validation | None
    not_validated: str
    accelerator: Accelerator
    report: Report
    notes: list[str]
    fold: Fold | None = None
    audits: list[Audit] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the result."""
        return not self.not_validated and (self.validation is None or self.validation.passed)
