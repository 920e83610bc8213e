"""Valid but unusual models and inputs: what no norm depends on stops nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from slanc_onnx import cli
from slanc_onnx.graph import can_fork
from tests.conftest import Run
from tests.models.small_graphs import between, graph, normal

ROWS = "rows = Gather(table, ids) [n] y = LayerNormalization(rows, gamma)"
RMS = """
    h = Gather(table, ids) square = Mul(h, h) total = ReduceSum(square, axis)
    mean = {mean} ve = Add(mean, eps) root = Sqrt(ve) n = Div(h, root)
    [n] y = Mul(n, gamma)"""
WEIGHTS = {"table": normal(0, 16, 8), "gamma": np.ones(8, np.float32)}
NORM = {**WEIGHTS, "axis": np.array([-1]), "eps": np.array(1e-5, np.float32)}


def number(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def aside(nodes: str, **weights: NDArray[Any]) -> onnx.ModelProto:
    """A norm, and nodes that it does not depend on."""
    return graph(ROWS + nodes, {**WEIGHTS, **weights})


def with_input(kind: int, shape: list[str | int]) -> onnx.ModelProto:
    model = aside("")
    model.graph.input.append(helper.make_tensor_value_info("odd", kind, shape))
    return model


def with_optional() -> onnx.ModelProto:
    model = aside(" o = Optional(y)")
    model.opset_import[0].version = 18
    return model


def string_epsilon() -> onnx.ModelProto:
    nodes = """
        x2 = local.Unknown(rows) square = Mul(x2, x2) mean = ReduceMean<axes = [-1]>(square)
        ve = Add(mean, text) root = Sqrt(ve) z = Div(x2, root)"""
    model = aside(nodes)
    model.opset_import.add(domain="local", version=1)
    model.graph.initializer.append(
        TensorProto(name="text", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    )
    return model


def function_that_cannot_be_inlined() -> onnx.ModelProto:
    """A product in a function of an opset that nobody knows."""
    model = aside(" z = local.Product(rows)")
    product = helper.make_node("MatMul", ["a", "a"], ["b"])
    opset = helper.make_opsetid("", 99)
    model.functions.append(
        helper.make_function("local", "Product", ["a"], ["b"], [product], [opset])
    )
    model.opset_import.add(domain="local", version=1)
    return model


ASIDE: dict[str, Callable[[], onnx.ModelProto]] = {
    "count of inf": lambda: graph(
        RMS.format(mean="Div(total, n0)"), {**NORM, "n0": number(np.inf)}
    ),
    "count of nan": lambda: graph(
        RMS.format(mean="Mul(total, n0)"), {**NORM, "n0": number(np.nan)}
    ),
    "33 open sizes": lambda: with_input(TensorProto.FLOAT, [f"d{i}" for i in range(33)]),
    "a large input": lambda: with_input(TensorProto.FLOAT, [2**15, 2**14]),
    "an optional": with_optional,
    "a text as an epsilon": string_epsilon,
    "a function": function_that_cannot_be_inlined,
    "a long Range": lambda: aside(
        " z = Range(a, b, c)", a=np.array(0), b=np.array(2**40), c=np.array(1)
    ),
    "a large Tile": lambda: aside(" z = Tile(gamma, n)", n=np.array([2**40])),
    "a large Pad": lambda: aside(" z = Pad(y, n)", n=np.array([2**40, 0, 0, 0, 0, 0])),
    "a large OneHot": lambda: aside(
        " z = OneHot(ids, n, v)", n=np.array(2**40), v=np.array([0, 1], np.float32)
    ),
    "a large product": lambda: aside(
        " l = ConstantOfShape(n) c = Unsqueeze(l, one) z = Mul(l, c)",
        n=np.array([2**20]),
        one=np.array([1]),
    ),
    "a doubling Concat": lambda: aside(
        " c0 = Concat<axis = 0>(gamma, gamma)"
        + "".join(f" c{i + 1} = Concat<axis = 0>(c{i}, c{i})" for i in range(40))
    ),
    "an index past the end": lambda: aside(
        " z = GatherElements(a, b)", a=np.arange(2), b=np.array([1, 2])
    ),
    "an index of nothing": lambda: aside(
        " z = GatherElements(a, b)", a=np.zeros(0, np.int64), b=np.array([0])
    ),
    "a negative power": lambda: aside(" z = Pow(a, b)", a=np.array(10), b=np.array(-1)),
}


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("title", ASIDE)
def test_what_no_norm_depends_on_stops_nothing(run: Run, title: str, apply: str) -> None:
    onnx.save(ASIDE[title](), "model.onnx")
    status, out, err = run("model.onnx", "--no-validate", "--apply", apply)
    assert (status, err) == (0, "")
    # The one with a text for an epsilon is found, and skipped.
    found = "2 norms: 1 scaled" if title == "a text as an epsilon" else "1 norms"
    assert found in out or "count" in title


def test_an_epsilon_divided_by_zero_is_an_error(run: Run) -> None:
    text = RMS.format(mean="Div(total, width)").replace("mean, eps", "mean, eps2")
    weights = {**NORM, "zero": number(0), "width": number(8)}
    onnx.save(graph("eps2 = Div(eps, zero)" + text, weights), "model.onnx")
    status, _, err = run("model.onnx", "--no-validate")
    assert (status, "has the epsilon inf" in err) == (2, True)


@pytest.mark.parametrize("back", ["zero", "eps"])
def test_an_epsilon_in_steps_of_zero_is_what_onnx_runtime_has(run: Run, back: str) -> None:
    steps = f"q = QuantizeLinear(eps, zero) eps2 = DequantizeLinear(q, {back})"
    text = RMS.format(mean="Div(total, width)").replace("mean, eps", "mean, eps2")
    weights = {**NORM, "zero": number(0), "width": number(8)}
    model = graph(steps + text, weights)
    onnx.save(model, "model.onnx")
    status, _, err = run("model.onnx", "--no-validate", "--report", "r.json")
    assert (status, err) == (0, "")
    (norm,) = json.loads(Path("r.json").read_text())["norms"]
    model.graph.output.add(name="eps2")
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (epsilon,) = session.run(["eps2"], {"ids": np.zeros((1, 1), np.int64)})
    assert norm["epsilon"] == epsilon


def test_functions_that_double_are_an_error(run: Run) -> None:
    model = aside(" z = local.F0(rows)")
    model.opset_import.add(domain="local", version=1)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for i in range(30):
        calls = [("t", "a"), ("b", "t")]
        nodes = [helper.make_node(f"F{i + 1}", [a], [b], domain="local") for b, a in calls]
        nodes = nodes if i < 29 else [helper.make_node("ReduceMean", ["a"], ["b"])]
        model.functions.append(helper.make_function("local", f"F{i}", ["a"], ["b"], nodes, opsets))
    onnx.save(model, "model.onnx")
    status, _, err = run("model.onnx", "--no-validate")
    assert (status, "are to be inlined" in err) == (2, True)


def float_ids() -> onnx.ModelProto:
    return graph(" ids = Cast<to = 7>(odd) " + ROWS, WEIGHTS, "float[batch, sequence] odd")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_float_ids_that_are_no_numbers_are_an_error(run: Run, value: float) -> None:
    onnx.save(float_ids(), "model.onnx")
    np.savez("in.npz", odd=np.array([[value]], np.float32))
    status, _, err = run("model.onnx", "--inputs", "in.npz")
    assert (status, f"odd holds {value}" in err) == (2, True)


def test_bytes_for_an_input_of_texts_are_an_error(run: Run) -> None:
    onnx.save(with_input(TensorProto.STRING, ["n"]), "model.onnx")
    np.savez("in.npz", ids=np.zeros((1, 2), np.int64), odd=np.zeros(2, "V8"))
    status, _, err = run("model.onnx", "--inputs", "in.npz")
    assert (status, "odd is of type |V8" in err) == (2, True)


@pytest.mark.parametrize("options", [("--tokens",), ("--observe",)])
@pytest.mark.parametrize("shape", [[1, 8], [8], []])
def test_sequences_that_do_not_fit_are_an_error(
    run: Run, shape: list[int], options: tuple[str, ...]
) -> None:
    model = aside("")
    info = helper.make_tensor_value_info("ids", TensorProto.INT64, shape)
    model.graph.input[0].CopyFrom(info)
    onnx.save(model, "model.onnx")
    np.save("ids.npy", np.arange(64) % 16)
    status, _, err = run("model.onnx", *options, "ids.npy", "--sequence-length", "16")
    assert (status, "sequences of 16 ids do not fit" in err) == (2, True)


@pytest.mark.parametrize("limit", ["inf", "1e7", "1e300"])
def test_a_time_limit_may_be_long(run: Run, limit: str) -> None:
    assert run("model.onnx", "--time-limit", limit)[0] == 0


@pytest.mark.parametrize("limit", ["inf", "1e300", "2"])
def test_a_memory_limit_may_be_large(run: Run, limit: str) -> None:
    assert run("model.onnx", "--memory-limit", limit)[0] == 0


def test_a_memory_limit_that_is_none_is_an_error(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("model.onnx", "--memory-limit", "nan")
    assert "--memory-limit: must be above 0" in capsys.readouterr().err


@pytest.mark.skipif(not can_fork(), reason="this system limits no memory")
def test_a_run_that_needs_more_memory_is_written_and_not_validated(run: Run) -> None:
    nodes = """
        z = ConstantOfShape(many) s = ReduceSum<keepdims = 0>(z)
        v = Mul(x, s) total = Add(x, v)"""
    many = np.array([2**32])  # and a GB of FP32 per 2^28
    onnx.save(between(nodes, {"many": many}), "model.onnx")
    status, out, _ = run("model.onnx", "--memory-limit", "0.5", "-q")
    assert status == 1
    assert "not validated: it needs more than 0.5 GB of memory" in out.splitlines()[-1]
    assert onnx.load("model.slanc.onnx").graph.node


def test_a_target_file_that_is_a_pipe_is_an_error(run: Run) -> None:
    os.mkfifo("pipe.toml")
    status, _, err = run("model.onnx", "--target-file", "pipe.toml")
    assert (status, "pipe.toml: is no regular file" in err) == (2, True)


def test_a_matplotlib_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    onnx.save(aside(""), tmp_path / "model.onnx")
    command = [sys.executable, "-m", "slanc_onnx", "model.onnx", "--html", "a.html"]
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, "which does not start" in done.stderr) == (2, True)


def test_a_stop_that_python_passes_over_is_raised_later(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cleaned:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.command, "check_places", lambda *_: Cleaned() and None)
    status, _, err = run("model.onnx", "--no-validate")
    assert (status, err) == (130, "ERROR: interrupted\n")
