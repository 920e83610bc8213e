"""Folders of onnxruntime-genai: every model that the configuration names, and all else along."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from slanc_onnx.cli.process import BAD_INPUT, FAILED, INTERRUPTED, PASSED
from slanc_onnx.graph.temporary import temporary
from slanc_onnx.job import files, read_model_folder
from tests.conftest import Run
from tests.models.four_norms import four_norms

QUICK = ("--no-validate", "--estimate", "weights", "--certify", "off")
DECODER, VISION, LIST = "text/model.onnx", "vision.onnx", "slanc-onnx.json"
CONFIG = {
    "model": {
        "context_length": 64,
        "decoder": {
            "filename": DECODER,
            "session_options": {"log_id": "x"},
            "inputs": {"input_ids": "ids"},
            "pipeline": [{"again": {"filename": f"./{DECODER}"}}],
        },
        "vision": {"filename": VISION, "config_filename": "processor.json"},
        "speech": {"filename": ""},
    }
}
ALONG = ("genai_config.json", "processor.json", "text/tokenizer.json", "empty")


def save(path: str, model: onnx.ModelProto, data: str = "") -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write: Any = onnx.save
    if data:
        write(model, path, save_as_external_data=True, location=data, size_threshold=0)
    else:
        write(model, path)


def no_norm() -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> m (float[2, 4] x) => (float[2, 4] y) '
        "{ y = MatMul(x, w) }"
    )
    values = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    model.graph.initializer.append(values)
    return model


@pytest.fixture
def given(run: Run) -> Run:
    """The command beside the folder "f": two models, one with its data outside, and other files."""
    save(f"f/{DECODER}", four_norms(leaky=False), "w.bin")
    save(f"f/{VISION}", four_norms(leaky=False))
    for name in ALONG:
        Path("f", name).write_text(json.dumps(CONFIG) if name == ALONG[0] else name)
    Path("f/empty").write_text("")
    os.remove("model.onnx")
    return run


def held(folder: str | Path) -> dict[str, bytes]:
    """What a folder holds, by name."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_every_model_is_done_and_all_else_comes_along(given: Run) -> None:
    before = held("f")
    status, out, err = given("f", "-o", "new/out", "-q")
    assert (status, err) == (PASSED, "")
    assert held("f") == before
    after = held("new/out")
    assert sorted(after) == sorted([*ALONG, DECODER, "text/w.bin", VISION, LIST])
    for name in (*ALONG, "text/w.bin"):
        assert after[name] == before[name]
    for name in (DECODER, VISION):
        assert given(f"f/{name}", "-o", f"alone/{name}", "-q")[0] == PASSED
        assert after[name] == Path("alone", name).read_bytes() != before[name]
    assert os.listdir("new") == ["out"]
    assert f"f/{DECODER}: NORMS PASSED" in out and "2 models | 2 as asked for" in out


def test_a_folder_of_one_model_has_one_last_line(given: Run) -> None:
    config = {"model": {"decoder": {"filename": VISION}}}
    Path("f/genai_config.json").write_text(json.dumps(config))
    status, out, _ = given("f", *QUICK)
    assert status == PASSED
    assert f"written: f.slanc/{VISION}" in out.splitlines()
    assert out.splitlines()[-1].startswith(f"f/{VISION}: ")
    assert held("f.slanc")[DECODER] == held("f")[DECODER]  # it is none of the models: as it is
    assert held("f.slanc")["text/w.bin"] == held("f")["text/w.bin"]


def test_reports_name_folders(given: Run) -> None:
    status, *_ = given("f", "-o", "out", *QUICK, "--report", "r", "--sidecar", "r")
    assert status == PASSED
    assert sorted(held("r")) == [
        "text/model.json",
        "text/model.norms.json",
        "vision.json",
        "vision.norms.json",
    ]
    assert json.loads(Path("r/vision.json").read_text())["output"] == f"out/{VISION}"


def test_an_earlier_output_is_replaced_as_a_whole(given: Run) -> None:
    assert given("f", "-o", "out", *QUICK, "--apply", "fold")[0] == PASSED
    folded = [name for name in held("out") if ".fold-" in name]
    assert folded
    os.remove("f/processor.json")
    assert given("f", "-o", "out", *QUICK)[0] == PASSED
    assert not set(held("out")) & {*folded, "processor.json"}
    first = held("out")
    assert given("out", "-o", "again", *QUICK)[0] == PASSED  # its list is no file of the models
    assert held("again")[DECODER] == first[DECODER]
    assert sorted(os.listdir()) == ["again", "f", "out"]


