"""A result that is not finite of finite numbers is named; truth is float16."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, protect_file
from slanc_onnx.report.terminal import final_line
from tests.models.small_graphs import Weights, graph, normal

WIDTH = 16
X = normal(5, 3, WIDTH)
NORM = "[n] y = SimplifiedLayerNormalization<axis = -1>(x, gamma)"
TINY = np.array(1e-10, np.float32)


def line_of(nodes: str, folder: Path, **weights: np.ndarray) -> str:
    constants: Weights = {"gamma": np.ones(WIDTH, np.float32), "tiny": TINY, **weights}
    model = graph(f"{NORM} {nodes}", constants, f"float[3, {WIDTH}] x", f"float[3, {WIDTH}] z")
    onnx.save(model, folder / "model.onnx")
    options = Options(inputs={"x": X}, emulate="all", certify="off")
    return final_line(protect_file(folder / "model.onnx", folder / "out.onnx", options))


@pytest.mark.parametrize(
    ("nodes", "culprit"),
    [
        ("r = Relu(y) s = Add(r, tiny) z = Log(s)", "Log (z)"),
        ("r = Relu(y) s = Add(r, tiny) d = Reciprocal(s) z = Mul(r, d)", "Reciprocal (d)"),
        ("r = Sub(y, y) s = Add(r, tiny) q = Div(r, s) z = Add(q, y)", "Div (q)"),
    ],
)
def test_an_epsilon_that_rounds_to_zero_is_named_by_what_reads_it(
    nodes: str, culprit: str, tmp_path: Path
) -> None:
    assert np.float16(TINY) == 0
    line = line_of(nodes, tmp_path)
    assert line.startswith("FAILED") and f"{culprit}: is the first that is nan or infinite" in line
    assert "where that is an epsilon, use one that FP16 holds" in line and "--fp32-nodes" in line


def test_the_nodes_that_heal_it_are_found(tmp_path: Path) -> None:
    line_of("r = Relu(y) s = Add(r, tiny) z = Log(s)", tmp_path)
    options = Options(inputs={"x": X}, fp32_nodes=True, certify="off")
    found = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert found.passed and final_line(found).startswith("PASSED with 2 nodes in FP32")


def test_with_an_epsilon_that_fp16_holds_it_passes(tmp_path: Path) -> None:
    line = line_of("r = Relu(y) s = Add(r, held) z = Log(s)", tmp_path, held=np.array(1e-3, "f4"))
    assert line.startswith("PASSED")


def test_what_is_infinite_in_fp32_too_is_not_named(tmp_path: Path) -> None:
    """A mask of -inf is none; what leaves the format is told as that."""
    mask = np.where(np.arange(WIDTH) % 3 == 0, -np.inf, 0).astype(np.float32)
    line = line_of("m = Add(y, mask) z = Softmax<axis = -1>(m)", tmp_path, mask=mask)
    assert line.startswith("PASSED")
    large = "a = MatMul(y, w) b = Sub(a, a) z = Add(b, y)"
    line = line_of(large, tmp_path, w=normal(3, WIDTH, WIDTH, spread=6e4).clip(-6e4, 6e4))
    assert "MatMul (a): is the first to leave FP16" in line and "nan or infinite" not in line
