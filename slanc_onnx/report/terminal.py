"""What a person reads on a terminal below the table: the counts, the notes and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console

from slanc_onnx.norms import Suspect
from slanc_onnx.prove import Condition
from slanc_onnx.reasons import NOT_RUN_ITSELF, Failure, Note
from slanc_onnx.report.attention import MOST_NAMES, reason_lines
from slanc_onnx.report.compared import (
    as_written_text,
    beside_fold_text,
    beyond_text,
    default_level_text,
)
from slanc_onnx.report.conversion import conversion_lines
from slanc_onnx.report.fold import fold_line
from slanc_onnx.report.fp32_nodes import fp32_nodes_text
from slanc_onnx.report.inputs import (
    assumed_of,
    grown_of,
    judged_on,
    needed_by,
    not_judged,
    own_failures,
)
from slanc_onnx.report.merge import merge_lines
from slanc_onnx.report.next_step import next_step
from slanc_onnx.report.outcome import Outcome
from slanc_onnx.report.shown import some
from slanc_onnx.report.table import print_lines
from slanc_onnx.report.wording import (
    condition_text,
    need_text,
    reason_text,
    rounded_text,
)
from slanc_onnx.scale import ScaledNorm, instead_of_one
from slanc_onnx.verify import Fp32Nodes, Validation

MOST_CONDITIONS = 3  # of a kind, on a terminal


def no_norm_line(outcome: Outcome) -> str:
    """That no norm was found, and where one may hide."""
    unclear = outcome.not_understood
    if unclear:
        return f"FAILED | no norm found; {_not_understood(unclear)}"
    told = (reason_text(note) for note in outcome.notes if note.kind is Note.MEANS_UNMATCHED)
    return next(told, "no norm found")


def print_summary(
    console: Console,
    outcome: Outcome,
    lost: Sequence[str] = (),
    of: str = "",
    wrap: bool = False,
) -> None:
    """Counts, notes, limits, the perplexity table, and the verdict in the last line.

    Args:
        console: Where to.
        outcome: What the job did.
        lost: What could not be written beside the model, for the last line.
        of: What the last line begins with.
        wrap: Whether lines are broken to fit; scripts read the last one, where they are not.
    """
    *lines, last = _summary(outcome)
    print_lines(console, [*lines, of + " | ".join([last, *lost])], wrap)


def _summary(outcome: Outcome) -> Iterator[str]:
    norms, validation, device = outcome.norms, outcome.validation, outcome.accelerator
    counts = {s: sum(n.status == s for n in norms) for s in ("scaled", "unchanged", "skipped")}
    by = sorted({n.estimate.by for n in norms if n.estimate is not None})
    yield (
        f"{len(norms)} norms: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + (f"; estimated by {' and '.join(by)}" if by else "")
    )
    yield from reason_lines(norms, skipped=True)
    if outcome.fold is not None:
        yield fold_line(len(norms), outcome.fold)
        yield from (f"note: {reason_text(note)}" for note in outcome.fold.notes)
    if outcome.merges is not None:
        yield from merge_lines(outcome.merges)
    if outcome.conversion is not None:
        yield from conversion_lines(outcome.conversion, outcome.fold)
    yield from (f"note: {reason_text(note)}" for note in outcome.notes)
    yield from (f"note: {line}" for line in suspect_lines(outcome))
    yield (
        f"limits of a sum of squares in {device.format}: {device.largest:g} largest, mean square "
        f"{device.smallest_normal:.2g} smallest normal; emulated: {device}"
    )
    if validation is not None and validation.perplexity is not None:
        what = rounded_text(validation.format, validation.everything)
        after = rounded_text(validation.format, validation.everything, outcome.in_fp32)
        words = {"fp32": "FP32", "fp16": what, "fp16_slanc": f"{after} + SLaNC"}
        figures = (f"{words[k]} {v:.4f}" for k, v in validation.perplexity.items())
        yield "perplexity: " + ", ".join(figures)
    yield from _condition_lines(outcome.conditions)
    said = (outcome.epsilon_line, outcome.first_rows_line, outcome.advice_line)
    yield from filter(None, said)
    yield final_line(outcome)


def _condition_lines(conditions: Sequence[Condition]) -> Iterator[str]:
    """What certificates rest on: of each kind the first few conditions, and how many more."""
    kinds: dict[str, list[str]] = {}
    for condition in conditions:
        kinds.setdefault(condition.kind, []).append(condition_text(condition))
    for texts in kinds.values():
        yield from (f"certified if {text}" for text in texts[:MOST_CONDITIONS])
        if len(texts) > MOST_CONDITIONS:
            more = len(texts) - MOST_CONDITIONS
            yield f"certified on {more} more conditions like the last one, see --report"


def final_line(outcome: Outcome) -> str:
    """The verdict with the certificates counted, as one line."""
    return " | ".join(final_parts(outcome))


def final_parts(outcome: Outcome) -> list[str]:
    """What the last line says: the verdict in a word or two, then what that rests on."""
    if outcome.not_validated is not None:
        last = ["FAILED", f"not validated: {reason_text(outcome.not_validated)}"]
    elif outcome.validation is None:
        option = "--dry-run" if outcome.dry_run else "--no-validate"
        last = ["NOT VALIDATED", f"{option} was given"]
    else:
        scaled = any(norm.status == "unchanged" for norm in outcome.norms)
        healed_by = outcome.fp32_nodes if outcome.healed else None
        last = verdict(outcome.validation, healed_by, scaled, outcome.in_fp32)
        last += fp32_nodes_line(outcome)
    missing = shortfalls(outcome)
    if missing:
        last = ["FAILED", *missing, *last[1:]]
    withdrawn = outcome.withdrawn
    if withdrawn is not None:
        last = ["FAILED", *last[1:], reason_text(withdrawn)]
    last += passed_over(outcome)
    last += minimal_of(outcome.norms)
    last += [*grown_of(outcome.norms), *assumed_of(outcome.norms), *counted(outcome.norms)]
    step = next_step(outcome)
    return last if step is None else [*last, reason_text(step)]


def fp32_nodes_line(outcome: Outcome) -> list[str]:
    """What the search for FP32 nodes says; nothing where it was not asked for."""
    if outcome.not_searched is not None:
        return [reason_text(outcome.not_searched)]
    if outcome.fp32_nodes is None:
        return []
    return [fp32_nodes_text(outcome.fp32_nodes, str(outcome.accelerator.format))]


def suspect_lines(outcome: Outcome) -> list[str]:
    """What looks like a norm and was not taken, with the reason: a line per reason."""
    open_ones = {suspect.name for suspect in outcome.not_understood}
    groups: dict[tuple[bool, str], list[str]] = {}
    for s in outcome.suspects:
        told = s.name in open_ones
        why = reason_text(s.reason) if told else ""
        groups.setdefault((told, why), []).append(f"{s.name} ({s.op})")
    lines = []
    for (told, why), names in groups.items():
        one = len(names) == 1
        look = "looks like a norm and was" if one else "look like norms and were"
        ending = f"not understood: {why}" if told else "left out"
        lines.append(f"{some(names, MOST_NAMES)} {look} {ending}")
    return lines


def shortfalls(outcome: Outcome) -> list[str]:
    """What keeps a result from passing beside the validation."""
    found, unclear = [], outcome.not_understood
    if unclear:
        total = len(outcome.norms) + len(unclear)
        safe = sum(row.decided.status != "skipped" and not row.lost_after for row in outcome.rows)
        found.append(f"{safe} of {total} norms safe; {_not_understood(unclear)}")
    if outcome.outside is not None:
        found.append(reason_text(outcome.outside))
    if outcome.not_enumerated is not None:
        found.append(reason_text(outcome.not_enumerated))
    if outcome.all_skipped:
        found.append("every norm was skipped; --exclude accepts that")
    found += map(reason_text, outcome.not_as_required)
    return found


def _not_understood(suspects: Sequence[Suspect]) -> str:
    first = suspects[0]
    return (
        f"{len(suspects)} not understood, first {first.name!r} ({first.op}): "
        f"{reason_text(first.reason)}; --exclude accepts them"
    )


def passed_over(outcome: Outcome) -> list[str]:
    """How many norms have no scale, where that is no shortfall."""
    out = sum(norm.excluded for norm in outcome.norms)
    skipped = sum(norm.status == "skipped" for norm in outcome.norms) - out
    counts = {"skipped": 0 if outcome.all_skipped else skipped, "left out": out}
    total = len(outcome.norms)
    return [f"{count} of {total} norms {word}" for word, count in counts.items() if count]


def counted(norms: Sequence[ScaledNorm]) -> list[str]:
    """How many norms no input can overflow; nothing where that was not asked for."""
    asked = [norm.certificate for norm in norms if norm.certificate is not None]
    if not asked:
        return []
    proved = [c for c in asked if c.certified]
    text = f"certified {len(proved)} of {len(norms)} norms"
    conditional = sum(c.conditional for c in proved)
    return [f"{text}, {conditional} of them on a condition" if conditional else text]


def minimal_of(norms: Sequence[ScaledNorm]) -> list[str]:
    """At how many norms 1 was safe, on which evidence; nothing where that was not asked for."""
    here = [norm for norm in norms if norm.scale == 1 and instead_of_one(norm) is not None]
    found = Counter(norm.estimate.by for norm in here if norm.estimate is not None)
    by = " and ".join(f"{count} by {source}" for source, count in sorted(found.items()))
    proved = sum(norm.certificate is not None and norm.certificate.certified for norm in here)
    kept = f"{proved} of them certified with it" if proved else "none of them certified with it"
    return [f"1 is safe at {len(here)} norms by the estimate ({by}), {kept}"] if here else []


def verdict(
    validation: Validation,
    healed_by: Fp32Nodes | None = None,
    scaled: bool = False,
    kept: int = 0,
) -> list[str]:
    """The word, the inputs, the measured errors and the tolerances.

    Args:
        validation: Of the model with all of its nodes alike.
        healed_by: The nodes in FP32 with which it passes; None where it does or does not without.
        scaled: Whether an earlier run scaled the file that was given.
        kept: Nodes that the file that was written has in FP32 or FP64.
    """
    what = rounded_text(validation.format, validation.everything, kept)
    shape = "another shape"
    error = f"{validation.rounded_error_after:.3g}, RMS {validation.rounded_rms_error:.3g}"
    after = shape if validation.reshaped else error
    before = shape if validation.reshaped_before else f"{validation.rounded_error_before:.3g}"
    fp16 = (
        f"{what}: rows overflowed {validation.overflowed_before} -> {validation.overflowed_after}, "
        f"largest relative error {before} -> {after} (tolerance {validation.rounded_tolerance:g})"
    )
    if validation.beside_fold is not None:
        fp16 = f"{fp16.removesuffix(')')}; {beside_fold_text(validation.beside_fold)})"
    if validation.cosine is not None:
        fp16 += f", least cosine {validation.cosine:.7f}"
    passed = "PASSED" if validation.everything else "NORMS PASSED"
    failed = "INCONCLUSIVE" if validation.inconclusive else "FAILED"
    word = passed if validation.passed else failed
    if healed_by is not None:
        word = f"PASSED with {len(healed_by.names)} nodes in FP32"
    apart = [f"not compared: {', '.join(validation.unstable)}"] if validation.unstable else []
    if validation.all_zero:
        apart.append(
            "the outputs hold no finite number but 0 on these inputs, so that only rows were judged"
        )
    if validation.beyond is not None and validation.passed:
        apart.append(beyond_text(validation.beyond, validation.format))
    needed = []
    if validation.observed:
        rows, inputs = needed_by(validation)
        needed = [need_text(rows, validation.format, inputs, scaled)]
    without = "" if healed_by is None else "without them: "
    failures = (without + reason_text(reason) for reason in own_failures(validation))
    on = [*not_judged(validation), *judged_on(validation)]
    return [word, *needed, _fp32(validation), fp16, *apart, *failures, *on]


def _fp32(validation: Validation) -> str:
    """How the FP32 outputs compare, with ONNX Runtime's optimisation off and at its default."""
    if validation.fp32_identical:
        told = "FP32 outputs bit-identical with optimisation off"
    elif validation.fp32_rms_tolerance is not None:
        told = (
            f"FP32 RMS error {validation.fp32_rms_error:.3g} of the outputs' RMS, as a merge "
            f"rounds otherwise (tolerance {validation.fp32_rms_tolerance:g})"
        )
        if validation.rounded_epsilons:
            told += f", {validation.rounded_epsilons} epsilons rounded or raised"
        if validation.as_they_round is not None:
            told += (
                f", {validation.as_they_round.rms:.3g} where the files round what they hold in 16 "
                f"bits (tolerance {validation.rounded_tolerance:g})"
            )
    else:
        what = "FP32" if validation.cosine is None else "its weights in FP32 arithmetic:"
        told = (
            f"{what} max abs error {validation.fp32_max_abs_error:.3g}, relative "
            f"{validation.fp32_max_relative_error:.3g} (tolerance {validation.fp32_tolerance:g})"
        )
        if validation.rounded_epsilons:
            told += f", {validation.rounded_epsilons} epsilons rounded or raised"
    if any(f.kind in {*NOT_RUN_ITSELF, Failure.NO_MEMORY} for f in validation.failures):
        return told
    if validation.cosine is not None:
        ran = as_written_text(validation.as_written, validation.no_kernel)
        return f"{told}; as it is on ONNX Runtime: {ran}"
    return f"{told}; at the default level: {default_level_text(validation.at_default)}"
