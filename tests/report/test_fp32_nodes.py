"""Lists of FP32 nodes: each format read back as the tool that takes it reads it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, SlancError, protect_file
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.report.fp32_nodes import (
    BY_SUFFIX,
    FORMATS,
    LIST_STARTS,
    fp32_nodes_entry,
    fp32_nodes_text,
    write_list,
)
from slanc_onnx.report.terminal import final_line
from slanc_onnx.verify.fp32_nodes import Fp32Nodes
from tests.conftest import Run
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

NAMES = ("/layer.0/MatMul", "/layer.0/Add_1", "q:0", "a(b)+c")
FOUND = Fp32Nodes(NAMES, ("Add",), 9, True, True, 5, 0.01)
NONE = Fp32Nodes((), (), 9, True, True, 1, 0.01)


def written(path: Path, form: str, found: Fp32Nodes = FOUND) -> str:
    write_list(found, "FP16", path, form)
    return path.read_text(encoding="utf-8")


def lines(text: str) -> list[str]:
    """What `grep -v '^#'` leaves of a file."""
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_block_lists_are_arguments_of_the_converters(tmp_path: Path) -> None:
    lists = json.loads(written(tmp_path / "a", "ort"))
    assert list(lists) == ["note", "node_block_list", "op_block_list"]
    assert lists["node_block_list"] == list(NAMES)
    assert lists["op_block_list"] == ["Add"]


def test_trtexec_splits_at_commas_and_the_last_colon(tmp_path: Path) -> None:
    constraints, *options = lines(written(tmp_path / "a", "tensorrt"))
    assert constraints == "--precisionConstraints=obey"
    assert [option.partition("=")[0] for option in options] == [
        "--layerPrecisions",
        "--layerOutputTypes",
    ]
    for option in options:
        pairs = [part.rsplit(":", 1) for part in option.partition("=")[2].split(",")]
        assert pairs == [[name, "fp32"] for name in NAMES]


def test_autocast_matches_each_name_and_none_that_begins_so(tmp_path: Path) -> None:
    patterns = lines(written(tmp_path / "a", "autocast"))
    others = [f"{name}_2" for name in NAMES] + ["/layerX0/MatMul", "x/layer.0/MatMul"]
    assert len(patterns) == len(NAMES)
    for name in NAMES:
        assert any(re.match(pattern, name) for pattern in patterns)
    for name in others:
        assert not any(re.match(pattern, name) for pattern in patterns)


def test_names_are_lines(tmp_path: Path) -> None:
    assert lines(written(tmp_path / "a", "names")) == list(NAMES)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("found", [FOUND, NONE], ids=["some", "none"])
def test_each_begins_with_a_sentence_by_which_it_is_known(
    tmp_path: Path, form: str, found: Fp32Nodes
) -> None:
    text = written(tmp_path / "a", form, found)
    assert text.startswith(LIST_STARTS)
    assert fp32_nodes_text(found, "FP16") in text
    if found is NONE:
        assert lines(text) == [] or json.loads(text)["node_block_list"] == []


@pytest.mark.parametrize(
    ("form", "name"),
    [("tensorrt", "a,b"), ("tensorrt", "a b"), ("tensorrt", "a'b"), ("names", "#a")],
)
def test_a_name_that_a_format_cannot_hold_is_refused(tmp_path: Path, form: str, name: str) -> None:
    found = Fp32Nodes((name,), (), 9, True, True, 5, 0.01)
    with pytest.raises(SlancError, match=re.escape(f"cannot hold the node name {name!r}")):
        written(tmp_path / "a", form, found)
    assert not (tmp_path / "a").exists()
    assert json.loads(written(tmp_path / "a", "ort", found))["node_block_list"] == [name]


def test_what_does_not_work_is_no_list(tmp_path: Path) -> None:
    for complete, words in ((True, "not even all 9"), (False, "in time")):
        found = Fp32Nodes((), (), 9, False, complete, 5)
        with pytest.raises(SlancError, match="no list is known to work"):
            written(tmp_path / "a", "ort", found)
        assert words in fp32_nodes_text(found, "FP16")
    with pytest.raises(SlancError, match="no list is known to work"):
        write_list(None, "FP16", tmp_path / "a", "ort")


def test_a_search_that_ended_early_claims_no_minimum() -> None:
    early = Fp32Nodes(NAMES, (), 9, True, False, 5, 0.01)
    assert "without any one of them it does not" in fp32_nodes_text(FOUND, "FP16")
    assert "without" not in fp32_nodes_text(early, "FP16")
    assert "fewer may do" in fp32_nodes_text(early, "FP16")
    entry = fp32_nodes_entry(early, "FP16")
    assert entry is not None and (entry["works"], entry["complete"]) == (True, False)


def logits(names: bool = True) -> onnx.ModelProto:
    """A product that leaves FP16, before it is scaled down."""
    nodes = f"""
        [q] q = MatMul(x, big) [k] k = MatMul(q, big) [s] s = Mul(k, small)
        [a] a = Add(s, x) [n] y = {RMS}(a, g1)
    """
    more = {"small": np.full(1, 2.0**-14, np.float32), "big": normal(3, D, D, spread=200.0)}
    model = graph(nodes, weights(**more), f"float[a, b, {D}] x")
    for node in model.graph.node:
        node.name = node.name if names else ""
    return model


def test_the_command_lists_what_heals_and_says_so_in_its_last_line(run: Run) -> None:
    onnx.save(logits(), "model.onnx")
    status, out, _ = run("model.onnx", "--fp32-nodes", "keep.json", "--report", "report.json")
    assert status == 0
    last = out.splitlines()[-1]
    assert last.startswith("PASSED with 2 nodes in FP32 | ")
    assert "without them: MatMul (k): is the first to leave FP16" in last
    lists = json.loads(Path("keep.json").read_text())
    assert lists["node_block_list"] == ["k", "s"]
    report = json.loads(Path("report.json").read_text())
    assert report["fp32_nodes"]["names"] == ["k", "s"]
    assert not report["validation"]["passed"]
    largest = {size["name"]: size for size in report["validation"]["tensors"]}
    assert largest["k"]["left"] and largest["k"]["largest"] > largest["k"]["limit"] == 65504
    assert run("model.onnx", "--emulate", "all")[0] == 1  # and alone it fails


def test_a_list_does_not_decide_what_noise_alone_moves(run: Run) -> None:
    """It is told and written, and the verdict stays what it was."""
    onnx.save(logits(), "model.onnx")
    found = protect_file(Path("model.onnx"), Path("out.onnx"), Options(fp32_nodes=True))
    assert found.healed and found.passed and found.validation is not None
    for kind in (Failure.SENSITIVE, Failure.FP32_DIFFERS, Failure.NOTHING_COMPARED):
        failures = [*found.validation.failures, Reason(kind, (0.5,))]
        other = replace(found, validation=replace(found.validation, failures=failures))
        assert not other.healed and not other.passed
        assert final_line(other).startswith(
            "INCONCLUSIVE | " if kind is Failure.SENSITIVE else "FAILED | "
        )
        assert "with 2 of its" in final_line(other)


def test_nodes_without_names_get_those_of_their_outputs_in_the_file(run: Run) -> None:
    onnx.save(logits(names=False), "model.onnx")
    assert run("model.onnx", "--fp32-nodes", "keep.txt", "-qq")[0] == 0
    named = {node.name for node in onnx.load("model.slanc.onnx").graph.node}
    assert lines(Path("keep.txt").read_text()) == ["k", "s"]
    assert {"q", "k", "s", "a", "y"} <= named
    assert run("model.onnx", "--emulate", "all", "-qq")[0] == 1
    again = {node.name for node in onnx.load("model.slanc.onnx").graph.node}
    assert "" in again  # no name is given that nobody asked for


def test_where_no_list_is_needed_the_file_says_so(run: Run) -> None:
    status, out, _ = run("model.onnx", "--fp32-nodes", "keep.trt", "--accumulate", "fp32")
    assert status == 0
    assert out.splitlines()[-1].startswith("PASSED | ")
    assert "no node has to stay in FP32" in out.splitlines()[-1]
    assert lines(Path("keep.trt").read_text()) == []


def test_a_list_that_is_not_found_is_not_written_and_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(logits(), "model.onnx")
    monkeypatch.setattr("slanc_onnx.verify.fp32_nodes.SHARE", 0.0)
    status, out, err = run("model.onnx", "--fp32-nodes", "keep.json")
    assert status == 1
    last = out.splitlines()[-1]
    assert last.startswith("FAILED | ") and "no list of FP32 nodes was found in time" in last
    assert last.endswith("--fp32-nodes keep.json: not written (no list is known to work)")
    assert err.endswith("model.slanc.onnx is written, but validation FAILED.\n")
    assert not Path("keep.json").exists()
    onnx.load("model.slanc.onnx")


def test_a_model_without_norms_has_no_list(run: Run) -> None:
    onnx.save(graph("[a] y = Add(x, x)", {}, "float[a, b, c] x"), "model.onnx")
    status, out, _ = run("model.onnx", "--fp32-nodes", "keep.json")
    assert status == 3
    assert "--fp32-nodes keep.json: not written (no list is known to work)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fp32-nodes", "keep"), "--fp32-nodes keep: ends in none of .json, .trt, .autocast"),
        (("--fp32-nodes-format", "ort"), "only goes with --fp32-nodes"),
        (("--fp32-nodes", "keep.json", "--no-validate"), "not allowed with --no-validate"),
    ],
)
def test_bad_usage_is_refused(run: Run, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("model.onnx", *arguments)
    assert stopped.value.code == 2
    assert not Path("model.slanc.onnx").exists()


def test_only_a_list_is_replaced_by_a_list(run: Run) -> None:
    onnx.save(graph(f"[n] y = {RMS}(x, g1)", weights(), f"float[a, b, {D}] x"), "model.onnx")
    Path("keep.json").write_text("mine")
    status, _, err = run("model.onnx", "--fp32-nodes", "keep.json")
    assert status == 2 and "is no report of an earlier run" in err
    for suffix, form in BY_SUFFIX.items():
        write_list(FOUND if form != "names" else NONE, "FP16", Path(f"keep{suffix}"), form)
        assert run("model.onnx", "--fp32-nodes", f"keep{suffix}", "-qq")[0] in (0, 1)
    same = run("model.onnx", "--fp32-nodes", "one.json", "--report", "one.json")
    assert same[0] == 2 and "is the file of --report" in same[2]
