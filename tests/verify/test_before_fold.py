"""What a fold divides by a node of its own has to be held by the format, as what a Div divides.

Truth is NumPy's float16: the norms and the nodes that were put in round, all else is FP32.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, Validation, protect_file, validate
from slanc_onnx.graph.edits import name_nodes
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms import APPLIED_KEY, with_notes
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.report.terminal import final_parts
from slanc_onnx.verify.emulate.norms import emulate
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.half_ops import half_run
from tests.oracles.unoptimised import run
from tests.verify.test_input_left import DEVICE, ROWS

X = normal(9, 1, D, D, spread=1e5)
SIZE = float(np.abs(X).max())
# What no weight divides stands between the input and the norm, with its name.
MEMBERS = {
    "moved": (f"t = Transpose<perm = [0, 2, 1]>(x) [n] y = {RMS}(t, g1)", "n"),
    "moved and added": (
        f"t = Transpose<perm = [0, 2, 1]>(x) h = Add(t, b1) [n] y = {RMS}(h, g1)",
        "n",
    ),
    "a sum of itself": (f"m = MatMul(x, w1) h = Add(m, x) [n] y = {RMS}(h, g1)", "n"),
    "a stream": (
        f"[m] a = {RMS}(x, g1) p = MatMul(a, w1) h = Add(x, p) [n] y = {RMS}(h, g2)",
        "m",
    ),
}
HOW: dict[str, dict[str, Any]] = {
    "fold": {},
    "minimal": {"minimal": True},
    "merged": {"merge": ("all",)},
}
each = pytest.mark.parametrize("member", MEMBERS)


def job(folder: Path, nodes: str, x: np.ndarray, **how: Any) -> tuple[Any, onnx.ModelProto]:
    """What a job says, and the file that it writes."""
    onnx.save(graph(nodes, weights(), ROWS), folder / "m.onnx")
    options = Options(inputs={"x": x}, accelerator=DEVICE, certify="off", **how)
    outcome = protect_file(folder / "m.onnx", folder / "new.onnx", options)
    return outcome, onnx.load(folder / "new.onnx")


def fits(written: onnx.ModelProto, x: np.ndarray) -> bool:
    """Whether nothing is lost where the norms and the nodes that were put in are in FP16."""
    name_nodes(written)
    rounded = [n for n in written.graph.node if "slanc" in n.name or n.op_type in RMS]
    kept = {node.name for node in written.graph.node} - {node.name for node in rounded}
    return half_run(written, kept, x=x)[1]


@each
@pytest.mark.parametrize("how", ["fold", "minimal"])
def test_an_input_beyond_the_format_fails_as_with_a_div(
    member: str, how: str, tmp_path: Path
) -> None:
    nodes, norm = MEMBERS[member]
    assert SIZE > 65520  # from there on FP16 rounds to infinity
    outcome, written = job(tmp_path, nodes, X, apply="fold", **HOW[how])
    assert [n.op_type for n in written.graph.node if "x" in n.input] == ["Mul"]  # in front of all
    assert not fits(written, X)
    left = Reason(Failure.INPUT_LEFT_FORMAT, ("FP16", SIZE, norm), "input", "x")
    assert outcome.validation.failures[0] == left
    word, *told = final_parts(outcome)
    assert word == "FAILED"
    assert any(one.startswith(f"input (x): leaves FP16 before the norm {norm!r}") for one in told)
    divided, with_divs = job(tmp_path, nodes, X)
    assert not divided.passed and not fits(with_divs, X)
    assert not any("--apply fold heals that" in one for one in final_parts(divided))


@each
@pytest.mark.parametrize("how", HOW)
def test_one_that_the_format_holds_passes(member: str, how: str, tmp_path: Path) -> None:
    x = (X / 16).astype(np.float32)
    assert np.abs(x).max() > 256  # its squares do not fit
    outcome, written = job(tmp_path, MEMBERS[member][0], x, apply="fold", **HOW[how])
    assert outcome.passed and outcome.validation.first_out is None
    assert how == "merged" or fits(written, x)


@each
def test_what_is_merged_fails_as_well(member: str, tmp_path: Path) -> None:
    outcome, _ = job(tmp_path, MEMBERS[member][0], X, apply="fold", merge=("all",))
    assert outcome.validation.first_out.tensor == "x" and not outcome.passed


@pytest.mark.parametrize("beyond", [True, False])
def test_one_addend_of_a_fused_norm_that_alone_has_a_div(beyond: bool, tmp_path: Path) -> None:
    x: np.ndarray = X if beyond else (X / 16).astype(np.float32)
    nodes = "e = Gather(table, ids) [n] y = com.microsoft.SkipLayerNormalization(x, e, g1, b1)"
    held = weights(table=normal(0, D + 1, D, spread=200.0))
    onnx.save(graph(nodes, held, f"{ROWS}, int64[a, b] ids"), tmp_path / "m.onnx")
    feeds: dict[str, np.ndarray] = {"x": x, "ids": np.arange(D)[None]}
    options = Options(inputs=feeds, accelerator=DEVICE, certify="off", apply="fold")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    written = onnx.load(tmp_path / "new.onnx")
    divs = [node for node in written.graph.node if node.op_type == "Div"]
    assert [node.input[0] for node in divs] == ["x"]  # the table takes the scale itself
    assert outcome.validation is not None and outcome.passed != beyond
    left = outcome.validation.first_out
    assert beyond == bool(np.abs(x).max() > 65520)
    assert (left is not None and left.tensor == "x") == beyond


@pytest.mark.parametrize("apart", [False, True], ids=["in one file", "with its scale apart"])
def test_a_file_that_was_folded_before_is_judged_alike(apart: bool, tmp_path: Path) -> None:
    _, written = job(tmp_path, MEMBERS["moved"][0], X, apply="fold")
    options = Options(inputs={"x": X}, accelerator=DEVICE, certify="off")
    for tensor in written.graph.initializer:
        if apart and tensor.name.startswith("slanc.scale"):
            onnx.external_data_helper.set_external_data(tensor, "scales.data")
    onnx.save(written, tmp_path / "again.onnx")
    assert (tmp_path / "scales.data").exists() == apart
    outcome = protect_file(tmp_path / "again.onnx", tmp_path / "new.onnx", options)
    assert outcome.validation is not None and outcome.validation.first_out is not None
    assert outcome.validation.first_out.tensor == "x" and not outcome.passed


def test_notes_behind_names_are_read_alike(tmp_path: Path) -> None:
    """As passes/graphsurgeon.py leaves them, for tools that keep no metadata."""
    _, written = job(tmp_path, MEMBERS["moved"][0], X, apply="fold")
    for node in written.graph.node:
        node.name = with_notes(node)
        del node.metadata_props[:]
    onnx.save(written, tmp_path / "again.onnx")
    options = Options(inputs={"x": X}, accelerator=DEVICE, certify="off")
    outcome = protect_file(tmp_path / "again.onnx", tmp_path / "new.onnx", options)
    assert outcome.validation is not None and outcome.validation.first_out is not None
    assert outcome.validation.first_out.tensor == "x" and not outcome.passed


def test_a_device_that_reads_fp32_loses_nothing(tmp_path: Path) -> None:
    device = replace(DEVICE, fp32_steps=frozenset(["input", "centred", "square"]))
    onnx.save(graph(MEMBERS["moved"][0], weights(), ROWS), tmp_path / "m.onnx")
    options = Options(inputs={"x": X}, accelerator=device, apply="fold", certify="off")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    assert outcome.passed
    assert "Mul" in [node.op_type for node in onnx.load(tmp_path / "new.onnx").graph.node]


def noted(nodes: str, outputs: str = "float[a, b, c] y", inputs: str = ROWS) -> onnx.ModelProto:
    """A model of which every Mul divides by 64, as a fold notes."""
    more = weights(part=np.array(2.0**-6, np.float32), **ENDS)
    model = graph(nodes, more, inputs, outputs)
    bodies = [model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.g.node)]
    for node in (node for body in bodies for node in body.node if node.op_type == "Mul"):
        node.metadata_props.add(key=APPLIED_KEY, value="fold")
    return model


ENDS = {
    name: np.array([value], np.int64) for name, value in (("zero", 0), ("four", 4), ("last", 2))
}


def checked(model: onnx.ModelProto, **feeds: np.ndarray) -> Validation:
    return validate(model, model, Options(inputs=feeds, accelerator=DEVICE))


def test_what_no_norm_gets_is_not_held_against_it() -> None:
    nodes = f"m = Mul(x, part) s = Slice(m, zero, four, last) [n] y = {RMS}(s, g)"
    model = noted(nodes)
    model.graph.initializer.add().CopyFrom(
        onnx.numpy_helper.from_array(np.ones(4, np.float32), "g")
    )
    x = np.where(np.arange(D) < 4, X / 64, X).astype(np.float32)
    assert np.abs(x[..., :4]).max() < 65504 < np.abs(x[..., 4:]).max()
    assert checked(model, x=x).first_out is None and checked(model, x=x).passed
    lost = checked(model, x=X)
    assert lost.first_out is not None and lost.first_out.tensor == "x"


def test_what_others_read_behind_it_stays_in_fp32() -> None:
    model = noted(f"m = Mul(x, part) [n] y = {RMS}(m, g1)", "float[a, b, c] y, float[a, b, c] m")
    norms = find_norms_in(read_graph(model))
    x = (X / 16).astype(np.float32)
    expected = (x / 64).astype(np.float32)
    assert (expected != expected.astype(np.float16)).any()
    assert np.array_equal(run(emulate(model, norms, DEVICE).model, x=x)["m"], expected)


def test_it_is_named_in_a_branch() -> None:
    nodes = f"""
        h = If (flag) <
            then_branch = one () => (float[a, b, c] t) {{ t = Mul(x, part) }},
            else_branch = two () => (float[a, b, c] e) {{ e = Neg(x) }}
        >
        [n] y = {RMS}(h, g1)
    """
    model = noted(nodes, inputs=f"{ROWS}, bool flag")
    left = checked(model, x=X, flag=np.array(True)).first_out
    assert left is not None and (left.tensor, left.value, left.norm) == ("x", SIZE, "n")