def test_an_empty_folder_holds_nothing_to_lose(given: Run) -> None:
    os.mkdir("out")
    assert given("f", "-o", "out", *QUICK)[0] == PASSED


def test_to_fp16_leaves_the_old_data_behind_and_the_configuration_as_it_is(given: Run) -> None:
    options = ("--to", "fp16", "--no-keep-io-types", "-q")
    assert given("f", "-o", "out", *options)[0] == PASSED
    after = held("out")
    assert "text/w.bin" not in after
    assert after["genai_config.json"] == held("f")["genai_config.json"]
    for name in (DECODER, VISION):
        model = onnx.load(f"out/{name}")
        kinds = {o.type.tensor_type.elem_type for o in model.graph.output}
        assert kinds == {TensorProto.FLOAT16}


def test_data_that_another_model_reads_too_comes_along(given: Run) -> None:
    shutil.copy(f"f/{DECODER}", "f/text/spare.onnx")
    Path("f/other.onnx").write_text("no model")
    assert given("f", "-o", "out", *QUICK, "--to", "fp16")[0] == PASSED
    for name in ("text/spare.onnx", "text/w.bin", "other.onnx"):
        assert held("out")[name] == held("f")[name]


def test_a_model_without_norms_comes_along_with_its_data(given: Run) -> None:
    save(f"f/{VISION}", no_norm(), "v.bin")
    status, out, _ = given("f", "-o", "out", *QUICK)
    assert status == PASSED
    assert f"f/{VISION}: no norm found; comes along as it is: out/{VISION}." in out
    for name in (VISION, "v.bin"):
        assert held("out")[name] == held("f")[name]
    os.remove("f/text/w.bin")
    save(f"f/{DECODER}", no_norm(), "w.bin")
    assert given("f", "-o", "none", *QUICK)[0] == PASSED
    assert not os.path.exists("none")


def test_what_fails_is_written_all_the_same(given: Run) -> None:
    save(f"f/{VISION}", four_norms(leaky=True))
    status, out, _ = given("f", "-o", "out", "-q")
    assert status == FAILED
    assert out.splitlines()[-1] == f"2 models | 1 as asked for | 1 FAILED (f/{VISION})"
    assert VISION in held("out") and LIST in held("out")


def test_dry_run_writes_nothing(given: Run) -> None:
    assert given("f", "-o", "new/out", *QUICK, "--dry-run")[0] == PASSED
    assert os.listdir() == ["f"]


def refuses(name: str, text: str = "x") -> Callable[[], None]:
    """A file is written."""

    def prepare() -> None:
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    return prepare


def a_link() -> None:
    os.mkdir("d")
    os.symlink("d", "out")


def named(*names: str) -> Callable[[], None]:
    """The configuration names other models."""
    parts = {str(i): {"filename": name} for i, name in enumerate(names)}
    return refuses("f/genai_config.json", json.dumps({"model": parts}))


