"""Small models whose norms are merged, run before and after on ONNX Runtime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx import Options, protect
from slanc_onnx.apply.merge import Merges, Part, merge_in_memory
from slanc_onnx.options import Merge
from slanc_onnx.reasons import Unmerged
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import run

IDS = np.array([[1, 5, 2], [7, 0, 3]])
# The last operations of an RMS norm and of a LayerNorm of `x`, without gamma.
RMS = """
    {0}_sq = Mul({1}, {1})
    {0}_ms = ReduceMean<axes = [-1]>({0}_sq)
    {0}_sum = Add({0}_ms, eps)
    {0}_root = Sqrt({0}_sum)
    [{0}] {0}_x = Div({1}, {0}_root)
"""
LAYER = """
    {0}_mean = ReduceMean<axes = [-1]>({1})
    {0}_less = Sub({1}, {0}_mean)
    {0}_sq = Mul({0}_less, {0}_less)
    {0}_ms = ReduceMean<axes = [-1]>({0}_sq)
    {0}_sum = Add({0}_ms, eps)
    {0}_root = Sqrt({0}_sum)
    [{0}] {0}_x = Div({0}_less, {0}_root)
"""
GAMMA = np.array([0.5, -1, 2, 3, 0.25, -1.5, 1, 0.75], np.float32)
BETA = np.array([0.1, 2, -0.5, 0, 1, 0.3, -1, 0.7], np.float32)
EVERY = {
    "table": normal(1, 11, D),
    "eps": np.array(1e-5, np.float32),
    "gamma": GAMMA,
    "beta": BETA,
    "w": normal(2, D, 6),
    "w2": normal(3, D, 6),
    "w3": normal(4, D, 6),
    "b": normal(5, 6),
}


def norm(spelling: str, name: str, source: str, gamma: bool = True, beta: bool = False) -> str:
    """A decomposed norm; `<name>_y` is its output."""
    end = f"{name}_x"
    text = spelling.format(name, source)
    if gamma:
        text += f"    {name}_g = Mul({end}, gamma)\n"
        end = f"{name}_g"
    if beta:
        text += f"    {name}_b = Add({end}, beta)\n"
        end = f"{name}_b"
    return f"{text}    {name}_y = Identity({end})\n"


def model(
    nodes: str,
    more: Mapping[str, NDArray[Any]] | None = None,
    outputs: str = "float[a, s, c] y",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of ids whose embedding rows are `rows`."""
    weights = {**EVERY, **(more or {})}
    text = f"rows = Gather(table, ids)\n{nodes}"
    used = {name: value for name, value in weights.items() if name in _words(text)}
    return graph(text, used, outputs=outputs, opset=opset)


def _words(text: str) -> set[str]:
    for mark in "(),={}<>[]":
        text = text.replace(mark, " ")
    return set(text.split())


def merged(
    before: onnx.ModelProto, *parts: Merge, **options: Any
) -> tuple[onnx.ModelProto, Merges]:
    """A model with its scales at 1 and parts of its norms merged; and what was merged."""
    after = onnx.ModelProto()
    after.CopyFrom(before)
    merges = merge_in_memory(after, None, Options(apply="fold", merge=parts, **options))
    onnx.checker.check_model(after) if not _simplified(after) else None
    return after, merges


def _simplified(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "SimplifiedLayerNormalization" for node in model.graph.node)


def part(merges: Merges, name: str, what: str = "gamma") -> Part:
    """What became of a part of a norm."""
    (found,) = (one for one in merges.norms if one.name == name)
    result = found.gamma if what == "gamma" else found.mean
    assert result is not None
    return result


def gamma_left(before: onnx.ModelProto, name: str = "n", **options: Any) -> Unmerged:
    """Why a gamma is left; the model has not changed then."""
    after, merges = merged(before, "gamma", **options)
    found = part(merges, name)
    assert found.state == "left" and found.reason is not None
    assert after == before
    assert isinstance(found.reason.kind, Unmerged)
    return found.reason.kind


def relative(before: onnx.ModelProto, after: onnx.ModelProto, **feeds: Any) -> float:
    """The largest RMS difference of an output in FP32, relative to its RMS."""
    given = feeds or {"ids": IDS}
    one, other = run(before, **given), run(after, **given)
    assert one.keys() == other.keys()
    worst = 0.0
    for name, value in one.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape
        x, y = value.astype(np.float64), other[name].astype(np.float64)
        worst = max(worst, float(np.sqrt(np.mean((x - y) ** 2) / np.mean(x**2))))
    return worst


def kinds(model: onnx.ModelProto) -> list[str]:
    """The types of a model's nodes."""
    return [node.op_type for node in model.graph.node]


def stored(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """The initializers by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def protected(before: onnx.ModelProto, *parts: Merge, **options: Any) -> onnx.ModelProto:
    """A model whose scales are folded and whose norms are merged."""
    after = onnx.ModelProto()
    after.CopyFrom(before)
    protect(after, Options(apply="fold", merge=parts, certify="off", **options))
    return after
