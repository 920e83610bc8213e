"""Cos and Sin of positions become tables of the right numbers, and nothing else does."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx.accelerator import FLOAT16, FLOAT32, Format
from slanc_onnx.reasons import Untabled
from tests.models.position_graphs import (
    COUNTED,
    FLOATS,
    FREQ,
    IDS,
    LENGTH,
    MASK,
    POSITIONS,
    SHAPES,
    SLOW,
    SPREAD,
    D,
    N,
    angles,
    half,
    ids,
    made,
    model_of,
    ops,
    tabled,
    twice,
)
from tests.oracles.unoptimised import run

ROTARY = "m = Mul(c, freq) d = Concat<axis = -1>(m, m) y = Cos(d)"


def test_positions_counted_by_a_range() -> None:
    model = made(
        model_of(f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} {ROTARY}", outputs="float[a, b] y")
    )
    assert [node.op_type for node in model.graph.node] == ["Shape", "Gather", "Range", "Gather"]
    assert {t.name for t in model.graph.initializer} == {"zero", "one", "y/table"}
    expected = half(np.cos(twice(angles(np.arange(N)))))
    assert (run(model, ids=ids(1, N))["y"] == expected).all()


HF = (
    "shape = Shape(positions) batch = Gather(shape, axis0) sizes = Concat<axis = 0>(batch, axis1, "
    "axis1) wide = Expand(column, sizes) u = Unsqueeze(positions, axis1) c = Cast<to = 1>(u) "
    "m = MatMul(wide, c) r = Transpose<perm = [0, 2, 1]>(m) d = Concat<axis = -1>(r, r) y = Sin(d)"
)


def test_positions_that_are_an_input_expanded_by_their_own_shape() -> None:
    model = made(model_of(HF, POSITIONS))
    assert "MatMul" not in ops(model) and "Shape" not in ops(model)
    got = run(model, positions=SPREAD)["y"]
    assert (got == half(np.sin(twice(angles(SPREAD))))).all()


WIDE = (
    f"{COUNTED} p = Unsqueeze(t, axis0) all = Shape(ids) e = Expand(p, all) its = Shape(e) "
    "batch = Gather(its, axis0) sizes = Concat<axis = 0>(batch, axis1, axis1) "
    "wide = Expand(column, sizes) u = Unsqueeze(e, axis1) c = Cast<to = 1>(u) "
    "m = MatMul(wide, c) y = Cos(m)"
)


def test_positions_expanded_by_the_shape_of_something_else() -> None:
    model = made(model_of(WIDE))
    expected = half(np.cos(angles(np.arange(5)))).T[None].repeat(2, 0)
    assert (run(model, ids=ids(2, 5))["y"] == expected).all()


def test_angles_that_every_layer_computes_anew_are_looked_up_once() -> None:
    layer = "u{0} = Unsqueeze(t, minus) c{0} = Cast<to = 1>(u{0}) m{0} = Mul(c{0}, freq) "
    layer += "k{0} = Cos(m{0}) s{0} = Sin(m{0}) "
    layers = "".join(map(layer.format, range(5)))
    names = ", ".join(f"{kind}{i}" for i in range(5) for kind in "ks")
    model = model_of(f"{COUNTED} {layers} y = Sum({names})", outputs="float[a, b] y")
    after, found = tabled(model)
    assert len(found.made) == 10 and len({table.name for table in found.made}) == 2
    lookups = [node for node in after.graph.node if node.op_type == "Gather"]
    assert len(lookups) == 3 and "Unsqueeze" not in ops(after)
    at = angles(np.arange(9))
    expected = 5 * (half(np.cos(at)) + half(np.sin(at)))
    assert np.allclose(run(after, ids=ids(1, 9))["y"], expected, rtol=0, atol=1e-5)


LAYOUTS = {
    "rows of the sequence": (
        "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq)",
        "bsd->bsd",
    ),
    "by Einsum": (
        'c = Cast<to = 1>(positions) m = Einsum<equation = "bs,d->bds">(c, freq)',
        "bsd->bds",
    ),
    "the sequence first": (
        'c = Cast<to = 1>(positions) m = Einsum<equation = "bs,d->sbd">(c, freq)',
        "bsd->sbd",
    ),
    "channels first": (
        'c = Cast<to = 1>(positions) m = Einsum<equation = "bs,d->dsb">(c, freq)',
        "bsd->dsb",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_axes_in_any_order(layout: str) -> None:
    nodes, order = LAYOUTS[layout]
    model = made(model_of(f"{nodes} y = Cos(m)", POSITIONS))
    expected = np.einsum(order, half(np.cos(angles(SPREAD))))
    assert (run(model, positions=SPREAD)["y"] == expected).all()


def test_axes_of_size_one_beside_positions_and_more_than_one_axis_of_frequencies() -> None:
    nodes = "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) p = Unsqueeze(m, "
    nodes += "axis1) q = Unsqueeze(p, minus) r = Concat<axis = -1>(q, q) y = Cos(r)"
    model = made(model_of(nodes, POSITIONS, "float[a, b, c, d, e] y"))
    expected = half(np.cos(angles(SPREAD)))[:, None, :, :, None].repeat(2, -1)
    assert (run(model, positions=SPREAD)["y"] == expected).all()


def test_positions_of_three_kinds_on_a_first_axis() -> None:
    inputs = "int64[3, batch, sequence] positions"
    nodes = "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) y = Cos(m)"
    positions = np.random.default_rng(2).integers(0, N, (3, 2, 5))
    model = made(model_of(nodes, inputs, "float[3, b, s, d] y"))
    assert (run(model, positions=positions)["y"] == half(np.cos(angles(positions)))).all()


def test_positions_of_a_fixed_shape() -> None:
    nodes = (
        "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) p = Transpose<perm "
    )
    nodes += "= [2, 1, 0]>(m) y = Cos(p)"
    model = made(model_of(nodes, "int64[1, 7] positions", "float[3, 7, 1] y"))
    positions = np.arange(7)[None] * 300
    expected = half(np.cos(angles(positions))).transpose(2, 1, 0)
    assert (run(model, positions=positions)["y"] == expected).all()


def test_positions_of_a_fixed_batch_need_no_more_than_a_gather() -> None:
    nodes = "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) y = Cos(m)"
    model = made(model_of(nodes, "int64[1, s] positions"))
    assert ops(model) <= {"Add", "Less", "Where", "Gather"}
    positions = np.arange(7)[None] * 300
    assert (run(model, positions=positions)["y"] == half(np.cos(angles(positions)))).all()


@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "int64"])
def test_positions_of_any_type(kind: str) -> None:
    nodes = "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) y = Cos(m)"
    model = made(model_of(nodes, f"{kind}[s] positions", "float[a, b] y"))
    positions = np.arange(100).astype(kind)
    assert (run(model, positions=positions)["y"] == half(np.cos(angles(positions)))).all()


OFFSETS = {
    "a range": f"{LENGTH} stop = Add(past, length) t = Range(past, stop, one)",
    "a sum": f"{COUNTED} s = Add(t, past) t2 = Identity(s)",
}


@pytest.mark.parametrize("offset", OFFSETS)
def test_positions_behind_a_cache(offset: str) -> None:
    last = "t2" if "t2" in OFFSETS[offset] else "t"
    nodes = f"{OFFSETS[offset]} u = Unsqueeze({last}, minus) {FLOATS} {ROTARY}"
    model = made(model_of(nodes, f"{IDS}, int64 past", "float[a, b] y"))
    got = run(model, ids=ids(1, 3), past=np.array(2000))["y"]
    assert (got == half(np.cos(twice(angles(np.arange(2000, 2003)))))).all()


def test_a_cache_whose_length_a_shape_tells_needs_no_rows_below_0() -> None:
    nodes = f"{LENGTH} sizes = Shape(cache) past = Gather(sizes, two) stop = Add(past, length) "
    nodes += f"t = Range(past, stop, one) u = Unsqueeze(t, minus) {FLOATS} {ROTARY}"
    inputs = f"{IDS}, float[batch, heads, past_sequence, width] cache"
    model, found = tabled(model_of(nodes, inputs, "float[a, b] y"))
    assert [table.below for table in found.made] == [0]
    got = run(model, ids=ids(1, 3), cache=np.zeros((1, 2, 9, 4), np.float32))["y"]
    assert (got == half(np.cos(twice(angles(np.arange(9, 12)))))).all()


def test_sinusoidal_embeddings() -> None:
    nodes = f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} m = Mul(c, freq) s = Sin(m) k = Cos(m) "
    model = made(model_of(nodes + "y = Concat<axis = -1>(s, k)", outputs="float[a, b] y"))
    at = angles(np.arange(N))
    expected = half(np.concatenate((np.sin(at), np.cos(at)), -1))
    assert (run(model, ids=ids(1, N))["y"] == expected).all()


def test_frequencies_that_the_graph_computes_of_constants() -> None:
    nodes = "k = Constant<value_float = 10000.0>() e = Range(start, three, step) f = Pow(k, e) "
    nodes += "g = Reciprocal(f) u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) p = Mul(c, g) "
    model = model_of(nodes + "y = Cos(p)", POSITIONS)
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "three"))
    model = made(model)
    expected = np.cos(SPREAD[..., None] * 10000.0 ** -np.arange(3.0))
    assert (run(model, positions=SPREAD)["y"] == half(expected)).all()


SUMMED = "s = CumSum(mask, one) t = Sub(s, one) u = Unsqueeze(t, minus)"


def test_padding_on_the_left_has_the_row_of_the_position_before_the_first() -> None:
    model, found = tabled(model_of(f"{SUMMED} {FLOATS} m = Mul(c, freq) y = Sin(m)", MASK))
    assert [table.below for table in found.made] == [1]
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions = mask.cumsum(1) - 1
    assert positions.min() == -1
    assert (run(model, mask=mask)["y"] == half(np.sin(angles(positions)))).all()


ASKED = model_of(
    "u = Unsqueeze(positions, minus) c = Cast<to = 1>(u) m = Mul(c, freq) y = Cos(m)", POSITIONS
)


@pytest.mark.parametrize(("position", "there"), [(-2, False), (-1, True), (63, True), (64, False)])
def test_a_position_without_a_row_is_refused(position: int, there: bool) -> None:
    model = made(ASKED, 64)
    positions = np.array([[0, position]])
    if there:
        got = run(model, positions=positions)["y"]
        assert (got == half(np.cos(angles(positions)))).all()
    else:
        with pytest.raises(Exception, match="out of data bounds"):
            run(model, positions=positions)


def test_an_input_that_is_too_long_is_refused() -> None:
    model = made(
        model_of(f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} {ROTARY}", outputs="float[a, b] y"),
        64,
    )
    assert run(model, ids=ids(1, 64))["y"].shape == (64, D)
    with pytest.raises(Exception, match="out of data bounds"):
        run(model, ids=ids(1, 65))


FLOAT_RANGE = "f = Cast<to = 1>(length) t = Range(start, f, step) c = Unsqueeze(t, minus)"


def test_a_range_of_floats_that_counts_becomes_one_of_integers() -> None:
    model = made(model_of(f"{LENGTH} {FLOAT_RANGE} {ROTARY}", outputs="float[a, b] y"))
    assert "Cast" not in ops(model)
    expected = half(np.cos(twice(angles(np.arange(3000)))))
    assert (run(model, ids=ids(1, 3000))["y"] == expected).all()


def test_a_range_of_floats_that_does_not_count_is_kept() -> None:
    nodes = f"{LENGTH} {FLOAT_RANGE.replace('step', 'half')} {ROTARY}"
    _, found = tabled(model_of(nodes, outputs="float[a, b] y"))
    assert not found.made
    assert [kept.why.kind for kept in found.kept] == [Untabled.NOT_BY_POSITION]


def test_distances_below_0_have_rows_as_far_as_those_above() -> None:
    nodes = f"{LENGTH} low = Neg(length) t = Range(length, low, down) u = Unsqueeze(t, minus) "
    model = model_of(f"{nodes} {FLOATS} m = Mul(c, freq) y = Sin(m)", outputs="float[a, b] y")
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1), "down"))
    model = made(model, 64)
    expected = half(np.sin(angles(np.arange(63, -63, -1))))
    assert (run(model, ids=ids(1, 63))["y"] == expected).all()
    with pytest.raises(Exception, match="out of data bounds"):
        run(model, ids=ids(1, 64))


def test_two_bases_share_their_positions_and_like_tables_are_one() -> None:
    both = f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} m = Mul(c, freq) n = Mul(c, slow)"
    nodes = f"{both} p = Mul(c, freq) k0 = Cos(m) k1 = Cos(n) k2 = Cos(p) k3 = Cos(m) s = Sin(n) "
    nodes += "y = Sum(k0, k1, k2, k3) z = Neg(s)"
    model, found = tabled(model_of(nodes, outputs=SHAPES))
    names = [table.name for table in found.made]
    assert len(names) == 5 and len(set(names)) == 3
    lookups = [n for n in model.graph.node if n.op_type == "Gather" and n.input[0] in names]
    assert len(lookups) == 3 and {node.input[1] for node in lookups} == {"t"}
    got = run(model, ids=ids(1, 500))
    fast, slow = (angles(np.arange(500), freq) for freq in (FREQ, SLOW))
    summed = 3 * half(np.cos(fast)) + half(np.cos(slow))
    assert np.allclose(got["y"], summed, rtol=0, atol=1e-6)
    assert (got["z"] == -half(np.sin(slow))).all()


def test_a_result_that_is_an_output_keeps_its_name() -> None:
    both = f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} m = Mul(c, freq) y = Cos(m) z = Cos(m)"
    model, _ = tabled(model_of(both, outputs=SHAPES))
    got = run(model, ids=ids(1, 9))
    assert (got["y"] == half(np.cos(angles(np.arange(9))))).all()
    assert (got["z"] == got["y"]).all()


def test_what_follows_per_column_stays() -> None:
    nodes = (
        f"{COUNTED} u = Unsqueeze(t, minus) {FLOATS} m = Mul(c, freq) k = Cos(m) y = Mul(k, half)"
    )
    model, found = tabled(model_of(nodes, outputs="float[a, b] y"))
    assert len(found.made) == 1 and "Mul" in ops(model)
    assert (run(model, ids=ids(1, 9))["y"] == half(np.cos(angles(np.arange(9)))) / 2).all()


def test_angles_in_fp64_give_results_in_fp64() -> None:
    nodes = f"{COUNTED} u = Unsqueeze(t, minus) c = Cast<to = 11>(u) w = Cast<to = 11>(freq) "
    model, _ = tabled(model_of(nodes + "m = Mul(c, w) y = Cos(m)", outputs="double[a, b] y"))
    assert (run(model, ids=ids(1, 9))["y"] == half(np.cos(angles(np.arange(9))))).all()


def test_an_opset_whose_ops_have_axes_as_attributes() -> None:
    nodes = "u = Unsqueeze<axes = [1]>(positions) c = Cast<to = 1>(u) m = Mul(c, freq) "
    nodes += "p = Unsqueeze<axes = [0]>(m) y = Cos(p)"
    model = made(model_of(nodes, "int64[s] positions", opset=11))
    got = run(model, positions=np.arange(9))["y"]
    assert (got[0] == half(np.cos(angles(np.arange(9))))).all()


CALLED = """
<ir_version: 10, opset_import: ["": 17, "own": 1]>
main (int64[b, s] positions) => (float[b, s, d] y) { y = own.Outer(positions, freq) }
<domain: "own", opset_import: ["": 17, "own": 1]>
Outer (p, f) => (z) { z = own.Rotary(p, f) }
<domain: "own", opset_import: ["": 17]>
Rotary (p, f) => (z) {
    last = Constant<value_ints = [-1]>()
    u = Unsqueeze(p, last)
    c = Cast<to = 1>(u)
    m = Mul(c, f)
    z = Cos(m)
}
"""


def test_angles_inside_functions() -> None:
    model = onnx.parser.parse_model(CALLED)
    model.graph.initializer.append(numpy_helper.from_array(FREQ, "freq"))
    after, found = tabled(model)
    assert sorted(found.inlined) == ["Outer", "Rotary"] and not found.kept and not after.functions
    assert "Cos" not in ops(after)
    assert (run(after, positions=SPREAD)["y"] == half(np.cos(angles(SPREAD)))).all()


FORMS = [FLOAT16, Format.named("bfloat16"), FLOAT32]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_tables_are_rounded_once_to_the_format(form: Format) -> None:
    _, found = tabled(ASKED, N, form)
    model, _ = tabled(ASKED, N, form)
    (table,) = (t for t in model.graph.initializer if t.name == found.made[0].name)
    values = numpy_helper.to_array(table)
    exact = np.cos(angles(np.arange(-1, N)))
    assert values.dtype == np.float32 and values.shape == exact.shape
    nearest = np.vectorize(lambda x: np.copysign(form.nearest(abs(x)), x))
    assert (values[:300] == nearest(exact[:300])).all()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_number_just_above_a_tie_is_rounded_up(form: Format) -> None:
    step = 2 * form.unit_roundoff  # by way of FP32, which has no such number, it would go down
    above = 1 + step / 2 + 2.0**-40
    assert form.rounded(np.array([above, -above, 1 + step / 2, 0])).tolist() == [
        *(1 + step, -1 - step),
        *(1, 0),
    ]


def test_the_tables_that_are_told_are_those_of_the_file() -> None:
    model, found = tabled(ASKED, 64)
    (table,) = found.made
    assert (table.tensor, table.op, table.positions, table.source) == ("y", "Cos", 64, "positions")
    (values,) = (t for t in model.graph.initializer if t.name == table.name)
    assert tuple(values.dims) == (table.below + table.positions, table.columns)
