"""The division of a norm, deferred to what the products make of its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, compute_scales, find_norms, protect
from slanc_onnx.apply.merge import Part
from slanc_onnx.norms.notes import SCALE_KEY
from slanc_onnx.reasons import Unmerged
from slanc_onnx.targets import TARGETS
from tests.models.divided_models import (
    CLOSE,
    EPSILON,
    by_numpy,
    deferred,
    division,
    reason,
    with_rows,
)
from tests.models.merge_models import BETA, EVERY, IDS, RMS, model
from tests.models.small_graphs import D, graph, normal
from tests.oracles.unoptimised import run

ALONE = Options(apply="fold", merge=["division"])
NORM = RMS.format("n", "rows")
BY_RECIPROCAL = NORM.replace(
    "[n] n_x = Div(rows, n_root)", "r = Reciprocal(n_root) [n] n_x = Mul(r, rows)"
)
PRODUCTS = "    p = MatMul(n_x, w) q = MatMul(n_x, w2) y = Add(p, q)"


def ops(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


@pytest.mark.parametrize("nodes", [NORM, BY_RECIPROCAL], ids=["Div", "Mul"])
def test_two_products_are_divided_instead_of_the_row(nodes: str) -> None:
    before = model(nodes + PRODUCTS)
    after, merges = deferred(before)
    assert division(merges) == Part("merged") and merges.deferred == {"n"}
    op = "Div" if nodes is NORM else "Mul"
    assert ops(after).count(op) == ops(before).count(op) + 1
    (found,) = find_norms(after)
    assert (found.name, found.kind, found.width, found.epsilon) == ("n", "rms", D, EPSILON)
    assert [one.output for one in found.deferred] == ["p", "q"]
    products = [node for node in after.graph.node if node.op_type == "MatMul"]
    assert [list(node.input) for node in products] == [["rows", "w"], ["rows", "w2"]]
    first, second = by_numpy(EVERY["w"], EVERY["w2"])
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - (first + second)).max() < CLOSE * np.abs(y).max()
    again, more = deferred(after)
    assert division(more) == Part("before") and not more.changes and again == after


def test_gamma_goes_into_the_weights_first() -> None:
    nodes = NORM + "    n_g = Mul(n_x, gamma) p = MatMul(n_g, w) y = Add(p, b)"
    before = model(nodes)
    after, merges = deferred(before)
    assert division(merges).state == "merged" and ops(after).count("Mul") == 1
    (expected,) = by_numpy(EVERY["gamma"].astype(np.float64)[:, None] * EVERY["w"])
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - (expected + EVERY["b"])).max() < CLOSE * np.abs(y).max()
    alone, kept = deferred(before, "division")
    assert reason(kept).kind is Unmerged.GAMMA_STAYS and alone == before


@pytest.mark.parametrize("turned", [0, 1])
def test_the_bias_of_a_gemm_comes_behind_the_division(turned: int) -> None:
    weight = EVERY["w"].T if turned else EVERY["w"]
    flat = "    shape = Constant<value_ints = [-1, 8]>() flat = Reshape(rows, shape)"
    nodes = f"{flat}{RMS.format('n', 'flat')}    y = Gemm<transB = {turned}>(n_x, turned, b)"
    before = model(nodes, {"turned": np.ascontiguousarray(weight)}, outputs="float[a, c] y")
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    assert [op for op in ops(after) if op in ("Gemm", "Div", "Add")][-3:] == ["Gemm", "Div", "Add"]
    (expected,) = by_numpy(EVERY["w"])
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - (expected.reshape(-1, 6) + EVERY["b"])).max() < CLOSE * np.abs(y).max()
    (found,) = find_norms(after)
    assert len(found.deferred) == 1 and find_norms(before)[0].name == found.name


@pytest.mark.parametrize(
    ("op", "opset"), [("RMSNormalization", 23), ("SimplifiedLayerNormalization", 17)]
)
def test_a_fused_norm_is_written_out(op: str, opset: int) -> None:
    nodes = f"[n] n_y = {op}<axis = -1, epsilon = 0.00001>(rows, gamma) y = MatMul(n_y, w)"
    before = model(nodes, opset=opset)
    after, merges = deferred(before)
    assert division(merges).state == "merged" and op not in ops(after)
    (expected,) = by_numpy(EVERY["gamma"].astype(np.float64)[:, None] * EVERY["w"])
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - expected).max() < CLOSE * np.abs(y).max()
    (found,) = find_norms(after)
    assert (found.name, found.kind, len(found.deferred)) == ("n", "rms", 1)
    again, more = deferred(after)
    assert again == after and not more.changes


@pytest.mark.parametrize("opset", [17, 23])
def test_a_layer_norm_whose_mean_and_beta_are_gone(opset: int) -> None:
    nodes = """
        [n] n_y = LayerNormalization<axis = -1>(rows, gamma, beta)
        p = MatMul(n_y, w)
        y = Add(p, b)
    """
    before = model(nodes, opset=opset)
    after, merges = deferred(before)
    assert division(merges).state == "merged"
    rows = EVERY["table"].astype(np.float64)[IDS]
    less = rows - rows.mean(axis=-1, keepdims=True)
    normal_rows = less / np.sqrt((less**2).mean(axis=-1, keepdims=True) + EPSILON)
    expected = (normal_rows * EVERY["gamma"] + BETA) @ EVERY["w"].astype(np.float64) + EVERY["b"]
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - expected).max() < CLOSE * np.abs(y).max()
    (found,) = find_norms(after)
    assert (found.name, found.kind, len(found.deferred)) == ("n", "rms", 1)
    without_means, kept = deferred(before, "gamma", "division")
    assert reason(kept).kind is Unmerged.KEEPS_MEAN and "LayerNormalization" in ops(without_means)


LEFT = {
    "another reader": (NORM + "    p = MatMul(n_x, sq) y = Add(p, n_x)", Unmerged.READ_OTHERWISE),
    "a graph output": (NORM + "    y = MatMul(n_x, w) z = Identity(n_x)", Unmerged.OUTPUT),
    "a root of whole rows": (
        NORM.replace("Div(rows, n_root)", "Div(rows, wide)").replace(
            "[n]", "size = Shape(rows) wide = Expand(n_root, size) [n]"
        )
        + "    y = MatMul(n_x, w)",
        Unmerged.ROOT_SPREADS,
    ),
    "a stack of matrices": (NORM + "    y = MatMul(n_x, stack)", Unmerged.OTHER_PRODUCT),
    "a product in a branch": (
        NORM
        + "    always = Constant<value = bool {1}>() y = If(always) <"
        + "then_branch = then () => (float[a, s, c] t) { t = MatMul(n_x, w) },"
        + "else_branch = else () => (float[a, s, c] e) { e = MatMul(n_x, w2) }>",
        Unmerged.OTHER_PRODUCT,
    ),
    "a row in integers": (
        NORM
        + "    step = Constant<value_float = 0.02>() zero = Constant<value = int8 {0}>()"
        + "    q = QuantizeLinear(n_x, step, zero) d = DequantizeLinear(q, step, zero)"
        + "    y = MatMul(d, w)",
        Unmerged.INTEGER_WEIGHT,
    ),
    "a mean": (
        "[n] n_x = LayerNormalization<axis = -1>(rows, ones) y = MatMul(n_x, w)",
        Unmerged.KEEPS_MEAN,
    ),
    "a factor": (
        NORM + "    y = com.microsoft.FusedMatMul<alpha = 0.5>(n_x, w)",
        Unmerged.OTHER_PRODUCT,
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_it_is_left_with_the_reason(what: str) -> None:
    nodes, kind = LEFT[what]
    outputs = "float[a, s, c] y, float[a, s, 8] z" if " z = " in nodes else "float[a, s, c] y"
    more = {"sq": normal(8, D, D), "stack": normal(9, 1, D, 6), "ones": np.ones(D, np.float32)}
    before = model(nodes, more, outputs)
    after, merges = deferred(before, "division")
    assert reason(merges).kind is kind and after == before


BRANCHES = """
    rows = Gather(table, ids)
    y = If(c) <
        then_branch = yes () => (float[a, s, k] out) {{ {0} out = MatMul(n_x, w) }},
        else_branch = no () => (float[a, s, k] out) {{ {1} out = MatMul(n_x, w) }}
    >
