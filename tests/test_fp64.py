"""`--to fp16` and `--emulate all` on the command line, with files that hold FP64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from tests.conftest import Run
from tests.models.float_kinds import floats
from tests.oracles.half_file import types
from tests.test_to_fp16 import PLAIN, conversion, save
from tests.versions import needs_onnx_runtime

WIDE = "m (double[4, 64] x) => (double[4, 64] y) { q = Mul(x, x) v = ReduceMean(q, last) "
WIDE += "e = Add(v, eps) s = Sqrt(e) n = Div(x, s) u = MatMul(n, up) a = Relu(u) "
WIDE += "g = MatMul(n, gate) p = Mul(a, g) y = MatMul(p, down) }"


def wide_weights() -> dict[str, Any]:
    """A model in FP64 whose product `p` leaves FP16, by a factor of about 2."""
    draw = np.random.default_rng(0).normal
    weights = {"up": draw(size=(64, 256)) * 20, "gate": draw(size=(64, 256)) * 20}
    down = draw(size=(256, 64)) / 1e6
    return {**weights, "down": down, "eps": np.array(1e-5), "last": np.array([-1])}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_model_in_fp64_becomes_one_in_fp16(run: Run, keeps: bool) -> None:
    weights = wide_weights()
    save(PLAIN + WIDE, "wide.onnx", **weights)
    words = () if keeps else ("--no-keep-io-types",)
    status, out, _ = run(
        "wide.onnx", "--to", "fp16", *words, "-o", "out.onnx", "--report", "r.json"
    )
    last = out.splitlines()[-1]
    assert status == 0 and last.startswith("PASSED | ") and "everything in FP16: " in last
    told = conversion("r.json")
    assert (told["fp32_nodes"], told["fp64_nodes"]) == ([], [])
    assert "FP16: 0 nodes in FP32; " in out and "FP64" not in out
    assert "1 without norms divided, as they would leave it" in out
    after = onnx.load("out.onnx")
    onnx.checker.check_model(after, full_check=True)
    ends = TensorProto.DOUBLE if keeps else TensorProto.FLOAT16
    assert [types(after)[name] for name in "xy"] == [ends, ends]
    inside = {kind for name, kind in types(after).items() if name not in "xy"}
    assert inside == {TensorProto.FLOAT16, TensorProto.INT64}
    x = np.random.default_rng(1).normal(size=(4, 64))
    n = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    p = np.maximum(n @ weights["up"], 0) * (n @ weights["gate"])
    truth = p @ weights["down"]
    assert np.abs(p).max() > 65504
    session = ort.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"x": x if keeps else x.astype(np.float16)})
    assert got.dtype == (np.float64 if keeps else np.float16)
    np.testing.assert_allclose(got, truth, atol=0.01 * np.abs(truth).max())


def test_nodes_that_stay_in_fp64_are_counted_and_the_verdict_says_so(run: Run) -> None:
    text = f"{PLAIN} m (int64[4] i) => (float[4, 2] y) {{ [f] f = Cast<to = 11>(i) "
    text += "[g] g = Mul(f, half) k = Cast<to = 7>(g) p = Gather(w, k) y = Neg(p) }"
    save(text, "picks.onnx", half=np.array(0.5), w=floats(4000, 2))
    given = np.array([6002, 6006, 7997, 1])
    np.save("i.npy", given)
    status, out, _ = run(
        *("picks.onnx", "--to", "fp16", "-o", "out.onnx", "--feed", "i=i.npy"),
        *("--report", "r.json", "--html", "page.html"),
    )
    last = out.splitlines()[-1]
    assert status == 0 and "all but 2 nodes in FP16: " in last and "everything" not in last
    why = "computes with whole numbers from integers: indices, lengths, positions"
    assert "FP16: 0 nodes in FP32, 2 in FP64; " in out
    assert f"in FP64: 1 Cast: {why}" in out and f"in FP64: 1 Mul: {why}" in out
    told = conversion("r.json")
    assert told["fp32_nodes"] == []
    assert told["fp64_nodes"] == [
        {"name": "f", "op": "Cast", "reason": why},
        {"name": "g", "op": "Mul", "reason": why},
    ]
    written = Path("page.html").read_text(encoding="utf-8")
    assert "Nodes that compute in FP64" in written and "compute in FP32" not in written
    session = ort.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"i": given})
    expected = -floats(4000, 2)[given // 2].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def test_an_op_without_fp16_stays_in_fp64_and_says_so(run: Run) -> None:
    text = '<ir_version: 8, opset_import: ["": 11]>\n'
    text += (
        "m (double[2, 4] x) => (double[2, 4] y) { h = Exp(x) [sum] c = CumSum(h, ax) y = Neg(c) }"
    )
    save(text, "plain.onnx", ax=np.array(1))
    status, out, _ = run("plain.onnx", "--to", "fp16", "-o", "out.onnx", "--report", "r.json")
    assert status == 0 and "FP16: 0 nodes in FP32, 1 in FP64; 4 Casts inserted" in out
    reason = "the schema of CumSum takes nothing narrower"
    assert conversion("r.json")["fp64_nodes"] == [{"name": "sum", "op": "CumSum", "reason": reason}]
    assert "all but 1 nodes in FP16: " in out.splitlines()[-1]


def test_everything_is_rounded_where_the_model_is_in_fp64(run: Run) -> None:
    """Its product leaves FP16 in the file as it is; see `wide_weights`."""
    save(PLAIN + WIDE, "wide.onnx", **wide_weights())
    status, out, _ = run("wide.onnx", "--emulate", "all", "-o", "out.onnx", "--report", "r.json")
    last = out.splitlines()[-1]
    assert status == 1 and last.startswith("FAILED | ")
    assert "Mul (p): is the first to leave FP16" in last
    told = json.loads(Path("r.json").read_text())["validation"]["tensors"]
    sizes = {one["name"]: one["largest"] for one in told}
    assert sizes["p"] > 65504 > sizes["x"] > 1


def test_angles_in_fp64_are_tables_and_leave_nothing_in_fp64(run: Run) -> None:
    needs_onnx_runtime(1, 29, for_what="Cos of FP64")
    text = f"{PLAIN} m (int64[1, 9] position_ids, float[1, 9, 8] x) => (float[1, 9, 8] y) {{ "
    text += "p = Cast<to = 11>(position_ids) q = Unsqueeze(p, ax) a = Mul(q, inv) c = Cos(a) "
    text += "s = Sin(a) d = Cast<to = 11>(x) u = Mul(d, c) v = Mul(d, s) w = Add(u, v) "
    text += "y = Cast<to = 1>(w) }"
    inv = 1e-4 ** (np.arange(8) / 8)
    save(text, "rotary.onnx", ax=np.array([2]), inv=inv)
    words = ("--to", "fp16", "--positions", "5000", "-o", "out.onnx", "--report", "r.json")
    assert run("rotary.onnx", *words)[0] == 0
    told = conversion("r.json")
    assert (told["fp32_nodes"], told["fp64_nodes"], told["positions"]) == ([], [], 5000)
    after = onnx.load("out.onnx")
    assert TensorProto.DOUBLE not in types(after).values()
    positions, x = np.arange(4990, 4999).reshape(1, 9), floats(1, 9, 8)
    session = ort.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"position_ids": positions, "x": x})
    angles = positions[..., None] * inv
    np.testing.assert_allclose(got, x * (np.cos(angles) + np.sin(angles)), atol=0.01)
