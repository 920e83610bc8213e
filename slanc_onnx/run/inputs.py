"""Inputs for running a model when the user gives none: made from the graph's own inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from slanc_onnx.feed import UNIT, Feed, Ids, Range
from slanc_onnx.graph import MOST_AXES, Array, InputSpec
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.segments import SegmentedSession
from slanc_onnx.run.session import Feeds, Session
from slanc_onnx.run.sizes import IMAGE_SIZES, Said, Sizes, shapes_of, takes_images

SEED, FIRST_IDS = 0, 32
MOST_MADE = 2**27  # elements of all inputs together
TRIED_AXES = 3  # floats with so many axes may be of any size: pixels, hidden states
_ZEROS, _ONES = Range(0.0, 0.0), Range(1.0, 1.0)


def make_feeds(
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    sizes: Sizes,
    said: Said | None = None,
    *,
    ids: Array | None = None,
    draw: int = 0,
) -> dict[str, Array]:
    """One set of inputs: what the user says of each, or else random ids, masks of ones, positions,
    empty caches, any pixel or sample of a narrow integer type, floats of unit variance.

    Args:
        specs: The inputs.
        rng: Source of the random ids and floats.
        sizes: Those of dynamic axes.
        said: What the user says of the values and sizes.
        ids: Token ids of shape [batch, sequence] for the text inputs, instead of random ones.
        draw: Which random ids; every number gives others.

    Raises:
        CannotRun: they are too large to be made.
    """
    said = said or Said()
    shapes = shapes_of(specs, sizes, said)
    made = sum(math.prod(shape) for name, shape in shapes.items() if name not in said.given)
    if made > MOST_MADE or any(len(shape) > MOST_AXES for shape in shapes.values()):
        raise CannotRun(f"no inputs are made that have {made} elements")
    feeds = {}
    for spec in specs:
        if ids is not None and spec.is_text:
            feeds[spec.name] = np.broadcast_to(ids, shapes[spec.name]).astype(dtype_of(spec))
        elif spec.name in said.given:
            feeds[spec.name] = said.given[spec.name]
        else:
            feeds[spec.name] = _feed(spec, rng, shapes[spec.name], said, draw)
    return feeds


def _feed(
    spec: InputSpec, rng: np.random.Generator, shape: tuple[int, ...], said: Said, draw: int
) -> Array:
    dtype, feed = dtype_of(spec), feed_of(spec, said)
    if feed is None:
        last = spec.rows - 1 if spec.rows else np.inf
        places = np.minimum(np.arange(shape[-1] if shape else 1), last)
        return np.broadcast_to(places, shape).astype(dtype)
    if spec.is_text and isinstance(feed, Ids):
        return (feed.low + random_ids(feed.high - feed.low, shape, draw)).astype(dtype)
    return feed.draw(rng, shape, dtype)


def feed_of(spec: InputSpec, said: Said) -> Feed | None:
    """What an input is made of; None for positions counted from 0.

    Floats of fewer than three axes are neither images nor hidden states: what is assumed of those
    does not go for them.
    """
    if spec.name in said.feeds:
        return said.feeds[spec.name]
    if spec.is_cache or spec.name in said.zeros:
        return _ZEROS
    if spec.is_float:
        return said.assumed if len(spec.dims) >= TRIED_AXES else UNIT
    if spec.is_text:
        return Ids(0, spec.rows)
    if spec.is_sampled:
        limits = np.iinfo(dtype_of(spec))
        return Range(float(limits.min), float(limits.max))
    name = spec.name.lower()
    if "position" in name:
        return None
    if spec.rows or spec.points or "type" in name or "segment" in name:
        return _ZEROS  # an index that always fits
    return _ONES  # masks, flags


def random_ids(rows: int, shape: tuple[int, ...], draw: int = 0) -> Array:
    """Token ids drawn uniformly, but each row starts with another of the first `FIRST_IDS`.

    The rows of draw 1 follow on those of draw 0, and so on.

    Vocabularies keep begin-of-text and the other special tokens there. They come first in real
    inputs, their rows are unlike all others, and chance would not draw them. The ids depend on
    the arguments alone, so that every estimate sees the same ones.
    """
    seed = [SEED, *shape, draw] if draw else [SEED, *shape]
    ids = np.random.default_rng(seed).integers(0, rows, shape)
    if ids.ndim and ids.size:
        flat = ids.reshape(-1, shape[-1])
        first = draw * len(flat)
        special = np.arange(first, min(first + len(flat), FIRST_IDS, rows))
        flat[special - first, 0] = special
    return np.asarray(ids)


def dtype_of(spec: InputSpec) -> np.dtype[Any]:
    """The type of the arrays that an input takes."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(spec.element_type))


def first_run(
    session: Session | SegmentedSession,
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    sizes: tuple[int, int],
    said: Said,
    draw: int = 0,
) -> tuple[Sizes, Feeds, dict[str, Array]]:
    """The first inputs that run, trying image sizes where the file leaves the size open.

    Args:
        session: The model.
        specs: Its inputs.
        rng: Source of the random ids and floats.
        sizes: Batch and sequence.
        said: What the user says of the values and sizes.
        draw: Which random ids.

    Returns:
        The sizes, the inputs, and what the model gives on them.

    Raises:
        CannotRun: none of them does.
    """
    failure: CannotRun | None = None
    for image in IMAGE_SIZES if takes_images(specs, said) else IMAGE_SIZES[:1]:
        tried = Sizes(*sizes, image)
        feeds = make_feeds(specs, rng, tried, said, draw=draw)
        try:
            return tried, feeds, session.run(feeds)
        except CannotRun as error:
            failure = failure or error
    assert failure is not None
    raise failure


def ways_to_say(specs: Sequence[InputSpec], said: Said) -> list[Said]:
    """What is said of inputs, then the same with zeros in the place of flags, positions and samples
    that nobody tells: they may be indices. Token ids stay what they are, as their table is known.
    """
    zeros = frozenset(
        spec.name
        for spec in specs
        if not (spec.is_float or spec.is_text)
        and spec.name not in said.feeds
        and spec.name not in said.given
    )
    return [said, replace(said, zeros=zeros)] if zeros else [said]
