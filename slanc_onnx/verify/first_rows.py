"""First rows: every token of the vocabulary alone, whose rows are held against the safe radius.

In a causal model the rows at position 0 depend on the first token alone, so this is every first
position that there is; massive activations are born there. The model runs in FP32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import Array, InputSpec
from slanc_onnx.norms import Norm, ReadModel, as_computed
from slanc_onnx.progress import Progress, no_progress
from slanc_onnx.reasons import Reason, Seen
from slanc_onnx.run import (
    CannotRun,
    Feeds,
    Instrumented,
    SegmentedSession,
    Session,
    Sizes,
    dtype_of,
    make_feeds,
    run_showing,
)

AT_ONCE, AT_ONCE_IN_SEGMENTS = 256, 4096  # tokens of one run; in segments each reads all weights
CLOSE = 1e-2  # sums of squares of one token in two runs
SLACK = 1e-4  # of a length that was measured in FP32


@dataclass(frozen=True)
class FirstRow:
    """The longest row that any token alone gives a norm.

    Attributes:
        length: Its L2 norm before scaling; inf where a row is not finite.
        token: The id; None where the shape of the norm's input does not tell.
    """

    length: float
    token: int | None

    @property
    def place(self) -> Reason:
        """Where it was seen."""
        return (
            Reason(Seen.ROW_ALONE)
            if self.token is None
            else Reason(Seen.TOKEN_ALONE, (self.token,))
        )

    def within(self, radius: float | None) -> bool:
        """Whether every such row is within a safe radius; None for no radius."""
        return radius is not None and self.length * (1 + SLACK) <= radius


@dataclass(frozen=True)
class FirstRows:
    """What every token alone gives.

    Attributes:
        tokens: How many there are.
        longest: By norm name; norms that no run reaches are missing.
        others: The one value that each other input had, but for empty caches, by name.
    """

    tokens: int
    longest: Mapping[str, FirstRow] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)


def vocabulary(specs: Sequence[InputSpec]) -> InputSpec:
    """The input of token ids, which with masks, positions and empty caches is all that is read.

    Raises:
        SlancError: there is none, or something else is read as well.
    """
    text = [spec for spec in specs if spec.is_text]
    others = [s.name for s in specs if (s.is_float and not s.is_cache) or s.is_sampled]
    if len(text) != 1 or others:
        names = ", ".join(repr(name) for name in (*(spec.name for spec in text), *others)) or "none"
        raise SlancError(
            "certify tokens: enumerates the ids of a model that reads one input of token ids "
            f"through a table, and neither floats nor samples; this one reads {names}. Use "
            "--certify auto or exact."
        )
    shape = text[0].dims
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != 1):
        raise SlancError(
            f"certify tokens: needs sequences of one token, and {text[0].name!r} has the shape "
            f"{list(shape)}. Export the model with open sizes, or use --certify auto or exact."
        )
    most = int(np.iinfo(dtype_of(text[0])).max)
    if text[0].rows - 1 > most:
        raise SlancError(
            f"certify tokens: {text[0].name!r} holds ids up to {most}, and its table has "
            f"{text[0].rows} rows. Use --certify auto or exact."
        )
    return text[0]


def run_every_token(
    read: ReadModel, norms: Sequence[Norm], progress: Progress = no_progress
) -> FirstRows:
    """The longest rows over all tokens, each alone in its sequence.

    Args:
        read: The original model.
        norms: Its norms.
        progress: Called with the share of the tokens that are done.

    Raises:
        SlancError: it reads no token ids, or more than that.
        CannotRun: ONNX Runtime cannot run the model on these inputs, or the rows of a token depend
            on the tokens that it is run with.
    """
    text = vocabulary(read.specs)

    def run(session: Session | SegmentedSession, shown: Instrumented) -> FirstRows:
        longest: dict[str, FirstRow] = {}
        in_loops = {norm.name for norm in norms if norm.path}
        others: dict[str, float] = {}
        for ids, feeds, values in _runs(session, read.specs, text, progress):
            if ids[0] == 0 and len(ids) > 1:
                copies = len(ids) if isinstance(text.dims[0], int) else 1
                alone = session.run(_feeds(read.specs, np.full(copies, ids[-1])))
                _check_alone(values, alone, shown.sums, len(ids))
            others = _others(read.specs, text, feeds)
            for name, output in shown.sums.items():
                found = _longest(values[output], () if name in in_loops else ids)
                if found is not None:
                    before = longest.get(name, found)
                    longest[name] = found if found.length > before.length else before
        return FirstRows(text.rows, longest, others)

    rows = as_computed(norms, one_pass=True)  # the radius is of rows that are not centred
    return run_showing(read.model, rows, read.folder, run) or FirstRows(text.rows)


def _runs(
    session: Session | SegmentedSession,
    specs: Sequence[InputSpec],
    text: InputSpec,
    progress: Progress,
) -> Iterator[tuple[Sequence[int], Feeds, Mapping[str, Array]]]:
    """The ids, inputs and outputs of each run; the last one is filled up with the last id."""
    batch = _batch(session, text)
    for start in range(0, text.rows, batch):
        ids = np.minimum(np.arange(start, start + batch), text.rows - 1)
        feeds = _feeds(specs, ids)
        yield ids.tolist(), feeds, session.run(feeds)
        progress("every token", min(1.0, (start + batch) / text.rows))


def _batch(session: Session | SegmentedSession, text: InputSpec) -> int:
    """How many tokens one run takes."""
    most = AT_ONCE_IN_SEGMENTS if isinstance(session, SegmentedSession) else AT_ONCE
    fixed = text.dims[0]
    return fixed if isinstance(fixed, int) else min(most, text.rows)


def _feeds(specs: Sequence[InputSpec], ids: Array) -> Feeds:
    return make_feeds(specs, np.random.default_rng(0), Sizes(len(ids), 1), ids=ids[:, None])


def _others(specs: Sequence[InputSpec], text: InputSpec, feeds: Feeds) -> dict[str, float]:
    """The value of each other input that has elements: all of them are the same."""
    others = [spec.name for spec in specs if spec is not text and np.asarray(feeds[spec.name]).size]
    return {name: float(np.asarray(feeds[name]).reshape(-1)[0]) for name in others}


def _check_alone(
    together: Mapping[str, Array],
    alone: Mapping[str, Array],
    outputs: Mapping[str, str],
    batch: int,
) -> None:
    """Check that the last token of a run has the rows that it has by itself.

    In a model whose first axis is that of the sequence, the tokens of a run follow each other.

    Args:
        together: The outputs of a run of `batch` tokens.
        alone: Those of a run of the last one of them, or of copies of it.
        outputs: Those with the sums of squares, by norm name.
        batch: Tokens of the run.

    Raises:
        CannotRun: it has other rows.
    """
    for name, output in outputs.items():
        one, other = together[output], alone[output]
        if one.shape[:1] != (batch,) or not other.size:
            continue
        if not np.allclose(one[-1], other[-1], rtol=CLOSE, atol=0, equal_nan=True):
            raise CannotRun(f"the rows of {name} depend on what else is in the batch")


def _longest(sums: Array, ids: Sequence[int]) -> FirstRow | None:
    """The longest of some rows, by their sums of squares; None where there are none."""
    if not sums.size:
        return None
    known = np.where(np.isnan(sums), np.inf, sums.astype(np.float64))
    if not ids or sums.shape[:1] != (len(ids),):
        return FirstRow(math.sqrt(float(known.max())), None)
    by_token = known.reshape(len(ids), -1).max(axis=1)
    worst = int(by_token.argmax())
    return FirstRow(math.sqrt(float(by_token[worst])), ids[worst])
