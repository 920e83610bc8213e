"""Feeds: inputs of a random graph, ordinary and extreme."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import helper

from benchmarks.random_graphs.building import BOOL, Array, Input
from benchmarks.random_graphs.make import Made
from slanc_onnx.prove import Condition

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
LARGEST = float(np.finfo(np.float32).max)


def _one(value: float) -> Draw:
    """Unit variance, but for one element."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        values = rng.standard_normal(shape)
        if values.size:
            values.reshape(-1)[rng.integers(values.size)] = value
        return values

    return draw


FLOATS: tuple[Draw, ...] = (
    lambda rng, shape: rng.standard_normal(shape),
    lambda rng, shape: rng.standard_normal(shape) * 1e4,
    lambda rng, shape: rng.choice((3.0, -3.0), shape),
    lambda rng, shape: rng.choice((LARGEST, -LARGEST), shape),
    lambda rng, shape: np.full(shape, rng.choice((0.0, 1e-40, -1.0, np.inf, -np.inf))),
    _one(np.inf),
    _one(np.nan),
    _one(-LARGEST),
)
MASKS: tuple[Draw, ...] = (
    lambda rng, shape: np.ones(shape),
    lambda rng, shape: np.zeros(shape),
    lambda rng, shape: rng.integers(0, 2, shape),
    lambda rng, shape: np.full(shape, rng.choice((-1, 2, 2**40, -(2**40)))),
    lambda rng, shape: np.arange(shape[-1] if shape else 1) < np.ones(shape),  # the first only
)
IDS: tuple[Callable[[np.random.Generator, tuple[int, ...], int], Any], ...] = (
    lambda rng, shape, rows: rng.integers(0, rows, shape),
    lambda rng, shape, rows: np.full(shape, rng.integers(rows)),
    lambda rng, shape, rows: np.resize(np.arange(rows), shape),
    lambda rng, shape, rows: rng.choice(rng.integers(0, rows, 2), shape),
)


def feeds(made: Made, rng: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Inputs by name, one dict per size that the graph is run on."""
    for batch, length in made.lengths:
        size: dict[str, int] = {"b": batch, "s": length}
        feed = {}
        for each in made.inputs:
            shape = tuple(size[d] if isinstance(d, str) else d for d in each.dims)
            if each.optional and rng.random() < 0.5:
                continue
            feed[each.name] = _drawn(each, shape, made, rng)
        yield feed


def _drawn(each: Input, shape: tuple[int, ...], made: Made, rng: np.random.Generator) -> Array:
    if each.kind == "ids":
        return np.asarray(IDS[rng.integers(len(IDS))](rng, shape, made.rows), np.int64)
    if each.kind == "floats":
        ordinary = each.name in made.ranges and rng.random() < 0.5
        values = FLOATS[0 if ordinary else rng.integers(len(FLOATS))](rng, shape)
        low, high = made.ranges.get(each.name, (-np.inf, np.inf))
        if ordinary:
            values = np.clip(values * 3, low, high)
    elif each.kind == "mask":
        values = MASKS[rng.integers(len(MASKS))](rng, shape)
    else:
        values = rng.integers(0, 2, shape)
    if each.element_type == BOOL:
        return np.asarray(np.asarray(values) != 0)
    dtype = helper.tensor_dtype_to_np_dtype(each.element_type)
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(dtype)


def keeps(feed: Mapping[str, Array], condition: Condition) -> bool:
    """Whether inputs keep to a condition of a certificate.

    Raises:
        ValueError: conditions of that kind are not known here.
    """
    values = feed.get(condition.input)
    if condition.kind == "positions":
        sizes = [size for given in feed.values() for size in given.shape]
        return all(condition.low <= size <= condition.high for size in sizes)
    if condition.kind == "keeps":  # the first position, which every query may see
        return values is not None and values.ndim > 0 and bool(np.all(values[..., :1] != 0))
    if condition.kind == "range":
        return values is not None and bool(
            (values >= condition.low).all() and (values <= condition.high).all()
        )
    raise ValueError(f"a condition of the kind {condition.kind} is not known here")
