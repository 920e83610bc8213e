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
    Instrumented,
    SegmentedSession,
    Session,
    Sizes,
    make_feeds,
    run_showing,
)

AT_ONCE, AT_ONCE_IN_SEGMENTS = 256, 4096  # tokens of one run; in segments each reads all weights
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
    """

    tokens: int
    longest: Mapping[str, FirstRow] = field(default_factory=dict)


def vocabulary(specs: Sequence[InputSpec]) -> InputSpec:
    """The input of token ids, which with masks, positions and empty caches is all that is read.

    Raises:
        SlancError: there is none, or something else is read as well.
    """
    text = [spec for spec in specs if spec.is_text]
    others = [spec.name for spec in specs if spec.is_float and not spec.is_cache]
    if len(text) != 1 or others:
        names = ", ".join(repr(name) for name in (*(spec.name for spec in text), *others)) or "none"
        raise SlancError(
            "certify tokens: enumerates the ids of a model that reads one input of token ids "
            f"through a table, and no floats; this one reads {names}. Use --certify auto or exact."
        )
    shape = text[0].dims
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != 1):
        raise SlancError(
            f"certify tokens: needs sequences of one token, and {text[0].name!r} has the shape "
            f"{list(shape)}. Export the model with open sizes, or use --certify auto or exact."
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
        CannotRun: ONNX Runtime cannot run the model on these inputs.
    """
    text = vocabulary(read.specs)

    def run(session: Session | SegmentedSession, shown: Instrumented) -> FirstRows:
        longest: dict[str, FirstRow] = {}
        in_loops = {norm.name for norm in norms if norm.path}
        for ids, values in _runs(session, read.specs, text, progress):
            for name, output in shown.sums.items():
                found = _longest(values[output], () if name in in_loops else ids)
                if found is not None:
                    before = longest.get(name, found)
                    longest[name] = found if found.length > before.length else before
        return FirstRows(text.rows, longest)

    rows = as_computed(norms, one_pass=True)  # the radius is of rows that are not centred
    return run_showing(read.model, rows, read.folder, run) or FirstRows(text.rows)


def _runs(
    session: Session | SegmentedSession,
    specs: Sequence[InputSpec],
    text: InputSpec,
    progress: Progress,
) -> Iterator[tuple[Sequence[int], Mapping[str, Array]]]:
    """The ids and the outputs of each run; the last one is filled up with the last id."""
    most = AT_ONCE_IN_SEGMENTS if isinstance(session, SegmentedSession) else AT_ONCE
    batch = text.dims[0]
    if not isinstance(batch, int):
        batch = min(most, text.rows)
    rng = np.random.default_rng(0)
    for start in range(0, text.rows, batch):
        ids = np.minimum(np.arange(start, start + batch), text.rows - 1)
        feeds = make_feeds(specs, rng, Sizes(batch, 1), ids=ids[:, None])
        yield ids.tolist(), session.run(feeds)
        progress("every token", min(1.0, (start + batch) / text.rows))


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
