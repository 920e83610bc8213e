"""Cos and Sin without a table: what stays in FP32 and why, and what is no business of tables."""

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx.accelerator import FLOAT32
from slanc_onnx.apply.convert.tables import Kept, Tables
from slanc_onnx.graph import node_at
from slanc_onnx.reasons import Untabled
from slanc_onnx.report.wording import reason_text
from tests.models.position_graphs import (
    COUNTED,
    FLOATS,
    FREQ,
    IDS,
    LENGTH,
    MASK,
    POSITIONS,
    SPREAD,
    N,
    angles,
    half,
    ids,
    made,
    model_of,
    ops,
    tabled,
)
from tests.oracles.unoptimised import different, run

ROWS = "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u)"
LONGEST = "ReduceMax<keepdims = 0>(positions)"
NTK = (
    f"{ROWS} longest = {LONGEST} l = Cast<to = 1>(longest) g = Max(l, half) f = Div(freq, g) "
    "m = Mul(c, f) y = Cos(m)"
)
BY_SHAPE = (
    f"{ROWS} shape = Shape(positions) n = Gather(shape, one) l = Cast<to = 1>(n) g = Max(l, half) "
    "f = Div(freq, g) m = Mul(c, f) y = Cos(m)"
)
IN_FLOATS = (
    f"{ROWS} k = Cast<to = 1>(positions) g = ReduceMax<keepdims = 0>(k) f = Div(freq, g) "
    "m = Mul(c, f) y = Cos(m)"
)
CHOSEN = (
    f"{ROWS} longest = {LONGEST} far = Greater(longest, limit) f = If (far) <"
    "then_branch = then () => (float[n] a) { a = Mul(slow, half) }, "
    "else_branch = else () => (float[n] b) { b = Identity(freq) }> m = Mul(c, f) y = Cos(m)"
)
BY_MASK = (
    "c = Cast<to = 1>(mask) s = CumSum(c, one) u = Unsqueeze(s, minus) m = Mul(u, freq) y = Sin(m)"
)


def only_kept(found: Tables) -> Kept:
    (kept,) = found.kept
    assert not found.made
    return kept


@pytest.mark.parametrize(
    ("nodes", "inputs", "kind"),
    [
        (NTK, POSITIONS, Untabled.SEVERAL_POSITIONS),
        (BY_SHAPE, POSITIONS, Untabled.SEVERAL_POSITIONS),
        (IN_FLOATS, POSITIONS, Untabled.NOT_BY_POSITION),
        (CHOSEN, POSITIONS, Untabled.NOT_BY_POSITION),
        (BY_MASK, MASK, Untabled.NOT_BY_POSITION),
    ],
)
def test_frequencies_that_depend_on_the_length_stay_in_fp32(
    nodes: str, inputs: str, kind: Untabled
) -> None:
    model = model_of(nodes, inputs)
    after, found = tabled(model)
    assert only_kept(found).why.kind is kind
    assert after == model
    assert reason_text(only_kept(found).why)


def test_the_nodes_to_keep_are_the_float_ops_from_the_integers_on() -> None:
    model, found = tabled(model_of(CHOSEN, POSITIONS))
    kept = [node_at(model, at) for at in only_kept(found).nodes]
    assert [node.op_type for node in kept] == ["Cast", "If", "Mul", "Cos", "Identity", "Mul"]
    assert [(at.path != ()) for at in only_kept(found).nodes].count(True) == 2


def test_the_nodes_to_keep_are_where_they_are_once_other_tables_are_made() -> None:
    nodes = f"{ROWS} a = Mul(c, freq) k = Cos(a) e = Mul(c, slow) h = Sin(e) i = Neg(k) "
    nodes += NTK.removeprefix(ROWS).replace("y = Cos(m)", "j = Cos(m) y = Sum(i, h, j)")
    before = model_of(nodes, POSITIONS)
    after, found = tabled(before)
    assert len(found.made) == 2
    kept = found.kept[0]
    outputs = [node_at(after, at).output[0] for at in kept.nodes]
    assert outputs == ["c", "l", "g", "f", "m", "j"]
    got, expected = (run(model, positions=SPREAD)["y"] for model in (after, before))
    assert np.abs(got - expected).max() < 2**-10


