"""Shapes, outputs and places where a merge would change what a model computes, or its form."""

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, protect
from slanc_onnx.reasons import Unmerged
from tests.models.merge_models import (
    BETA,
    EVERY,
    GAMMA,
    LAYER,
    kinds,
    merged,
    model,
    norm,
    part,
    relative,
)
from tests.models.small_graphs import D, graph, normal

CLOSE = 1e-6
ALONG = """
    mean = ReduceMean<axes = [1]>(x) less = Sub(x, mean) sq = Mul(less, less)
    ms = ReduceMean<axes = [1]>(sq) sum = Add(ms, eps) root = Sqrt(sum)
    [n] x0 = Div(less, root) x1 = Mul(x0, gamma) y = Conv(x1, k)
"""


def why(before: onnx.ModelProto, part_of: Any = "gamma") -> Unmerged | None:
    """Why a part of a norm is left, None where it is merged; the outputs are the same."""
    after, merges = merged(before, "all")
    rng = np.random.default_rng(3)
    feeds = {
        i.name: normal(7, *(d.dim_value or 3 for d in i.type.tensor_type.shape.dim))
        if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        else rng.integers(0, 11, (2, 3))
        for i in before.graph.input
    }
    assert relative(before, after, **feeds) < CLOSE
    reason = part(merges, "n", part_of).reason
    if reason is None:
        return None
    assert isinstance(reason.kind, Unmerged)
    return reason.kind


def test_a_product_with_a_vector_writes_no_channels() -> None:
    nodes = "rows = MatMul(x, v)" + norm(LAYER, "n", "rows") + "y = MatMul(n_y, w)"
    weights = {name: EVERY[name] for name in ("eps", "gamma", "w")} | {"v": normal(8, D)}
    before = graph(nodes, weights, f"float[b, {D}, {D}] x", "float[a, c] y")
    assert why(before, "mean") is Unmerged.WRITTEN_BY


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_bias_of_one_number_where_there_is_one_output(shape: tuple[int, ...]) -> None:
    nodes = norm(LAYER, "n", "rows", beta=True) + "p = MatMul(n_y, one) y = Add(p, b)"
    weights = {"one": normal(9, D, 1), "b": np.full(shape, 0.25, np.float32)}
    assert why(model(nodes, weights)) is None


def test_a_gamma_whose_product_is_an_output_is_left() -> None:
    nodes = norm(LAYER, "n", "rows", beta=True) + "y = MatMul(n_y, w)"
    before = model(nodes, outputs="float[a, s, c] y, float[a, s, d] n_g")
    assert why(before) is Unmerged.GAMMA_INSIDE


@pytest.mark.parametrize("which", ["gamma", "beta"])
def test_what_gives_the_rows_another_axis_is_left(which: str) -> None:
    nodes = "z = MatMul(x, square)" + norm(LAYER, "n", "z", beta=True) + "y = MatMul(n_y, w)"
    weights = {**EVERY, "square": normal(6, D, D)}
    weights[which] = weights[which].reshape(1, 1, D)
    before = graph(nodes, weights, f"float[b, {D}] x", "float[a, b, c] y")
    assert why(before) is Unmerged.GAMMA_INSIDE


@pytest.mark.parametrize("gamma", [GAMMA, GAMMA.reshape(1, D), GAMMA.reshape(D, 1)])
def test_only_a_gamma_along_the_axis_of_the_rows_is_merged(gamma: NDArray[np.float32]) -> None:
    weights = {"eps": EVERY["eps"], "gamma": gamma, "k": normal(4, 5, D, 1)}
    before = graph(ALONG, weights, f"float[b, {D}, {D}] x", "float[a, b, c] y")
    along = gamma.shape == (D, 1)
    assert why(before) is (None if along else Unmerged.ROWS)


@pytest.mark.parametrize("kind", [6, 10])
def test_a_gamma_that_a_cast_rounds_is_what_it_makes_or_left(kind: int) -> None:
    text = norm(LAYER, "n", "rows").replace("gamma", "back")
    casts = f"cast = Cast<to = {kind}>(gamma) back = Cast<to = 1>(cast)"
    before = model(casts + text + "y = MatMul(n_y, w)", {"gamma": GAMMA * np.float32(1.1)})
    assert why(before) is (None if kind == 10 else Unmerged.AFFINE_COMPUTED)


