"""A file that is written in FP16 fits it between its norms too, without a node and to the bit."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from sample_models import llama_like
from slanc_onnx.apply.fold import Fold, apply_fold, fold
from slanc_onnx.estimate import probe_tensors
from slanc_onnx.graph import Tensor
from slanc_onnx.job import decide, protect_file
from slanc_onnx.norms import read_model
from slanc_onnx.options import Options
from slanc_onnx.reasons import Note, Undivided, Unraised
from tests.models.fold_models import RMS, decided, ops, weights
from tests.models.small_graphs import IDS, D, graph, normal
from tests.oracles.unoptimised import Values, different, run

FP16 = 65504.0
TO_FP16 = Options(apply="fold", to="fp16", certify="off")
FED: Values = {"input_ids": np.random.default_rng(3).integers(0, 200, (2, 24))}
SMALL: Values = {"ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int64)}
PLANTED = {"up_proj": 16, "down_proj": -16, "v_proj": 17, "o_proj": -17}


def planted(model: onnx.ModelProto, powers: Mapping[str, int]) -> onnx.ModelProto:
    """A copy with weights times 2^k, by a part of their names; its outputs stay what they are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        for part, power in powers.items():
            if part in tensor.name:
                values = np.ldexp(numpy_helper.to_array(tensor), power)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def range_folded(
    model: onnx.ModelProto, options: Options = TO_FP16
) -> tuple[onnx.ModelProto, Fold]:
    """A folded copy, and what was done."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    read = read_model(copy)
    ranges = probe_tensors(read, options) if options.to else None
    found, _ = fold(read, decide(read, options), options, ranges)
    apply_fold(copy, found, None)
    return copy, found


def largest(model: onnx.ModelProto, fed: Values) -> dict[str, float]:
    """The largest |x| of every FP32 tensor that a node of the main graph makes."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    for name in (name for node in model.graph.node for name in node.output if name):
        shown.graph.output.add(name=name)  # ONNX Runtime finds the types
    floats = {name: v for name, v in run(shown, **fed).items() if v.dtype == np.float32}
    assert all(np.isfinite(v).all() for v in floats.values())
    sizes = {name: float(np.abs(v).max(initial=0)) for name, v in floats.items()}
    return {name: size for name, size in sizes.items() if size < 1e30}  # but for masks


def inserted_by_norms(model: onnx.ModelProto) -> int:
    return range_folded(model, replace(TO_FP16, to=None))[1].inserted


def outside_norms(sizes: Mapping[str, float], model: onnx.ModelProto) -> dict[str, float]:
    """Without what a norm computes inside, which its own scale takes care of."""
    inside = {
        name
        for norm in read_model(model).norms
        for index in norm.nodes
        for name in model.graph.node[index].output
        if name != norm.output
    }
    return {name: size for name, size in sizes.items() if name not in inside}


@pytest.fixture(scope="module")
def llama() -> onnx.ModelProto:
    return llama_like.build()


def test_planted_powers_of_two_are_taken_back_without_a_node(llama: onnx.ModelProto) -> None:
    model = planted(llama, PLANTED)
    before = outside_norms(largest(model, FED), model)
    assert max(before.values()) > 8 * FP16
    after, found = range_folded(model)
    sizes = outside_norms(largest(after, FED), after)
    assert max(sizes.values()) < FP16
    assert found.inserted == inserted_by_norms(llama) == ops(after).count("Div")
    assert len(after.graph.node) == len(llama.graph.node) + found.inserted
    assert different(run(model, **FED), run(after, **FED)) == []
    assert different(run(llama, **FED), run(after, **FED)) == []
    raised = [group for group in found.ranges if group.raised]
    assert raised and all(group.stored <= FP16 / 4 for group in raised)
    assert all(group.stored == group.largest / 2**group.exponent for group in raised)
    assert [group.reason for group in found.ranges if group.reason is not None] == []


def test_a_model_that_fits_is_folded_as_its_norms_ask(llama: onnx.ModelProto) -> None:
    _, found = range_folded(llama)
    _, plain = range_folded(llama, replace(TO_FP16, to=None))
    assert not any(group.raised for group in found.ranges)
    assert (found.weights, found.inserted) == (plain.weights, plain.inserted)
    assert (plain.ranges, plain.faint) == ((), ())


