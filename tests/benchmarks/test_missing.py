"""What a measurement lacks is a sentence and exit status 2."""

from pathlib import Path

import pytest

from benchmarks import tables
from benchmarks.missing import told
from benchmarks.tables import BROUGHT, PAGES, blocks, lacking
from sample_models.weights import MissingPackageError
from slanc_onnx.errors import SlancError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file", "ids.npy"), "ids.npy: no such file"),
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
