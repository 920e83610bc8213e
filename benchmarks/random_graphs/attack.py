"""Attack: run a graph on extreme inputs and hold every certified norm's rows against its bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from benchmarks.random_graphs.building import Array
from benchmarks.random_graphs.feeds import feeds, keeps
from benchmarks.random_graphs.make import Made
from slanc_onnx import Options, ScaledNorm, SlancError, find_norms, protect
from slanc_onnx.feed import Range
from slanc_onnx.norms.norm import Norm, as_computed
from slanc_onnx.prove import Affine, Condition
from slanc_onnx.run.emit import Emitter
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.session import Session
from slanc_onnx.targets import TARGETS
from tests.oracles.stepwise_norm import StepwiseNorm

CLOSE = 1 + 1e-9  # for the root of a sum in float64
TRIED = 256  # rows of the kind that rounds sums up
KEPT = 48  # rows of a run that go through the device's arithmetic: the longest, and others
Feed = Mapping[str, Array]


@dataclass(frozen=True)
class Violation:
    """A row that a certificate says cannot be.

    Attributes:
        norm: The certified norm.
        what: How its row breaks the certificate.
        feed: The inputs.
    """

    norm: str
    what: str
    feed: Feed


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

    def add(self, norm: str, what: str, feed: Feed) -> None:
        """Note a violation, if it is the norm's first."""
        self.violations.setdefault(norm, Violation(norm, what, feed))


def attack(made: Made, seed: int) -> Attacked:
    """Certify and scale the norms of a graph, run it before and after, and compare.

    Raises:
        Exception: the tool fails on the graph, which is a bug of it.
    """
    given = list(feeds(made, np.random.default_rng([seed, made.number, 1])))
    written = onnx.ModelProto()
    written.CopyFrom(made.model)
    try:
        decided = protect(written, _options(made, given))
    except SlancError as error:  # it is not calibrated, or a norm has no epsilon that can be
        return Attacked(failure=str(error))
    claimed = [d for d in decided if d.certificate is not None and d.certificate.certified]
    result = Attacked(len(decided), len(claimed))
    claimed = [d for d in claimed if _can_be_watched(made.model, d.norm)]
    if claimed:
        watched = _watched([d.norm for d in decided], claimed)
        kept = _hold(made, claimed, watched, given, result)
        _hold_written(made, claimed, written, kept, result)
    return result


def _watched(norms: Sequence[Norm], claimed: Sequence[ScaledNorm]) -> list[Norm]:
    """The norms that certificates are about: those certified, and those whose rows they ask of."""
    names = {each.norm.name for each in claimed}
    asked = {c.input for each in claimed for c in _conditions(each) if c.kind == "length"}
    return [n for n in norms if n.name in names or (n.input in asked and not n.path)]


def _can_be_watched(model: onnx.ModelProto, norm: Norm) -> bool:
    """Whether rows are shown: those in a branch are, flat, those in a loop are not."""
    return not norm.path or (norm.width is not None and Emitter(model).can_show(norm.path, False))


def _conditions(each: ScaledNorm) -> tuple[Condition, ...]:
    assert each.certificate is not None
    return each.certificate.conditions


def _options(made: Made, given: Sequence[Feed]) -> Options:
    return Options(
        accelerator=TARGETS[made.target],
        estimate="weights",
        feeds={name: Range(*ends) for name, ends in made.ranges.items()},
        scale=made.scale,
        apply=made.apply,
        inputs=given[0] if made.scale == "calibrated" else None,
    )


def _hold(
    made: Made,
    claimed: Sequence[ScaledNorm],
    watched: Sequence[Norm],
    given: Sequence[Feed],
    result: Attacked,
) -> dict[str, list[Feed]]:
    """Hold rows of the graph as it was against the bounds, and at the scales.

    Returns:
        By norm, the inputs that keep to the conditions of its certificate.
    """
    kept: dict[str, list[tuple[Array, Feed]]] = {each.norm.name: [] for each in claimed}
    for feed, shown in _shown(made.model, watched, given, result):
        result.runs += 1
        lengths = {norm.input: _longest(shown[norm.name][0]) for norm in watched}
        for each in claimed:
            if not _keeps(each, feed, lengths):
                continue
            rows, output = shown[each.norm.name]
            result.rows += len(rows)
            what = _broken(each, rows, output)
            if what:
                result.add(each.norm.name, what, feed)
            kept[each.norm.name].append((_some(rows), feed))
    weights = {each.norm.name: _weights(made.model, each.norm) for each in claimed}
    for each in claimed:
        gamma, beta, _ = each.affine or Affine()
        norm = StepwiseNorm(each.norm, TARGETS[made.target], each.divisor, gamma, beta)
        for rows, feed in kept[each.norm.name]:
            if not rows.size:  # which tells no width either
                continue
            for what, tried in _tries(each, rows):
                lost = _lost(norm, tried) or _lost_product(norm, tried, weights[each.norm.name])
                if lost:
                    result.add(each.norm.name, f"{what} lost in the step {lost}", feed)
    return {name: [feed for _, feed in runs] for name, runs in kept.items()}


