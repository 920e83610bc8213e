"""What the HTML report shows, as plain values: from decisions and a validation to one view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.report.attention import in_order
from slanc_onnx.report.compared import tensors_text
from slanc_onnx.report.digits import below
from slanc_onnx.report.fold import fold_line
from slanc_onnx.report.html.conversion import conversion_section
from slanc_onnx.report.html.open_points import condition_section, suspect_section
from slanc_onnx.report.merge import merge_lines
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.rows import NormRow
from slanc_onnx.report.terminal import final_parts, no_norm_line
from slanc_onnx.report.wording import reason_text
from slanc_onnx.verify import TensorSize


@dataclass(frozen=True)
class Sections:
    """Parts of the page, as HTML."""

    suspects: str
    conversion: str
    conditions: str


@dataclass(frozen=True)
class PageView:
    """The page.

    Attributes:
        model: The input file.
        output: The written file; "" where nothing was written.
        heading: The model with its folder, and the written file.
        facts: Titles and figures that sum the page up.
        sentence: The verdict in a sentence.
        line: The parts of the last line that the command prints; none where nothing was done.
        passed: None where nothing was validated.
        seen: Whether rows are observed, not predicted.
        accelerator: Whose arithmetic it is.
        norms: In topological order.
        urgent: The numbers of those that need attention, the worst first.
        tensors: The largest first, where everything is emulated.
        tensors_said: What they say in a sentence.
        perplexity: As in the validation; None without tokens.
        sections: The parts on suspects, the conversion and conditions, as HTML; "" without them.
        notes: What was folded, and the notes of the outcome.
        exact: Whether the outputs in FP32 are those of the original, bit by bit.
    """

    model: str
    output: str
    heading: str
    facts: list[tuple[str, str]]
    sentence: str
    line: list[str]
    passed: bool | None
    seen: bool
    accelerator: Accelerator
    norms: list[NormRow]
    urgent: list[int]
    tensors: list[TensorSize]
    tensors_said: str
    perplexity: dict[str, float] | None
    sections: Sections
    notes: list[str]
    exact: bool


def page_view(outcome: Outcome) -> PageView:
    """What the page of an outcome shows."""
    validation, device = outcome.validation, outcome.accelerator
    seen = validation is not None and bool(validation.observed)
    norms, fold = outcome.rows, outcome.fold
    folded = [] if fold is None else [fold_line(len(norms), fold), *map(reason_text, fold.notes)]
    folded += [] if outcome.merges is None else map(str.strip, merge_lines(outcome.merges))
    passed = None if validation is None and outcome.not_validated is None else outcome.passed
    line = [] if outcome.nothing_to_do else final_parts(outcome)
    said = filter(None, (outcome.first_rows_line, outcome.advice_line))
    if not outcome.passed:
        passed, line = False, line or [no_norm_line(outcome)]
    found = outcome.fp32_nodes
    healed_by = len(found.names) if found is not None and outcome.healed else 0
    sizes = () if validation is None else validation.tensors
    return PageView(
        model=str(outcome.source),
        output="" if outcome.dry_run or outcome.nothing_to_do else str(outcome.output),
        heading=_heading(outcome),
        facts=_facts(outcome),
        sentence=_sentence(norms, str(device.format), seen, healed_by),
        line=line,
        passed=passed,
        seen=seen,
        accelerator=device,
        norms=norms,
        urgent=[row.number for row in in_order(norms, outcome.require)[0]],
        tensors=sorted(sizes, key=lambda size: -size.largest),
        tensors_said=tensors_text(sizes, str(device.format)),
        perplexity=None if validation is None else validation.perplexity,
        sections=Sections(
            suspect_section(outcome),
            conversion_section(outcome.conversion, fold),
            condition_section(outcome),
        ),
        notes=[*folded, *map(reason_text, outcome.notes), *said],
        exact=validation is not None and validation.fp32_identical,
    )


def _heading(outcome: Outcome) -> str:
    """The file with its folder, since many are called model.onnx, and what was written."""
    heading = _in_folder(outcome.source)
    if outcome.dry_run or outcome.nothing_to_do:
        return heading
    beside = outcome.output.resolve().parent == outcome.source.resolve().parent
    return f"{heading} → {outcome.output.name if beside else _in_folder(outcome.output)}"


def _in_folder(path: Path) -> str:
    return "/".join(part for part in (path.resolve().parent.name, path.name) if part)


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """What sums the page up."""
    norms, rows = outcome.norms, outcome.rows
    count = Counter(norm.status for norm in norms)
    facts = [("norms", ", ".join(f"{n} {status}" for status, n in count.items()) or "none")]
    if outcome.suspects:
        facts.append(("suspects", f"{len(outcome.not_understood)} not understood"))
    if any(row.seen is not None for row in rows):
        before, after = sum(r.lost_before for r in rows), sum(r.lost_after for r in rows)
        facts.append(("rows lost", f"{before:,} → {after:,}"))
    proved = [n.certificate for n in norms if n.certificate is not None]
    if proved:
        on = sum(proof.conditional for proof in proved)
        words = f"{sum(proof.certified for proof in proved)} of {len(norms)}"
        facts.append(("certified", f"{words}, {on} on a condition" if on else words))
    radii = [norm.safe_radius for norm in norms if norm.safe_radius is not None]
    if radii:
        facts.append(("least safe radius", below(min(radii))))
    return [*facts, *_largest(outcome)]


def _largest(outcome: Outcome) -> list[tuple[str, str]]:
    """The largest tensor that was measured, against the limit; nothing where none was."""
    sizes = () if outcome.validation is None else outcome.validation.tensors
    ranges = () if outcome.fold is None else outcome.fold.ranges
    if sizes:
        size = max(sizes, key=lambda each: each.largest)
        return [
            ("largest tensor, validation", f"{size.largest:.4g} of {size.limit:g}: {size.tensor}")
        ]
    if ranges:
        group = max(ranges, key=lambda each: each.stored)
        return [("largest tensor, probe", f"{group.stored:.4g} of {group.limit:g}: {group.holds}")]
    return []


def _sentence(norms: Sequence[NormRow], form: str, seen: bool, healed_by: int) -> str:
    """Which norms would have overflowed, whether one does now, and what was left out.

    Args:
        norms: All of them.
        form: The format, in words.
        seen: Whether rows are observed.
        healed_by: How many nodes are to stay in FP32; 0 where that is not known to heal it.
    """
    if not norms:
        return "No norm was found, so nothing was written."
    before = [n for n in norms if n.overflows_before]
    after = [n for n in norms if n.overflows_after]
    skipped = sum(n.decided.status == "skipped" for n in norms)
    rows = sum(n.lost_before for n in norms)
    if not seen:
        parts = [
            f"Not run, so this is a prediction: {len(before)} of {len(norms)} norms can overflow "
            f"{form} as exported, {_none(len(after))} with the scales."
        ]
    elif not before and not after:
        none = f"None of the {len(norms)} norms overflowed"
        if len(norms) == 1:
            none = "The only norm did not overflow"
        parts = [f"{none} {form} on these inputs, then or now."]
    else:
        now = f"{len(after)} STILL OVERFLOW{'S' * (len(after) == 1)}" if after else "none overflows"
        parts = [
            f"As exported, {len(before)} of {len(norms)} norms overflowed {form} and lost "
            f"{rows:,} rows. With the scales {now}."
        ]
    if healed_by:
        parts.append(f"With {healed_by} node{'s' * (healed_by > 1)} in FP32 it works.")
    if skipped:
        parts.append(f"{skipped} norm{'s were' if skipped > 1 else ' was'} skipped, see the table.")
    return " ".join(parts)


def _none(count: int) -> str:
    return str(count) if count else "none"
