"""What a user should know of a file beyond its norms."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slanc_onnx.norms import ReadModel, scaled_epsilon, unmatched_means
from slanc_onnx.options import Options
from slanc_onnx.reasons import Note, Reason
from slanc_onnx.scale import ScaledNorm


def epsilon_notes(norms: Sequence[ScaledNorm], options: Options) -> list[Reason]:
    """What becomes of epsilons that are divided exactly, of which no row of zeros was seen.

    Args:
        norms: The decisions, as they were written.
        options: As the last try had them.
    """
    away = options.accelerator.rounds_away
    if options.epsilon == "representable":
        return []
    gone = [
        each.norm.name
        for each in norms
        if each.status == "scaled"
        and not away(each.norm.epsilon or 0, each.norm.epsilon_power)
        and away(scaled_epsilon(each.norm, each.divisor) or 0, each.norm.epsilon_power)
    ]
    return [Reason(Note.EPSILON_ROUNDED_AWAY, tuple(gone))] if gone else []


def make_notes(read: ReadModel, options: Options, rescaled: Sequence[str] = ()) -> list[Reason]:
    """What a user should know beyond the norms; see `Outcome`.

    Args:
        read: The model.
        options: How the job is done.
        rescaled: The norms of which an earlier run's scales for another target were taken out.
    """
    notes = []
    if options.scale != "window" and options.estimate != "auto":
        notes.append(Reason(Note.ESTIMATE_UNUSED, (options.estimate, options.scale)))
    if options.weight_loss and options.apply != "fold":
        notes.append(Reason(Note.WEIGHT_LOSS_UNUSED))
    names = [norm.name for norm in read.norms] + [suspect.name for suspect in read.suspects]
    for option, regex in (("exclude", options.exclude), ("only", options.only)):
        if names and regex is not None and not any(re.search(regex, name) for name in names):
            notes.append(Reason(Note.NOT_IN_A_NAME, (option, regex)))
    if read.inlined:
        notes.append(Reason(Note.INLINED, tuple(read.inlined)))
    if read.written_out:
        notes.append(Reason(Note.WRITTEN_OUT, tuple(read.written_out)))
    means = unmatched_means(read.scopes, read.norms, read.suspects)
    if means:
        notes.append(Reason(Note.MEANS_UNMATCHED, tuple(means)))
    away = options.accelerator.rounds_away
    gone = [n.name for n in read.norms if n.epsilon == 0 or away(n.epsilon or 0, n.epsilon_power)]
    if gone:
        notes.append(Reason(Note.EPSILON_GONE, tuple(gone)))
    overridable = sorted({name for scope in read.scopes for name in scope.overridable})
    if overridable:
        notes.append(Reason(Note.READ_AS_DEFAULTS, tuple(overridable)))
    if rescaled:
        notes.append(Reason(Note.SCALED_ANEW, tuple(rescaled)))
    stay = [norm.name for norm in read.norms if norm.scaled_by not in (None, 1.0)]
    if options.minimal and stay:
        notes.append(Reason(Note.SCALES_STAY, tuple(stay)))
    return notes
