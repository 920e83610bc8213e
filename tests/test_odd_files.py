"""Files that are none: links in a circle, pipes and devices where a name is asked for."""

import os
from pathlib import Path

import onnx
import pytest

from slanc_onnx import Options, SlancError, protect_file
from tests.conftest import Run
from tests.models.four_norms import four_norms

READ = ("--inputs", "--tokens", "--observe", "--target-file", "--config")
WRITTEN = ("--report", "--html", "--sidecar", "-o")
NAMES = {"--target-file": "a.toml", "--config": "a.toml", "--inputs": "a.npz", "-o": "a.onnx"}


@pytest.mark.parametrize("option", [*READ, *WRITTEN])
def test_a_link_in_a_circle_is_an_error(run: Run, option: str) -> None:
    """Path.resolve raises a RuntimeError there up to Python 3.12."""
    name = NAMES.get(option, "a.npy")
    os.symlink(name, name)
    status, _, err = run("model.onnx", option, name)
    assert status == 2 and name in err and "Traceback" not in err
    assert not Path("model.slanc.onnx").exists()


def test_a_model_behind_links_in_a_circle_is_an_error(run: Run) -> None:
    os.symlink("a.onnx", "a.onnx")
    os.symlink("there", "there")
    for words in (["a.onnx"], ["there/a.onnx"], ["model.onnx", "-o", "there/b.onnx"]):
        status, _, err = run(*words, "--no-validate")
        assert status == 2 and "this is a bug" not in err
    with pytest.raises(SlancError, match="no such file"):
        protect_file(Path("a.onnx"), Path("b.onnx"), Options())


@pytest.mark.parametrize("option", ["model", "--feed", *READ])
def test_a_pipe_or_a_device_is_told_as_such(
    run: Run, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe may never be written to, and a device may never end."""
    name = "a.onnx" if option == "model" else NAMES.get(option, "a.npy")
    for make in (os.mkfifo, lambda name: os.symlink("/dev/zero", name)):
        make(name)
        given = f"x={name}" if option == "--feed" else name
        words = [name] if option == "model" else ["model.onnx", option, given]
        try:
            status, _, err = run(*words)
        except SystemExit as ended:  # of the parser
            status, err = int(ended.code or 0), capsys.readouterr().err
        assert (status, f"{name}: is no regular file" in err) == (2, True)
        os.unlink(name)


@pytest.mark.parametrize("text", ["-4", " 16 ", "1_6", "+16", "\u0661\u0662", "0x10", "", "1e1"])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_place_of_data_is_read_as_runtimes_read_it(run: Run, key: str, text: str) -> None:
    """ONNX Runtime refuses these; Python's int takes some, and would read another place."""
    onnx.save(four_norms(leaky=False), "m.onnx", save_as_external_data=True, location="m.data")
    model = onnx.load("m.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == key).value = text
    onnx.save(model, "m.onnx")
    status, _, err = run("m.onnx", "--no-validate")
    assert status == 2 and f"its place in 'm.data' is no number ({text!r})" in err
    assert not Path("m.slanc.onnx").exists()
