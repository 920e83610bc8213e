"""Attack: run a graph on extreme inputs and hold every certified norm's rows against its bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from benchmarks.random_graphs.building import Array
from benchmarks.random_graphs.feeds import feeds, keeps
from benchmarks.random_graphs.make import Made
from slanc_onnx import Options, ScaledNorm, compute_scales
from slanc_onnx.norms.norm import Norm
from slanc_onnx.run.emit import Emitter
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Session
from slanc_onnx.targets import TARGETS
from tests.oracles.stepwise_norm import StepwiseNorm

CLOSE = 1 + 1e-9  # for the root of a sum in float64
KEPT = 48  # rows of a run that go through the device's arithmetic: the longest, and others


@dataclass(frozen=True)
class Violation:
    """A row that a certificate says cannot be.

    Attributes:
        number: Of the graph.
        kind: What the graph is about.
        constructs: What it was made of.
        norm: The certified norm.
        what: How its row breaks the certificate.
        feed: The inputs.
    """

    number: int
    kind: str
    constructs: tuple[str, ...]
    norm: str
    what: str
    feed: Mapping[str, Array]


@dataclass
class Attacked:
    """What became of one graph.

    Attributes:
        norms: That were found.
        certified: Of them.
        rows: Of certified norms, that were held against their bounds.
        runs: On ONNX Runtime; 0 where it takes the graph on no inputs.
        failure: Why it does not take it, where it does not.
        violations: By norm, the first each.
    """

    norms: int = 0
    certified: int = 0
    rows: int = 0
    runs: int = 0
    failure: str = ""
    violations: dict[str, Violation] = field(default_factory=dict)


def attack(made: Made, seed: int) -> Attacked:
    """Certify the norms of a graph, run it, and compare.

    Raises:
        Exception: the tool fails on the graph, which is a bug of it.
    """
    device = TARGETS[made.target]
    options = Options(accelerator=device, estimate="weights", input_ranges=made.ranges)
    copy = onnx.ModelProto()
    copy.CopyFrom(made.model)
    decided = compute_scales(copy, options)
    claimed = [d for d in decided if d.certificate is not None and d.certificate.certified]
    result = Attacked(len(decided), len(claimed))
    shown = [d for d in claimed if not d.norm.path]
    if not shown:
        return result
    model, places = _showing(made.model, [d.norm for d in shown])
    try:
        session = Session(model, None)
    except CannotRun as error:
        result.failure = str(error)
        return result
    kept: dict[str, list[tuple[Array, Mapping[str, Array]]]] = {}
    for feed in feeds(made, np.random.default_rng([seed, made.number, 1])):
        try:
            values = session.run(feed)
        except CannotRun as error:
            result.failure = str(error)
            continue
        result.runs += 1
        for each in shown:
            assert each.certificate is not None
            if not all(keeps(feed, c) for c in each.certificate.bound.conditions):
                continue
            rows, output = (values[name] for name in places[each.norm.name])
            rows = rows.reshape(-1, rows.shape[-1])
            result.rows += len(rows)
            what = _broken(each, rows, output)
            if what and each.norm.name not in result.violations:
                result.violations[each.norm.name] = _violation(made, each, what, feed)
            kept.setdefault(each.norm.name, []).append((_some(rows), feed))
    for each in shown:
        _compute(made, each, kept.get(each.norm.name, []), result)
    return result


def _violation(made: Made, each: ScaledNorm, what: str, feed: Mapping[str, Array]) -> Violation:
    return Violation(made.number, made.kind, made.constructs, each.norm.name, what, feed)


def _showing(
    model: onnx.ModelProto, norms: Sequence[Norm]
) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]]]:
    """A copy that outputs the rows of each norm's input, and its output; their names by norm."""
    emitter = Emitter(model)
    places = {}
    for norm in norms:
        emitter.place(norm.path, norm.nodes[-1])
        rows = emitter.rows(emitter.input_of(norm), norm.axes, norm.channels)
        places[norm.name] = rows, emitter.to_float(norm.output)
    names = dict.fromkeys(name for pair in places.values() for name in pair)
    emitter.finish(list(names), keep_outputs=False)
    return emitter.model, places


def _broken(each: ScaledNorm, rows: Array, output: Array) -> str:
    """How a run contradicts a certificate; "" where it does not."""
    assert each.certificate is not None and each.certificate.bound.length is not None
    most = each.certificate.bound.length
    if not rows.size:
        return ""
    if not np.isfinite(rows).all():
        return "row not finite"
    longest = math.sqrt(float((rows.astype(np.float64) ** 2).sum(axis=1).max()))
    if longest > most * CLOSE:
        return f"row of length {longest:.6g} above {most:.6g}"
    return "" if np.isfinite(output).all() else "output not finite"


def _some(rows: Array) -> Array:
    """The longest rows and some others."""
    if len(rows) <= KEPT:
        return rows
    size = np.nan_to_num((rows.astype(np.float64) ** 2).sum(axis=1), nan=np.inf)
    order = np.argsort(-size, kind="stable")
    return rows[np.r_[order[: KEPT // 2], order[KEPT // 2 :: max(1, 2 * len(rows) // KEPT)]]]


def _compute(
    made: Made, each: ScaledNorm, kept: list[tuple[Array, Mapping[str, Array]]], result: Attacked
) -> None:
    """Send rows through the device's arithmetic: those that were seen, and seen ones at R."""
    name, device = each.norm.name, TARGETS[made.target]
    if not kept or name in result.violations:
        return
    gamma, beta = each.affine or (1.0, 0.0)
    scale = each.scale if each.status == "scaled" and each.scale else 1.0
    norm = StepwiseNorm(each.norm, device, scale, gamma, beta)
    for what, rows in _tries(each, np.concatenate([rows for rows, _ in kept])):
        bad = norm(rows).bad
        lost = next((i for i, step in enumerate(bad) if step), None)
        if lost is not None:
            at = np.searchsorted(np.cumsum([len(r) for r, _ in kept]), lost, side="right")
            feed = kept[min(int(at), len(kept) - 1)][1]
            text = f"{what} lost in the step {bad[lost]}"
            result.violations[name] = _violation(made, each, text, feed)
            return


def _tries(each: ScaledNorm, rows: Array) -> Iterator[tuple[str, Array]]:
    wide = rows.astype(np.float64)
    yield "row", wide
    radius, size = each.safe_radius, np.linalg.norm(wide, axis=1, keepdims=True)
    if radius is not None:
        longest = wide[size[:, 0] > 0] / size[size[:, 0] > 0] * radius
        yield "row within R", longest * (1 - 2.0**-22)
