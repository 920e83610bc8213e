"""Bad input: exit status 2, one sentence that says the fix, and nothing written."""

import os
import re
import socket
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from slanc_onnx.cli import main
from slanc_onnx.report.as_json import REPORT_START
from tests.conftest import Run
from tests.models.four_norms import four_norms


def saved_with(name: str, values: NDArray[np.generic]) -> None:
    """model.onnx, with other values of a weight."""
    model = four_norms(leaky=False)
    (index,) = [i for i, tensor in enumerate(model.graph.initializer) if tensor.name == name]
    model.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, "model.onnx")


def one_nan(shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = np.ones(shape, np.float32)
    values.flat[7] = np.nan
    return values


def a_folder() -> None:
    os.remove("model.onnx")
    os.mkdir("model.onnx")


def folder_of_ids() -> None:
    os.mkdir("d")
    np.save("d/ids.npy", np.zeros(9, int))


def not_onnx() -> None:
    Path("model.onnx").write_text("<html>not found</html>")


def truncated() -> None:
    Path("model.onnx").write_bytes(Path("model.onnx").read_bytes()[:-20])


def external(location: str) -> None:
    model = four_norms(leaky=False)
    for tensor in model.graph.initializer:
        if tensor.name == "table":
            external_data_helper.set_external_data(tensor, location)
            tensor.ClearField("raw_data")
    onnx.save(model, "model.onnx")


def zero_width() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[2, 0] x) => (float[2, 0] y) { y = LayerNormalization<axis = -1>(x, gamma) }""")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), "gamma"))
    onnx.save(model, "model.onnx")


IDS = np.zeros((1, 3), np.int64)


def inputs(**arrays: Any) -> None:
    np.savez("inputs.npz", **arrays)


def a_member_of_text() -> None:
    with zipfile.ZipFile("inputs.npz", "w") as file:
        file.writestr("ids", "no array")


def inputs_cut_short() -> None:
    inputs(ids=IDS)
    os.truncate("inputs.npz", 99)


def tokens(values: NDArray[np.generic]) -> None:
    np.save("ids.npy", values)


def target_file(text: str) -> None:
    Path("npu.toml").write_text(text)


WITH_INPUTS, WITH_TOKENS = ("--inputs", "inputs.npz"), ("--tokens", "ids.npy")
WITH_TARGET = ("--target-file", "npu.toml")
BAD_INPUT: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "no file": (lambda: os.remove("model.onnx"), (), "no such file. Give the path of"),
    "an output in a folder by its name": (lambda: None, ("-o", "new/"), "-o new/: names a folder"),
    "no expression": (lambda: None, ("--exclude", ""), "--exclude '': is in every name"),
    "a folder": (a_folder, (), "model.onnx: is a folder without genai_config.json"),
    "not ONNX": (not_onnx, (), "not an ONNX model, or cut short"),
    "empty": (lambda: Path("model.onnx").write_bytes(b""), (), "holds no graph"),
    "truncated": (truncated, (), "copy it again"),
    "missing external data": (lambda: external("w.bin"), (), "'w.bin' is missing. Copy it into"),
    "external data outside": (lambda: external("../w.bin"), (), "leaves the model's folder. Move"),
    "nan in an embedding": (
        lambda: saved_with("table", one_nan((50, 32))),
        (),
        "weight 'table' holds nan",
    ),
    "nan in a gamma": (
        lambda: saved_with("gamma", one_nan((32,))),
        ("--estimate", "weights"),
        "weight 'gamma' holds nan. The checkpoint or its conversion is damaged",
    ),
    "nan in an embedding that a proof reads": (
        lambda: saved_with("table", one_nan((50, 32))),
        ("--estimate", "weights", "--certify", "exact"),
        "weight 'table' holds nan",
    ),
    "zero width": (zero_width, (), "rows of width 0"),
    "inputs: no file": (lambda: None, WITH_INPUTS, "--inputs inputs.npz: no such file"),
    "inputs: a member that is no array": (
        a_member_of_text,
        WITH_INPUTS,
        "its member 'ids' is no array",
    ),
    "inputs: one missing": (lambda: inputs(ids=IDS), WITH_INPUTS, "--inputs lacks deep"),
    "inputs: other type": (
        lambda: inputs(ids=IDS.astype(np.float32), deep=np.array(True)),
        WITH_INPUTS,
        "--inputs: ids is of type float32, but the model takes int64",
    ),
    "inputs: no ids": (
        lambda: inputs(ids=np.zeros((1, 0), np.int64), deep=np.array(True)),
        WITH_INPUTS,
        "--inputs: ids has the shape [1, 0], which holds no id",
    ),
    "inputs: other shape": (
        lambda: inputs(ids=IDS[0], deep=np.array(True)),
        WITH_INPUTS,
        "--inputs: ids has the shape [3], but the model takes [1, rows]",
    ),
    "inputs: out of range": (
        lambda: inputs(ids=IDS + 50, deep=np.array(True)),
        WITH_INPUTS,
        "ids holds 50",
    ),
    "inputs: an .npy": (
        lambda: tokens(IDS),
        ("--inputs", "ids.npy"),
        "not an .npz file of arrays. Write one with",
    ),
    "inputs: cut short": (inputs_cut_short, WITH_INPUTS, "not an .npz file"),
    "inputs: objects": (
        lambda: inputs(ids=np.array([None]), deep=np.array(True)),
        WITH_INPUTS,
        "not an .npz file",
    ),
    "tokens: no file": (lambda: None, WITH_TOKENS, "--tokens ids.npy: no such file"),
    "tokens: not .npy": (
        lambda: Path("ids.npy").write_bytes(b"1 2 3"),
        WITH_TOKENS,
        "not an .npy file of token ids",
    ),
    "tokens: an .npz": (
        lambda: inputs(ids=IDS),
        ("--tokens", "inputs.npz"),
        "must be integers in one or two",
    ),
    "tokens: floats": (lambda: tokens(np.zeros(9)), WITH_TOKENS, "must be integers"),
    "tokens: too few": (
        lambda: tokens(np.zeros(9, int)),
        WITH_TOKENS,
        "too few for one sequence of 1024. Give a",
    ),
    "tokens: none": (lambda: tokens(np.zeros((0, 4), int)), WITH_TOKENS, "no sequence of two ids"),
    "tokens: too large": (
        lambda: tokens(np.arange(45, 53)),
        (*WITH_TOKENS, "--sequence-length", "4"),
        "id 52 is outside the model's vocabulary of 50. Use ids of this model's tokenizer",
    ),
    "tokens: negative": (
        lambda: tokens(IDS - 1),
        WITH_TOKENS,
        "id -1 is outside the model's vocabulary",
    ),
    "tokens: beyond 64 bits": (
        lambda: tokens(np.full((1, 4), 2**64 - 1, np.uint64)),
        WITH_TOKENS,
        "18446744073709551615 is the id of no token",
    ),
    "tokens: bos beyond 64 bits": (
        lambda: tokens(IDS),
        (*WITH_TOKENS, "--bos", str(2**64)),
        "is the id of no token",
    ),
    "tokens: bos too large": (
        lambda: tokens(IDS),
        (*WITH_TOKENS, "--bos", "50"),
        "id 50 is outside",
    ),
    "target: unknown": (lambda: None, ("--target", "npu"), "'npu' is not known. Known are: fp16"),
    "target file: lists in lists": (
        lambda: target_file(f"name = {'[' * 10**4}{']' * 10**4}"),
        WITH_TARGET,
        "target file npu.toml: no TOML",
    ),
    "target file: a number of many digits": (
        lambda: target_file(f"name = {'9' * 6000}"),
        WITH_TARGET,
        "target file npu.toml: no TOML",
    ),
    "target file: none": (
        lambda: None,
        WITH_TARGET,
        "target file npu.toml: no such file. Give the path of a .toml file",
    ),
    "target file: a folder": (lambda: os.mkdir("npu.toml"), WITH_TARGET, "is a folder. Give"),
    "target file: no TOML": (lambda: target_file("format: float16"), WITH_TARGET, "no TOML: "),
    "target file: no key": (
        lambda: target_file("formt = 'float16'"),
        WITH_TARGET,
        "key 'formt' is not known. Known are",
    ),
    "target file: bad value": (
        lambda: target_file("format = 'half'"),
        WITH_TARGET,
        "format = 'half' is not allowed",
    ),
    "report in no folder": (
        lambda: None,
        ("--report", "no/r.json"),
        "--report no/r.json: there is no folder no. Make it: mkdir -p no",
    ),
    "sidecar is a folder": (
        lambda: os.mkdir("d"),
        ("--sidecar", "d"),
        "--sidecar d: is a folder. Name a file in it, such as d/model.norms.json",
    ),
    "sidecar to stdout": (lambda: None, ("--sidecar", "-"), "only --report goes to standard"),
    "model to stdout": (lambda: None, ("-o", "-"), "a model does not go to standard output"),
    "tokens from stdin": (
        lambda: None,
        ("--tokens", "-"),
        "--tokens -: standard input is not read",
    ),
    "tokens are a folder": (
        folder_of_ids,
        ("--tokens", "d"),
        "--tokens d: is a folder. Give the path of an .npy file. It has d/ids.npy.",
    ),
    "inputs in no folder": (
        lambda: None,
        ("--inputs", "no/in.npz"),
        "no such file, nor is there a folder no. Give the path of an .npz file",
    ),
    "report on the model": (
        lambda: None,
        ("--report", "model.onnx"),
        "no report of an earlier run. Give another name",
    ),
    "report on the output": (
        lambda: None,
        ("--report", "model.slanc.onnx"),
        "no report of an earlier run",
    ),
    "report on the tokens": (
        lambda: tokens(np.zeros(9, int)),
        ("--report", "ids.npy"),
        "no report of an earlier run",
    ),
    "output on the input": (lambda: None, ("-o", "./model.onnx"), "is the input itself. Give"),
    "output on a folder": (lambda: None, ("-o", "."), "-o .: is a folder. Give the name of"),
    "output below a file": (lambda: None, ("-o", "model.onnx/o.onnx"), "is no folder"),
}


@pytest.mark.parametrize("title", BAD_INPUT)
def test_bad_input_gives_2_and_the_fix_and_no_file(run: Run, title: str) -> None:
    spoil, arguments, message = BAD_INPUT[title]
    spoil()
    before = {name: Path(name).is_dir() or Path(name).read_bytes() for name in os.listdir()}
    status, out, err = run("model.onnx", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("ERROR: ")
    assert err.count("\n") == 1
    assert message in err
    after = {name: Path(name).is_dir() or Path(name).read_bytes() for name in os.listdir()}
    assert after == before


def test_a_model_from_stdin_or_no_folder_is_answered_with_the_fix(run: Run) -> None:
    for name, message in (
        ("-", "-: standard input is not read. Give the path of an .onnx file."),
        ("no/m.onnx", "no/m.onnx: no such file, nor is there a folder no. Give the path"),
    ):
        status, out, err = run(name)
        assert (status, out) == (2, "") and err.startswith(f"ERROR: {message}")


def test_options_are_not_abbreviated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("model.onnx", "--rep", "r.json")
    assert stopped.value.code == 2
    assert "unrecognized arguments: --rep" in capsys.readouterr().err
    assert os.listdir() == ["model.onnx"]


def test_help_has_a_part_for_each_step_and_names_every_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    parts = re.findall(r"^(\w+):$", out, re.MULTILINE)
    order = ["options", "input", "scales", "target", "proof", "output", "validation", "report"]
    assert parts == order
    assert all(kind in out for kind in ("LayerNorms", "RMSNorms", "GroupNorms", "L2"))


def a_pipe(path: str) -> None:
    os.mkfifo(path)


def a_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)


def a_device(path: str) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def a_link(path: str) -> None:
    """To a report, or a model: whose name is a link may have it for others."""
    Path("target").write_bytes(b"")
    os.symlink("target", path)


def a_link_to_nothing(path: str) -> None:
    os.symlink("nowhere", path)


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")
@pytest.mark.parametrize("option", ["-o", "--report", "--html"])
@pytest.mark.parametrize("make", [a_pipe, a_socket, a_device, a_link, a_link_to_nothing])
def test_only_files_are_replaced(run: Run, option: str, make: Callable[[str], None]) -> None:
    make("odd")
    before, found = os.lstat("odd"), sorted(os.listdir())
    status, out, err = run("model.onnx", option, "odd")
    what = "a link to" if "link" in make.__name__ else "no regular file"
    assert (status, out) == (2, "")
    assert err.startswith(f"ERROR: {option} odd: is {what}") and "Give the name of a file" in err
    after = os.lstat("odd")
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert sorted(os.listdir()) == found


def test_a_report_replaces_none_but_a_report(run: Run) -> None:
    for foreign in ('{"model_type": "llama"}', '{\n  "version": "1.0"}'):
        Path("config.json").write_text(foreign)
        status, _, err = run("model.onnx", "--report", "config.json")
        assert (status, "is no report of an earlier run" in err) == (2, True)
        assert Path("config.json").read_text() == foreign
    Path("made.json").touch()  # as mktemp does
    for _ in range(2):
        assert run("model.onnx", "--report", "made.json", "-qq")[0] == 0
    assert Path("made.json").read_text().startswith(REPORT_START)


def test_an_output_on_the_inputs_is_refused(run: Run) -> None:
    np.savez("in.npz", ids=np.zeros((1, 4), np.int64))
    before = Path("in.npz").read_bytes()
    status, _, err = run("model.onnx", "-o", "in.npz", "--inputs", "in.npz")
    assert (status, "is the file of inputs" in err) == (2, True)
    assert Path("in.npz").read_bytes() == before


def test_an_external_place_that_is_no_number_is_named(run: Run) -> None:
    model = onnx.load("model.onnx")
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", "abc")):
        tensor.external_data.add(key=key, value=value)
    Path("data").write_bytes(bytes(1 << 20))
    Path("odd.onnx").write_bytes(model.SerializeToString())
    status, _, err = run("odd.onnx")
    assert (status, "is no number" in err) == (2, True)