TIMESTEP = "u = Unsqueeze(time, minus) m = Mul(u, freq) y = Cos(m)"


def test_a_timestep_of_floats_stays_in_fp32() -> None:
    model, found = tabled(model_of(TIMESTEP, "float[b] time", "float[b, d] y"))
    kept = only_kept(found)
    assert kept.why.kind is Untabled.FLOAT_INPUT and kept.why.facts == ("time",)
    assert [node_at(model, at).op_type for at in kept.nodes] == ["Unsqueeze", "Mul", "Cos"]


def test_a_timestep_of_integers_has_a_table() -> None:
    nodes = TIMESTEP.replace("Unsqueeze(time", "Unsqueeze(f").replace(
        "u =", "f = Cast<to = 1>(time) u ="
    )
    model = made(model_of(nodes, "int64[b] time", "float[b, d] y"), 1000)
    times = np.array([999, 0, 500])
    assert (run(model, time=times)["y"] == half(np.cos(angles(times)))).all()


READ = "e = Cast<to = 1>(ids)"
ROW, MATRIX = "float[a, b] y", "float[a, b, c] y"
FEATURES = {
    "of an embedding": ("e = Gather(rows, ids) m = Mul(e, half) y = Sin(m)", MATRIX),
    "of a convolution": (f"{READ} u = Unsqueeze(e, axis1) c = Conv(u, kernel) y = Sin(c)", MATRIX),
    "of an activation": (f"{READ} u = Tanh(e) y = Sin(u)", ROW),
    "of a normalised row": (f"{READ} u = Softmax(e) y = Cos(u)", ROW),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_a_periodic_activation_is_neither_made_nor_kept(kind: str) -> None:
    nodes, outputs = FEATURES[kind]
    model = model_of(nodes, outputs=outputs)
    more = {"rows": np.ones((9, 4), np.float32), "kernel": np.ones((1, 1, 1), np.float32)}
    read = {name for node in model.graph.node for name in node.input}
    kept = [numpy_helper.from_array(v, n) for n, v in more.items() if n in read]
    model.graph.initializer.extend(kept)
    after, found = tabled(model)
    assert found == Tables() and after == model


def test_two_tensors_of_positions_stay_in_fp32() -> None:
    nodes = "p = Cast<to = 1>(positions) q = Cast<to = 1>(others) t = Add(p, q) y = Cos(t)"
    inputs = f"{POSITIONS}, int64[batch, sequence] others"
    _, found = tabled(model_of(nodes, inputs, "float[a, b] y"))
    why = only_kept(found).why
    assert why.kind is Untabled.SEVERAL_POSITIONS and set(why.facts) == {"positions", "others"}


MIXED = {
    "a sum over the sequence": ('m = Einsum<equation = "bs,d->bd">(c, freq) y = Cos(m)', ROW),
    "neighbours": ("a = Slice(c, axis0, minus, axis1) m = Unsqueeze(a, minus) y = Cos(m)", MATRIX),
    "as many times as there are": (
        "all = Shape(positions) n = Gather(all, axis0) k = Concat<axis = 0>(n, axis1, axis1) "
        "u = Unsqueeze(c, axis0) m = Expand(u, k) y = Cos(m)",
        MATRIX,
    ),
    "both axes as one": (
        "r = Reshape(c, minus) u = Unsqueeze(r, minus) m = Mul(u, freq) y = Cos(m)",
        ROW,
    ),
}


@pytest.mark.parametrize("way", MIXED)
def test_angles_that_are_no_rows_by_position_stay_in_fp32(way: str) -> None:
    nodes, outputs = MIXED[way]
    _, found = tabled(model_of(f"c = Cast<to = 1>(positions) {nodes}", POSITIONS, outputs))
    assert only_kept(found).why.kind is Untabled.NO_ARRANGEMENT


def test_angles_that_are_not_finite_stay_in_fp32() -> None:
    nodes = f"{ROWS} l = Log(c) m = Mul(l, freq) y = Cos(m)"
    before = model_of(nodes, POSITIONS)
    after, found = tabled(before)
    assert only_kept(found).why.kind is Untabled.NOT_FINITE and after == before


def test_a_batch_that_the_positions_do_not_have_is_not_taken_for_columns() -> None:
    nodes = f"{LENGTH} batch = Gather(shape, axis0) t = Range(zero, length, one) "
    nodes += "sizes = Concat<axis = 0>(batch, axis1, axis1) wide = Expand(freq, sizes) "
    nodes += f"u = Unsqueeze(t, minus) {FLOATS} m = Mul(c, wide) y = Cos(m)"
    _, found = tabled(model_of(nodes))
    assert only_kept(found).why.kind in (Untabled.NO_ARRANGEMENT, Untabled.NOT_EVALUATED)


OF_ONE = (
    "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) size{0} = Shape({0}) "
    "k{0} = Concat<axis = 0>(size{0}, axis1) w{0} = Expand(freq, k{0}) m{0} = Mul(c, w{0}) "
)


def test_two_islands_that_differ_in_whose_size_they_read() -> None:
    nodes = OF_ONE.format("same") + OF_ONE.format("other").replace(
        "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) ", ""
    )
    inputs = "int64[sequence] positions, int64[sequence] same, int64[another] other"
    outputs = "float[a, b] y, float[c, d] z"
    _, found = tabled(model_of(f"{nodes} y = Cos(msame) z = Cos(mother)", inputs, outputs))
    assert [table.tensor for table in found.made] == ["y"]
    assert [kept.tensor for kept in found.kept] == ["z"]


def test_a_step_that_a_caller_may_override_does_not_count() -> None:
    nodes = f"{LENGTH} f = Cast<to = 1>(length) t = Range(start, f, step) y = Cos(t)"
    model = model_of(nodes, outputs="float[a] y")
    assert tabled(model)[1].made
    scalar = onnx.helper.make_tensor_value_info("step", onnx.TensorProto.FLOAT, [])
    model.graph.input.append(scalar)
    assert tabled(model)[1].kept


def test_angles_that_are_an_output_stay_beside_the_table() -> None:
    nodes = f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} z = Mul(c, freq) y = Cos(z)"
    model, found = tabled(model_of(nodes, outputs="float[a, b] y, float[c, d] z"))
    assert found.made and "Mul" in ops(model) and "Cos" not in ops(model)
    assert set(run(model, ids=ids(1, 3))) == {"y", "z"}


