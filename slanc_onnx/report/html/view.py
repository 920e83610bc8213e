"""What the HTML report shows, as plain values: from decisions and a validation to one view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.report.compared import tensors_text
from slanc_onnx.report.conversion import conversion_lines
from slanc_onnx.report.fold import fold_line
from slanc_onnx.report.merge import merge_lines
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.rows import NormRow
from slanc_onnx.report.terminal import final_parts, no_norm_line, suspect_lines
from slanc_onnx.report.wording import reason_text
from slanc_onnx.verify import TensorSize


@dataclass(frozen=True)
class PageView:
    """The page.

    Attributes:
        model: The input file.
        output: The written file.
        sentence: The verdict in a sentence.
        line: The parts of the last line that the command prints; none where nothing was done.
        passed: None where nothing was validated.
        seen: Whether rows are observed, not predicted.
        accelerator: Whose arithmetic it is.
        norms: In topological order.
        tensors: The largest first, where everything is emulated.
        tensors_said: What they say in a sentence.
        perplexity: As in the validation; None without tokens.
        notes: What was folded and converted, and the notes of the outcome.
    """

    model: str
    output: str
    sentence: str
    line: list[str]
    passed: bool | None
    seen: bool
    accelerator: Accelerator
    norms: list[NormRow]
    tensors: list[TensorSize]
    tensors_said: str
    perplexity: dict[str, float] | None
    notes: list[str]


def page_view(outcome: Outcome) -> PageView:
    """What the page of an outcome shows."""
    validation, device = outcome.validation, outcome.accelerator
    seen = validation is not None and bool(validation.observed)
    norms, fold = outcome.rows, outcome.fold
    folded = [] if fold is None else [fold_line(len(norms), fold), *map(reason_text, fold.notes)]
    folded += [] if outcome.merges is None else map(str.strip, merge_lines(outcome.merges))
    if outcome.conversion is not None:
        folded += conversion_lines(outcome.conversion, fold)
    passed = None if validation is None and outcome.not_validated is None else outcome.passed
    line = [] if outcome.nothing_to_do else final_parts(outcome)
    said = filter(None, (outcome.epsilon_line, outcome.first_rows_line, outcome.advice_line))
    if not outcome.passed:
        passed, line = False, line or [no_norm_line(outcome)]
    found = outcome.fp32_nodes
    healed_by = len(found.names) if found is not None and outcome.healed else 0
    sizes = () if validation is None else validation.tensors
    return PageView(
        model=str(outcome.source),
        output=str(outcome.output),
        sentence=_sentence(norms, str(device.format), seen, healed_by),
        line=line,
        passed=passed,
        seen=seen,
        accelerator=device,
        norms=norms,
        tensors=sorted(sizes, key=lambda size: -size.largest),
        tensors_said=tensors_text(sizes, str(device.format)),
        perplexity=None if validation is None else validation.perplexity,
        notes=[*folded, *map(reason_text, outcome.notes), *suspect_lines(outcome), *said],
    )


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
        parts = [f"None of the {len(norms)} norms overflowed {form} on these inputs, then or now."]
    else:
        now = f"{len(after)} STILL OVERFLOW{'S' * (len(after) == 1)}" if after else "none overflows"
        parts = [
            f"As exported, {len(before)} of {len(norms)} norms overflowed {form} and lost "
            f"{rows:,} rows. With the scales {now}."
        ]
    if healed_by:
        parts.append(f"With {healed_by} nodes in FP32 it works.")
    if skipped:
        parts.append(f"{skipped} norm{'s were' if skipped > 1 else ' was'} skipped, see the table.")
    return " ".join(parts)


def _none(count: int) -> str:
    return str(count) if count else "none"