def _hold_written(
    made: Made,
    claimed: Sequence[ScaledNorm],
    written: onnx.ModelProto,
    kept: Mapping[str, Sequence[Feed]],
    result: Attacked,
) -> None:
    """Send the rows of the graph that was written through the arithmetic, as it has the norms."""
    device = TARGETS[made.target]
    found = as_computed(find_norms(written), device.variance == "one-pass")
    by_name = {norm.name: replace(norm, scaled_by=None) for norm in found}
    changed = [d for d in claimed if d.status == "scaled" and d.norm.name in by_name]
    # What is asked of rows is asked of those of the written graph, which are not watched.
    changed = [d for d in changed if all(c.kind != "length" for c in _conditions(d))]
    norms = [by_name[each.norm.name] for each in changed]
    given = {id(feed): feed for feeds in kept.values() for feed in feeds}
    for feed, shown in _shown(written, norms, list(given.values())[::3], result):
        for each in changed:
            name = each.norm.name
            if not any(feed is own for own in kept[name]) or name in result.violations:
                continue
            rows, _ = shown[name]
            assert each.certificate is not None and each.certificate.bound.length is not None
            most = each.certificate.bound.length / float(each.scale or 1.0) * _rounded(each.norm)
            if rows.size and not _longest(rows) <= most * CLOSE:
                what = f"written row of length {_longest(rows):.6g} above {most:.6g}"
                result.add(name, what, feed)
                continue
            gamma, beta, _ = each.affine or Affine()
            lost = _lost(StepwiseNorm(by_name[name], device, 1.0, gamma, beta), _some(rows))
            if lost:
                result.add(name, f"written row lost in the step {lost}", feed)


def _rounded(norm: Norm) -> float:
    """By how much the division of a row may round it up, in the element type of the file."""
    steps: dict[int, float] = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7}
    return 1 + steps.get(norm.element_type, 2.0**-23)


def _keeps(each: ScaledNorm, feed: Feed, lengths: Mapping[str, float]) -> bool:
    """Whether inputs keep to what a certificate asks.

    Args:
        each: The norm.
        feed: The inputs.
        lengths: Of the longest row of tensors that norms read; those within branches are not seen.
    """
    return all(
        lengths.get(condition.input, math.inf) <= condition.high
        if condition.kind == "length"
        else keeps(feed, condition)
        for condition in _conditions(each)
    )


def _shown(
    model: onnx.ModelProto, norms: Sequence[Norm], given: Sequence[Feed], result: Attacked
) -> Iterator[tuple[Feed, dict[str, tuple[Array, Array]]]]:
    """Of each run, the rows of every norm's input, [rows, width], and its output."""
    if not norms:
        return
    emitter = Emitter(model)
    places = {}
    for norm in norms:
        emitter.place(norm.path, norm.nodes[-1])
        rows = emitter.rows(emitter.input_of(norm), norm.axes, norm.channels)
        rows = emitter.shown(norm.path, rows)
        emitter.place(norm.path, norm.nodes[-1])
        places[norm.name] = rows, emitter.shown(norm.path, emitter.to_float(norm.output))
    names = dict.fromkeys(name for pair in places.values() for name in pair)
    emitter.finish(list(names), keep_outputs=False)
    widths = {norm.name: norm.width for norm in norms if norm.path}

    def in_rows(name: str, rows: Array) -> Array:
        width = widths.get(name) or rows.shape[-1]
        return rows.reshape(-1, width) if rows.size else np.zeros((0, 1))

    defaults = _made_inputs(emitter.model)
    try:
        session = Session(emitter.model, None)
    except CannotRun as error:
        result.failure = str(error)
        return
    for feed in given:
        try:
            values = session.run({**defaults, **feed})
        except CannotRun as error:
            result.failure = str(error)
            continue
        yield feed, {n: (in_rows(n, values[r]), values[o]) for n, (r, o) in places.items()}


