"""The inputs that a verdict rests on, and what was assumed of them, in words and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slanc_onnx.feed import Feed, Range
from slanc_onnx.reasons import Reason
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run import Fed
from slanc_onnx.scale import Assumption, ScaledNorm
from slanc_onnx.verify import Trial, Validation

_MOST_NAMES = 3


def judged_on(validation: Validation) -> list[str]:
    """The inputs that the verdict is of, and where it holds of others that were tried."""
    if not validation.trials or not validation.trials[0].fed:
        return []
    first = validation.trials[0]
    groups: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for fed in first.fed:
        groups.setdefault((fed.shape, _values(fed)), []).append(fed.name)
    listed = (f"{_some(n)} {list(shape)} {values}" for (shape, values), n in groups.items())
    parts = [f"on {', '.join(listed)}"]
    if len(_of_one_length(validation)) > 1:
        parts.append(_where_it_holds(validation))
    parts += [_how_long(trial, validation) for trial in validation.trials if trial.longer]
    return parts


def own_failures(validation: Validation) -> list[Reason]:
    """What is wrong on the inputs that the figures are of, and in general.

    What is wrong on other inputs alone is told where it is told that it does not hold for these.
    """
    trials = _of_one_length(validation)
    others = {failure for trial in trials[1:] for failure in trial.failures}
    others -= set(trials[0].failures) if trials else set()
    return [failure for failure in validation.failures if failure not in others]


def not_judged(validation: Validation) -> list[str]:
    """What norms alone do not tell: what becomes of inputs that the format does not hold, how what
    left it as exported and fits now is made, and what is beyond it elsewhere. What a failure names
    is left out."""
    form, out, before = validation.format, validation.first_out, validation.first_out_before
    named = () if out is None else (out.tensor,)
    sizes = {name: size for name, size in validation.inputs_beyond.items() if name not in named}
    found = []
    if sizes:
        first, largest = next(iter(sizes.items()))
        more = f" (and {len(sizes) - 1} more)" if len(sizes) > 1 else ""
        found.append(
            f"what reads the input {first!r}{more}, which reaches {largest:.3g}, beyond {form}"
        )
    if before is not None and out is None and before.tensor not in sizes:
        found.append(
            f"what makes {before.op} ({before.tensor}), which left {form} with {before.value:.3g} "
            f"as exported before the norm {before.norm!r} reads it, and fits now"
        )
    if validation.outside_beyond and out is None:
        big, *others = validation.outside_beyond
        more = f" (and {len(others)} more)" if others else ""
        found.append(
            f"outside of norms, {big.op} ({big.tensor}){more}, which reaches {big.value:.3g} in "
            f"FP32, beyond {form}"
        )
    if not found:
        return []
    told = "; ".join(found)
    return [f"not judged, as norms alone are rounded: {told} (--emulate all judges that)"]


def _of_one_length(validation: Validation) -> list[Trial]:
    return [trial for trial in validation.trials if not trial.longer]


def _how_long(trial: Trial, validation: Validation) -> str:
    """Whether it holds on a longer sequence, by the first input that is longer."""
    pairs = zip(trial.fed, validation.trials[0].fed, strict=True)
    name, shape = next((fed.name, fed.shape) for fed, short in pairs if fed.shape != short.shape)
    if not trial.failures:
        return f"and on {name} {list(shape)}"
    return f"not on {name} {list(shape)}"


def _where_it_holds(validation: Validation) -> str:
    """At which sizes of the inputs that nobody tells it holds, and what to say where not at all."""
    trials = _of_one_length(validation)
    failed = [trial for trial in trials if trial.failures]
    names = _some([fed.name for fed in trials[0].fed if fed.by == "tried"])
    if not failed:
        return f"it holds for {names} of {_or([_tried(trial) for trial in trials])}"
    told = list(map(_tried, failed))
    holds = [_tried(trial) for trial in trials if not trial.failures]
    whys = dict.fromkeys(f for trial in failed for f in trial.failures[:1])
    own = own_failures(validation)
    why = "; ".join(reason_text(one) for one in whys if one not in own)
    why = f" ({why})" if why else ""
    if not holds:
        return f"nor does it hold for {names} of {_or(told[1:])}{why}"
    open_one = next(fed.name for fed in trials[0].fed if fed.by == "tried")
    return (
        f"it holds for {names} of {_or(holds)}, not for {_or(told)}{why}: say which with "
        f"--feed '{open_one}={told[-1]}' or the like"
    )


def needed_by(validation: Validation) -> tuple[int, str]:
    """How many rows lose their norm as exported, and on which other inputs if on the first none do.

    The second is "" for the first inputs, and where it is needed on none.
    """
    if not validation.lost_before:
        for trial in _of_one_length(validation):
            if trial.lost_before:
                names = _some([fed.name for fed in trial.fed if fed.by == "tried"])
                return trial.lost_before, f"{names} of {_tried(trial)}"
    return validation.lost_before, ""


def _tried(trial: Trial) -> str:
    """What the floats were made of whose sizes were tried."""
    return str(next(fed.feed for fed in trial.fed if fed.by == "tried"))


def _values(fed: Fed) -> str:
    if fed.by == "given":
        return "given"
    if fed.feed is None:
        return "0, 1, 2 and so on"
    if isinstance(fed.feed, Range) and fed.feed.low == fed.feed.high:
        return f"{fed.feed.low:g}"
    return f"{'assumed ' if fed.by in ('assumed', 'tried') else ''}{fed.feed}"


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _some(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def assumed_of(norms: Sequence[ScaledNorm]) -> list[str]:
    """What was assumed of inputs of which nobody says anything, and for how many norms."""
    found: dict[tuple[str, tuple[Feed, ...]], int] = {}
    for norm in norms:
        for one in norm.assumed:
            found[one.input, one.feeds] = found.get((one.input, one.feeds), 0) + 1
    return [
        f"nothing is said of {name}, on which {count} of {len(norms)} norms depend: assumed "
        f"{_or(list(map(str, feeds)))}; --feed {name}=... tells it"
        for (name, feeds), count in found.items()
    ]


def grown_of(norms: Sequence[ScaledNorm]) -> list[str]:
    """For which sizes the scales of norms hold whose rows are as long as the input makes them."""
    found = [
        (norm.most_elements / norm.estimate.width, norm)
        for norm in norms
        if norm.most_elements is not None and norm.estimate is not None and norm.estimate.width
    ]
    if not found:
        return []
    _, first = min(found, key=lambda each: each[0])
    seen = first.estimate.width if first.estimate is not None else 0
    return [
        f"rows of {len(found)} norms grow with the inputs: by the estimate their scales hold up to "
        f"{first.most_elements} elements per row (seen: {seen}), the least in "
        f"{first.norm.name!r}; --dim NAME=N sets the sizes"
    ]


def assumed_text(assumed: Sequence[Assumption]) -> str:
    """What is assumed of the inputs behind a norm; "" for nothing."""
    return "; ".join(f"{one.input}: {_or(list(map(str, one.feeds)))}" for one in assumed)


def assumed_entries(assumed: Sequence[Assumption]) -> list[dict[str, Any]]:
    """What is assumed of the inputs behind a norm, for programs."""
    return [{"input": one.input, "feeds": [str(feed) for feed in one.feeds]} for one in assumed]


def trial_entries(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The sets of inputs that a validation ran, each with what it says, for programs."""
    return [
        {
            "inputs": [
                {
                    "name": fed.name,
                    "type": fed.element_type,
                    "shape": list(fed.shape),
                    "by": fed.by,
                    "values": _values(fed),
                }
                for fed in trial.fed
            ],
            "passed": not trial.failures,
            "failures": [reason_text(reason) for reason in trial.failures],
        }
        for trial in trials
    ]
