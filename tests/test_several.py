"""Several models in one command: each is a job of its own, and all are checked before the first."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx.cli import main
from slanc_onnx.cli.process import BAD_INPUT, BUG, FAILED, INTERRUPTED, NOT_WRITTEN, PASSED
from slanc_onnx.job import files
from slanc_onnx.report import write_report
from tests.conftest import Run
from tests.models.four_norms import four_norms

QUICK = ("--no-validate", "--estimate", "weights", "--certify", "off")


@pytest.fixture
def three(run: Run) -> Run:
    """The command in a folder with a.onnx and c.onnx, that pass, and b.onnx, that fails."""
    for name, leaky in (("a", False), ("b", True), ("c", False)):
        onnx.save(four_norms(leaky), f"{name}.onnx")
    os.remove("model.onnx")
    return run


ALL = ("a.onnx", "b.onnx", "c.onnx")


def test_each_output_is_that_of_a_command_of_its_own(three: Run) -> None:
    status, out, err = three(*ALL, "-o", "new/out", "-q")
    assert (status, err) == (FAILED, "")
    assert sorted(os.listdir("new/out")) == [*ALL]
    for name in ALL:
        alone, said, _ = three(name, "-o", "alone.onnx", "-q")
        assert alone == (FAILED if name == "b.onnx" else PASSED)
        assert Path("new/out", name).read_bytes() == Path("alone.onnx").read_bytes()
        *lines, last = said.splitlines()
        assert "\n".join([*lines, f"{name}: {last}"]) in out
    assert out.splitlines()[-1] == "3 models | 2 as asked for | 1 FAILED (b.onnx)"


def test_without_a_folder_each_stands_beside_its_model(three: Run) -> None:
    os.mkdir("sub")
    os.rename("c.onnx", "sub/c.onnx")
    assert three("a.onnx", *QUICK, "sub/c.onnx")[0] == PASSED
    assert sorted(os.listdir()) == ["a.onnx", "a.slanc.onnx", "b.onnx", "sub"]
    assert sorted(os.listdir("sub")) == ["c.onnx", "c.slanc.onnx"]
    assert three("a.onnx", "sub/c.onnx", *QUICK, "-qq") == (PASSED, "", "")


def test_reports_lie_in_folders_that_are_made(three: Run) -> None:
    pytest.importorskip("matplotlib")
    given = ("--report", "r/s", "--html", "p", "--sidecar", "r/s", "--fp32-nodes", "n")
    for _ in range(2):  # the second replaces those of the first
        status, out, _ = three(
            "a.onnx", "c.onnx", "-o", "out", *given, "--fp32-nodes-format", "ort"
        )
        assert status == PASSED, out
    found = {name: sorted(os.listdir(name)) for name in ("r/s", "p", "n")}
    assert found == {
        "r/s": ["a.json", "a.norms.json", "c.json", "c.norms.json"],
        "p": ["a.html", "c.html"],
        "n": ["a.fp32-nodes.json", "c.fp32-nodes.json"],
    }
    for name in ("a", "c"):
        report = json.loads(Path(f"r/s/{name}.json").read_text())
        assert (report["model"], report["output"]) == (f"{name}.onnx", f"out/{name}.onnx")
        assert json.loads(Path(f"r/s/{name}.norms.json").read_text())["model"] == f"{name}.onnx"


def shared_name() -> None:
    os.mkdir("sub")
    onnx.save(four_norms(leaky=False), "sub/a.onnx")


def shared_stem() -> None:
    onnx.save(four_norms(leaky=False), "a.pb")


def no_model() -> None:
    Path("c.onnx").write_text("<html>")


def damaged() -> None:
    model = four_norms(leaky=False)
    (table,) = [tensor for tensor in model.graph.initializer if tensor.name == "table"]
    values = onnx.numpy_helper.to_array(table).copy()
    values.flat[3] = np.nan
    table.CopyFrom(onnx.numpy_helper.from_array(values, "table"))
    onnx.save(model, "c.onnx")


def other_input() -> None:
    model = four_norms(leaky=False)
    model.graph.input[0].name = model.graph.node[0].input[1] = "other"
    onnx.save(model, "c.onnx")


def earlier() -> None:
    os.mkdir("sub")
    onnx.save(four_norms(leaky=False), "sub/a.slanc.onnx")
    onnx.save(four_norms(leaky=False), "a.slanc.onnx")


def with_data(folder: str, name: str, scale: float) -> None:
    """A model whose weights lie in w.bin in its folder."""
    model = four_norms(leaky=False)
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            values = onnx.numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "table"))
    os.makedirs(folder, exist_ok=True)
    save: Any = onnx.save
    save(model, f"{folder}/{name}", save_as_external_data=True, location="w.bin", size_threshold=0)


def data_of_one_name() -> None:
    with_data("one", "x.onnx", 1.0)
    with_data("two", "y.onnx", 0.5)


def data_in_the_way() -> None:
    with_data("one", "x.onnx", 1.0)
    os.mkdir("out")
    Path("out/w.bin").write_text("other")


def data_as_an_output() -> None:
    with_data("one", "x.onnx", 1.0)
    os.rename("a.onnx", "w.bin")


def nothing() -> None:
    pass


OUT = ("-o", "out")
BAD: dict[str, tuple[Callable[[], None], tuple[str, ...], str]] = {
    "one name": (
        shared_name,
        ("a.onnx", "sub/a.onnx", *OUT),
        "a.onnx and sub/a.onnx would both be written to out/a.onnx",
    ),
    "given twice": (nothing, ("a.onnx", "a.onnx", *OUT), "would both be written to"),
    "one name of reports": (
        shared_stem,
        ("a.onnx", "a.pb", *OUT, "--report", "r"),
        "--report r/a.json: would be written for a.onnx and for a.pb",
    ),
    "its own folder": (nothing, ("a.onnx", "c.onnx", "-o", "."), "is the input itself"),
    "an output that is read": (
        earlier,
        ("a.onnx", "a.slanc.onnx"),
        "a.slanc.onnx: a.onnx would be written there, and a.slanc.onnx is to be read from there",
    ),
    "-o is a file": (nothing, ("a.onnx", "c.onnx", "-o", "b.onnx"), "b.onnx is no folder"),
    "--report is a file": (
        nothing,
        ("a.onnx", "c.onnx", *OUT, "--report", "b.onnx"),
        "--report b.onnx/a.json: b.onnx is no folder",
    ),
    "the second is no model": (no_model, ("a.onnx", "c.onnx", *OUT), "c.onnx: not an ONNX model"),
    "the second holds nan": (
        damaged,
        ("a.onnx", "c.onnx", *OUT),
        "c.onnx: weight 'table' holds nan",
    ),
    "the second lacks an input": (
        other_input,
        ("a.onnx", "c.onnx", *OUT, "--feed", "ids=ids(0,3)"),
        "c.onnx: --feed ids: ",
    ),
    "the second lacks a norm": (
        lambda: onnx.save(onnx.ModelProto.FromString(Path("b.onnx").read_bytes()), "d.onnx"),
        ("a.onnx", "d.onnx", *OUT, "--set-scale", "other=2"),
        "a.onnx: --set-scale: no norm is named 'other'",
    ),
    "data of one name": (
        data_of_one_name,
        ("one/x.onnx", "two/y.onnx", *OUT),
        "two/y.onnx: out/w.bin: another data file of this name is in the way",
    ),
    "data in the way": (
        data_in_the_way,
        ("a.onnx", "one/x.onnx", *OUT),
        "one/x.onnx: out/w.bin: another data file of this name is in the way",
    ),
    "data as an output": (
        data_as_an_output,
        ("w.bin", "one/x.onnx", *OUT),
        "out/w.bin: is data of one/x.onnx, and what w.bin becomes would be written there",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_any_is_found_before_the_first_is_written(three: Run, case: str) -> None:
    prepare, arguments, message = BAD[case]
    prepare()
    before = sorted(Path().rglob("*"))
    status, out, err = three(*arguments, "--estimate", "weights")
    assert (status, out) == (BAD_INPUT, "")
    assert message in err and err.startswith("ERROR: ") and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_data_that_several_share_is_no_conflict(three: Run) -> None:
    with_data("one", "x.onnx", 1.0)
    shutil.copy("one/x.onnx", "one/y.onnx")
    with_data("two", "z.onnx", 1.0)
    assert three("one/x.onnx", "one/y.onnx", "two/z.onnx", "-o", "out", *QUICK)[0] == PASSED
    assert sorted(os.listdir("out")) == ["w.bin", "x.onnx", "y.onnx", "z.onnx"]
    assert Path("out/w.bin").read_bytes() == Path("two/w.bin").read_bytes()


@pytest.mark.parametrize(
    "arguments", [("--report", "-"), ("--fp32-nodes", "folder")], ids=["stdout", "no format"]
)
def test_what_one_file_is_asked_for_is_bad_usage(three: Run, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as usage:
        three("a.onnx", "c.onnx", "-o", "out", *arguments)
    assert usage.value.code == BAD_INPUT
    assert sorted(os.listdir()) == [*ALL]


def failing_for(
    source: str, error: BaseException, really: Callable[..., Any]
) -> Callable[..., Any]:
    """What raises for one of the models."""

    def fail(job: Any, *rest: object) -> Any:
        if str(job.source) == source:
            raise error
        return really(job, *rest)

    return fail


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("error", "status", "said", "counted"),
    [
        (
            TypeError("odd"),
            BUG,
            "this is a bug in slanc-onnx: TypeError: odd",
            "not done for a bug",
        ),
        (MemoryError(), FAILED, "not enough memory. Try", "FAILED"),
        (FULL, FAILED, "file: No space left on device.", "FAILED"),
    ],
)
def test_the_others_are_done_where_one_ends_in_the_middle(
    three: Run,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    said: str,
    counted: str,
) -> None:
    fail = failing_for("a.onnx", error, files._carry_out)
    monkeypatch.setattr("slanc_onnx.job.files._carry_out", fail)
    found, out, err = three(*ALL, "-o", "out", "-q", "--no-validate")
    assert found == status
    assert err.startswith(f"ERROR: a.onnx: {said}") and err.count("\n") == 1
    assert err.endswith(" Nothing was written for this model.\n")
    assert sorted(os.listdir("out")) == ["b.onnx", "c.onnx"]
    assert out.splitlines()[-1] == f"3 models | 2 as asked for | 1 {counted} (a.onnx)"


def test_ctrl_c_leaves_what_is_finished(three: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fail = failing_for("b.onnx", KeyboardInterrupt(), files._carry_out)
    monkeypatch.setattr("slanc_onnx.job.files._carry_out", fail)
    status, _, err = three(*ALL, "-o", "out", *QUICK, "--report", "out")
    assert (status, err) == (INTERRUPTED, "ERROR: interrupted\n")
    assert sorted(os.listdir("out")) == ["a.json", "a.onnx"]


@pytest.mark.parametrize("also", [(), ("b.onnx",)], ids=["3", "1"])
def test_a_report_that_is_not_written_is_worse_than_none_and_better_than_a_failure(
    three: Run, monkeypatch: pytest.MonkeyPatch, also: tuple[str, ...]
) -> None:

    def write(report: Mapping[str, Any], path: Path) -> None:
        if path.name == "a.json":
            raise FULL
        write_report(report, path)

    monkeypatch.setattr("slanc_onnx.cli.tell.write_report", write)
    status, out, err = three("a.onnx", "c.onnx", *also, "-o", "out", "--report", "r", "-q")
    assert status == (FAILED if also else NOT_WRITTEN)
    assert "--report r/a.json: not written (No space left on device)" in err
    last = "1 as asked for | 1 with a report that is not written (a.onnx)"
    assert last in out.splitlines()[-1]
    assert sorted(os.listdir("r")) == sorted(f"{name}.json" for name in ("c", *("b" for _ in also)))


def test_one_model_is_written_to_a_file_as_ever(three: Run) -> None:
    os.mkdir("out")
    status, _, err = three("a.onnx", "-o", "out")
    assert (status, "is a folder" in err) == (BAD_INPUT, True)


def test_one_model_is_not_checked_twice(three: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("slanc_onnx.cli.command.check_files")
    status, out, _ = three("a.onnx", *QUICK)
    assert status == PASSED and "models |" not in out


@pytest.mark.parametrize("name", ["-x.onnx", "-", "--", "--report"])
@pytest.mark.parametrize("before", [("-o", "out.onnx"), ()])
def test_a_name_behind_two_dashes_may_begin_with_one(
    three: Run, name: str, before: tuple[str, ...]
) -> None:
    os.rename("a.onnx", f"./{name}")
    status, _, err = three(*QUICK, *before, "--", name)
    assert (status, err) == (PASSED, "")
    assert Path("out.onnx" if before else f"{Path(name).stem}.slanc.onnx").is_file()


def test_models_before_and_behind_two_dashes_keep_their_order(three: Run) -> None:
    os.rename("a.onnx", "./-x.onnx")
    status, out, _ = three("c.onnx", *QUICK, "-o", "out", "--", "-x.onnx", "b.onnx")
    assert status == PASSED
    assert sorted(os.listdir("out")) == ["-x.onnx", "b.onnx", "c.onnx"]
    last = [line for line in out.splitlines() if "NOT VALIDATED" in line]
    assert [line.partition(":")[0] for line in last] == ["c.onnx", "-x.onnx", "b.onnx"]


def test_two_dashes_are_no_value_of_an_option(
    three: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename("a.onnx", "./-x.onnx")
    before = Path("./-x.onnx").read_bytes()
    for words in (("c.onnx", *QUICK, "-o", "--", "-x.onnx"), (*QUICK, "-o", "out.onnx", "--")):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == BAD_INPUT
    assert "expected one argument" in capsys.readouterr().err
    assert Path("./-x.onnx").read_bytes() == before


def test_other_files_may_begin_with_a_dash(three: Run) -> None:
    given = ("-o", "./-x.onnx", "--report=-r.json", "--sidecar", "./-")
    status, _, err = three("a.onnx", *QUICK, *given)
    assert (status, err) == (PASSED, "")
    assert {"-x.onnx", "-r.json", "-"} < {*os.listdir()}
    assert three("a.onnx", *QUICK, "--sidecar", "-")[0] == BAD_INPUT
