"""What noise alone does to a model is told apart from what its scales do."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from slanc_onnx import Options, validate
from slanc_onnx.feed import Range
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.report.wording import reason_text
from slanc_onnx.verify.sensitivity import with_noise
from tests.conftest import Run
from tests.models.small_graphs import Weights, graph, normal

WIDTH, LAYERS = 64, 24


def chaotic(noise: float | None = None) -> onnx.ModelProto:
    """Dynamically quantised Linears behind RMSNorms; with ONNX's own random noise behind norms."""
    lines, x = [], "x"
    weights = {"gamma": np.ones(WIDTH, np.float32)}
    for k in range(LAYERS):
        w = normal(k, WIDTH, WIDTH) * 3 / np.sqrt(WIDTH)
        step = np.abs(w).max() / 127
        weights[f"w{k}"] = np.round(w / step).astype(np.int8)
        weights[f"s{k}"] = np.array(step, np.float32)
        lines.append(f"[n{k}] y{k} = SimplifiedLayerNormalization<axis = -1>({x}, gamma)")
        if noise is not None:
            lines.append(
                f"r{k} = RandomNormalLike<mean = 1.0, scale = {noise}, seed = {k}.0>(y{k})"
            )
            lines.append(f"z{k} = Mul(y{k}, r{k})")
        y = f"y{k}" if noise is None else f"z{k}"
        lines.append(
            f"q{k}, a{k}, p{k} = DynamicQuantizeLinear({y}) "
            f"i{k} = MatMulInteger(q{k}, w{k}, p{k}) f{k} = Cast<to = 1>(i{k}) "
            f"b{k} = Mul(a{k}, s{k}) o{k} = Mul(f{k}, b{k}) t{k} = Tanh(o{k})"
        )
        x = f"t{k}"
    lines.append(f"y = Identity({x})")
    return graph("\n".join(lines), weights, f"float[b, t, {WIDTH}] x")


def run_it(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


def rms(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2.0) / np.mean(a**2.0)))


def test_a_chaotic_model_is_inconclusive(run: Run) -> None:
    x = np.random.default_rng(5).standard_normal((1, 16, WIDTH)).astype(np.float32)
    alone = rms(run_it(chaotic(), x), run_it(chaotic(2.0**-11), x))
    assert alone > 0.1  # noise by ONNX's own op, without any of our code
    onnx.save(chaotic(), "m.onnx")
    status, out, _ = run("m.onnx", "--feed", "x=normal(0,1)")
    last = out.splitlines()[-1]
    assert status == 1 and last.startswith("INCONCLUSIVE | ")
    assert "noise of one rounding at the norms moves the original as far" in last
    assert "measure the written file" in last
    assert Path("m.slanc.onnx").exists()


def test_rows_that_overflow_still_fail() -> None:
    options = Options(feeds={"x": Range(-3000, 3000)})
    result = validate(chaotic(), chaotic(), options)  # nothing is scaled
    assert Failure.ROWS_OVERFLOW in [reason.kind for reason in result.failures]
    assert not result.inconclusive and result.sensitivity is None


CUT = """
    [n] h = LayerNormalization(x, gamma)
    first = Slice(h, zero, one, last)
    moved = Add(first, shift)
    near = Mul(moved, many)
    turned = Sin(near)
    length = ReduceSum<keepdims = 0>(turned)
    positive = Abs(length)
    long = Mul(positive, hundred)
    n0 = Cast<to = 7>(long)
    n1 = Reshape(n0, flat)
    r = Expand(half, n1)
    y = Identity(r)
"""


@pytest.mark.parametrize("many", [1e5, 30.0])
def test_another_shape_is_named(run: Run, many: float) -> None:
    weights: Weights = {
        "gamma": np.ones(WIDTH, np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "last": np.array([2]),
        "shift": np.array(0.1, np.float32),
        "many": np.array(many, np.float32),
        "hundred": np.array(1000, np.float32),
        "flat": np.array([1]),
        "half": np.array([0.5], np.float32),
    }
    model = graph(CUT, weights, f"float[b, t, {WIDTH}] x", "float[samples] y")
    onnx.save(model, "m.onnx")
    _, out, _ = run("m.onnx", "--feed", "x=normal(0,1)")
    last = out.splitlines()[-1]
    assert "y has the shape [" in last and "when rounded" in last
    assert "another shape (tolerance" in last and "inf" not in last
    assert last.startswith("INCONCLUSIVE | ") and "gives the original's y another shape too" in last


def test_noise_is_of_the_size_of_a_roundoff_and_nothing_else_moves() -> None:
    model = graph(
        "[n] y = LayerNormalization(x, gamma)", {"gamma": np.ones(64, np.float32)}, "float[b, 64] x"
    )
    x = np.random.default_rng(1).standard_normal((50, 64)).astype(np.float32)
    noisy = with_noise(model, find_norms_in(read_graph(model)), 2.0**-11)
    relative = np.abs(run_it(noisy, x) / run_it(model, x) - 1)
    assert relative.max() < 2.0**-11 * 1.001
    assert 0.6 < np.sqrt(np.mean(relative**2.0)) / 2.0**-11 < 0.8  # a sine's
    assert (run_it(with_noise(model, [], 2.0**-11), x) == run_it(model, x)).all()


COSINE = """
    xz = Mul(x, z) dot = ReduceSum<keepdims = 0>(xz, last)
    xx = Mul(x, x) a = ReduceSum<keepdims = 0>(xx, last)
    zz = Mul(z, z) b = ReduceSum<keepdims = 0>(zz, last)
    ab = Mul(a, b) root = Sqrt(ab) least = Max(root, tiny) y = Div(dot, least)
"""


def test_two_norms_that_end_in_one_tensor_have_its_noise_once() -> None:
    """torch.onnx writes a cosine so: the product of two sums of squares has one root."""
    weights: Weights = {"last": np.array([-1]), "tiny": np.array(1e-8, np.float32)}
    model = graph(COSINE, weights, "float[b, 64] x, float[b, 64] z", "float[b] y")
    norms = find_norms_in(read_graph(model))
    assert [norm.output for norm in norms] == ["y", "y"]
    x, z = np.random.default_rng(2).standard_normal((2, 50, 64)).astype(np.float32)
    both = {"x": x, "z": z}
    found = [
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"])
        for each in (model, with_noise(model, norms, 2.0**-11))
    ]
    plain, noisy = (np.asarray(session.run(["y"], both)[0]) for session in found)
    assert 0 < np.abs(noisy / plain - 1).max() < 2.0**-11 * 1.001


def test_its_reasons_have_words() -> None:
    assert "RMS 0.25" in reason_text(Reason(Failure.SENSITIVE, (0.25,)))
    told = reason_text(Reason(Failure.OTHER_SHAPE, ("audio", "[49200]", "[44400]")))
    assert told == "audio has the shape [49200] in FP32 and [44400] when rounded"