"""


@pytest.mark.parametrize("other", ["n_x = Tanh(rows)", f"{NORM} t = Tanh(n_x)"])
def test_tensors_of_another_branch_that_have_the_same_names_are_others(other: str) -> None:
    other_reads = "MatMul(t, w)" if " t =" in other else "MatMul(n_x, w)"
    nodes = BRANCHES.format(NORM, other)
    head, tail = nodes.rsplit("MatMul(n_x, w)", 1)
    weights = {name: EVERY[name] for name in ("table", "eps", "w")}
    before = graph(f"{head}{other_reads}{tail}", weights, "int64[b, s] ids, bool c")
    after, merges = deferred(before)
    assert merges.count("division", "merged") == 1
    for taken in (True, False):
        given = {"ids": IDS, "c": np.array(taken)}
        (one,), (two,) = (run(each, **given).values() for each in (before, after))
        assert np.abs(one - two).max() < CLOSE * np.abs(one).max()
    again, more = deferred(after)
    assert again == after and not more.changes


def test_a_run_for_another_target_leaves_no_note_of_the_first() -> None:
    """The last node of a norm has its scale; another that had it too would keep it."""
    weights = {name: EVERY[name] for name in ("eps", "w", "w2")}
    before = graph(NORM + PRODUCTS, weights, "float[a, s, 8] rows")
    made = onnx.ModelProto()
    made.CopyFrom(before)
    for target, scale in (("fp16-sequential", 256.0), ("bf16", 16.0), ("fp16-fp32", 4.0)):
        chosen = Options(accelerator=TARGETS[target], set_scale={"n": scale}, certify="off")
        first = target == "fp16-sequential"
        protect(made, replace(chosen, apply="fold", merge=["all"]) if first else chosen)
        (norm,) = find_norms(made)
        assert (norm.scaled_by, len(norm.deferred)) == (scale, 2)
        notes = [p.value for n in made.graph.node for p in n.metadata_props if p.key == SCALE_KEY]
        assert set(map(float, notes)) == {scale}


def test_a_norm_without_a_name_takes_none_that_another_node_has() -> None:
    """ONNX Runtime refuses a graph with two nodes of one name."""
    before = model(NORM.replace("[n] ", "") + "    [n_x] y = MatMul(n_x, w)")
    after, merges = deferred(before)
    assert merges.count("division", "merged") == 1
    assert len({node.name for node in after.graph.node if node.name}) == sum(
        bool(node.name) for node in after.graph.node
    )
    (expected,) = by_numpy(EVERY["w"])
    (y,) = run(after, ids=IDS).values()
    assert np.abs(y - expected).max() < CLOSE * np.abs(y).max()


def test_a_row_of_another_type_than_the_output_is_left() -> None:
    """The product with a weight of 16 bits takes no row of 32."""
    nodes = "[n] n_y = SimplifiedLayerNormalization<axis = -1>(rows, one) p = MatMul(n_y, half)"
    more = {"one": np.ones(D, np.float16), "half": EVERY["w"].astype(np.float16)}
    before = model(f"{nodes} y = Cast<to = 1>(p)", more)
    after, merges = deferred(before)
    assert reason(merges).kind is Unmerged.TWO_TYPES and after == before


def test_a_row_that_is_given_out_before_gamma_is_left() -> None:
    """Gamma goes into the weight; the row over its root is an output, and has to be made."""
    before = model(NORM + "    n_g = Mul(n_x, gamma) y = MatMul(n_g, w)")
    row = onnx.helper.make_tensor_value_info("n_x", onnx.TensorProto.FLOAT, ["a", "s", D])
    before.graph.output.append(row)
    after, merges = deferred(before)
    assert merges.norms[0].gamma == Part("merged") and reason(merges).kind is Unmerged.OUTPUT
    assert (run(after, ids=IDS)["n_x"] == run(before, ids=IDS)["n_x"]).all()


def test_what_the_user_leaves_out_is_left() -> None:
    before = model(NORM + PRODUCTS)
    after, merges = deferred(before, exclude="^n$")
    assert reason(merges).kind is Unmerged.LEFT_OUT and after == before


def test_without_a_size_nothing_is_deferred() -> None:
    before = model(NORM + PRODUCTS)
    after, merges = with_rows(before, ALONE, [])
    assert reason(merges).kind is Unmerged.SIZE_UNKNOWN and after == before


def longest(weight: NDArray[Any]) -> float:
    return float(np.sqrt((weight.astype(np.float64) ** 2).sum(axis=0)).max())


@pytest.mark.parametrize("certify", [False, True])
def test_a_product_has_to_fit_as_predicted_and_as_certified(certify: bool) -> None:
    """By Cauchy and Schwarz: the longest row times the longest column."""
    rows = float(np.sqrt((EVERY["table"].astype(np.float64) ** 2).sum(axis=1)).max())
    for beyond in (False, True):
        size = 65504 / rows / longest(EVERY["w"]) * (1.3 if beyond else 0.8)
        before = model(NORM + "    y = MatMul(n_x, big)", {"big": EVERY["w"] * np.float32(size)})
        after, merges = deferred(before, certify=certify)
        assert (division(merges).state == "left") == beyond == (after == before)
        (norm,) = merges.norms
        assert norm.product is not None and norm.product.largest == 65504
        told = norm.product.certified if certify else norm.product.predicted
        assert told == pytest.approx(65504 * (1.3 if beyond else 0.8), rel=0.3 if certify else 0.4)
        assert (norm.product.certified is None) == (not certify)
        if beyond:
            kinds = (Unmerged.PRODUCT_PREDICTED, Unmerged.CERTIFICATE_LOST)
            assert reason(merges).kind in kinds


def test_a_certificate_that_would_be_lost_keeps_the_division() -> None:
    """What is predicted fits, and what is certified does not."""
    before = model(NORM + "    y = MatMul(n_x, big)", {"big": EVERY["w"] * np.float32(1e3)})
    given = Options(estimate="weights", set_scale={"n": 1.0})
    (each,) = compute_scales(before, given)
    assert each.certificate is not None and each.certificate.certified and each.estimate is not None
    small = replace(each, estimate=replace(each.estimate, upper=1e-4))
    after, merges = with_rows(before, ALONE, [small])
    assert division(merges).state == "merged" and after != before
    before = model(NORM + "    y = MatMul(n_x, big)", {"big": EVERY["w"] * np.float32(1e5)})
    after, merges = with_rows(before, ALONE, [small])
    assert reason(merges).kind is Unmerged.CERTIFICATE_LOST and after == before


@pytest.mark.parametrize("target", ["fp16-sequential", "fp8-e5m2"])
def test_no_certificate_is_lost(target: str) -> None:
    """Nor where what a product is divided to leaves the format, or a device rounds by an eighth."""
    device, kept = TARGETS[target], 0
    small = {"table": EVERY["table"] * np.float32(1e-3)}
    for size in np.geomspace(1e2, 1e5, 13):
        big = {"big": EVERY["w"] * np.float32(size)}
        for weights in ({**small, **big}, big):
            before = model(NORM + "    y = MatMul(n_x, big)", weights)
            options = Options(estimate="weights", accelerator=device)
            (alone,) = compute_scales(before, options)
            (found,) = protect(before, replace(options, apply="fold", merge=["division"]))
            assert alone.certificate is not None and alone.certificate.certified
            assert found.certificate is not None and found.certificate.certified
            kept += not find_norms(before)[0].deferred
    assert 0 < kept < 26


def test_certificates_are_proved_of_the_file_that_has_the_products() -> None:
    before = model(NORM + PRODUCTS)
    plain, after = onnx.ModelProto(), onnx.ModelProto()
    plain.CopyFrom(before)
    after.CopyFrom(before)
    options = Options(estimate="weights", apply="fold")
    (without,) = protect(plain, options)
    (found,) = protect(after, Options(estimate="weights", apply="fold", merge=["all"]))
    assert found.certificate is not None and found.certificate.certified
    assert without.certificate is not None and found.affine is not None
    assert found.affine.product == pytest.approx(
        max(longest(EVERY["w"]), longest(EVERY["w2"])), rel=1e-6
    )
    assert found.safe_radius is not None and without.safe_radius is not None
    assert found.safe_radius <= without.safe_radius
