"""The division of a norm whose rows are moved before the products: the norm stands behind that."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales, find_norms, protect
from slanc_onnx.reasons import Unmerged
from tests.models.divided_models import CLOSE, by_numpy, deferred, division, reason
from tests.models.merge_models import BETA, EVERY, IDS, LAYER, RMS, kinds, model
from tests.models.small_graphs import D, normal
from tests.oracles.unoptimised import run

NORM = RMS.format("n", "rows")
FUSED = "[n] n_x = SimplifiedLayerNormalization<axis = -1, epsilon = 0.00001>(rows, one)"
SKIP = """
    [n] n_x, , , z = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.00001>(
        rows, rows, one)
"""
# From [2, 3, 8], and what NumPy makes of it.
MOVES = {
    "Reshape": "f = Reshape(n_x, flat)",
    "Reshape by a computed shape": """
        all = Shape(n_x) last = Slice(all, two_, three_, zero_) less = Constant<value_ints = [-1]>()
        to = Concat<axis = 0>(less, last) f = Reshape(n_x, to)
    """,
    "Flatten": "f = Flatten<axis = 2>(n_x)",
    "Squeeze": "u = Unsqueeze(n_x, zero_) f = Squeeze(u, zero_)",
    "Transpose": "f = Transpose<perm = [1, 0, 2]>(n_x)",
    "there and back": """
        c = Transpose<perm = [0, 2, 1]>(n_x) i = Identity(c) f = Transpose<perm = [0, 2, 1]>(i)
    """,
    "Gather": "f = Gather<axis = 1>(n_x, last_one)",
    "Slice": "f = Slice(n_x, one_, three_, one_)",
}
MORE = {
    "flat": np.array([-1, D]),
    "one": np.ones(D, np.float32),
    "last_one": np.array(2),
    "zero_": np.array([0]),
    "one_": np.array([1]),
    "two_": np.array([2]),
    "three_": np.array([3]),
    "half": np.array([-1, D // 2]),
    "narrow": normal(8, D // 2, 6),
    "columns": np.array(float(D), np.float32),
}


RANKS = {"Squeeze": 3, "Transpose": 3, "there and back": 3, "Slice": 3}  # of the others 2


def moved(
    norm: str, move: str, tail: str = "y = MatMul(f, w)", rank: int | None = None
) -> onnx.ModelProto:
    """A model whose rows are moved as one of `MOVES`, or by other nodes."""
    axes = ", ".join("abc"[: rank or RANKS.get(move, 2)])
    outputs = f"float[{axes}] y"
    made = model(f"{norm} {MOVES.get(move, move)} {tail}", MORE, outputs)
    told = onnx.helper.make_tensor_value_info("n_x", onnx.TensorProto.FLOAT, ["a", "s", D])
    made.graph.value_info.append(told)  # which exporters write, as no inference knows Skip ops
    return made


@pytest.mark.parametrize("norm", [NORM, FUSED, SKIP], ids=["ops", "fused", "Skip"])
@pytest.mark.parametrize("move", MOVES)
def test_the_norm_is_put_behind_what_moves_its_rows(norm: str, move: str) -> None:
    before = moved(norm, move)
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    assert kinds(after).count("ReduceMean") == kinds(after).count("Div") == 1
    (found,) = find_norms(after)
    assert (found.name, found.kind, len(found.deferred)) == ("n", "rms", 1)
    (product,) = (node for node in after.graph.node if node.op_type == "MatMul")
    assert found.input == product.input[0] == "f"
    one, other = run(before, ids=IDS), run(after, ids=IDS)
    assert one["y"].shape == other["y"].shape
    assert np.abs(one["y"] - other["y"]).max() < CLOSE * np.abs(one["y"]).max()
    again, more = deferred(after)
    assert again == after and not more.changes and division(more).state == "before"


def test_the_products_are_those_of_numpy() -> None:
    before = moved(NORM + "n_g = Mul(n_x, gamma)", MOVES["Reshape"].replace("n_x", "n_g"), rank=2)
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    (expected,) = by_numpy(EVERY["gamma"].astype(np.float64)[:, None] * EVERY["w"])
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - expected.reshape(-1, 6)).max() < CLOSE * np.abs(y).max()


@pytest.mark.parametrize("fused", [False, True])
def test_a_gpt2_layer(fused: bool) -> None:
    """A LayerNorm, a Reshape to two axes, a Gemm with its bias and a Reshape back."""
    layer = "[n] n_b = LayerNormalization<axis = -1, epsilon = 0.00001>(rows, gamma, beta)"
    if not fused:
        layer = LAYER.format("n", "rows") + "n_g = Mul(n_x, gamma) n_b = Add(n_g, beta)"
    before = moved(
        layer, "f = Reshape(n_b, flat)", "p = Gemm(f, w, b) back = Shape(p) y = Reshape(p, back)"
    )
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    rows = EVERY["table"].astype(np.float64)[IDS]
    less = rows - rows.mean(axis=-1, keepdims=True)
    root = np.sqrt((less**2).mean(axis=-1, keepdims=True) + 1e-5)
    whole = (less / root * EVERY["gamma"] + BETA) @ EVERY["w"].astype(np.float64) + EVERY["b"]
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - whole.reshape(-1, 6)).max() < 2 * CLOSE * np.abs(y).max()
    assert kinds(after).count("ReduceMean") == 1 and kinds(after)[-3:] != ["Gemm"]
    again, more = deferred(after)
    assert again == after and not more.changes


def test_its_certificate_is_proved_of_the_moved_rows() -> None:
    for move in MOVES:
        before = moved(NORM, move)
        (alone,) = compute_scales(before, Options(estimate="weights"))
        (found,) = protect(before, Options(estimate="weights", apply="fold", merge=["division"]))
        assert alone.certificate is not None and alone.certificate.certified
        assert found.certificate is not None and found.certificate.certified
        assert find_norms(before)[0].deferred


def test_a_product_of_the_moved_row_has_to_fit() -> None:
    before = moved(NORM, "Reshape", "y = MatMul(f, big)")
    big = onnx.numpy_helper.from_array(EVERY["w"] * np.float32(1e6), "big")
    before.graph.initializer.append(big)
    after, merges = deferred(before)
    assert reason(merges).kind is Unmerged.PRODUCT_PREDICTED and after == before


APART = "e = Reshape(n_x, flat) f = Transpose<perm = [1, 0, 2]>(n_x)"
CUT = "f = Reshape(n_x, half)"
BY_COUNT = NORM.replace(
    "n_ms = ReduceMean<axes = [-1]>(n_sq)",
    "n_all = ReduceSum(n_sq, axis) n_ms = Div(n_all, columns)",
)
LEFT = {
    "in several ways": (
        NORM,
        APART,
        "p = MatMul(e, w) y = MatMul(f, w)",
        3,
        Unmerged.MOVED_APART,
    ),
    "for one of its products": (
        NORM,
        MOVES["Reshape"],
        "p = MatMul(f, w) y = MatMul(n_x, w)",
        3,
        Unmerged.MOVED_APART,
    ),
    "not whole": (NORM, CUT, "y = MatMul(f, narrow)", 2, Unmerged.READ_OTHERWISE),
    "and multiplied": (
        NORM,
        "f = Mul(n_x, columns)",
        "y = MatMul(f, w)",
        3,
        Unmerged.READ_OTHERWISE,
    ),
    "and averaged": (
        NORM,
        "f = ReduceMean<axes = [1]>(n_x)",
        "y = MatMul(f, w)",
        3,
        Unmerged.READ_OTHERWISE,
    ),
    "in another spelling": (
        BY_COUNT,
        MOVES["Reshape"],
        "y = MatMul(f, w)",
        2,
        Unmerged.OTHER_PRODUCT,
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_rows_that_are_moved(what: str) -> None:
    norm, move, tail, rank, kind = LEFT[what]
    before = moved(norm, move, tail, rank)
    before.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "axis"))
    assert len(find_norms(before)) == 1
    after, merges = deferred(before, "division")
    assert reason(merges).kind is kind and after == before


def test_an_epsilon_that_a_caller_may_give_stays_where_it_is_read() -> None:
    before = moved(NORM, "Reshape")
    before.graph.input.append(onnx.helper.make_tensor_value_info("eps", 1, []))
    after, merges = deferred(before)
    assert reason(merges).kind is Unmerged.OTHER_PRODUCT and after == before