def test_a_value_that_a_caller_may_override_is_no_constant() -> None:
    nodes = f"{ROWS} m = Mul(c, freq) y = Cos(m)"
    model = model_of(nodes, POSITIONS)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("freq", onnx.TensorProto.FLOAT, [3])
    )
    _, found = tabled(model)
    assert only_kept(found).why.kind is Untabled.FLOAT_INPUT


BRANCH = """
    y = If (flag) <
        then_branch = then () => (float[a, b] p) {{ {then} }},
        else_branch = else () => (float[a, b] q) {{ {other} }}>
"""
FLAG = "bool flag"
INSIDE = f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} m = Mul(c, freq)"


def test_positions_made_inside_branches() -> None:
    other = re.sub(r"\b(shape|length|t|u|c|m)\b(?! = 1>)", r"\1_", INSIDE)
    nodes = BRANCH.format(then=f"{INSIDE} p = Cos(m)", other=f"{other} q = Sin(m_)")
    model = made(model_of(nodes, f"{IDS}, {FLAG}", "float[a, b] y"))
    at = angles(np.arange(300))
    for flag, expected in ((True, np.cos(at)), (False, np.sin(at))):
        got = run(model, ids=ids(1, 300), flag=np.array(flag))["y"]
        assert (got == half(expected)).all()


def test_positions_made_outside_a_branch() -> None:
    nodes = INSIDE + BRANCH.format(then="p = Cos(m)", other="k = Cos(m) q = Neg(k)")
    model = made(model_of(nodes, f"{IDS}, {FLAG}", "float[a, b] y"))
    at = half(np.cos(angles(np.arange(300))))
    for flag, expected in ((True, at), (False, -at)):
        got = run(model, ids=ids(1, 300), flag=np.array(flag))["y"]
        assert (got == expected).all()


LOOP = """
    y = Loop (trips, , first) <
        body = body (int64 i, bool on, float[d] before) => (bool again, float[d] after) {
            again = Identity(on)
            c = Cast<to = 1>(i)
            m = Mul(c, freq)
            k = Cos(m)
            after = Add(before, k)
        }>
"""


