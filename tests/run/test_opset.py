"""Copies with a raised opset: ONNX Runtime gives the same on them, bit by bit."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.job import protect_file
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.report.terminal import final_line
from slanc_onnx.run.isolation import CannotRun
from slanc_onnx.run.opset import raised
from tests.models.small_graphs import Weights, graph, normal
from tests.oracles.unoptimised import run

ROWS = "float[2, 3, 8, 8] x"
# What is written otherwise in opset 10, by the opset in which it is tried.
NODES = {
    "a slice": (9, "y = Slice<starts = [1, -3], ends = [3, 100], axes = [2, 3]>(x)"),
    "a slice of the first axes": (8, "y = Slice<starts = [1, 0], ends = [2, -1]>(x)"),
    "the largest": (9, "y, i = TopK<k = 3, axis = 1>(x)"),
    "upsampled": (7, "y = Upsample<scales = [1.0, 1.0, 2.0, 3.0]>(x)"),
    "upsampled by an input": (9, 'y = Upsample<mode = "linear">(x, sizes)'),
    "statistics": (8, "y = BatchNormalization<spatial = 1>(x, g, g, g, g)"),
    "pooled": (
        7,
        "p = MaxPool<kernel_shape = [2, 2]>(x) y = AveragePool<kernel_shape = [3, 3]>(p)",
    ),
    "in a branch": (
        9,
        "y = If (flag) <then_branch = t () => (float[a, b, c, d] u) "
        "{ u = Slice<starts = [1], ends = [2]>(x) }, else_branch = e () => (float[a, b, c, d] v) "
        "{ v = Slice<starts = [0], ends = [1]>(x) }>",
    ),
}
WEIGHTS: Weights = {
    "g": np.linspace(0.5, 2, 3).astype(np.float32),
    "sizes": np.array([1, 1, 2, 2], np.float32),
    "flag": np.array(True),
}


@pytest.mark.parametrize("ir_version", [3, 7])
@pytest.mark.parametrize("name", NODES)
def test_the_copy_computes_the_same(name: str, ir_version: int) -> None:
    opset, nodes = NODES[name]
    model = graph(nodes, WEIGHTS, ROWS, "float[a, b, c, d] y", opset=opset)
    model.ir_version = ir_version
    if ir_version < 4:
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in model.graph.initializer
        )
    x = normal(1, 2, 3, 8, 8)
    copy = raised(model)
    onnx.checker.check_model(copy)
    assert copy.opset_import[0].version == 10
    assert len(copy.graph.node) == len(model.graph.node)
    assert (run(copy, x=x)["y"] == run(model, x=x)["y"]).all()


def test_what_is_new_enough_stays_itself() -> None:
    model = graph("y = Neg(x)", {}, ROWS, "float[a, b, c, d] y", opset=10)
    assert raised(model) is model


@pytest.mark.parametrize(
    ("opset", "nodes", "named"),
    [
        (6, "y = Neg(x)", "ops of opset 6"),
        (8, "y = BatchNormalization<spatial = 0>(x, g, g, g, g)", "BatchNormalization of opset 8"),
    ],
)
def test_what_cannot_be_raised_is_named(opset: int, nodes: str, named: str) -> None:
    model = graph(nodes, WEIGHTS, ROWS, "float[a, b, c, d] y", opset=opset)
    with pytest.raises(CannotRun, match=named):
        raised(model)


LAYER = """
    h = MatMul(x, w)
    cut = Slice<starts = [1], ends = [100], axes = [1]>(h)
    mean = ReduceMean<axes = [-1]>(cut)
    c = Sub(cut, mean)
    q = Mul(c, c)
    v = ReduceMean<axes = [-1]>(q)
    e = Add(v, eps)
    d = Sqrt(e)
    [n] y = Div(c, d)
"""


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("accumulate", ["sequential", "pairwise", "fp32"])
def test_a_norm_of_an_old_opset_is_validated(tmp_path: Path, opset: int, accumulate: str) -> None:
    weights: Weights = {"w": normal(2, 64, 64, spread=30.0), "eps": np.array(1e-5, np.float32)}
    model = graph(LAYER, weights, "float[b, t, 64] x", opset=opset)
    assert len(find_norms_in(read_graph(model))) == 1
    onnx.save(model, tmp_path / "model.onnx")
    device = Options().accelerator.summing(accumulate)
    options = Options(isolate=False, accelerator=device, emulate="all")
    done = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert done.passed, final_line(done)
    assert done.validation is not None and done.validation.overflowed_before > 0
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == opset
