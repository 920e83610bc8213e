"""Folding changes no bit of an FP32 output, and inserts a node only where no weight can take it."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx.apply.fold.folding import fold
from slanc_onnx.errors import SlancError
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms import read_model
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.options import Options
from slanc_onnx.report.wording import reason_text
from tests.models.fold_models import LN, RMS, decided, folded, ops, same_bits, weights
from tests.models.small_graphs import D, between, graph, normal
from tests.oracles.proto_diff import differences

PRE = f"""
    r0 = Gather(table, ids)
    [n1] x1 = {RMS}(r0, g1)
    m1 = MatMul(x1, w1)
    a1 = Add(m1, b1)
    r1 = Add(r0, a1)
    [n2] x2 = {RMS}(r1, g2)
    m2 = MatMul(x2, w2)
    r2 = Add(m2, r1)
    [n3] y = {RMS}(r2, g3)
"""
POST = f"""
    e = Gather(table, ids)
    [n1] x1 = {LN}(e, g1, b1)
    q = MatMul(x1, w1)
    qb = Add(q, b4)
    p = Softmax(qb)
    m1 = MatMul(p, w2)
    t1 = Add(m1, b5)
    r1 = Add(t1, x1)
    [n2] x2 = {LN}(r1, g2, b2)
    u = MatMul(x2, w3)
    f = Relu(u)
    m2 = MatMul(f, w4)
    r2 = Add(x2, m2)
    [n3] y = {LN}(r2, g3, b3)