@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize(
    "scaling", ["Mul(n_y, half)", "Div(n_y, half)", "Neg(n_y)", "Mul(per_row, n_y)"]
)
def test_beta_does_not_pass_what_multiplies(scaling: str, beta: bool) -> None:
    nodes = norm(LAYER, "n", "rows", beta=beta) + f"z = {scaling} p = MatMul(z, w) y = Add(p, b)"
    weights = {"half": np.array(0.5, np.float32), "per_row": normal(8, 3, 1)}
    assert why(model(nodes, weights)) is (Unmerged.READ_OTHERWISE if beta else None)


def test_one_constant_may_be_gamma_and_beta() -> None:
    text = norm(LAYER, "n", "rows", beta=True).replace("beta", "gamma")
    before = model(text + "y = MatMul(n_y, w)")
    assert why(before) is None


def test_an_infinite_weight_is_left() -> None:
    """It makes an infinity of gamma and beta together, and a NaN of each by itself."""
    weight = EVERY["w"].copy()
    weight[2, 3] = np.inf
    before = model(norm(LAYER, "n", "rows", beta=True) + "y = MatMul(n_y, w)", {"w": weight})
    _, merges = merged(before, "gamma")
    reason = part(merges, "n").reason
    assert reason is not None and reason.kind is Unmerged.OVERFLOWS


@pytest.mark.parametrize("opset", [17, 23])
def test_outputs_that_nothing_reads_go_with_the_mean(opset: int) -> None:
    nodes = "[n] n_y, mean, inverse = LayerNormalization(rows, gamma, beta) y = MatMul(n_y, w)"
    assert why(model(nodes, opset=opset), "mean") is None


@pytest.mark.parametrize("opset", [17, 23])
@pytest.mark.parametrize(
    "op", ["LayerNormalization(rows", "com.microsoft.SkipLayerNormalization(rows, rows"]
)
def test_what_is_centred_by_nodes_has_its_beta_before(op: str, opset: int) -> None:
    nodes = f"""
        [n] n_y = {op}, gamma, beta) r = Add(const, n_y)
        [k] k_y = LayerNormalization(n_y, gamma, beta)
        [l] l_y = LayerNormalization(r, gamma, beta)
        p = MatMul(k_y, w) q = MatMul(l_y, w2) y = Add(p, q)
    """
    before = model(nodes, {"const": normal(8, 3, D), "beta": BETA + 3}, opset=opset)
    after, merges = merged(before, "all")
    assert [part(merges, name, "mean").state for name in "nkl"] == ["merged"] * 3
    assert kinds(after).count("Sub") == 1
    assert relative(before, after, ids=np.array([[1, 5, 2], [7, 0, 3]])) < CLOSE
    made = {name for name in (*(i.name for i in after.graph.input), *_stored(after))}
    for node in after.graph.node:  # in topological order
        assert made.issuperset(node.input)
        made.update(node.output)


def _stored(after: onnx.ModelProto) -> list[str]:
    return [t.name for t in after.graph.initializer]


def test_one_constant_is_gamma_and_beta_of_a_norm_that_is_written_out() -> None:
    """What is left of it multiplies and is added, by the place that it has."""
    before = model(
        "h = MatMul(rows, up) r = MatMul(h, down) "
        "[n] n_y = LayerNormalization<axis = -1>(r, gamma, gamma) f = Relu(n_y) y = MatMul(f, w)",
        {"up": normal(20, D, 12), "down": normal(21, 12, D)},
    )
    after, merges = merged(before, "mean")
    assert part(merges, "n", "mean").state == "merged" and "LayerNormalization" not in kinds(after)
    assert relative(before, after) < 1e-6


def test_a_model_of_functions_of_which_nothing_is_merged_is_as_it_was() -> None:
    """Functions are inlined to be read, and that is no reason to leave them so."""
    text = """
        <ir_version: 10, opset_import: ["": 17, "local": 1]>
        main (float[a, 8] x) => (float[a, 8] y) { y = local.Norm(x, gamma) }
        <domain: "local", opset_import: ["": 17]>
        Norm (x, g) => (y) {
            square = Mul(x, x) mean = ReduceMean<axes = [-1]>(square)
            least = Constant<value_float = 0.00001>() sum = Add(mean, least)
            root = Sqrt(sum) whole = Div(x, root) y = Mul(whole, g)
        }
    """
    before = onnx.parser.parse_model(text)
    before.graph.initializer.append(onnx.numpy_helper.from_array(GAMMA, "gamma"))
    after = onnx.ModelProto()
    after.CopyFrom(before)
    options = Options(apply="fold", merge=["all"], exclude=".*")
    assert [each.status for each in protect(after, options)] == ["skipped"]
    assert after == before
    protect(after, Options(apply="fold", merge=["all"]))
    assert after != before and not after.functions