def test_a_second_fold_changes_nothing(llama: onnx.ModelProto) -> None:
    once, _ = range_folded(planted(llama, PLANTED))
    twice, found = range_folded(once)
    assert (found.weights, found.inserted, found.copied) == ({}, 0, 0)
    assert once.SerializeToString() == twice.SerializeToString()


def test_without_the_type_or_the_ranges_only_norms_are_asked(llama: onnx.ModelProto) -> None:
    read = read_model(planted(llama, PLANTED))
    norms, ranges = decide(read, TO_FP16), probe_tensors(read, TO_FP16)
    plain, _ = fold(read, norms, replace(TO_FP16, to=None))
    for other in (replace(TO_FP16, to=None), replace(TO_FP16, to="bf16")):
        found, _ = fold(read, norms, other, ranges)
        assert (found.weights, found.inserted) == (plain.weights, plain.inserted)
        assert (found.ranges, found.faint) == ((), ())
    found, _ = fold(read, norms, TO_FP16)
    assert found.ranges == ()
    assert found.weights == {} and "div" in found.applied.values()  # as weights would fade
    assert any(n.behind and n.behind.kind is Undivided.FADES for n in found.notes)


def test_logits_are_divided_where_the_scale_behind_them_takes_it_back(
    llama: onnx.ModelProto,
) -> None:
    model = planted(llama, {"q_proj": 9, "k_proj": 3})
    assert max(outside_norms(largest(model, FED), model).values()) > FP16
    scale = {t.name for t in model.graph.initializer if not t.dims and _number(t) == 0.25}
    for tensor in model.graph.initializer:
        if tensor.name in scale:  # softmax sees what it saw
            tensor.CopyFrom(
                numpy_helper.from_array(np.array(0.25 / 2**12, np.float32), tensor.name)
            )
    after, found = range_folded(model)
    assert found.inserted == inserted_by_norms(llama)
    assert max(outside_norms(largest(after, FED), after).values()) < FP16
    assert different(run(model, **FED), run(after, **FED)) == []
    divided = {tensor.name for tensor in found.weights}
    assert any("q_proj" in name or "k_proj" in name for name in divided)


def _number(tensor: onnx.TensorProto) -> float:
    return float(numpy_helper.to_array(tensor)) if tensor.data_type == TensorProto.FLOAT else 0.0


ATTENTION = f"""
    r0 = Gather(table, ids)
    [n1] x = {RMS}(r0, g1)
    q = MatMul(x, w1)
    k = MatMul(x, w2)
    kt = Transpose<perm = [0, 2, 1]>(k)
    logits = MatMul(q, kt)
    scaled = Mul(logits, scale)
    {{masked}}
    p = Softmax(masked)
    v = MatMul(x, w3)
    a = MatMul(p, v)
    o = MatMul(a, w4)
    r1 = Add(r0, o)
    [n2] y = {RMS}(r1, g2)
"""
PLAIN = ATTENTION.format(masked="masked = Identity(scaled)")
MASKED = ATTENTION.format(masked="masked = Add(scaled, mask)")


def attention(nodes: str, scale: float, **more: NDArray[Any]) -> onnx.ModelProto:
    """One block whose logits are of the order of 1e6 and then multiplied by `scale`."""
    wide = {"w1": normal(1, D, D, spread=256.0), "w2": normal(2, D, D, spread=256.0)}
    return graph(nodes, weights(**wide, scale=np.array(scale, np.float32), **more))


def test_what_a_softmax_reads_too_large_is_told_and_left_alone() -> None:
    after, found = range_folded(attention(PLAIN, 0.5))
    assert "Mul" not in ops(after)[ops(after).index("Softmax") - 1]
    told = {group.holds: group.reason for group in found.ranges if group.reason is not None}
    (reason,) = told.values()
    assert reason is not None and (reason.kind, reason.op) == (Unraised.READ_BY, "Softmax")
    assert found.inserted == inserted_by_norms(attention(PLAIN, 0.5))


