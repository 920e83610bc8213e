"""Given: the inputs of each run, the user's or ones that are made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from slanc_onnx.feed import UNIT, Feed, Range
from slanc_onnx.graph import InputSpec
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run.check import with_checked_inputs
from slanc_onnx.run.float32 import as_float32
from slanc_onnx.run.inputs import (
    TRIED_AXES,
    dtype_of,
    feed_of,
    first_run,
    make_feeds,
    ways_to_say,
)
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.segments import session_of
from slanc_onnx.run.session import Feeds
from slanc_onnx.run.sizes import Said, Sizes, open_axes
from slanc_onnx.tokens import Tokens

SEED = 0
SEQUENCE_LENGTH = 16  # of the inputs that are made for validation
LONG_SEQUENCE = 512  # of further ones, where what is computed of positions may be off
# What is tried of floats with three or more axes of which nothing is said: unit variance, which
# stands for hidden states and normalised pixels, and pixels as they are, in two usual sizes.
TRIED: tuple[Feed, ...] = (UNIT, Range(0.0, 1.0), Range(0.0, 255.0))


@dataclass(frozen=True)
class Fed:
    """One input as it was fed.

    Attributes:
        name: Its name.
        element_type: As NumPy calls it.
        dims: Its shape as the file has it.
        shape: The shape that was fed.
        feed: What the values were made of; None for positions counted from 0.
        by: "given" for the user's arrays, "said" for values drawn as the user says, "assumed" for
            floats of which nothing is said, "tried" for those in several sizes, "made" for other
            values that are made.
    """

    name: str
    element_type: str
    dims: tuple[int | str, ...]
    shape: tuple[int, ...]
    feed: Feed | None
    by: str


@dataclass(frozen=True, eq=False)
class InputSet:
    """Inputs that something is judged on.

    Attributes:
        feeds: Inputs by name, one dict per run.
        fed: Each input of the first run.
        counts: Whether a model that fails on them fails; no matter for the first of several sets.
        longer: Whether they are the first set at a longer sequence.
    """

    feeds: list[Feeds]
    fed: tuple[Fed, ...]
    counts: bool = True
    longer: bool = False


def validation_inputs(
    read: ReadModel, options: Options, lengths: Sequence[int] = (SEQUENCE_LENGTH, 8)
) -> list[InputSet]:
    """The inputs to validate on: tokens, the given inputs, or ones that are made.

    Those come in several sets where floats with three or more axes are open: one per size that
    they may have, `TRIED`. Where one is a picture in colours, all of them count.

    Args:
        read: The model.
        options: What is given or said of inputs.
        lengths: Of sequences: those that are tried, in order.

    Raises:
        CannotRun: inputs have to be made, and ONNX Runtime runs the model on none of them.
    """
    said, specs = Said.of(options), read.specs
    given = given_feeds(specs, options)
    if given:
        return [InputSet(given, fed(specs, given[0], said, options.tokens))]
    rng = np.random.default_rng(SEED)
    session = session_of(as_float32(read.model, read.folder), read.folder)
    failure: CannotRun | None = None
    for way, length in product(ways_to_say(specs, said), lengths):
        try:
            sizes, feeds, _ = first_run(session, specs, rng, (1, length), way)
        except CannotRun as error:
            failure = failure or error
            continue
        pixels = any(spec.is_picture for spec in tried(specs, said))
        sets = [InputSet([feeds], fed(specs, feeds, way))]
        for assumed in TRIED[1:] if tried(specs, said) else ():
            other = replace(way, assumed=assumed)
            feeds = make_feeds(specs, np.random.default_rng(SEED), sizes, other)
            sets.append(InputSet([feeds], fed(specs, feeds, other), pixels))
        return sets
    raise _refused(specs, said, failure)


def longer_inputs(
    read: ReadModel, options: Options, short: InputSet, length: int
) -> list[InputSet]:
    """Made inputs with a longer sequence; none where inputs are given, or have no such axis.

    Args:
        read: The model.
        options: What is given or said of inputs.
        short: The made inputs, from `validation_inputs`.
        length: Of the sequence.
    """
    if given_feeds(read.specs, options):
        return []
    try:
        long = validation_inputs(read, options, (length,))[0]
    except CannotRun:
        return []
    same = all(a.shape == b.shape for a, b in zip(short.fed, long.fed, strict=True))
    return [] if same else [replace(long, longer=True)]


def tried(specs: Sequence[InputSpec], said: Said) -> list[InputSpec]:
    """The inputs whose values are tried in several sizes."""
    return [s for s in specs if said.leaves_open(s) and len(s.dims) >= TRIED_AXES]


def _refused(specs: Sequence[InputSpec], said: Said, failure: CannotRun | None) -> CannotRun:
    """The refusal of made inputs, with all that was fed and what may be changed."""
    told = str(failure).rstrip(". ")
    try:
        sizes = Sizes(sequence=SEQUENCE_LENGTH)
        feeds = make_feeds(specs, np.random.default_rng(SEED), sizes, said)
    except CannotRun:  # too large, which it says
        return CannotRun(f"{told}. Give sizes with --dim NAME=N, or inputs with --inputs FILE.npz.")
    inputs = fed(specs, feeds, said)
    if not inputs:
        return CannotRun(f"{told}. The model has no inputs: it is not right as it is.")
    listed = "; ".join(
        f"{i.name} {i.element_type} {_dims(i.dims)} as {_dims(i.shape)} of "
        f"{i.feed or 'positions from 0'}"
        for i in inputs
    )
    named = [i for i in inputs if re.search(rf"(?<!\w){re.escape(i.name)}(?!\w)", told)]
    unclear = [i for i in inputs if i.by == "made"]
    change = (named or unclear or list(inputs))[0]
    values = "FILE.npy" if np.dtype(change.element_type).kind not in "iu" else "ids(0,N)"
    open_ones = [name or place for spec in specs for _, name, place in open_axes(spec)]
    size = f" or --dim {open_ones[0]}=N" if open_ones else ""
    return CannotRun(
        f"{told}. It was fed {listed}. Change what does not fit, for example with "
        f"--feed '{change.name}={values}'{size}, or give inputs that fit with --inputs FILE.npz."
    )


def _dims(dims: Sequence[int | str]) -> str:
    return f"[{', '.join(str(dim) or '?' for dim in dims)}]"


def fed(
    specs: Sequence[InputSpec], feeds: Feeds, said: Said, tokens: Tokens | None = None
) -> tuple[Fed, ...]:
    """Each input as it was fed."""
    several = {spec.name for spec in tried(specs, said)}
    text = {spec.name for spec in specs if spec.is_text} if tokens is not None else set()
    found = []
    for spec in specs:
        name = spec.name
        given = name in said.given or name in text
        floats = "tried" if name in several else "assumed" if said.leaves_open(spec) else "made"
        by = "given" if given else "said" if name in said.feeds else floats
        feed = None if given else feed_of(spec, said)
        found.append(Fed(name, str(dtype_of(spec)), spec.dims, feeds[name].shape, feed, by))
    return tuple(found)


def given_feeds(specs: Sequence[InputSpec], options: Options) -> list[Feeds]:
    """The user's tokens or inputs, one dict per run, with what they lack; none where there are
    neither."""
    said, rng = Said.of(options), np.random.default_rng(SEED)
    if options.tokens is not None:
        text = {spec.name for spec in specs if spec.is_text}
        others = {n: v for n, v in said.given.items() if n not in text}
        said = replace(said, given=others)
        return [
            make_feeds(specs, rng, Sizes(sequence=ids.shape[1]), said, ids=ids)
            for ids in options.tokens.sequences
        ]
    if options.inputs is None:
        return []
    return [make_feeds(specs, rng, Sizes(), said)]


def observed_feeds(specs: Sequence[InputSpec], options: Options) -> list[Feeds]:
    """The inputs to audit on, one dict per run; none where no audit is asked for.

    Raises:
        SlancError: they do not fit the model.
    """
    data = options.observe
    if data is None:
        return []
    tokens, inputs = (data, options.inputs) if isinstance(data, Tokens) else (None, data)
    asked = replace(options, tokens=tokens, inputs=inputs)
    return given_feeds(specs, with_checked_inputs(asked, specs, "--observe"))