"""


def stored(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def epsilons(model: onnx.ModelProto) -> list[float]:
    return [float(norm.epsilon or 0) for norm in find_norms_in(read_graph(model))]


def test_a_pre_norm_stream_is_divided_where_it_begins() -> None:
    model = graph(PRE, weights())
    after, found = folded(model, dict.fromkeys(("n1", "n2", "n3"), (2, 4)))
    assert ops(after) == ops(model)
    assert found.applied == dict.fromkeys(("n1", "n2", "n3"), "fold")
    was, now = stored(model), stored(after)
    changed = {name for name in was if was[name].tobytes() != now[name].tobytes()}
    assert changed == {"table", "w1", "b1", "w2"}
    assert all((now[name] * 16 == was[name]).all() for name in changed)
    assert np.allclose(epsilons(after), np.divide(epsilons(model), 256), rtol=1e-7, atol=0)
    assert same_bits(model, after)


def test_every_norm_of_a_post_norm_model_has_its_own_scale_and_no_node() -> None:
    model = graph(POST, weights())
    after, found = folded(model, {"n1": (1, 1), "n2": (5, 5), "n3": (-2, -2)})
    assert (ops(after), found.inserted) == (ops(model), 0)
    assert [group.sigma for group in found.groups] == [2.0, 32.0, 0.25]
    was, now = stored(model), stored(after)
    ratios = {n: float(was[n].flat[0] / now[n].flat[0]) for n in was if n not in ("ones", "g3")}
    assert {n: r for n, r in ratios.items() if r != 1} == {
        "table": 2,
        "g1": 32,
        "b1": 32,
        "w1": 1 / 32,
        "w2": 32,
        "b5": 32,
        "g2": 0.25,
        "b2": 0.25,
        "w3": 4,
        "w4": 0.25,
    }
    assert same_bits(model, after)


def test_a_norm_that_the_stream_does_not_serve_keeps_a_div() -> None:
    model = graph(PRE, weights())
    after, found = folded(model, {"n1": (4, 4), "n2": (0, 0), "n3": (4, 4)})
    assert found.applied == {"n1": "fold", "n2": "div", "n3": "fold"}
    assert (ops(after).count("Div"), found.inserted) == (1, 1)
    assert same_bits(model, after)
    assert [n.scaled_by for n in find_norms_in(read_graph(after))] == [16.0, 1.0, 16.0]


def test_the_total_of_group_and_div_is_the_norms_scale() -> None:
    model = graph(PRE, weights())
    after, _ = folded(model, {"n1": (2, 2), "n2": (5, 5), "n3": (2, 2)})
    (div,) = [node for node in after.graph.node if node.op_type == "Div"]
    assert stored(after)[div.input[1]] == 8.0
    assert [n.scaled_by for n in find_norms_in(read_graph(after))] == [4.0, 32.0, 4.0]
    assert np.isclose(epsilons(after)[1], epsilons(model)[1] / 32**2, rtol=1e-7, atol=0)
    assert same_bits(model, after)


def test_a_stream_that_grows_is_cut_once_instead_of_a_div_per_norm() -> None:
    nodes, count = "r0 = Gather(table, ids)", 6
    for i in range(1, count + 1):
        nodes += f" [n{i}] x{i} = {RMS}(r{i - 1}, g{i}) m{i} = MatMul(x{i}, w{i})"
        nodes += f" r{i} = Add(r{i - 1}, m{i})"
    nodes += f" [last] y = {RMS}(r{count}, ones)"
    model = graph(nodes, weights())
    low, high = (0, 0), (6, 6)
    after, found = folded(
        model, {"n1": low, "n2": low, "n3": low, "n4": high, "n5": high, "n6": high, "last": high}
    )
    assert found.inserted == 1
    assert set(found.applied.values()) == {"fold"}
    assert [group.sigma for group in found.groups] == [1.0, 64.0]
    was, now = stored(model), stored(after)
    changed = {name for name in was if was[name].tobytes() != now[name].tobytes()}
    assert changed == {"w4", "w5", "w6"} or changed == {"w3", "w4", "w5", "w6"}
    assert same_bits(model, after)


def test_folding_again_changes_nothing() -> None:
    windows = {"n1": (0, 0), "n2": (4, 4), "n3": (4, 4)}
    once, _ = folded(graph(PRE, weights()), windows)
    twice, found = folded(once, windows)
    assert once.SerializeToString() == twice.SerializeToString()
    assert (found.applied, found.inserted, found.weights) == ({}, 0, {})


def test_nothing_else_of_the_file_changes() -> None:
    model = graph(PRE, weights())
    model.metadata_props.add(key="author", value="me")
    model.graph.node[2].metadata_props.add(key="layer", value="1")
    model.graph.node[2].doc_string = "a product"
    after, _ = folded(model, dict.fromkeys(("n1", "n2", "n3"), (3, 3)))
    texts = differences(model, after)
    assert all(
        "raw_data" in text or "metadata_props[slanc." in text or "epsilon" in text for text in texts
    )
    assert after.graph.node[2].doc_string == "a product"
    assert [(p.key, p.value) for p in after.metadata_props] == [("author", "me")]


def test_a_graph_output_of_the_stream_keeps_its_value() -> None:
    model = graph(PRE, weights(), outputs="float[a, b, c] y, float[a, b, c] r1")
    after, found = folded(model, dict.fromkeys(("n1", "n2", "n3"), (3, 3)))
    assert (found.inserted, ops(after).count("Mul")) == (1, 1)
    assert [output.name for output in after.graph.output] == ["y", "r1"]
    assert same_bits(model, after)


def test_a_tied_embedding_gets_one_node_and_no_second_table() -> None:
    nodes = PRE.replace("[n3] y", "[n3] h") + "turned = Transpose(table) y = MatMul(h, turned)"
    model = graph(nodes, weights())
    after, found = folded(model, dict.fromkeys(("n1", "n2", "n3"), (3, 3)))
    assert (found.inserted, found.copied) == (1, 0)
    assert (stored(after)["table"] == stored(model)["table"]).all()
    (mul,) = [node for node in after.graph.node if node.op_type == "Mul"]
    assert mul.input[0] == "r0"
    assert same_bits(model, after)
    assert any("shared" in reason_text(note) for note in found.notes)


def test_where_nodes_would_cost_more_than_divs_the_divs_stay() -> None:
    nodes = f"""
        a1 = Exp(x) a2 = Sin(x) a3 = Cos(x)
        s1 = Add(a1, a2) s2 = Add(s1, a3)
        [n] y = {RMS}(s2, g1)
    """
    model = graph(nodes, weights(), f"float[a, b, {D}] x")
    after, found = folded(model, {"n": (3, 3)})
    assert (found.applied, found.inserted) == ({"n": "div"}, 1)
    assert same_bits(model, after, x=normal(5, 1, 3, D))


def test_no_scale_but_a_power_of_two_is_folded() -> None:
    model = graph(PRE, weights())
    norms = decided(model, dict.fromkeys(("n1", "n2", "n3"), (3, 3)))
    norms[1] = replace(norms[1], scale=3.0)
    with pytest.raises(SlancError, match="power of two"):
        fold(read_model(model), norms, Options())


def test_a_norm_without_an_estimate_goes_with_its_group() -> None:
    model = graph(PRE, weights())
    windows = {"n1": (3, 3), "n3": (3, 3)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found, scaled = fold(read_model(copy), decided(copy, windows), Options())
    assert found.inserted == 0
    assert [(s.status, s.scale) for s in scaled] == [("scaled", 8.0)] * 3


def test_no_divisor_of_a_long_product_is_beyond_fp32() -> None:
    steps = " ".join(f"a{i + 1} = Mul(x, a{i})" for i in range(100))
    nodes = f"a0 = MatMul(x, w1) {steps} o = MatMul(a100, w2) total = Add(x, o)"
    model = between(nodes, weights())
    after, _ = folded(model, {"first": (2, 4), "last": (20, 30)})
    added = [value for name, value in stored(after).items() if name.startswith("slanc.")]
    assert added and all(np.isfinite(value) and value > 0 for value in added)