def test_logits_alone_are_divided_in_front_of_a_softmax_that_fits() -> None:
    model = attention(PLAIN, 2.0**-12)
    after, found = range_folded(model)
    assert found.inserted == inserted_by_norms(model)
    (logits,) = [group for group in found.ranges if group.raised]
    assert (logits.tensors, logits.largest > FP16) == (("logits",), True)
    assert logits.stored <= FP16 / 4
    assert different(run(model, **SMALL), run(after, **SMALL)) == []


@pytest.mark.parametrize("fill", [-1e9, -65504.0, -3.4e38, -np.inf])
def test_the_fill_of_a_mask_is_no_size(fill: float) -> None:
    mask = np.triu(np.full((5, 5), np.float32(fill)), 1)
    mask[~np.isfinite(mask)] = -np.inf
    model = attention(MASKED, 2.0**-12, mask=np.where(np.tri(5) > 0, 0, mask).astype(np.float32))
    options = replace(TO_FP16, dims={"sequence": 5})
    after, found = range_folded(model, options)
    assert [group.tensors for group in found.ranges if group.raised] == [("logits",)]
    assert [group.reason for group in found.ranges if group.reason is not None] == []
    assert found.inserted == inserted_by_norms(model)
    assert different(run(model, **SMALL), run(after, **SMALL)) == []


GATED = f"""
    r0 = Gather(table, ids)
    [n1] x = {RMS}(r0, g1)
    up = MatMul(x, w1)
    gate = MatMul(x, w2)
    act = {{act}}
    h = Mul(act, up)
    down = MatMul(h, w3)
    r1 = Add(r0, down)
    [n2] y = {RMS}(r1, g2)
"""


@pytest.mark.parametrize("act", ["Relu(gate)", "Sigmoid(gate)"])
def test_a_gate_times_what_it_lets_through(act: str) -> None:
    wide = {"w1": normal(1, D, D, spread=2.0**20), "w3": normal(3, D, D, spread=2.0**-20)}
    model = graph(GATED.format(act=act), weights(**wide))
    after, found = range_folded(model)
    assert found.inserted == inserted_by_norms(model)
    assert {t for g in found.ranges if g.raised for t in g.tensors} == {"up", "h"}
    assert max(outside_norms(largest(after, SMALL), after).values()) < FP16
    assert different(run(model, **SMALL), run(after, **SMALL)) == []


def test_a_stream_without_any_norm_fits_too() -> None:
    wide = {"w1": normal(1, D, D, spread=2.0**20), "w2": normal(2, D, D, spread=2.0**-20)}
    nodes = "e = Gather(table, ids) a = MatMul(e, w1) b = Relu(a) y = MatMul(b, w2)"
    model = graph(nodes, weights(**wide), IDS)
    after, found = range_folded(model)
    assert (found.inserted, found.applied) == (0, {})
    assert max(largest(after, SMALL).values()) < FP16
    assert different(run(model, **SMALL), run(after, **SMALL)) == []


def test_an_output_of_the_model_stays_and_is_told() -> None:
    wide = {"w1": normal(1, D, D, spread=2.0**20)}
    nodes = f"e = Gather(table, ids) [n1] x = {RMS}(e, g1) y = MatMul(x, w1)"
    _, found = range_folded(graph(nodes, weights(**wide), IDS))
    (output,) = [group for group in found.ranges if group.reason is not None]
    assert output.reason is not None and output.reason.kind is Unraised.LEAVES_GRAPH
    assert (output.holds, output.exponent, output.raised) == ("y", 0, False)


def test_what_an_unknown_op_makes_too_large_is_told() -> None:
    wide = {"w1": normal(1, D, D, spread=300.0)}
    nodes = f"""
        e = Gather(table, ids)
        [n1] x = {RMS}(e, g1)
        a = MatMul(x, w1)
        cubed = Pow(a, three)
        t = Tanh(cubed)
        r = Add(t, e)
        [n2] y = {RMS}(r, g2)
    """
    _, found = range_folded(graph(nodes, weights(**wide, three=np.array(3, np.float32)), IDS))
    (told,) = [group for group in found.ranges if group.reason is not None]
    assert told.reason is not None
    assert (told.holds, told.reason.kind, told.reason.op) == ("cubed", Unraised.MADE_BY, "Pow")