def test_the_count_of_a_loop_is_a_position() -> None:
    before = model_of(LOOP, "int64 trips, float[d] first", "float[d] y")
    model = made(before, 64)
    feeds: dict[str, Any] = {"trips": np.array(5), "first": np.zeros(3, np.float32)}
    expected = half(np.cos(angles(np.arange(5)))).sum(0)
    assert np.allclose(run(model, **feeds)["y"], expected, rtol=0, atol=1e-6)
    with pytest.raises(Exception, match="out of data bounds"):
        run(model, trips=np.array(65), first=np.zeros(3, np.float32))


PICKED = {
    "rows by position": "e = Gather(table, positions) d = Concat<axis = -1>(e, e) y = Cos(d)",
    "as many as there are": (
        "shape = Shape(positions) n = Gather(shape, axis1) e = Slice(table, axis0, n, axis0) "
        "u = Unsqueeze(e, axis0) y = Cos(u)"
    ),
}


@pytest.mark.parametrize("way", PICKED)
def test_constant_angles_that_are_picked_become_constants_that_are_picked(way: str) -> None:
    model = model_of(PICKED[way], POSITIONS)
    table = angles(np.arange(4000)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    after, found = tabled(model)
    assert [(t.positions, t.columns, t.source) for t in found.made] == [
        (0, 3, "")
    ] and not found.kept
    assert "table" not in {tensor.name for tensor in after.graph.initializer}
    exact = half(np.cos(table.astype(np.float64)))
    rows = exact[SPREAD] if way == "rows by position" else exact[None, : SPREAD.shape[1]]
    expected = np.concatenate((rows, rows), -1) if way == "rows by position" else rows
    assert (run(after, positions=SPREAD)["y"] == expected).all()


HEADS = "int64[] positions, float[batch, heads, rows, width] x"
BROADCAST = (
    "size = Shape(x) batch = Gather(size, axis0) p = Expand(positions, batch) "
    "u = Unsqueeze(p, minus) c = Cast<to = 1>(u) m = Mul(c, freq) y = Cos(m)"
)


def test_one_position_for_a_batch_whose_size_another_tensor_has() -> None:
    model = made(model_of(BROADCAST, HEADS.replace("[] p", " p"), "float[a, b] y"))
    got = run(model, positions=np.array(7), x=np.zeros((2, 1, 1, 1), np.float32))["y"]
    assert (got == half(np.cos(angles(np.array([7, 7]))))).all()


UNPICKED = {
    "a filled shape": "f = ConstantOfShape<value = float[1] {0.5}>(all) y = Cos(f)",
    "more than picking": "f = Expand(half, all) m = Mul(f, half) y = Cos(m)",
}


@pytest.mark.parametrize("way", UNPICKED)
def test_angles_of_constants_and_sizes_that_are_not_picked_stay_in_fp32(way: str) -> None:
    before = model_of(f"all = Shape(positions) {UNPICKED[way]}", POSITIONS, "float[a, b] y")
    after, found = tabled(before)
    assert only_kept(found).why.kind is Untabled.NO_POSITIONS and after == before


def test_constant_angles() -> None:
    nodes = "k = Cos(freq) c = Cast<to = 1>(positions) y = Add(c, k)"
    model, found = tabled(model_of(nodes, "int64[s] positions", "float[s] y"))
    assert len(found.made) == 1 and "Cos" not in ops(model)
    expected = half(np.cos(FREQ.astype(np.float64)))
    assert (run(model, positions=np.zeros(3, np.int64))["y"] == expected).all()


def test_a_model_with_tables_has_nothing_left_to_do() -> None:
    once, _ = tabled(model_of(f"{INSIDE} y = Cos(m)", outputs="float[a, b] y"))
    twice, found = tabled(once)
    assert found == Tables() and twice == once


def test_a_table_of_fp32_gives_what_the_ops_gave() -> None:
    before = model_of(f"{INSIDE} y = Cos(m)", outputs="float[a, b] y")
    after, _ = tabled(before, N, FLOAT32)
    got, expected = (run(model, ids=ids(1, 100))["y"] for model in (after, before))
    assert np.abs(got - expected).max() < 1e-5
    assert not different({"y": got}, {"y": np.cos(angles(np.arange(100))).astype(np.float32)})