def _made_inputs(model: onnx.ModelProto) -> dict[str, Array]:
    """Make inputs of the initializers that a caller may give; their defaults by name."""
    names = {given.name for given in model.graph.input}
    given = [tensor for tensor in model.graph.initializer if tensor.name in names]
    for tensor in given:
        model.graph.initializer.remove(tensor)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in given}


def _longest(rows: Array) -> float:
    """nan or inf where a row is not finite."""
    if not rows.size:
        return 0.0
    return math.sqrt(float((rows.astype(np.float64) ** 2).sum(axis=1).max()))


def _broken(each: ScaledNorm, rows: Array, output: Array) -> str:
    """How a run contradicts a certificate; "" where it does not."""
    assert each.certificate is not None and each.certificate.bound.length is not None
    most = each.certificate.bound.length
    if not rows.size:
        return ""
    if not np.isfinite(rows).all():
        return "row not finite"
    if _longest(rows) > most * CLOSE:
        return f"row of length {_longest(rows):.6g} above {most:.6g}"
    return "" if np.isfinite(output).all() else "output not finite"


def _some(rows: Array) -> Array:
    """The longest rows and some others."""
    if len(rows) <= KEPT:
        return rows
    size = np.nan_to_num((rows.astype(np.float64) ** 2).sum(axis=1), nan=np.inf)
    order = np.argsort(-size, kind="stable")
    return np.asarray(rows[np.r_[order[: KEPT // 2], order[KEPT // 2 :: 2 * len(rows) // KEPT]]])


def _tries(each: ScaledNorm, rows: Array) -> Iterator[tuple[str, Array]]:
    """Rows, and the same at the safe radius."""
    wide = rows.astype(np.float64)
    yield "row", wide
    size = np.linalg.norm(wide, axis=1, keepdims=True)
    usable = np.isfinite(size[:, 0]) & (size[:, 0] > 0)
    if each.safe_radius is not None:
        longest = each.safe_radius * (1 - 2.0**-22)
        yield "row within R", wide[usable] / size[usable] * longest
        yield "row within R", _rounding_up(wide.shape[1]) * longest


def _rounding_up(width: int) -> Array:
    """Rows of length 1 with one large element and equal others, [rows, width].

    Of so many some have squares each of which rounds the running sum up when it is added.
    """
    share = np.linspace(0.3, 0.99, TRIED)[:, None]
    others = np.sqrt((1 - share) / max(width - 1, 1)) * np.ones((1, width))
    others[:, :1] = np.sqrt(share)
    return np.asarray(others / np.linalg.norm(others, axis=1, keepdims=True))


def _weights(model: onnx.ModelProto, norm: Norm) -> list[Array]:
    """The weights of a norm's deferred products, as ONNX Runtime computes them of constants."""
    if not norm.deferred or norm.path:
        return []
    names = {model.graph.node[one.product].input[1] for one in norm.deferred}
    constants = onnx.ModelProto()
    constants.CopyFrom(model)
    del constants.graph.output[:]
    constants.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    return list(ReferenceEvaluator(_needed(constants, names)).run(None, {}))


def _needed(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """A model of the nodes alone that make some tensors of constants."""
    kept: list[onnx.NodeProto] = []
    ends = set(names)
    for node in reversed(model.graph.node):
        if ends.intersection(node.output):
            kept.insert(0, node)
            ends.update(node.input)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(nodes)
    return model


def _lost_product(norm: StepwiseNorm, rows: Array, weights: Sequence[Array]) -> str:
    """Whether the product of a row with a weight leaves the format before it is divided."""
    name = norm.device.format.name
    with np.errstate(all="ignore"):
        held = norm.cast(name, (rows / norm.scale).astype(np.float32))
        if norm.norm.centred:
            return ""
        for weight in weights:
            made = norm.cast(name, held @ weight.astype(np.float32).reshape(-1, weight.shape[-1]))
            if not np.isfinite(made).all():
                return "product"
    return ""


def _lost(norm: StepwiseNorm, rows: Array) -> str:
    """The first step at which the arithmetic loses a row; "" where it loses none."""
    return next((step for step in norm(rows.astype(np.float64)).bad if step), "")
