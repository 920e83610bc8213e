"""Make: the random graph of a number, the same whenever it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from benchmarks.random_graphs.building import INT64, Array, Building, Dim, Input
from benchmarks.random_graphs.constructs import CONSTRUCTS, TO_MERGE, Construct
from slanc_onnx import Options, protect
from slanc_onnx.options import ApplyRule, ScaleRule
from slanc_onnx.targets import TARGETS

OPSETS = (13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
WIDTHS = (4, 8, 8, 12, 16)
LONG_EVERY, LONG = 12, 3_000_001  # of mix_rounding one in so many is run on so many positions
LONG_SIDES = (1733, 1733)
FEW_ROWS = 3  # of the table that is drawn at random
HOW: tuple[tuple[ScaleRule, ApplyRule], ...] = (
    ("window", "div"),
    ("window", "div"),
    ("window", "fold"),
    ("paper", "div"),
    ("calibrated", "div"),
    ("calibrated", "fold"),
)
MERGED = "merged_divisions"  # of `TO_MERGE`, which only those asked for are made of
# Asked for by name, so that numbers stay those of their graphs.
LATER = (
    "deferred_divisions",
    "numbers_of_the_finder",
    "scores_in_fp16",
    "slices_backwards",
    "sums_on_the_way",
)
KINDS = sorted({each.kind for each in CONSTRUCTS} - {*LATER})  # in turn
PLAIN = [each for each in CONSTRUCTS if each.kind == "plain"]


@dataclass(frozen=True)
class Made:
    """A random graph.

    Attributes:
        number: Which.
        model: The graph.
        inputs: How to feed it.
        rows: Of the table that the ids are of.
        constructs: What it was made of, by name; the first is what it is about.
        kind: What that may break.
        target: Name of the device that certificates are asked for.
        ranges: What the tool is told that inputs keep to.
        scale: The rule of the scales, "window", "paper" or "calibrated".
        apply: Where they go, "div" or "fold".
        lengths: Batches and lengths to run it on where the file leaves them open.
        original: Of a graph that was merged, what it was before; None for others.
    """

    number: int
    model: onnx.ModelProto
    inputs: tuple[Input, ...]
    rows: int
    constructs: tuple[str, ...]
    kind: str
    target: str
    ranges: dict[str, tuple[float, float]]
    lengths: tuple[tuple[int, int], ...]
    scale: ScaleRule = "window"
    apply: ApplyRule = "div"
    original: onnx.ModelProto | None = None


SIZES = ((1, 1), (1, 2), (2, 5), (3, 1), (1, 16), (1, 64), (2, 9), (1, 300), (1, 0))


def random_graph(seed: int, number: int, kind: str | None = None) -> Made:
    """The graph of a seed and a number, of one of the kinds in turn or of the one given."""
    rng = np.random.default_rng([seed, number])
    turn = number
    if kind is None:
        kind, turn = KINDS[number % len(KINDS)], number // len(KINDS)
    if kind == "mix_rounding" and turn % LONG_EVERY == LONG_EVERY // 2:
        return _long(rng, number)
    of_kind = [each for each in (*CONSTRUCTS, *TO_MERGE) if each.kind == kind]
    first = of_kind[turn % len(of_kind)]
    opset = int(rng.choice([each for each in OPSETS if each >= first.opset]))
    width = int(rng.choice(WIDTHS))
    batch: Dim = "b"
    length: Dim = "s"
    if first.fixed or rng.random() < 0.3:
        batch, length = int(rng.choice((1, 1, 2))), int(rng.choice((2, 3, 4, 6, width)))
    g = Building(rng, opset, batch, length, width)
    g.half = first.kind in ("cast_to_fp16", "plain", MERGED) and g.chance(0.2)
    used = _grown(g, first)
    table = _table(g, width)
    g.weights["table"] = table.astype(np.float16 if g.half else np.float32)
    limits = {"floats": (-3.0, 3.0), "ids": (0.0, len(table) - 1.0), "mask": (0.0, 1.0)}
    told = [i for i in g.inputs if i.kind in limits and not i.optional]
    ranges = {each.name: limits[each.kind] for each in told if g.chance(0.4)}
    model = g.model()
    if g.chance(0.3):
        model = onnx.shape_inference.infer_shapes(model)
    target = str(rng.choice(list(TARGETS)))
    original = onnx.ModelProto() if first.kind == MERGED else None
    if original is not None:  # the graph is what is made of it
        original.CopyFrom(model)
        protect(model, merging(target))
    inputs, names = tuple(g.inputs), tuple(each.name for each in used)
    scale, apply = HOW[int(rng.integers(len(HOW)))]
    given = number, model, inputs, len(table), names, first.kind, target, ranges, SIZES
    return Made(*given, scale, apply, original)


def merging(target: str) -> Options:
    """How graphs are merged that are to be."""
    device = TARGETS[target]
    return Options(accelerator=device, estimate="weights", apply="fold", merge=["all"])


def _grown(g: Building, first: Construct) -> list[Construct]:
    """Grow norm, construct, norm and so on; returns the constructs, `first` first."""
    g.inputs.append(Input("ids", "ids", INT64, g.dims))
    g.x = g.node("Gather", "table", "ids")
    used = [first]
    if g.chance(0.9):
        g.norm()
    if g.chance(0.3):
        _put(g, _fitting(g, PLAIN), used)
    _put(g, first, used)
    if g.chance(0.3):
        _put(g, _fitting(g, PLAIN), used)
    g.norm()
    while g.chance(0.4):
        _put(g, _fitting(g, CONSTRUCTS if g.chance(0.4) else PLAIN), used)
        g.norm()
    return used


def _fitting(g: Building, among: list[Construct]) -> Construct:
    """A construct that can be written in this graph, at random."""
    fixed = isinstance(g.length, int)
    fits = [each for each in among if each.opset <= g.opset and (fixed or not each.fixed)]
    return fits[int(g.rng.integers(len(fits)))]


def _put(g: Building, construct: Construct, used: list[Construct]) -> None:
    """Add a construct, with a residual around it now and then where rows keep their shape."""
    before, dims = g.x, (g.length, g.width)
    construct.build(g)
    if dims == (g.length, g.width) and g.chance(0.3):
        g.x = g.node("Add", before, g.x)
    if construct is not used[0]:
        used.append(construct)


def extreme_rows(rng: np.random.Generator, width: int) -> Array:
    """Rows that drive a norm and what follows it to where they go: spikes, flat rows, signs."""
    signs = np.resize([1.0, -1.0], width)
    few = rng.standard_normal((FEW_ROWS, width))
    spikes = np.eye(width) * np.where(rng.random(width) < 0.5, 3.0, -3.0)[:, None]
    flat = np.ones((1, width))
    return np.concatenate(
        [spikes, flat, -flat, signs[None], 0 * flat, few, few * 1e-4, few[:1] * 30, flat * 1e-30]
    )


def _table(g: Building, width: int) -> Array:
    """Extreme rows, and those that the graph's matrices stretch most."""
    rows = [extreme_rows(g.rng, width)]
    for matrix in g.matrices:
        if len(matrix) == width:
            longest = np.linalg.svd(matrix)[0][:, :1].T
            rows += [longest, -longest]
    table = np.concatenate(rows)
    return table * 1e4 if g.chance(0.05) and not g.half else table


