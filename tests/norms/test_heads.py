"""Norms inside attention ops are written out, and scaled as any other; NumPy has the truth."""

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, apply_scales, compute_scales, protect
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.norms import read_model
from slanc_onnx.options import ApplyRule
from slanc_onnx.reasons import Reason, Unscalable
from tests.oracles.unoptimised import Values, different, run

TEXT = """
<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>
main (float[2, s, 64] q, float[2, s, 32] k, float[2, s, 32] v, float[2, 2, p, 16] pk,
      float[2, 2, p, 16] pv, int32[2] len, int32 total)
    => (float[2, s, 64] y, float[2, 2, t, 16] k2, float[2, 2, t, 16] v2)
<float[16] qw = {{{qw}}}, float[16] kw = {{{kw}}}>
{{
    {before}
    [attention] y, k2, v2 = com.microsoft.GroupQueryAttention
        <num_heads = 4, kv_num_heads = 2 {more}> ({inputs}, pk, pv, len, total {norms})
}}
"""
WEIGHTS = np.random.default_rng(3).normal(size=(2, 16)).astype(np.float32)
NORMS = ", , , , , , , , qw, kw"
EPSILON = ", qk_norm_epsilon = 0.01"
APART = ", q_norm_epsilon = 0.5, k_norm_epsilon = 0.002"
PACKED = ("qkv = Concat<axis = -1>(q, k, v)", "qkv, , ")


def written(
    more: str = EPSILON,
    norms: str = NORMS,
    opset: int = 21,
    inputs: tuple[str, str] = ("", "q, k, v"),
) -> onnx.ModelProto:
    qw, kw = (", ".join(f"{value:.9g}" for value in row) for row in WEIGHTS)
    before, names = inputs
    text = TEXT.format(
        opset=opset, qw=qw, kw=kw, before=before, more=more, inputs=names, norms=norms
    )
    return onnx.parser.parse_model(text)


def feeds(size: float = 1.0) -> Values:
    rng = np.random.default_rng(1)
    values = {
        name: rng.normal(size=(2, 5, width)).astype(np.float32) * np.float32(size)
        for name, width in (("q", 64), ("k", 32), ("v", 32))
    }
    values["v"] /= np.float32(size)
    empty = np.zeros((2, 2, 0, 16), np.float32)
    last, total = np.full(2, 4, np.int32), np.array(5, np.int32)
    return {**values, "pk": empty, "pv": empty, "len": last, "total": total}


def normalised(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    heads = x.astype(np.float64).reshape(2, 5, -1, 16)
    heads = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + epsilon) * weight
    return np.asarray(heads.reshape(x.shape), np.float32)


@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize("inputs", [("", "q, k, v"), PACKED], ids=["apart", "packed"])
@pytest.mark.parametrize(
    ("more", "epsilons"),
    [(EPSILON, (0.01, 0.01)), (APART, (0.5, 0.002)), ("", (1e-6, 1e-6))],
    ids=["one epsilon", "two", "none"],
)
def test_norms_of_heads_are_written_out_and_scaled(
    more: str, epsilons: tuple[float, float], inputs: tuple[str, str], opset: int
) -> None:
    read = read_model(written(more, opset=opset, inputs=inputs))
    assert read.written_out == ["attention"]
    assert [norm.name for norm in read.norms] == ["attention/q_norm", "attention/k_norm"]
    given = feeds()
    known = {**given}
    for name, weight, epsilon in zip("qk", WEIGHTS, epsilons, strict=True):
        known[name] = normalised(given[name], weight, epsilon)
    expected = run(written("", "", opset), **known)
    before = run(read.model, **given)
    for name, value in expected.items():
        np.testing.assert_allclose(before[name], value, rtol=1e-4, atol=1e-5)
    scales = {norm.name: 4.0 + 60 * place for place, norm in enumerate(read.norms)}
    assert apply_scales_in(read.model, read.norms, scales)
    assert different(before, run(read.model, **given)) == []


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_hot_heads_are_protected(apply: ApplyRule) -> None:
    model, given = written(), feeds(300.0)
    plain = run(read_model(model).model, **given)
    decided = protect(model, Options(inputs=given, apply=apply))
    assert [d.status for d in decided] == ["scaled", "scaled"]
    assert all(d.scale is not None and d.scale > 1 for d in decided)
    assert different(plain, run(model, **given)) == []
    again = read_model(model)
    assert again.written_out == []
    assert [norm.scaled_by for norm in again.norms] == [d.scale for d in decided]


def test_an_attention_without_norms_stays() -> None:
    model = written("", "")
    read = read_model(model)
    assert read.model is model and read.norms == [] and read.written_out == []


def test_packed_heads_of_unknown_length_stay_inside_with_the_reason() -> None:
    model = written(inputs=PACKED)
    for tensor in model.graph.initializer:
        model.graph.input.add(name=tensor.name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del model.graph.initializer[:]
    decided = compute_scales(model, Options(estimate="weights"))
    assert [d.status for d in decided] == ["skipped", "skipped"]
    assert all(d.reasons == (Reason(Unscalable.HEADS_INSIDE),) for d in decided)
    before = model.SerializeToString()
    assert not apply_scales(model, decided)
    assert model.SerializeToString() == before


def test_one_in_a_branch_is_written_out_there() -> None:
    model = written()
    branch = onnx.GraphProto(name="taken")
    branch.node.extend(model.graph.node)
    branch.output.extend(model.graph.output)
    condition = onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    del model.graph.node[:]
    outputs = [info.name for info in model.graph.output]
    node = onnx.helper.make_node("If", ["yes"], outputs, then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    given, read = feeds(), read_model(model)
    assert [norm.path[0][1] for norm in read.norms] == ["else_branch"] * 2 + ["then_branch"] * 2
    assert different(run(read_model(written()).model, **given), run(read.model, **given)) == []
