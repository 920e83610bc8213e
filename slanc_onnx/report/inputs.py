"""The inputs that a verdict rests on, and what was assumed of them, in words and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slanc_onnx.feed import Feed, Range
from slanc_onnx.report.wording import reason_text
from slanc_onnx.run import Fed
from slanc_onnx.scale import Assumption, ScaledNorm
from slanc_onnx.verify import Trial

_MOST_NAMES = 3


def judged_on(trials: Sequence[Trial]) -> list[str]:
    """The inputs that were run, and at which of several sizes the verdict holds; one part each."""
    if not trials or not trials[0].fed:
        return []
    groups: dict[tuple[tuple[int, ...], bool, tuple[str, ...]], list[str]] = {}
    for i, fed in enumerate(trials[0].fed):
        feeds = tuple(dict.fromkeys(_values(trial.fed[i]) for trial in trials))
        groups.setdefault((fed.shape, fed.by == "assumed", feeds), []).append(fed.name)
    listed = (
        f"{_some(names)} {list(shape)} {'assumed ' if assumed else ''}{_or(feeds)}"
        for (shape, assumed, feeds), names in groups.items()
    )
    parts = [f"on {'; '.join(listed)}"]
    failed = [trial for trial in trials if trial.failures]
    if failed and len(failed) < len(trials):
        holds = [_tried(trial) for trial in trials if not trial.failures]
        why = (f"{_tried(trial)} ({reason_text(trial.failures[0])})" for trial in failed)
        open_one = next(fed.name for fed in trials[0].fed if fed.by == "assumed")
        parts.append(
            f"it holds for {_or(holds)}, not for {_or(list(why))}: say which with "
            f"--feed '{open_one}={_tried(failed[0])}' or the like"
        )
    return parts


def _tried(trial: Trial) -> str:
    """What the floats were made of whose sizes were tried."""
    told = dict.fromkeys(_values(fed) for fed in trial.fed if fed.by == "assumed")
    return list(told)[-1] if len(told) == 1 else " and ".join(told)


def _values(fed: Fed) -> str:
    if fed.by == "given":
        return "given"
    return _feed(fed.feed)


def _feed(feed: Feed | None) -> str:
    if feed is None:
        return "0, 1, 2 and so on"
    if isinstance(feed, Range) and feed.low == feed.high:
        return f"{feed.low:g}"
    return str(feed)


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
