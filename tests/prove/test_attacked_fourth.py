"""What a fourth attack broke: mixtures of rows, ends of ranges, caches, and readings of ops."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from slanc_onnx import Options, compute_scales
from slanc_onnx.graph import Array
from slanc_onnx.prove import Certificate
from slanc_onnx.prove.bound import NoBound
from slanc_onnx.prove.sets import Ellipsoids, ball, one_of
from slanc_onnx.prove.trusted.sizes import Dim
from slanc_onnx.prove.trusted.table import MICROSOFT, RULES, applied
from slanc_onnx.prove.trusted.values import Value, interval, off_by
from slanc_onnx.reasons import Unproved, Unread
from slanc_onnx.weights import about
from tests.models.small_graphs import D, between
from tests.oracles.rule_nodes import Rows, Sample, in_blocks, packed
from tests.prove.test_attacked import IN_MASKED, MASK, SCORES, Attack, certificate_of, check, number
from tests.prove.test_rules import call_of, judged
from tests.spellings.attention import shape

F = np.float32
ZEROS = np.zeros(D, F)
ONE = {"one": number(1), "middle": shape(1), "zeros": ZEROS}
ALL_ONES = "u = Unsqueeze(x, middle) v = Clip(u, one, one) a = Attention(u, u, v) "
BACK = "w = Squeeze(r, middle) total = Add(w, zeros)"
H = "float[batch, sequence, 8] h"


def filled(value: float) -> dict[str, Array]:
    """A row of that for each id of an attack."""
    return {"h": np.full((*Attack("").ids.shape, D), value, F)}


def ranged(nodes: str, low: float, high: float, given: float, **weights: Array) -> Attack:
    """Nodes that read an input of floats in a range."""
    every = {"k": number(given), **weights}
    return Attack(nodes, every, H, filled(given), ranges={"h": (low, high)})


SMALL = (
    "p = MatMul(x, w) q = MatMul(p, w) {more} b = MatMul(x, large) c = Add({last}, b) "
    "both = Concat<axis = 1>(x, c) total = MatMul(both, large)"
)


def small(more: str, last: str) -> Attack:
    """Rows beside others to which products were added that are far below any number of FP32."""
    weights = {"w": np.full((D, D), 1e-40, F), "large": np.eye(D, dtype=F) * F(100)}
    return Attack(SMALL.format(more=more, last=last), weights, target="bf16-fp32")


LATER = np.triu(np.full((64, 64), -np.inf), 1).astype(F)
BLOCKED = LATER.copy()
BLOCKED[3] = -np.inf
HIDDEN = (
    SCORES + "n = Shape(sc) e = Slice(n, last, far, zeroth) c = Slice(fixed, from, e, first) "
    "d = Slice(c, from, e, zeroth) s = Add(sc, d) m = Unsqueeze(mask, middle) t2 = Cast<to = 9>(m) "
    "f = Where(t2, zero, ninf) both = Add(s, f) p = Softmax<axis = -1>(both) total = MatMul(p, x)"
)
PLACES = {
    **{"last": shape(-1), "far": shape(9), "zeroth": shape(0), "first": shape(1)},
    **{"from": shape(0)},
}


def hidden(fixed: Array) -> Attack:
    """Scores that a matrix of the file hides, and a mask besides, which keeps all."""
    given = {"mask": np.ones(Attack("").ids.shape, np.int64)}
    return Attack(HIDDEN, {**IN_MASKED, **PLACES, "fixed": fixed}, MASK, given)


ATTACKS = {
    "a mixture that is a little below all of its rows": Attack(
        f"{ALL_ONES} s = Sub(a, one) r = Sqrt(s) {BACK}", ONE, opset=23
    ),
    "a mixture that is a little above all of its rows": Attack(
        f"{ALL_ONES} s = Sub(one, a) r = Sqrt(s) {BACK}", ONE, opset=23
    ),
    "the end of a range that FP32 rounds up": ranged(
        "s = Sub(k, h) r = Reciprocal(s) total = Add(x, r)", 0.05, 0.1, 0.1
    ),
    "the end of a range that FP32 rounds down": ranged(
        "s = Sub(h, k) r = Log(s) total = Add(x, r)", 0.7, 0.9, 0.7
    ),
    "a range that FP32 does not hold": ranged(
        "s = Mul(h, zero) total = Add(x, s)", -1e39, 1e39, np.inf, zero=number(0)
    ),
    "a matrix that hides all of a row, whatever the mask keeps": hidden(BLOCKED),
    "products so small that their squares are nothing in FP64": small(
        "r = MatMul(q, w) s = MatMul(r, w) t = MatMul(s, w)", "t"
    ),
}
TINY_CHANNEL = {
    "tiny": np.array([1.06e-8, *[1] * (D - 1)], F),
    "back": np.array([1e8, *[0] * (D - 1)], F),
}
TINIER = {
    **{
        "less": np.array([1e-20, *[1] * (D - 1)], F),
        "tiny": np.array([2.5e-26, *[1] * (D - 1)], F),
    },
    **{"back": np.array([1e38, *[0] * (D - 1)], F), "far": number(1e7)},
}
IN_FP16 = "h = Cast<to = 10>(t) f = Cast<to = 1>(h) total = Mul(f, back)"
IN_FP32 = "u = Mul(t, tiny) q = Mul(u, back) total = Mul(q, far)"
for function in ("Tanh", "Relu", "Abs"):
    ATTACKS[f"{function} of a channel that FP16 rounds to twice what it was"] = Attack(
        f"s = Mul(x, tiny) t = {function}(s) {IN_FP16}", TINY_CHANNEL, target="bf16-fp32"
    )
    ATTACKS[f"{function} of a channel that FP32 rounds to twice what it was"] = Attack(
        f"s = Mul(x, less) t = {function}(s) {IN_FP32}", TINIER, target="bf16-fp32"
    )
KEPT = {
    "a channel that FP16 rounds to twice what it was": Attack(
        f"s = Mul(x, tiny) t = Tanh(s) {IN_FP16}", TINY_CHANNEL, target="bf16-fp32"
    ),
    "a mixture of ones": Attack(
        f"{ALL_ONES} s = Add(a, one) r = Sqrt(s) {BACK}", ONE, opset=23
    ),
    "a range well within FP32": ranged(
        "s = Sub(k, h) r = Reciprocal(s) total = Add(x, r)", 0.05, 0.09, 0.1
    ),
    "a matrix that hides what comes later": hidden(LATER),
    "products that are small": small("", "q"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_no_certificate_is_false(name: str) -> None:
    check(ATTACKS[name])


@pytest.mark.parametrize("name", KEPT)
def test_what_is_sound_keeps_its_certificate(name: str) -> None:
    assert certificate_of(KEPT[name]).certified
    check(replace(KEPT[name], given=filled(0.07)) if "range" in name else KEPT[name])


def cached(*outputs: str) -> Certificate:
    """Of the norm behind attention with a cache, in a graph that also has these outputs."""
    nodes = "u = Unsqueeze(x, middle) a, k2, v2 = Attention(u, u, u, mask, pk, pv) r = Identity(a) "
    caches = "float[batch, heads, past, 8] pk, float[batch, heads, past, 8] pv"
    model = between(nodes + BACK, ONE, caches, 23)
    attention = next(node for node in model.graph.node if node.op_type == "Attention")
    attention.input[3] = ""
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    found = compute_scales(model, Options(estimate="weights"))[-1].certificate
    assert found is not None
    return found


def test_a_cache_is_made_by_the_model_where_that_gives_it_back() -> None:
    whole = cached("k2", "v2")
    assert whole.certified
    assert {c.input for c in whole.conditions if c.kind == "made"} == {"pk", "pv"}
    assert not cached("k2").certified and not cached().certified


def grouped(value: float = 1.0, kind: type = np.float32, **more: int) -> Sample:
    """GroupQueryAttention of values of a size, in FP32 or FP16."""
    keys = Rows((2,), dims=(2, 3, 16), dtype=kind)
    values = Rows((), value, value, (2, 3, 16), kind)
    seen = np.array([2, 2], np.int32), np.array(3, np.int32)
    attributes = {"num_heads": 1, "kv_num_heads": 1, **more}
    return Sample(
        "GroupQueryAttention", (keys, keys, values, None, None, *seen), attributes, MICROSOFT
    )


def turned(sample: Sample, most: float) -> Sample:
    """The same with an own rotation, by tables of numbers of a size."""
    tables = [np.full((4, 8), most, sample.inputs[0].dtype)] * 2  # type: ignore[union-attr]
    attributes = {**sample.attributes, "do_rotary": 1}
    return replace(sample, inputs=(*sample.inputs, *tables), attributes=attributes)


def refused(sample: Sample) -> object:
    with pytest.raises(NoBound) as error:
        judged(sample)
    return error.value.reason.kind


def test_a_mixture_may_be_divided_behind_its_sum() -> None:
    """ONNX Runtime sums e^(score - most) v, so that three values of 3e38 give inf."""
    assert refused(grouped(3e38)) is Unproved.OVERFLOWS_BETWEEN
    judged(grouped(1e30))


def test_what_an_op_rotates_is_held_by_its_type() -> None:
    half = grouped(kind=np.float16)
    assert refused(turned(half, 20000.0)) is Unproved.OVERFLOWS_BETWEEN
    judged(turned(half, 1.0))
    assert refused(turned(grouped(), 3e38)) is Unproved.OVERFLOWS_BETWEEN
    ones, tiny = (Rows((), size, size, (2, 3, 16), np.float16) for size in (1.0, 1e-7))
    for query, key in ((ones, tiny), (tiny, ones)):  # whose products are small
        rows = replace(half, inputs=(query, key, *half.inputs[2:]))
        assert refused(turned(rows, 50000.0)) is Unproved.OVERFLOWS_BETWEEN
        judged(turned(rows, 5000.0))


def test_a_row_of_minus_infinity_to_choose_hides_what_the_choice_does() -> None:
    lowest = np.full((1, 6), -np.inf, F)
    for choices in ((np.zeros((1, 6), F), lowest), (lowest, np.zeros((1, 6), F))):
        sample = Sample("Where", (Rows((), 0, 1, (3, 6), np.bool_), *choices))
        [chosen] = applied(RULES["", "Where"], call_of(sample))
        assert isinstance(chosen, Value) and chosen.infinite and "" not in chosen.hides


def test_an_input_that_the_table_does_not_know_is_unknown() -> None:
    """Such as weights that normalise queries, so that scores are larger than without."""
    more = (*grouped().inputs, *[None] * 7, np.full(16, 1e20, F))
    assert refused(replace(grouped(), inputs=more)) is Unread.UNKNOWN_INPUT


def test_an_op_of_onnx_runtime_has_no_more_inputs_than_its_rule_has_types() -> None:
    own = (schema for schema in get_all_operator_schema() if schema.domain == MICROSOFT)
    told = {schema.name: len(schema.inputs) for schema in own}
    ruled = {op: len(rule.types) for (domain, op), rule in RULES.items() if domain == MICROSOFT}
    more = {op for op, count in ruled.items() if told[op] > count}
    assert more <= {"GroupQueryAttention"} and len(ruled) >= 8  # whose further ones are refused


@pytest.mark.parametrize(("bits", "zero"), [(4, packed(3, 1)), (2, None)])
def test_columns_in_another_order_are_read_in_two_ways(bits: int, zero: Array | None) -> None:
    """ONNX Runtime passes over packed zero points there, and takes 2 bits for 4."""
    order = np.array([0, 1] * 16, np.int32)
    plain = in_blocks(0, bits, zero)
    inputs = (*plain.inputs[:4], order, None)
    assert refused(replace(plain, inputs=inputs)) is Unread.READ_IN_TWO_WAYS
    judged(plain)
    judged(replace(in_blocks(0, 4), inputs=(*in_blocks(0, 4).inputs[:4], order, None)))


def test_the_places_of_a_number_without_axes_are_told_in_two_ways() -> None:
    assert refused(Sample("NonZero", (Rows((), 0, 2, (), np.int64),))) is Unread.READ_IN_TWO_WAYS
    judged(Sample("NonZero", (Rows((), 0, 2, (3,), np.int64),)))


def test_a_shape_to_expand_to_has_no_negative_sizes() -> None:
    """ONNX Runtime refuses them, and others take them for the sizes that are there."""
    call = call_of(Sample("Expand", (Rows(), shape(-1, 3, 6))))
    first = call.inputs[0]
    assert isinstance(first, Value)
    dims: tuple[Dim, ...] = ("batch", *first.dims[1:])
    opened = replace(call, inputs=(replace(first, dims=dims), call.inputs[1]))
    with pytest.raises(NoBound) as error:
        applied(RULES["", "Expand"], opened)
    assert error.value.reason.kind is Unread.NO_FIT


def test_the_longest_of_several_kinds_of_rows_is_no_number_where_one_is_none() -> None:
    none = Ellipsoids(np.ones(2), (np.full(2, np.nan),), np.nan)
    for kinds in ([ball(2, 1.0), none], [none, ball(2, 1.0)]):
        assert not np.isfinite(one_of(kinds).length())
    assert one_of([ball(2, 1.0), ball(2, 3.0)]).length() >= 3.0


@pytest.mark.parametrize("size", [1e-300, 1e-85, 1.0, 1e38, 1e150])
def test_a_matrix_of_any_size_has_about_its_norm(size: float) -> None:
    matrix = np.random.default_rng(3).normal(size=(5, 7))
    assert abs(about(matrix * size) / size / np.linalg.norm(matrix, 2) - 1) < 0.2


@pytest.mark.parametrize("ends", [(-3.0, 2.0), (1.0, 4.0), (-4.0, -1.0), (0.0, 0.0)])
def test_what_rounding_moves_is_within_the_ends_of_the_interval(ends: tuple[float, float]) -> None:
    given = interval(1, (2, 3), *ends, call_of(Sample("Relu")).facts)
    made = off_by(given, 0.25, 0.5)
    for end in ends:
        for moved in (end - 0.25 * abs(end) - 0.5, end + 0.25 * abs(end) + 0.5):
            assert made.low <= moved <= made.high
            assert abs(moved) <= made.largest
