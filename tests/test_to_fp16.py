"""`--to fp16` on the command line: the file, the report, what is refused, what is left alone."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from slanc_onnx.run import CannotRun
from tests.conftest import Run
from tests.models.float_kinds import floats
from tests.oracles.half_file import types
from tests.places import SAMPLES

PLAIN = '<ir_version: 10, opset_import: ["": 18]>\n'
NO_NORM = f"{PLAIN} m (float[2, 4] x) => (float[2, 4] y) {{ y = MatMul(x, w) }}"
MIXED = (
    '<ir_version: 10, opset_import: ["": 18], producer_name: "exporter", doc_string: "mixed", '
    'metadata_props: ["author": "someone"]>\n'
    "main (float16[rows, 32] x) => (float16[rows, 32] y) { [up] a = Cast<to = 1>(x) "
    "[norm] n = LayerNormalization<axis = -1, epsilon = 1e-5>(a, gamma) "
    "[down] b = Cast<to = 10>(n) [product] y = MatMul(b, w) }"
)


def save(text: str, name: str, external: bool = False, **weights: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for weight, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), weight))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, name, save_as_external_data=external, location="w.bin", size_threshold=0)
    return model


def conversion(report: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(Path(report).read_text())["conversion"]
    return found


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def test_all_floats_inside_have_16_bits_and_the_ends_keep_theirs(run: Run) -> None:
    source = Path("model.onnx").read_bytes()
    status, out, err = run("model.onnx", "--to", "fp16", "-o", "out.onnx", "--report", "r.json")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("PASSED | ")
    assert Path("model.onnx").read_bytes() == source
    after = onnx.load("out.onnx")
    onnx.checker.check_model(after, full_check=True)
    kinds = types(after)
    ends = {info.name for info in (*after.graph.input, *after.graph.output)}
    full = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    assert full == {"y"} and full <= ends
    before = onnx.load("model.onnx")
    assert after.graph.input == before.graph.input and after.graph.output == before.graph.output
    assert (after.doc_string, after.producer_name) == (before.doc_string, before.producer_name)
    assert set(map(str, before.metadata_props)) <= set(map(str, after.metadata_props))
    told = conversion("r.json")
    assert told["format"] == "FP16" and told["fp32_nodes"] == [] and told["casts_inserted"] == 1


def test_the_file_runs_as_it_is_and_gives_what_the_original_gives(run: Run) -> None:
    run("model.onnx", "--to", "fp16", "-o", "out.onnx")
    feeds = {"ids": np.arange(12).reshape(1, 12), "deep": np.array(True)}
    found = []
    for path in ("model.onnx", "out.onnx"):
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        found.append(session.run(None, feeds)[0])
    assert found[0].dtype == found[1].dtype == np.float32
    np.testing.assert_allclose(found[1], found[0], atol=0.01 * np.abs(found[0]).max())


def test_inputs_and_outputs_too_where_that_is_asked_for(run: Run) -> None:
    status, _, _ = run("model.onnx", "--to", "fp16", "--no-keep-io-types", "-o", "out.onnx")
    assert status == 0
    after = onnx.load("out.onnx")
    assert after.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert all(node.op_type != "Cast" for node in after.graph.node)


def test_a_model_without_a_norm_is_converted_all_the_same(run: Run) -> None:
    save(NO_NORM, "plain.onnx", w=floats(4, 4))
    status, out, err = run("plain.onnx", "--to", "fp16", "-o", "out.onnx")
    assert (status, err) == (0, "") and "PASSED" in out.splitlines()[-1]
    assert types(onnx.load("out.onnx"))["w"] == TensorProto.FLOAT16
    status, out, _ = run("plain.onnx", "-o", "nothing.onnx")  # without --to: as ever
    assert status == 0 and not Path("nothing.onnx").exists()


def test_a_file_that_is_in_fp16_already_stays_what_it_is(run: Run) -> None:
    run("model.onnx", "--to", "fp16", "--no-keep-io-types", "-o", "once.onnx")
    status, _, _ = run(
        "once.onnx", "--to", "fp16", "--no-keep-io-types", "-o", "twice.onnx", "--report", "r.json"
    )
    assert status == 0
    told = conversion("r.json")
    assert (told["casts_inserted"], told["casts_removed"], told["fp32_nodes"]) == (0, 0, [])
    once, twice = onnx.load("once.onnx"), onnx.load("twice.onnx")
    assert [n.op_type for n in once.graph.node] == [n.op_type for n in twice.graph.node]


def test_casts_that_an_exporter_put_round_a_norm_go(run: Run) -> None:
    weights: dict[str, Any] = {
        "gamma": np.ones(32, np.float32),
        "w": floats(32, 32).astype(np.float16),
    }
    save(MIXED, "mixed.onnx", **weights)
    status, out, _ = run("mixed.onnx", "--to", "fp16", "-o", "out.onnx", "--report", "r.json")
    assert status == 0, out
    after = onnx.load("out.onnx")
    ops = [node.op_type for node in after.graph.node]
    assert ops.count("Cast") == 0 and ops[-2:] == ["LayerNormalization", "MatMul"]
    assert conversion("r.json")["casts_removed"] == 2
    assert {"norm", "product"} <= {node.name for node in after.graph.node}
    assert (after.doc_string, after.producer_name) == ("mixed", "exporter")


def test_a_node_that_stays_is_told_with_its_reason(run: Run) -> None:
    text = '<ir_version: 8, opset_import: ["": 11]>\n'
    text += "m (float[2, 4] x) => (float[2, 4] y) { h = Exp(x) [sum] c = CumSum(h, ax) y = Neg(c) }"
    save(text, "plain.onnx", ax=np.array(1))
    status, out, _ = run("plain.onnx", "--to", "fp16", "-o", "out.onnx", "--report", "r.json")
    assert status == 0
    reason = "the schema of CumSum takes nothing narrower"
    assert f"in FP32: 1 CumSum: {reason}" in out
    assert conversion("r.json")["fp32_nodes"] == [{"name": "sum", "op": "CumSum", "reason": reason}]


def test_an_integer_accumulator_that_stays_in_fp32_is_not_said_to_leave_fp16(run: Run) -> None:
    text = (
        f"{PLAIN} m (float[2, 64] x) => (float[2, 4] y) {{ "
        "h = Mul(x, ones) a, s, z = DynamicQuantizeLinear(h) n = MatMulInteger(a, b, z) "
        "f = Cast<to = 1>(n) g = Mul(f, s) y = LayerNormalization(g, gamma) }"
    )
    ones, gamma = np.ones(64, np.float32), np.ones(4, np.float32)
    b = np.full((64, 4), 100, np.int8) - np.arange(4, dtype=np.int8)
    save(text, "plain.onnx", b=b, ones=ones, gamma=gamma)
    np.savez("in.npz", x=np.linspace(0.5, 1, 128, dtype=np.float32).reshape(2, 64))
    _, out, _ = run("plain.onnx", "--to", "fp16", "-o", "out.onnx", "--inputs", "in.npz")
    (line,) = [line for line in out.splitlines() if line.startswith("beyond FP16")]
    assert line.startswith("beyond FP16, but made by nodes that stay: f (")
    assert "all the same" not in out


def test_what_the_format_does_not_hold_is_told(run: Run) -> None:
    text = f"{PLAIN} m (float[2, 4] x) => (float[2, 4] y) {{ a = Add(x, mask) y = Add(a, eps) }}"
    mask = np.array([0, 0, 0, -3.4e38], np.float32)
    save(text, "plain.onnx", mask=mask, eps=np.float32(1e-12))
    run("plain.onnx", "--to", "fp16", "-o", "out.onnx", "--report", "r.json", "--no-validate")
    told = conversion("r.json")
    assert told["clipped"] == {"mask": pytest.approx(3.4e38)}
    assert told["raised"] == {"eps": pytest.approx(1e-12)}
    values = {t.name: numpy_helper.to_array(t) for t in onnx.load("out.onnx").graph.initializer}
    assert values["mask"][-1] == -32752 and values["eps"] == 2.0**-24


@pytest.mark.parametrize("external", [True, False])
def test_half_of_the_bytes_and_only_files_of_its_own(run: Run, external: bool) -> None:
    text = (
        f"{PLAIN} m (float[2, 512] x) => (float[2, 512] y) {{ h = MatMul(x, w) y = MatMul(h, v) }}"
    )
    big = {"w": floats(512, 512), "v": floats(512, 512, seed=1)}
    os.mkdir("old")
    os.mkdir("new")
    os.chdir("old")
    save(text, "big.onnx", external, **big)
    os.chdir("..")
    before = {name: Path(name).read_bytes() for name in files()}
    status, out, _ = run("old/big.onnx", "--to", "fp16", "-o", "new/big.onnx")
    assert status == 0, out
    assert {name: Path(name).read_bytes() for name in before} == before
    sizes = {
        folder: sum(p.stat().st_size for p in Path(folder).iterdir()) for folder in ("old", "new")
    }
    assert sizes["new"] <= 0.51 * sizes["old"]
    assert not Path("new/w.bin").exists()
    os.rename("old", "gone")  # nothing of it is needed
    session = ort.InferenceSession("new/big.onnx", providers=["CPUExecutionProvider"])
    x = floats(2, 512, seed=2)
    expected = x @ big["w"] @ big["v"]
    (got,) = session.run(None, {"x": x})
    np.testing.assert_allclose(got, expected, atol=0.01 * np.abs(expected).max())


REFUSED = {
    "div": (["--to", "fp16", "--apply", "div"], "--apply div"),
    "paper": (["--to", "fp16", "--scale", "paper"], "--scale paper"),
    "another format": (["--to", "bf16", "--target", "fp16-sequential"], "computes in FP16"),
    "no format": (["--to", "fp8"], "invalid choice"),
    "no position": (["--to", "fp16", "--positions", "0"], "--positions"),
    "positions alone": (["--positions", "5"], "--positions"),
    "types of ends alone": (["--no-keep-io-types"], "--keep-io-types"),
    "onto itself": (["--to", "fp16", "-o", "model.onnx"], "input itself"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_makes_no_sense_is_refused_and_writes_nothing(
    run: Run, title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, told = REFUSED[title]
    before = {name: Path(name).read_bytes() for name in files()}
    try:
        status, _, err = run("model.onnx", *arguments)
    except SystemExit as stop:  # argparse's own
        status, err = int(stop.code or 0), capsys.readouterr().err
    assert status == 2 and told in err
    assert {name: Path(name).read_bytes() for name in files()} == before


def test_an_old_opset_is_refused_for_bf16(run: Run) -> None:
    save(NO_NORM.replace('"": 18', '"": 12'), "old.onnx", w=floats(4, 4))
    status, _, err = run("old.onnx", "--to", "bf16", "-o", "out.onnx")
    assert status == 2 and "opset 12 knows no BF16" in err and not Path("out.onnx").exists()


def test_bf16_is_written_and_told(run: Run) -> None:
    status, _, _ = run(
        "model.onnx", "--to", "bf16", "-o", "out.onnx", "--report", "r.json", "--no-validate"
    )
    assert status == 0
    after = onnx.load("out.onnx")
    onnx.checker.check_model(after, full_check=True)
    table = next(tensor for tensor in after.graph.initializer if tensor.name == "table")
    assert table.data_type == TensorProto.BFLOAT16
    assert conversion("r.json")["format"] == "BF16"


@pytest.mark.parametrize("ends", ["--keep-io-types", "--no-keep-io-types"])
def test_a_file_that_does_not_run_as_it_is_is_not_said_to_run(run: Run, ends: str) -> None:
    """ONNX Runtime's CPU provider has few kernels for BF16, and takes no such numbers of NumPy."""
    status, out, _ = run("model.onnx", "--to", "bf16", ends, "-o", "out.onnx")
    last = out.splitlines()[-1]
    try:
        ort.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
        runs = True
    except Exception:
        runs = False
    said = "runs" if ends == "--keep-io-types" else "loads, not compared"
    assert (f"as it is on ONNX Runtime: {said}" in last) == runs
    lacks = re.search(
        "on ONNX Runtime: not run, as its CPU provider has no ([A-Z]\\w+) in BF16", last
    )
    assert (lacks is None) == runs
    assert lacks is None or lacks[1] in {node.op_type for node in onnx.load("out.onnx").graph.node}
    assert status == 0 and last.startswith("PASSED")