def test_a_weight_that_others_read_costs_a_node_and_the_tensor_fits() -> None:
    wide = {"w1": normal(1, D, D, spread=2.0**20)}
    nodes = f"""
        e = Gather(table, ids)
        [n1] x = {RMS}(e, g1)
        a = MatMul(x, w1)
        b = MatMul(a, w2)
        t = Transpose<perm = [1, 0]>(w1)
        c = MatMul(ones, t)
        bc = Mul(b, small)
        r = Add(e, bc)
        d = Add(r, c)
        [n2] y = {RMS}(d, g2)
    """
    model = graph(nodes, weights(**wide, small=np.array(2.0**-20, np.float32)), IDS)
    after, found = range_folded(model)
    assert different(run(model, **SMALL), run(after, **SMALL)) == []
    assert all(group.reason is None for group in found.ranges)


def test_a_file_is_folded_by_what_its_tensors_are(llama: onnx.ModelProto, tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(planted(llama, PLANTED), source)
    done = protect_file(source, output, replace(TO_FP16, validate=False))
    assert done.fold is not None and done.fold.inserted == inserted_by_norms(llama)
    assert any(group.raised for group in done.fold.ranges)
    assert Note.RANGES_UNKNOWN not in {note.kind for note in done.notes}


def test_a_file_that_does_not_run_is_folded_by_its_norms_and_says_so(tmp_path: Path) -> None:
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    model = graph(f"e = Gather(table, ids) [n] x = {RMS}(e, g1) y = custom.Op(x)", weights())
    model.opset_import.add(domain="custom", version=1)
    onnx.save(model, source)
    done = protect_file(source, output, replace(TO_FP16, validate=False))
    (note,) = [note for note in done.notes if note.kind is Note.RANGES_UNKNOWN]
    assert note.behind is not None and "cannot load" in str(note.behind.facts[0])
    assert done.fold is not None and (done.fold.ranges, done.fold.faint) == ((), ())


def test_what_is_added_in_front_of_a_norm_fits_though_the_norm_would_not_ask() -> None:
    nodes = f"""
        r0 = Gather(table, ids)
        [n1] x = {RMS}(r0, g1)
        m = MatMul(x, w1)
        r1 = Add(r0, m)
        r2 = Sub(r1, m)
        [n2] y = {RMS}(r2, g2)
    """
    model = graph(nodes, weights(w1=normal(1, D, D, spread=2.0**18)))
    read = read_model(model)
    norms = decided(model, {"n1": (0, 1), "n2": (0, 1)})
    found, after = fold(read, norms, TO_FP16, probe_tensors(read, TO_FP16))
    sizes = {name: group for group in found.ranges for name in group.tensors}
    assert sizes["m"] is sizes["r0"] is sizes["r2"]
    assert sizes["m"].largest > 4 * FP16 and sizes["m"].stored <= FP16 / 4
    assert (sizes["m"].norms, sizes["m"].raised, sizes["m"].reason) == (2, False, None)
    assert {norm.scale for norm in after} <= {1.0, 2.0}  # their windows hold: each has a node
    assert found.inserted == 2 and set(found.applied.values()) == {"div"}
    apply_fold(model, found, None)
    assert max(outside_norms(largest(model, SMALL), model).values()) < FP16


def test_two_groups_of_one_product_share_what_is_asked_in_the_way_with_fewest_nodes() -> None:
    nodes = f"""
        r0 = Gather(table, ids)
        [n1] x = {RMS}(r0, g1)
        a = MatMul(x, w1)
        b = MatMul(x, w2)
        s = Sigmoid(a)
        h = Mul(a, b)
        hs = Mul(h, s)
        d = MatMul(hs, w3)
        r1 = Add(r0, d)
        [n2] y = {RMS}(r1, g2)
    """
    wide = {"w1": normal(1, D, D, spread=512.0), "w2": normal(2, D, D, spread=512.0)}
    model = graph(nodes, weights(**wide, w3=normal(3, D, D, spread=2.0**-18)))
    after, found = range_folded(model)
    assert found.inserted == inserted_by_norms(model)
    assert found.weights[Tensor((), "w2")] >= 4  # not w1, which a sigmoid reads
    assert Tensor((), "w1") not in found.weights
    assert max(outside_norms(largest(after, SMALL), after).values()) < FP16
    assert different(run(model, **SMALL), run(after, **SMALL)) == []
