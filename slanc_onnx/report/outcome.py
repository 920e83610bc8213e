"""What the whole job on a file did, as one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.convert import Conversion
from slanc_onnx.apply.fold import Fold
from slanc_onnx.apply.merge import Merges
from slanc_onnx.norms import Suspect
from slanc_onnx.options import Required
from slanc_onnx.prove import WITHDRAWN, Certificate, Condition
from slanc_onnx.reasons import Failure, Next, Reason
from slanc_onnx.report.as_json import (
    VERSION,
    Report,
    first_rows_entry,
    norm_entry,
    suspect_entry,
    validation_entry,
)
from slanc_onnx.report.audit import audit_entries
from slanc_onnx.report.conversion import conversion_entry
from slanc_onnx.report.fold import fold_entry
from slanc_onnx.report.fp32_nodes import fp32_nodes_entry, write_list
from slanc_onnx.report.merge import merge_entry
from slanc_onnx.report.proof_lines import EPSILON, advice_text, first_rows_text
from slanc_onnx.report.rows import NormRow, norm_rows
from slanc_onnx.report.wording import reason_text
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.targets import Change, changes
from slanc_onnx.verify import HEALED, Audit, FirstRows, Fp32Nodes, Validation


@dataclass(frozen=True)
class Outcome:
    """What the job on a file did.

    Attributes:
        source: The model.
        output: The file that was written, where it has norms.
        options: What the report shows as options.
        norms: Every norm with its decision, in topological order.
        validation: None where it was not asked for or could not be done.
        not_validated: Why it could not be done; None where it was, or was not asked for.
        accelerator: What was protected and emulated.
        notes: What a user should know beyond the norms: functions that were inlined, means that
            belong to no norm, weights that a caller may override, an option without effect.
        seconds: What each step took.
        fold: What was folded into which weights; None where that was not asked for.
        heals: Where the validation failed, what was tried with which it passes; None for nothing.
        audits: What the norms' rows did on the data of `Options.observe`.
        first_rows: What every token alone gives; None where that was not asked for or not done.
        not_enumerated: Why it could not be done; None where it was, or was not asked for.
        fp32_nodes: Which nodes have to stay in FP32; None where that was not asked for or not done.
        not_searched: Why that could not be done; None where it was, or was not asked for.
        suspects: What looks like a norm and was not taken.
        accepted: The names of those that the user left out.
        dry_run: Whether nothing was to be written.
        require: What had to hold.
        conversion: How floats became ones of 16 bits; None where that was not asked for.
        comes_along: Whether the output is the model as it was, as a part of a folder.
        merges: What of the norms was merged into weights; None where that was not asked for.
    """

    source: Path
    output: Path
    options: Mapping[str, object]
    norms: list[ScaledNorm]
    validation: Validation | None
    not_validated: Reason | None
    accelerator: Accelerator
    notes: list[Reason]
    seconds: Mapping[str, float]
    fold: Fold | None = None
    heals: Next | None = None
    audits: list[Audit] = field(default_factory=list)
    first_rows: FirstRows | None = None
    not_enumerated: Reason | None = None
    fp32_nodes: Fp32Nodes | None = None
    not_searched: Reason | None = None
    suspects: list[Suspect] = field(default_factory=list)
    accepted: Set[str] = frozenset()
    dry_run: bool = False
    require: Collection[Required] = ()
    conversion: Conversion | None = None
    comes_along: bool = False
    merges: Merges | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the result."""
        return (
            self.validated
            and self.withdrawn is None
            and self.outside is None
            and self.not_enumerated is None
            and not self.not_understood
            and not self.all_skipped
            and not self.not_as_required
        )

    @property
    def in_fp32(self) -> int:
        """How many nodes compute in FP32 or FP64 in a file of 16 bits; 0 for other files."""
        return 0 if self.conversion is None else len(self.conversion.converted.nodes)

    @property
    def nothing_to_do(self) -> bool:
        """Whether no norm was found, and no conversion done: then no model is written."""
        return not self.norms and self.conversion is None

    @property
    def not_as_required(self) -> list[Reason]:
        """What was required and does not hold."""
        kept = [norm for norm in self.norms if not norm.excluded]
        missing: dict[Required, list[ScaledNorm]] = {
            "scaled": [norm for norm in kept if norm.status == "skipped"],
            "certified": [n for n in kept if n.certificate is None or not n.certificate.certified],
        }
        found = [
            Reason(Failure.NOT_AS_REQUIRED, (what, len(norms), len(kept), norms[0].norm.name))
            for what, norms in missing.items()
            if norms and what in self.require
        ]
        validated = self.validation is not None and self.validated
        if "validated" in self.require and not (validated or self.nothing_to_do):
            found.append(Reason(Failure.NOT_VALIDATED))
        return found

    @property
    def validated(self) -> bool:
        """Whether the validation passed, also with nodes in FP32, or was not asked for."""
        passed = self.validation is None or self.validation.passed or self.healed
        return self.not_validated is None and passed

    @property
    def healed(self) -> bool:
        """Whether the validation failed, and passes with some nodes in FP32."""
        if self.validation is None or self.fp32_nodes is None or not self.fp32_nodes.names:
            return False
        return self.fp32_nodes.works and all(f.kind in HEALED for f in self.validation.failures)

    @property
    def withdrawn(self) -> Reason | None:
        """That rows contradict certificates; None where none does."""
        found = [
            (norm.norm.name, norm.certificate.reason)
            for norm in self.norms
            if norm.certificate is not None
            and norm.certificate.reason is not None
            and norm.certificate.reason.kind in WITHDRAWN
        ]
        if not found:
            return None
        name, why = found[0]
        return Reason(Failure.CERTIFICATES_WITHDRAWN, (len(found), name), behind=why)

    @property
    def outside(self) -> Reason | None:
        """That rows of the user's data leave the windows; None where none does."""
        left_out = {norm.norm.name for norm in self.norms if norm.excluded}
        seen = [audit for audit in self.audits if audit.name not in left_out]
        above, below = [a for a in seen if a.above], [a for a in seen if a.below]
        if above:
            facts = (sum(a.above for a in above), len(above), above[0].name)
            return Reason(Failure.OBSERVED_ABOVE, facts, behind=above[0].worst[0].place)
        if below:
            facts = (sum(a.below for a in below), len(below), below[0].name)
            return Reason(Failure.OBSERVED_BELOW, facts)
        return None

    @property
    def advice(self) -> dict[Change, int]:
        """How many norms each single change of the target certifies, the cheapest change first.

        Empty where no proof was asked for, where scales are folded, and where all are certified.
        """
        if self.withdrawn is not None or all(c.certified for c in self._certificates):
            return {}
        count = Counter(change for norm in self.norms for change in norm.certified_with)
        return {change: count[change] for change in changes(self.accelerator) if count}

    @property
    def advice_line(self) -> str:
        """The same in words; "" where no change certifies more."""
        now = sum(certificate.certified for certificate in self._certificates)
        return advice_text(self.advice, now, len(self.norms))

    @property
    def conditions(self) -> list[Condition]:
        """What certificates rest on, each once."""
        return sorted(
            {c for proof in self._certificates if proof.certified for c in proof.conditions}
        )

    @property
    def epsilon_line(self) -> str:
        """What certificates ask of the device's epsilons; "" where it keeps those of the file."""
        asked = [c.epsilon_at_least for c in self._certificates if c.certified]
        least = max((e for e in asked if e is not None), default=0.0)
        return EPSILON.format(least) if least else ""

    @property
    def first_rows_line(self) -> str:
        """How many norms keep every token alone within their safe radius; "" without such a run."""
        if self.first_rows is None:
            return ""
        count = sum(row.first_within for row in self.rows)
        return first_rows_text(self.first_rows, count, len(self.norms))

    @property
    def _certificates(self) -> list[Certificate]:
        return [norm.certificate for norm in self.norms if norm.certificate is not None]

    @property
    def not_understood(self) -> list[Suspect]:
        """The suspects that nobody accepted."""
        return [suspect for suspect in self.suspects if suspect.name not in self.accepted]

    @property
    def all_skipped(self) -> bool:
        """Whether no norm is safe of those that the user did not leave out."""
        kept = [norm for norm in self.norms if not norm.excluded]
        return bool(kept) and all(norm.status == "skipped" for norm in kept)

    @cached_property
    def rows(self) -> list[NormRow]:
        """Each norm as reports show it."""
        rows = norm_rows(self.norms, self.accelerator, self.validation, self.fold, self.audits)
        longest = {} if self.first_rows is None else self.first_rows.longest
        merged = {} if self.merges is None else {norm.name: norm for norm in self.merges.norms}
        return [
            replace(row, first=longest.get(row.name), merged=merged.get(row.name)) for row in rows
        ]

    @cached_property
    def report(self) -> Report:
        """The report, as written to --report."""
        return Report(
            version=VERSION,
            model=str(self.source),
            output=None if self.dry_run else str(self.output),
            options=dict(self.options),
            norms=[norm_entry(row) for row in self.rows],
            suspects=[suspect_entry(s, s.name in self.accepted) for s in self.suspects],
            notes=[reason_text(note) for note in self.notes],
            fold=None if self.fold is None else fold_entry(self.fold),
            merge=merge_entry(self.merges),
            conversion=conversion_entry(self.conversion, self.fold),
            audit=audit_entries(self.audits),
            first_rows=first_rows_entry(self.first_rows),
            advice={change.value: count for change, count in self.advice.items()},
            fp32_nodes=fp32_nodes_entry(self.fp32_nodes, str(self.accelerator.format)),
            validation=validation_entry(self.validation, self.not_validated),
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
        )


def write_fp32_nodes(outcome: Outcome, path: Path, as_format: str) -> None:
    """Write the nodes that have to stay in FP32; see `write_list`."""
    write_list(outcome.fp32_nodes, str(outcome.accelerator.format), path, as_format)