def test_a_file_of_bf16_that_is_refused_for_another_reason_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CannotRun("ONNX Runtime cannot load the model: [ONNXRuntimeError] : 10 : INVALID")

    monkeypatch.setattr("slanc_onnx.job.draft.as_written", refuse)
    status, out, _ = run("model.onnx", "--to", "bf16", "-o", "out.onnx")
    assert status == 1 and "does not run as it is: ONNX Runtime cannot load" in out


def test_a_kernel_that_lacks_in_fp16_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CannotRun("9 : NOT_IMPLEMENTED : Could not find an implementation for Add(14) node")

    monkeypatch.setattr("slanc_onnx.job.draft.as_written", refuse)
    status, out, _ = run("model.onnx", "--to", "fp16", "-o", "out.onnx")
    assert status == 1 and "does not run as it is: 9 : NOT_IMPLEMENTED" in out


def test_a_file_of_bf16_becomes_one_of_fp16_whose_inputs_are_fed_so(run: Run) -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 18]>
        main (bfloat16[2, 4] x) => (bfloat16[2, 4] y) { y = Add(x, x) }""")
    onnx.save(model, "bf16.onnx")
    status, out, _ = run("bf16.onnx", "--to", "fp16", "--no-keep-io-types", "-o", "out.onnx")
    assert status == 0 and "as it is on ONNX Runtime: runs, differs by at most 0" in out


def test_a_dry_run_writes_nothing(run: Run) -> None:
    before = files()
    status, out, _ = run("model.onnx", "--to", "fp16", "--dry-run", "-o", "out.onnx")
    assert status == 0 and "--dry-run" in out and files() == before


def test_interrupted_it_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = files()
    monkeypatch.setattr("slanc_onnx.apply.convert.convert.tell_types", stop)
    status, _, _ = run("model.onnx", "--to", "fp16", "-o", "out.onnx")
    assert status == 130 and files() == before


def test_a_function_that_calls_itself_is_bad_input(run: Run) -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 18, "l": 1]>\n'
        "m (float[2, 4] x) => (float[2, 4] y) { y = l.f(x) } "
        '<domain: "l", opset_import: ["": 18, "l": 1]> f (a) => (b) { b = l.f(a) }'
    )
    save(text, "loop.onnx")
    status, _, err = run("loop.onnx", "--to", "fp16", "-o", "out.onnx")
    assert status == 2 and "calls itself" in err and not Path("out.onnx").exists()


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.onnx")), ids=lambda path: path.stem)
def test_samples_pass_with_no_node_in_fp32(run: Run, path: Path) -> None:
    status, out, _ = run(str(path), "--to", "fp16", "-o", "out.onnx", "--report", "r.json")
    assert status == 0, out
    assert conversion("r.json")["fp32_nodes"] == []


def test_what_runs_nothing_measures_nothing_and_says_so(run: Run) -> None:
    told = "no tensor but the inputs of norms is known to fit the type that is written"
    asked = ("model.onnx", "--to", "fp16", "--no-validate", "--report", "r.json", "-o", "out.onnx")
    _, out, _ = run(*asked, "--estimate", "weights")
    assert f"note: {told}" in out and conversion("r.json")["groups"] == []
    assert "measure" not in json.loads(Path("r.json").read_text())["seconds"]
    _, out, _ = run(*asked)
    assert told not in out and conversion("r.json")["groups"] != []


def test_the_page_of_a_model_without_norms_has_the_verdict(run: Run) -> None:
    save(NO_NORM, "plain.onnx", w=np.ones((4, 4), np.float32))
    assert run("plain.onnx", "--to", "fp16", "-o", "out.onnx", "--html", "page.html")[0] == 0
    assert "<strong>PASSED</strong>" in Path("page.html").read_text(encoding="utf-8")


def test_the_sidecar_of_a_model_without_norms_names_the_file(run: Run) -> None:
    save(NO_NORM, "plain.onnx", w=floats(4, 4))
    for words, output in ((("--to", "fp16"), "out.onnx"), ((), None)):
        run("plain.onnx", *words, "-o", "out.onnx", "--sidecar", "s.json")
        assert json.loads(Path("s.json").read_text())["output"] == output


def test_the_verdict_does_not_say_everything_where_nodes_stay_in_fp32(run: Run) -> None:
    text = f"{PLAIN} m (float[2, 4] x) => (float[2, 4] y) {{ s = CumSum(x, ax) y = MatMul(s, w) }}"
    text = text.replace('["": 18]', '["": 11]')
    save(text, "sums.onnx", w=np.ones((4, 4), np.float32), ax=np.array(1, np.int64))
    status, out, _ = run("sums.onnx", "--to", "fp16", "-o", "out.onnx")
    last = out.splitlines()[-1]
    assert status == 0 and "all but 1 nodes in FP16: " in last and "everything" not in last
    save(NO_NORM, "plain.onnx", w=np.ones((4, 4), np.float32))
    _, out, _ = run("plain.onnx", "--to", "fp16", "-o", "out.onnx")
    assert "everything in FP16: " in out.splitlines()[-1]


def test_indices_that_fp16_does_not_hold_are_read_as_they_are_kept(run: Run) -> None:
    """What a node in FP32 makes is not rounded for a Cast to integers, nor is it in the file."""
    text = f"{PLAIN} m (int64[4] i) => (float[4, 2] y) {{ [f] f = Cast<to = 1>(i) "
    text += "[g] g = Mul(f, half) k = Cast<to = 7>(g) p = Gather(w, k) y = Neg(p) }"
    table = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    save(text, "picks.onnx", half=np.array(0.5, np.float32), w=table)
    given = np.array([6002, 6006, 7997, 1])
    np.save("i.npy", given)
    status, out, _ = run("picks.onnx", "--to", "fp16", "-o", "out.onnx", "--feed", "i=i.npy")
    last = out.splitlines()[-1]
    assert status == 0 and last.startswith("PASSED | ") and "all but 2 nodes in FP16: " in last
    assert "FP16: 2 nodes in FP32; " in out
    session = ort.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    [got] = session.run(None, {"i": given})
    expected = -table[given // 2].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got, expected)