def _long(rng: np.random.Generator, number: int) -> Made:
    """A mean of very many equal rows, whose rounding adds up."""
    g = Building(rng, int(rng.choice((13, 18, 21))), "b", "s", 2)
    g.inputs.append(Input("ids", "ids", INT64, g.dims))
    g.x = g.node("Gather", "table", "ids")
    how, lengths = g.one_of("mean", "mean of both", "shares"), ((1, LONG),)
    if how == "mean":
        g.x = g.reduce("ReduceMean", g.x, 1)
    elif how == "mean of both":
        g.x, lengths = g.reduce("ReduceMean", g.x, 0, 1), (LONG_SIDES,)
    else:
        first = g.node("Slice", g.x, g.ints(0), g.ints(1), g.ints(1))
        scores = g.node("MatMul", first, g.transpose(g.x, 0, 2, 1))
        g.x = g.node("MatMul", g.node("Softmax", scores, axis=-1), g.x)
    gamma = g.constant(np.ones(2, np.float32))
    op = "SimplifiedLayerNormalization"
    g.x = g.node(op, g.x, gamma, axis=-1, epsilon=1e-5)
    g.weights["table"] = rng.uniform(0.5, 2, (1, 2)).astype(np.float32)
    target, inputs = str(rng.choice(list(TARGETS))), tuple(g.inputs)
    names = ("long mean",)
    return Made(number, g.model(), inputs, 1, names, "mix_rounding", target, {}, lengths)
