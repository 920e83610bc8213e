"""Estimate from the weights alone: sample rows carried through the expressions.

Rows start as the model's own embedding rows, so that each channel has its second moment in the
table. They go through the real arithmetic: gamma, activations, gates, norms. Where the
graph mixes positions, a row becomes a sparse random combination of those before it in its
sequence. Sequences of length one need no such assumption: there a softmax has one entry, and the
row is exactly what the model computes for a first token, which is where massive activations are
born.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np

from slanc_onnx.estimate.estimate import TYPICAL_QUANTILE, Estimate, from_rows
from slanc_onnx.estimate.multiply import Multiply, product_of
from slanc_onnx.feed import Feed, Ids
from slanc_onnx.graph import Array
from slanc_onnx.norms import Norm
from slanc_onnx.ops import apply_function
from slanc_onnx.progress import Meter, Progress, no_progress
from slanc_onnx.reasons import Decision, Reason, Unread
from slanc_onnx.run import random_ids
from slanc_onnx.trace import (
    Alternatives,
    Apply,
    Combined,
    Convolution,
    Embedding,
    Experts,
    Expr,
    Input,
    Join,
    Known,
    Linear,
    Mapped,
    Mix,
    Normalised,
    Opaque,
    Pick,
    Pooled,
    Product,
    Reading,
    Select,
    Shares,
    Source,
    Sum,
    Trace,
    Weight,
    kind_of,
    reader,
    walk,
)

SEED = 0
# Rows in all, for models whose weights make a row cost little; fewer for large ones.
SINGLES, SEQUENCES, LENGTH = 256, 16, 16
SPARSITY = 0.3
MOST_OPERATIONS, MOST_ELEMENTS = 3e11, 1 << 26
POOLS = 16  # samples of a norm whose rows run over positions


@dataclass(frozen=True)
class _Layout:
    """Sample rows: single tokens first, then sequences of equal length; and what is said of the
    values of graph inputs, by name."""

    singles: int
    sequences: int
    length: int
    feeds: Mapping[str, Feed] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.singles + self.sequences * self.length

    def mixed(self, x: Array, rng: np.random.Generator) -> Array:
        """Each row becomes a random convex combination of itself and the earlier ones.

        The shares are those of attention that has learned: few positions take most (Dirichlet
        with concentration `SPARSITY`). Even shares would average every row to the same.
        """
        rest = x[self.singles :].reshape(self.sequences, self.length, -1)
        shares = rng.gamma(SPARSITY, size=(self.sequences, self.length, self.length)) + 1e-12
        shares *= np.tri(self.length)
        shares /= shares.sum(axis=2, keepdims=True)
        means: Array = shares.astype(np.float32) @ rest
        return np.concatenate([x[: self.singles], means.reshape(-1, x.shape[1])])

    def draw(self, embedding: Embedding, feed: Feed | None) -> Array:
        """The rows of a table to start from: random ids, the same as the probe's, or positions."""
        rows, low = embedding.table.shape[0], 0
        if isinstance(feed, Ids) and embedding.first is None:
            rows, low = min(feed.high, rows) - feed.low, feed.low
        if embedding.first is not None:
            single = np.full(self.singles, embedding.first)
            rest = embedding.first + np.tile(np.arange(self.length), self.sequences)
            return np.asarray(np.minimum(np.concatenate([single, rest]), rows - 1))
        single = random_ids(rows, (self.singles, 1))
        rest = random_ids(rows, (self.sequences, self.length))
        return low + np.concatenate([single.reshape(-1), rest.reshape(-1)])

    def ordinary(self, sums: Array) -> Array:
        """The sums of rows in the second half of a sequence."""
        in_sequences = sums[self.singles :].reshape(self.sequences, self.length)
        return np.asarray(in_sequences[:, self.length // 2 :].reshape(-1))


@np.errstate(all="ignore")  # rows that are not finite are found and reported
def estimate_from_rows(
    trace: Trace,
    norms: Sequence[Norm],
    progress: Progress = no_progress,
    multiply: Multiply = product_of,
    feeds: Mapping[str, Feed] | None = None,
) -> tuple[dict[str, Estimate], dict[str, Reason]]:
    """Estimates by norm name, and the reasons of the norms without one.

    Args:
        trace: What lies between the norms.
        norms: The norms to estimate.
        feeds: What is said of the values of graph inputs, by name; others have unit variance.
        multiply: Gives rows times the matrix of an expression.
        progress: Called with the share of the weights that is read.
    """
    wanted, assumed, reasons = _readable(trace, norms)
    if not wanted:
        return {}, reasons
    order, last_use = _schedule(list(wanted.values()))
    layout = replace(_layout(order), feeds=feeds or {})
    rng = np.random.default_rng(SEED)
    by_name = {norm.name: norm for norm in norms}
    by_serial: dict[int, list[str]] = {}
    for name, expr in wanted.items():
        by_serial.setdefault(expr.serial, []).append(name)

    matrices = {e.serial: e.weight.nbytes for e in order if isinstance(e, Linear)}
    meter = Meter("reading weights", sum(matrices.values()), progress)
    rows: dict[int, Array] = {}
    estimates: dict[str, Estimate] = {}
    for expr in order:
        if isinstance(expr, Linear):
            rows[expr.serial] = multiply(expr, rows[expr.x.serial])
            meter.add(expr.weight.nbytes)
        else:
            rows[expr.serial] = _evaluate(expr, rows, layout, rng)
        for name in by_serial.get(expr.serial, ()):
            found = _estimate(expr, rows, layout, by_name[name])
            if found is None:
                reasons[name] = Reason(Decision.ROWS_NOT_FINITE)
            else:
                estimates[name] = replace(found, assumes=assumed.get(name))
        for serial in last_use.get(expr.serial, ()):
            rows.pop(serial, None)
    return estimates, reasons


def stored_matrices(trace: Trace, norms: Sequence[Norm]) -> set[str]:
    """The names of the weights of which `estimate_from_rows` reads every element."""
    wanted, _, _ = _readable(trace, norms)
    order, _ = _schedule(list(wanted.values()))
    linear = (e.weight for e in order if isinstance(e, Linear))
    return {weight.name for weight in linear if weight.stored is not None}


def _readable(
    trace: Trace, norms: Sequence[Norm]
) -> tuple[dict[str, Expr], dict[str, Reason], dict[str, Reason]]:
    """By norm name: the expressions, the assumptions of some, and why others cannot be read."""
    reasons: dict[str, Reason] = {}
    wanted: dict[str, Expr] = {}
    assumed: dict[str, Reason] = {}
    for norm in norms:
        expr = trace.inputs.get(norm.name)
        if expr is None:
            reasons[norm.name] = trace.unread(norm.name)
            continue
        unread = _unread(expr)
        unknown = next((e for e in unread if not e.reads), None)
        if unknown is not None:
            here = Reason(Unread.NOTHING_SAID).at(unknown.op, unknown.tensor)
            reasons[norm.name] = Reason(Unread.STOPPED, behind=here)
            continue
        wanted[norm.name] = expr
        if unread:
            ops = dict.fromkeys((e.op, e.tensor) for e in unread)
            assumed[norm.name] = Reason(Decision.SIZE_KEPT, tuple(ops))
    return wanted, assumed, reasons


@reader
def _unread(expr: Expr) -> Reading[tuple[Opaque, ...]]:
    """The opaque parts of an expression, as far back as the norms."""
    found: dict[Opaque, None] = {expr: None} if isinstance(expr, Opaque) else {}
    for part in () if isinstance(expr, Normalised) else expr.parts:
        found.update(dict.fromkeys((yield part)))
    return tuple(found)


def _schedule(targets: Sequence[Expr]) -> tuple[list[Expr], dict[int, list[int]]]:
    """The expressions in the order of evaluation, and the serials that each is the last to need."""
    alive: dict[int, Expr] = {}
    for target in targets:
        for expr in list(walk(target, lambda e: e.serial in alive)):
            alive[expr.serial] = expr
    order = [alive[serial] for serial in sorted(alive)]
    last: dict[int, int] = {}
    for expr in order:
        for part in (*expr.parts, expr):
            last[part.serial] = expr.serial
    uses: dict[int, list[int]] = {}
    for serial, by in last.items():
        uses.setdefault(by, []).append(serial)
    return order, uses


def _layout(order: Sequence[Expr]) -> _Layout:
    cost = sum(2 * math.prod(e.weight.shape) for e in order if isinstance(e, Linear))
    widest = max((e.channels for e in order), default=1)
    most_rows = min(MOST_OPERATIONS / max(cost, 1), MOST_ELEMENTS / widest)
    share = min(1.0, most_rows / (SINGLES + SEQUENCES * LENGTH))
    if 32 * widest > MOST_ELEMENTS:
        return _Layout(8, 2, LENGTH // 4)
    if int(SEQUENCES * share) < 2:  # the fewest: more would cost more than reading the weights
        return _Layout(32, 2, LENGTH // 2)
    return _Layout(max(32, int(SINGLES * share)), int(SEQUENCES * share), LENGTH)


def _estimate(expr: Expr, rows: dict[int, Array], layout: _Layout, norm: Norm) -> Estimate | None:
    kinds = expr.kinds if isinstance(expr, Alternatives) else (expr,)
    centred = norm.sums_centred
    singles, others = [], []
    for kind in kinds:
        if isinstance(kind, Pooled):
            others.append(_pooled_sums(kind, rows[kind.serial], centred))
            continue
        sums = sums_of_squares(rows[kind.serial], centred)
        singles.append(sums[: layout.singles])
        others.append(layout.ordinary(sums))
    ordinary, exact = np.concatenate(others), np.concatenate(singles or [np.zeros(0)])
    # Mixing is an assumption, and its outliers are not the model's: the exact rows have those.
    within = ordinary[ordinary <= np.quantile(ordinary, 1 - TYPICAL_QUANTILE)]
    width = kinds[0].channels
    if isinstance(kinds[0], Pooled):
        within, width = ordinary, width * kinds[0].positions
    plain = [_magnitudes(kind, rows[kind.serial]) for kind in kinds if norm.centred]
    return from_rows(within, exact, "weights", width, np.concatenate(plain) if plain else None)


def _magnitudes(expr: Expr, x: Array) -> Array:
    """Sums of magnitudes of sample rows; of a row over positions, by the mean of all."""
    sums = np.sum(np.abs(x.astype(np.float64)), axis=1)
    return np.atleast_1d(np.mean(sums) * expr.positions) if isinstance(expr, Pooled) else sums


def _pooled_sums(expr: Pooled, x: Array, centred: bool) -> Array:
    """Sums of squares of rows that run over positions, each made of a few sample rows."""
    pieces = np.stack(np.array_split(x[: len(x) // POOLS * POOLS], POOLS)).astype(np.float64)
    flat = pieces.reshape(POOLS, -1)
    if centred:
        flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(np.mean(flat * flat, axis=1) * (expr.channels * expr.positions))


def sums_of_squares(x: Array, centred: bool) -> Array:
    """The sum of squares of each row, FP64, [rows]; of the row without its mean if `centred`."""
    x = x.astype(np.float64)
    if centred:
        x = x - x.mean(axis=1, keepdims=True)
    return np.asarray(np.sum(x * x, axis=1))


def _evaluate(
    expr: Expr, rows: dict[int, Array], layout: _Layout, rng: np.random.Generator
) -> Array:
    """The sample rows of an expression, FP32, shape [rows, channels]."""
    kind = kind_of(expr)
    if isinstance(kind, Source):
        return _source(kind, rows, layout, rng)
    if isinstance(kind, Mapped):
        return _mapped(kind, rows[kind.x.serial], layout, rng)
    return _combined(kind, rows, layout, rng)


def _mapped(expr: Mapped, x: Array, layout: _Layout, rng: np.random.Generator) -> Array:
    """The sample rows of an expression that is made of the rows x."""
    match expr:
        case Pooled():
            return x
        case Linear():  # `Multiply` has done it
            raise TypeError("a matrix is multiplied where it is read")
        case Experts():
            return _through_experts(x, expr.weight)
        case Convolution():
            return _convolve(expr, x, layout)
        case Apply(function="ReduceSum"):
            return np.asarray(x.sum(axis=1, keepdims=True))
        case Apply():
            return apply_function(expr.function, x, expr.parameters)
        case Mix():
            return layout.mixed(x, rng)
        case Pick():
            return x[:, expr.index]
        case _:
            assert_never(expr)


def _combined(
    expr: Combined, rows: dict[int, Array], layout: _Layout, rng: np.random.Generator
) -> Array:
    """The sample rows of an expression that is made of several."""
    match expr:
        case Select():
            chosen = rows[expr.condition.serial] > 0
            return np.where(chosen, rows[expr.a.serial], rows[expr.b.serial])
        case Sum():
            return rows[expr.a.serial] + rows[expr.b.serial]
        case Product():
            return rows[expr.a.serial] * rows[expr.b.serial]
        case Join():
            return np.concatenate([rows[p.serial] for p in expr.pieces], axis=1)
        case Alternatives():
            choice = rng.choice(len(expr.kinds), size=layout.rows, p=np.array(expr.shares))
            stacked = np.stack([rows[k.serial] for k in expr.kinds])
            return np.asarray(stacked[choice, np.arange(layout.rows)])
        case _:
            assert_never(expr)


def _source(
    expr: Source, rows: dict[int, Array], layout: _Layout, rng: np.random.Generator
) -> Array:
    """The sample rows of a source: drawn at random, or the same in every row."""
    n = layout.rows
    match expr:
        case Normalised():
            return _normalised(expr, rows[expr.input.serial])
        case Embedding():
            return expr.table.rows(layout.draw(expr, layout.feeds.get(expr.ids)))
        case Input() if expr.name in layout.feeds:
            shape = (n, expr.channels)
            return layout.feeds[expr.name].draw(rng, shape, np.dtype(np.float32))
        case Input():
            return rng.standard_normal((n, expr.channels), dtype=np.float32)
        case Opaque():
            noise = rng.standard_normal((n, expr.channels), dtype=np.float32)
            sizes = [np.sqrt(np.mean(rows[e.serial] ** 2, axis=1)) for e in expr.reads]
            return np.asarray(noise * np.max(sizes, axis=0)[:, None]) if sizes else noise
        case Shares():  # so that a sum of `count` rows with these shares is like one of them
            return np.full((n, 1), 1 / math.sqrt(expr.count), np.float32)
        case Known():
            values = np.asarray(expr.weight.read(), dtype=np.float32).reshape(1, -1)
            return np.broadcast_to(values, (n, expr.channels))
        case _:
            assert_never(expr)


def _normalised(expr: Normalised, x: Array) -> Array:
    if isinstance(expr.input, Pooled):
        return normalised(x.reshape(1, -1), expr.centred).reshape(len(x), -1)
    return normalised(x, expr.centred)


def normalised(x: Array, centred: bool) -> Array:
    """Rows scaled to length sqrt(channels), without their mean if `centred`."""
    x = x.astype(np.float32)
    if centred:
        x = x - x.mean(axis=1, keepdims=True)
    square = np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True)
    return np.asarray((x / np.sqrt(np.maximum(square, 1e-30))).astype(np.float32))


def _convolve(expr: Convolution, x: Array, layout: _Layout) -> Array:
    """A convolution of sample rows; other sample rows stand for those at other positions."""
    weight = np.asarray(expr.weight.read(), dtype=np.float32)  # [out, in / groups, taps]
    total = np.zeros((layout.rows, expr.channels), np.float32)
    for tap in range(weight.shape[2]):
        shifted = np.roll(x, tap, axis=0).reshape(layout.rows, expr.groups, -1)
        kernel = weight[:, :, tap].reshape(expr.groups, -1, weight.shape[1])
        total += np.einsum("ngi,goi->ngo", shifted, kernel).reshape(layout.rows, -1)
    return total


def _through_experts(x: Array, stack: Weight) -> Array:
    """Each row through one expert; which one depends on the row alone, so that layers agree."""
    weights = np.asarray(stack.read(), dtype=np.float32)
    result = np.empty((len(x), weights.shape[2]), np.float32)
    for expert in range(len(weights)):
        result[expert :: len(weights)] = x[expert :: len(weights)] @ weights[expert]
    return result
