"""The decision for one norm, as a plain value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from slanc_onnx.estimate import Estimate
from slanc_onnx.norms import Norm, scaled_epsilon
from slanc_onnx.prove import Affine, Certificate
from slanc_onnx.reasons import Decision, Reason
from slanc_onnx.scale.assumed import Assumption
from slanc_onnx.scale.json_form import from_json, to_json
from slanc_onnx.targets import Change
from slanc_onnx.trace import Term

Status = Literal["scaled", "unchanged", "skipped"]


@dataclass(frozen=True)
class ScaledNorm:
    """What is decided for one norm.

    Attributes:
        norm: The norm.
        scale: What its input is divided by; None where it is skipped.
        estimate: From what the scale was placed; None where nothing is known.
        rule: The terms of its input: what the trace read between it and the norms before.
        sources: What that starts from: norms, tables, graph inputs.
        status: "scaled", "unchanged" (an earlier run did it) or "skipped".
        reasons: Why it is not scaled, or what a user should know.
        certificate: What is proved of it at its scale; None where that was not asked for.
        affine: What its row meets at most; None where that is no constant.
        assumed: What is assumed of the graph inputs behind its rows.
        certified_with: The single changes of the device with each of which it would be certified.
        safe_radius: No input row of this length or less gives inf or nan inside the norm; None
            where nothing tells it. See `prove.safe_radius`.
        most_elements: The most elements of a row for which its estimate and its scale hold, where
            the file does not tell how many a row has; None where it does.
        holds_at: The divisor for which `safe_radius` and `most_elements` are; its own by default.
    """

    norm: Norm
    scale: float | None
    estimate: Estimate | None
    rule: tuple[Term, ...]
    sources: list[str]
    status: Status
    reasons: tuple[Reason, ...]
    certificate: Certificate | None = None
    affine: Affine | None = None
    safe_radius: float | None = None
    most_elements: int | None = None
    assumed: tuple[Assumption, ...] = ()
    certified_with: tuple[Change, ...] = ()
    holds_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The decision as values of JSON, from which `from_json` makes it again."""
        form: dict[str, Any] = to_json(self)
        return form

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> ScaledNorm:
        """The decision that `to_json` gave. Given another scale since, it has no certificate.

        Raises:
            SlancError: it is the form of no decision.
        """
        found: ScaledNorm = from_json(cls, form)
        return found

    @property
    def excluded(self) -> bool:
        """Whether the user left it out."""
        return any(reason.kind is Decision.EXCLUDED for reason in self.reasons)

    def __post_init__(self) -> None:
        """Drop what does not hold at the scale: it was given another, as by `replace`."""
        elsewhere = self.certificate is not None and self.certificate.scale != self.divisor
        if elsewhere or self.holds_at not in (None, self.divisor):
            object.__setattr__(self, "safe_radius", None)
            object.__setattr__(self, "most_elements", None)
            object.__setattr__(self, "certified_with", ())
        if elsewhere:
            object.__setattr__(self, "certificate", None)
        object.__setattr__(self, "holds_at", self.divisor)

    @property
    def divisor(self) -> float:
        """What its input is divided by now that it was not before; 1 where that is as it was."""
        return self.scale if self.status == "scaled" and self.scale is not None else 1.0

    def unproved(self, why: Reason) -> ScaledNorm:
        """The decision without what was proved of it: the proof read other weights."""
        if self.certificate is None or not self.certificate.certified:
            return self
        return replace(self, certificate=replace(self.certificate, certified=False, reason=why))

    @property
    def set_by_hand(self) -> bool:
        """Whether the user gave its scale."""
        return any(reason.kind is Decision.SET for reason in self.reasons)

    @property
    def scaled_epsilon(self) -> float | None:
        """Epsilon as the scaled norm has it."""
        if self.scale is None or self.status == "skipped":
            return None
        already = self.norm.scaled_by is not None
        return self.norm.epsilon if already else scaled_epsilon(self.norm, self.scale)


def scales_to_apply(decided: Sequence[ScaledNorm]) -> dict[str, float]:
    """The scales of the norms with the status "scaled", by norm name."""
    return {d.norm.name: d.scale for d in decided if d.status == "scaled" and d.scale is not None}
