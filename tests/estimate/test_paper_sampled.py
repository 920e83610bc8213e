"""The paper's scale where matrices are large: sampled rows, pieces of tables, spectral norms."""

import numpy as np
import pytest
from numpy.typing import NDArray

from slanc_onnx.estimate import paper as paper_module
from slanc_onnx.estimate.paper import paper_estimates, spectral_norm
from tests.estimate.paper_blocks import DIAGONAL, GATES, IDENTITY, MLP, close
from tests.models.small_graphs import (
    D,
    Matrix,
    between,
    exact,
    frobenius,
    normal,
    paper,
    read,
    spectral,
)
from tests.spellings.attention import (
    COMMON,
    GROUPED,
)


def test_a_wide_source_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random signs instead of the identity: unbiased, within a few percent, and repeatable."""
    nodes = "h = MatMul(x, e) a = Relu(h) o = MatMul(a, g) total = Add(o, x)"
    model = between(nodes, MLP)
    whole = paper(model)["last"]
    monkeypatch.setattr(paper_module, "EXACT_WIDTH", D - 1)
    monkeypatch.setattr(paper_module, "SIGNS", 4096)
    sampled = paper(model)["last"]
    assert sampled == pytest.approx(whole, rel=0.03)
    assert sampled != whole
    assert sampled == paper(model)["last"]


def test_a_large_table_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    table = normal(0, 11, D)
    monkeypatch.setattr(paper_module, "TABLE_CHUNK", 4)
    found = paper(between("total = Identity(x)", {"table": table}))["first"]
    assert found == close(frobenius(exact(table)) / 11**0.5)


MATRICES = {
    "square": normal(1, 40, 40),
    "tall": normal(2, 70, 30),
    "wide": normal(3, 30, 70),
    "one singular value far above": normal(4, 40, 40) + 10 * np.ones((40, 40)),
    "rank 1": np.outer(normal(5, 30), normal(6, 20)),
    "a row": normal(7, 1, 30),
    "zeros": np.zeros((5, 7)),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("gram_width", [2048, 0], ids=["eigenvalues", "Krylov space"])
def test_the_spectral_norm_is_the_largest_singular_value(
    matrix: NDArray[np.float64], gram_width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_module, "GRAM_WIDTH", gram_width)
    truth = spectral(exact(matrix))
    found = spectral_norm(matrix)
    if gram_width:
        assert found == pytest.approx(truth, rel=1e-9, abs=1e-12)
    else:  # from below, in FP32
        assert truth * (1 - 2e-3) <= found <= truth * (1 + 1e-6)


def test_the_gate_of_a_large_matrix_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = f"{GATES['gate first']} o = MatMul(p, g) total = Add(x, o)"
    whole = paper(between(nodes, MLP))["last"]
    monkeypatch.setattr(paper_module, "GRAM_WIDTH", 0)
    assert paper(between(nodes, MLP))["last"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("order", ["gate first", "gate second", "Gelu"])
def test_sampled_scales_are_within_their_standard_error(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wide sources: random signs, and the gate's one matrix read as it is."""
    nodes = f"{GATES[order]} o = MatMul(p, g) total = Add(x, o)"
    traced = read(between(nodes, MLP))
    exactly = paper_estimates(*traced)[0]["last"]
    assert exactly.error == 0.0
    monkeypatch.setattr(paper_module, "EXACT_WIDTH", D - 1)
    found = paper_estimates(*traced)[0]["last"]
    assert 0.0 < found.error < 0.2
    assert abs(found.upper - exactly.upper) <= 4 * found.error * exactly.upper
    monkeypatch.setattr(paper_module, "SIGNS", 16 * 96)
    assert paper_estimates(*traced)[0]["last"].error == pytest.approx(found.error / 4, rel=0.4)


def test_heads_are_not_tiled() -> None:
    """Tiled value heads (h0 h1 h0 h1) would give another scale: the test above can fail."""
    heads = exact(GROUPED.weights["w_v"]).reshape(D, 2, 2)
    tiled: Matrix = np.tile(heads, (1, 2, 1)).reshape(D, D)
    wrong = frobenius(DIAGONAL @ (tiled @ exact(COMMON["w_o"]) + IDENTITY))
    assert paper(between(GROUPED.nodes, GROUPED.weights))["last"] != pytest.approx(wrong, rel=0.01)
