"""Inputs for running a model when the user gives none: made from the graph's own inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from slanc_onnx.graph import MOST_AXES, Array, InputSpec
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.segments import SegmentedSession
from slanc_onnx.run.session import Feeds, Session

IMAGE_SIZES = (224, 32, 64, 384, 512)
SEED, FIRST_IDS = 0, 32
MOST_MADE = 2**27  # elements of all inputs together
_AT_ONCE = 2**20  # floats that are drawn
_SAMPLES = 4000  # of audio: enough for one frame of the usual stack of strided convolutions


@dataclass(frozen=True)
class Sizes:
    """The sizes of the axes that a file leaves open.

    Attributes:
        batch: Of first axes.
        sequence: Of sequence axes.
        image: Height and width of images.
    """

    batch: int = 1
    sequence: int = 16
    image: int = IMAGE_SIZES[0]


def make_feeds(
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    sizes: Sizes,
    *,
    ids: Array | None = None,
    draw: int = 0,
) -> dict[str, Array]:
    """One set of inputs: random ids, masks of ones, positions, empty caches, unit-variance floats.

    Args:
        specs: The inputs.
        rng: Source of the random ids and floats.
        sizes: Those of dynamic axes.
        ids: Token ids of shape [batch, sequence] for the text inputs, instead of random ones.
        draw: Which random ids; every number gives others.

    Raises:
        CannotRun: they are too large to be made.
    """
    shapes = shapes_of(specs, sizes)
    made = sum(map(math.prod, shapes.values()))
    if made > MOST_MADE or any(len(shape) > MOST_AXES for shape in shapes.values()):
        raise CannotRun(f"no inputs are made that have {made} elements")
    return {spec.name: _feed(spec, rng, shapes[spec.name], ids, draw) for spec in specs}


def _feed(
    spec: InputSpec, rng: np.random.Generator, shape: tuple[int, ...], ids: Array | None, draw: int
) -> Array:
    dtype = dtype_of(spec)
    name = spec.name.lower()
    if spec.is_cache:
        return np.zeros(shape, dtype)
    if spec.is_float:
        return _normal(rng, shape, dtype)
    if spec.is_text:
        values = ids if ids is not None else random_ids(spec.rows, shape, draw)
        return np.broadcast_to(values, shape).astype(dtype)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1] if shape else 1), shape).astype(dtype)
    if spec.rows or spec.points or "type" in name or "segment" in name:
        return np.zeros(shape, dtype)  # an index that always fits
    return np.ones(shape, dtype)  # masks, flags


def _normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Floats of unit variance, drawn bit by bit: they are doubles at first."""
    values = np.empty(math.prod(shape), dtype)
    for start in range(0, values.size, _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        part[:] = rng.standard_normal(part.size).astype(dtype)
    return values.reshape(shape)


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


def shapes_of(specs: Sequence[InputSpec], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shapes by name: axes with one name have one size.

    An axis of token ids tells it before others, and a first axis before later ones. Past lengths
    and what else a cache has are its own: layers with a sliding window share their names.
    """
    own = {spec.name: _shape(spec, sizes) for spec in specs}
    named = [
        (not spec.is_text, axis > 0, spec.name, axis, str(dim))
        for spec in specs
        for axis, dim in enumerate(spec.dims)
        if str(dim).isidentifier() and not (spec.is_cache and axis)
    ]
    size: dict[str, int] = {}
    for _, _, name, axis, dim in sorted(named, key=lambda each: each[:2]):
        size.setdefault(dim, own[name][axis])
    shapes = {name: list(shape) for name, shape in own.items()}
    for _, _, name, axis, dim in named:
        shapes[name][axis] = size[dim]
    return {name: tuple(shape) for name, shape in shapes.items()}


def _shape(spec: InputSpec, sizes: Sizes) -> tuple[int, ...]:
    sequence = sizes.sequence

    def of(axis: int, dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        low = dim.lower()
        if "+" in dim or "total" in low:
            return sequence
        if "past" in low:
            return spec.sliding_window
        if axis == 0:
            return sizes.batch
        if spec.is_cache:
            return spec.head_width or sequence
        if spec.is_float and len(spec.dims) == 4:
            return 3 if axis == 1 else sizes.image
        if spec.is_float and len(spec.dims) == 2:
            return _SAMPLES
        return sequence

    return tuple(of(axis, dim) for axis, dim in enumerate(spec.dims))


def first_feeds(
    session: Session | SegmentedSession,
    specs: Sequence[InputSpec],
    rng: np.random.Generator,
    batch: int,
    length: int,
    draw: int = 0,
) -> Feeds:
    """The first inputs that run, trying image sizes where the file leaves the size open.

    Raises:
        CannotRun: none of them does.
    """
    images = any(s.is_float and len(s.dims) == 4 and isinstance(s.dims[2], str) for s in specs)
    if not images:
        return make_feeds(specs, rng, Sizes(batch, length), draw=draw)
    failure: CannotRun | None = None
    for size in IMAGE_SIZES:
        feeds = make_feeds(specs, rng, Sizes(batch, length, size), draw=draw)
        try:
            session.run(feeds)
            return feeds
        except CannotRun as error:
            failure = error
    assert failure is not None
    raise failure