OUT = ("f", "-o", "out")
BAD: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "no configuration": (
        lambda: os.remove("f/genai_config.json"),
        OUT,
        "f: is a folder without genai_config.json",
    ),
    "no JSON": (refuses("f/genai_config.json", "{"), OUT, "f/genai_config.json: is not JSON"),
    "no model": (named(), OUT, "f/genai_config.json: names no model"),
    "a model that is missing": (named("a.onnx"), OUT, "names 'a.onnx', which is not there"),
    "a model outside": (named("../a.onnx"), OUT, "which lies outside of the folder"),
    "a model elsewhere": (named("/a.onnx"), OUT, "which lies outside of the folder"),
    "damaged": (refuses(f"f/{VISION}", "<html>"), OUT, f"f/{VISION}: not an ONNX model"),
    "no data": (lambda: os.remove("f/text/w.bin"), OUT, "'w.bin' is missing"),
    "with a model": (lambda: None, ("f", f"f/{VISION}", "-o", "out"), "Give it alone"),
    "a folder of somebody": (refuses("out/notes"), OUT, "-o out: holds notes, but no list"),
    "a file": (refuses("out"), OUT, "-o out: is a file"),
    "a link": (a_link, OUT, "-o out: is a link to d"),
    "itself": (lambda: None, ("f", "-o", "f"), "-o f: lies in f or around it"),
    "inside": (lambda: None, ("f", "-o", "f/out"), "-o f/out: lies in f or around it"),
    "around": (lambda: None, ("f", "-o", "."), "-o .: lies in f or around it"),
    "below a file": (refuses("a"), ("f", "-o", "a/out"), "is no folder that can be written to"),
    "a report inside": (
        lambda: None,
        (*OUT, "--report", "out/r"),
        "--report out/r/text/model.json: lies in -o out",
    ),
    "an option for neither": (lambda: None, (*OUT, "--feed", "x=ids(0,3)"), "--feed x: "),
    "a folder by a link": (
        lambda: os.symlink("..", "f/link"),
        OUT,
        "f/link: is a link to a folder",
    ),
    "a pipe": (lambda: os.mkfifo("f/pipe"), OUT, "f/pipe: is no file that can be copied"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(given: Run, case: str) -> None:
    prepare, arguments, message = BAD[case]
    prepare()
    before = sorted(Path().rglob("*"))
    status, out, err = given(*arguments, "--estimate", "weights")
    assert (status, out) == (BAD_INPUT, "")
    assert message in err and err.startswith("ERROR: ") and err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("notes.txt", "holds notes.txt, which no earlier run wrote"),
        ("genai_config.json", "holds genai_config.json, which was changed since"),
    ],
)
def test_what_the_user_did_to_an_output_is_not_lost(given: Run, name: str, told: str) -> None:
    assert given("f", "-o", "out", *QUICK)[0] == PASSED
    Path("out", name).write_text("mine")
    before = held("out")
    status, _, err = given("f", "-o", "out", *QUICK)
    assert (status, told in err) == (BAD_INPUT, True)
    assert held("out") == before


def stopped_at(name: str, error: BaseException) -> Callable[..., Any]:
    """The work on one model raises."""
    really = files._carry_out

    def carry_out(job: Any, *rest: Any) -> Any:
        if job.source.name == name:
            raise error
        return really(job, *rest)

    return carry_out


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), INTERRUPTED), (OSError(28, "No space left on device"), BAD_INPUT)],
)
def test_what_stops_at_one_model_leaves_no_folder(
    given: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    monkeypatch.setattr(files, "_carry_out", stopped_at(VISION, error))
    assert given("f", "-o", "new/out", *QUICK)[0] == status
    assert os.listdir() == ["f"]


@pytest.mark.parametrize("at", [1, 2])
def test_ctrl_c_while_it_is_put_in_place_leaves_one_of_both_whole(
    given: Run, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    assert given("f", "-o", "out", *QUICK)[0] == PASSED
    before, renamed, rename = held("out"), [0], os.rename

    def stopped(source: Path, target: Path) -> None:
        rename(source, target)
        renamed[0] += 1
        if renamed[0] == at:
            raise KeyboardInterrupt

    monkeypatch.setattr("slanc_onnx.graph.folder_draft.os.rename", stopped)
    assert given("f", "-o", "out", *QUICK, "--apply", "fold")[0] == INTERRUPTED
    assert sorted(os.listdir()) == ["f", "out"]
    assert (held("out") == before) == (at == 1)
    assert LIST in held("out")


def test_folders_of_killed_runs_are_removed(given: Run) -> None:
    left, mine = (temporary(Path(), "folder", nobody) for nobody in (True, False))
    for folder in (left, mine):
        (folder / "text").mkdir(parents=True)
    assert given("f", "-o", "out", *QUICK)[0] == PASSED
    assert sorted(os.listdir()) == sorted(["f", "out", mine.name])


def test_what_a_folder_is_made_of(given: Run) -> None:
    read = read_model_folder(Path("f"))
    assert read.models == (Path(DECODER), Path(VISION))
    assert read.data == {Path(DECODER): (Path("text/w.bin"),), Path(VISION): ()}
    assert read.along == tuple(sorted(map(Path, ALONG)))
