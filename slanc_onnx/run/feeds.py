"""Given: the inputs of each run, the user's or ones that are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from slanc_onnx.graph import Array, InputSpec
from slanc_onnx.norms import ReadModel
from slanc_onnx.options import Options
from slanc_onnx.run.check import with_checked_inputs
from slanc_onnx.run.float32 import as_float32
from slanc_onnx.run.inputs import Sizes, first_feeds, make_feeds
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.tokens import Tokens

SEED = 0
SEQUENCE_LENGTH = 16  # of the inputs that are made for validation


def validation_feeds(read: ReadModel, options: Options) -> list[Feeds]:
    """The inputs to validate on: tokens, the given inputs, or ones that are made.

    Raises:
        CannotRun: inputs have to be made, and ONNX Runtime runs the model on none of them.
    """
    given = given_feeds(read.specs, options)
    if given:
        return given
    rng = np.random.default_rng(SEED)
    session = Session(as_float32(read.model, read.folder), read.folder)
    failure: CannotRun | None = None
    for length in (SEQUENCE_LENGTH, 8):
        try:
            feeds = first_feeds(session, read.specs, rng, 1, length)
            session.run(feeds)
            return [feeds]
        except CannotRun as error:
            failure = error
    text = str(failure).rstrip(". ")
    raise CannotRun(f"{text}. Give inputs that fit with --inputs FILE.npz.")


def given_feeds(specs: Sequence[InputSpec], options: Options) -> list[Feeds]:
    """The user's tokens or inputs, one dict per run; none where there are neither."""
    if options.tokens is not None:
        rng = np.random.default_rng(SEED)
        made = [
            make_feeds(specs, rng, Sizes(sequence=ids.shape[1]), ids=ids)
            for ids in options.tokens.sequences
        ]
        return [{**feeds, **_others(options.inputs, specs)} for feeds in made]
    return [] if options.inputs is None else [options.inputs]


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


def _others(inputs: Mapping[str, Array] | None, specs: Sequence[InputSpec]) -> dict[str, Array]:
    text = {spec.name for spec in specs if spec.is_text}
    return {name: value for name, value in (inputs or {}).items() if name not in text}
