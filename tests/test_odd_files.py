"""Files that are none: links in a circle, pipes, devices, and names that the locale lacks."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from slanc_onnx import Options, SlancError, protect_file
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.places import ROOT

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


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are UTF-8 there")
def test_a_name_that_the_locale_cannot_write_is_not_said_to_be_missing(tmp_path: Path) -> None:
    """It may well be there: Python looks for nothing that has no name."""
    (tmp_path / "sub").mkdir()
    sub = tmp_path / "sub" / "m.onnx"
    onnx.save(four_norms(), sub, save_as_external_data=True, location="w.bin", size_threshold=0)
    data = sub.read_bytes().replace(b"w.bin", "wöin".encode())
    (tmp_path / "m.onnx").write_bytes(data)
    (tmp_path / "sub" / "w.bin").rename(tmp_path / "wöin")
    (tmp_path / "o.toml").write_text('inputs = "ö.npz"', encoding="utf-8")
    script = "import sys; from slanc_onnx.cli import main; print(*map(main, eval(sys.argv[1])))"
    calls = [["m.onnx"], ["sub/m.onnx", "--config", "o.toml"]]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, repr(calls)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **ascii_only},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.stdout.split() == ["2", "2"], done.stderr
    assert done.stderr.count("Set PYTHONUTF8=1, or a locale in UTF-8.") == 2
