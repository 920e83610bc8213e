"""Models in FP16 or BF16 as they are in FP32: to run them, and to hold two of them together."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from slanc_onnx import Options, protect_file
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.run import float32
from slanc_onnx.run.float32 import as_float32, norms_in_float32
from slanc_onnx.run.session import Session

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
each_half = pytest.mark.parametrize("name", HALVES)
TEXT = """
<ir_version: 10, opset_import: ["": 17, "local": 1]>
main ({t}[rows, 8] x, bool c) => ({t}[rows, 8] y)
{{
    k = Constant<value_float = 3.0>() k_half = CastLike(k, x) a = Mul(x, k_half)
    f = Cast<to = 1>(a) b = Cast<to = {kind}>(f) h = MatMul(b, w)
    branch = If (c) <
        then_branch = t () => ({t}[rows, 8] o) {{ o = Add(h, x) }},
        else_branch = e () => ({t}[rows, 8] p) {{ p = Sub(h, x) }}
    >
    twice = local.double(branch)
    [n] y = LayerNormalization<axis = -1>(twice, g)
}}
<domain: "local", opset_import: ["": 17]>
double (p) => (r) {{ q = Cast<to = {kind}>(p) r = Add(q, q) }}
"""


def kind_of(name: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(HALVES[name]))


def half_model(name: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.format(t=name, kind=kind_of(name)))
    for tensor, values in weights(name).items():
        model.graph.initializer.append(numpy_helper.from_array(values, tensor))
    return model


def weights(name: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    random = np.random.default_rng(0)
    gamma = np.linspace(0.5, 2, 8)
    return {
        "w": (random.normal(size=(8, 8)) * 100).astype(HALVES[name]),
        "g": gamma.astype(HALVES[name]),
    }


def rows(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return np.random.default_rng(1).normal(size=(5, 8)).astype(HALVES[name])


def truth(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """With every weight and input as it is in FP16 or BF16, and FP64 arithmetic."""
    w, g = (weights(name)[key].astype(np.float64) for key in ("w", "g"))
    x = rows(name).astype(np.float64)
    h = 2 * (3 * x @ w + x)
    h -= h.mean(axis=1, keepdims=True)
    return np.asarray(h / np.sqrt((h**2).mean(axis=1, keepdims=True) + 1e-5) * g)


@each_half
@pytest.mark.parametrize("largest", [1 << 24, 1])
def test_it_runs_and_equals_numpy(name: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where weights stay as they are, with a Cast behind them."""
    monkeypatch.setattr(float32, "LARGEST_INLINE", largest)
    model = half_model(name)
    before = model.SerializeToString()
    copy = as_float32(model, None)
    assert model.SerializeToString() == before
    stored = {tensor.data_type for tensor in copy.graph.initializer}
    assert stored == {TensorProto.FLOAT if largest > 1 else kind_of(name)}
    y = Session(copy, None).run({"x": rows(name), "c": np.array(True)})["y"]
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, truth(name), rtol=1e-4, atol=1e-4)


@each_half
def test_node_i_stays_node_i(name: str) -> None:
    model = half_model(name)
    copy = as_float32(model, None)
    kept = zip(model.graph.node, copy.graph.node, strict=False)
    assert all((a.op_type, a.output) == (b.op_type, b.output) for a, b in kept)
    (norm,) = norms_in_float32(find_norms_in(read_graph(model)))
    (same,) = find_norms_in(read_graph(copy))
    assert (norm.nodes, norm.places) == (same.nodes, same.places)
    assert (norm.element_type, norm.output_type) == (TensorProto.FLOAT, TensorProto.FLOAT)


def test_an_fp32_model_is_itself() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }""")
    assert as_float32(model, None) is model


def test_weights_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        half_model("float16"), path, save_as_external_data=True, location="w.bin", size_threshold=0
    )
    model = onnx.load(path, load_external_data=False)
    feeds = {"x": rows("float16"), "c": np.array(True)}
    y = Session(as_float32(model, tmp_path), tmp_path).run(feeds)["y"]
    np.testing.assert_allclose(y, truth("float16"), rtol=1e-4, atol=1e-4)


@each_half
def test_a_model_is_validated_bit_by_bit(name: str, tmp_path: Path) -> None:
    """ONNX Runtime's CPU provider has no BF16 MatMul, and rounds FP16 where it likes."""
    onnx.save(half_model(name), tmp_path / "m.onnx")
    given = {"x": rows(name), "c": np.array(True)}
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx", Options(inputs=given))
    assert [norm.status for norm in outcome.norms] == ["scaled"]
    assert outcome.norms[0].scale != 1.0
    assert outcome.validation is not None and outcome.validation.fp32_identical
    assert outcome.passed
    assert outcome.validation.overflowed_before > 0 == outcome.validation.overflowed_after


def test_an_epsilon_that_fp16_rounds_is_told(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float16[rows, 8] x) => (float16[rows, 8] y)
        {
            a = Mul(x, k) q = Mul(a, a) m = ReduceMean<axes = [-1]>(q) v = Add(m, eps) s = Sqrt(v)
            y = Div(a, s)
        }""")
    for key, value in (("k", 300.0), ("eps", 1e-5)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float16), key))
    onnx.save(model, tmp_path / "m.onnx")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert outcome.validation is not None
    assert outcome.validation.rounded_epsilons == 1
    assert outcome.validation.fp32_tolerance == 1e-4
    assert outcome.passed
