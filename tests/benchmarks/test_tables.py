"""Pages whose figures come from the commands beside them: blocks, outputs, resumed runs."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import tables
from slanc_onnx.arguments import check_usage, make_parser
from tests.places import ROOT

PAGE = """# Title

```bash
echo "| a |"
```

<!-- output -->

| old |

<!-- end of output -->

```bash
not run
```

```bash
echo one \\
    two
```

<!-- output as text -->
<!-- end of output -->
"""
DONE = PAGE.replace("| old |", "| a |").replace(
    "<!-- output as text -->\n", "<!-- output as text -->\n```\none two\n```\n"
)


def test_the_blocks_of_a_page() -> None:
    first, second = tables.blocks(PAGE)
    assert first == tables.Block('echo "| a |"\n', "| old |", False)
    assert second == tables.Block("echo one \\\n    two\n", "", True)
    assert [b.output for b in tables.blocks(DONE)] == ["| a |", "one two"]


@pytest.mark.parametrize(
    "broken",
    [
        PAGE.replace("<!-- end of output -->", "", 1),
        PAGE.replace("```\n\n<!-- output -->", "```\n\nwords\n\n<!-- output -->"),
    ],
)
def test_a_marker_without_its_command_or_its_end_is_an_error(broken: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        list(tables.blocks(broken))


def test_an_output_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    page = PAGE
    for block in tables.blocks(PAGE):
        output = tables.run(block.command, tmp_path)
        assert output is not None
        page = tables.with_output(page, block.command, output)
    assert page == DONE
    assert tables.with_output(DONE, 'echo "| a |"\n', "| a |") == DONE


def test_a_command_that_fails_has_no_output(tmp_path: Path) -> None:
    assert tables.run("echo x; false", tmp_path) is None


def run_all(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(tables, "ROOT", page.parent)
    monkeypatch.setattr(tables, "PAGES", (page,))
    monkeypatch.setattr(tables, "MODELS", ())
    monkeypatch.setattr(sys, "argv", ["tables", str(folder), *options])
    return tables.main()


def test_a_stopped_run_goes_on_and_again_runs_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, folder = tmp_path / "README.md", tmp_path / "work"
    page.write_text(PAGE)
    assert run_all(page, folder, monkeypatch, "--only", "one") == 0
    assert "| old |" in page.read_text()
    kept = json.loads((folder / tables.KEPT).read_text())
    assert kept == {"echo one \\\n    two\n": "one two"}
    kept["echo one \\\n    two\n"] = "kept from before"
    (folder / tables.KEPT).write_text(json.dumps(kept))
    assert run_all(page, folder, monkeypatch) == 0
    assert page.read_text() == DONE.replace("one two", "kept from before")
    assert run_all(page, folder, monkeypatch, "--again") == 0
    assert page.read_text() == DONE
    assert capsys.readouterr().out.splitlines()[-1] == "PASSED | 2 of 2 commands"


def test_a_failed_command_leaves_its_table_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE.replace('echo "| a |"', "false"))
    assert run_all(page, tmp_path / "work", monkeypatch) == 1
    assert "| old |" in page.read_text() and "one two" in page.read_text()
    assert capsys.readouterr().out.splitlines()[-1] == "FAILED | 1 of 2 commands"


def test_quick_says_what_it_lacks_and_prints_without_a_change_of_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "PAGES", ())  # nothing of them is read
    monkeypatch.setattr(sys, "argv", ["tables", str(tmp_path), "--quick"])
    assert tables.main() == 2
    assert "wikitext2.smollm2.npy: python -m benchmarks.token_ids" in capsys.readouterr().err
    (tmp_path / "wikitext2.smollm2.npy").touch()
    (tmp_path / "smollm2.onnx").touch()
    monkeypatch.setattr(tables, "run", lambda command, _: command)
    assert tables.main() == 0
    assert tuple(capsys.readouterr().out.splitlines()) == tables.QUICK
    monkeypatch.setattr(tables, "run", lambda *_: None)
    assert tables.main() == 1


def test_models_are_made_where_a_command_reads_them_and_links_lead_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def run(command: str, folder: Path) -> str:
        made.append(command)
        return ""

    monkeypatch.setattr(tables, "run", run)
    (tmp_path / "docs").symlink_to(tmp_path / "of another checkout")
    (tmp_path / "gemma3.onnx").touch()
    tables.prepare(tmp_path, ["x smollm2.onnx y", "x gemma3.onnx"])
    assert made == ["python -m sample_models.real_smollm2 smollm2.onnx"]
    assert (tmp_path / "docs").resolve() == ROOT / "docs"
    assert (tmp_path / "sample_models" / "llama_like.onnx").exists()
    monkeypatch.setattr(tables, "run", lambda command, folder: None)
    with pytest.raises(SystemExit, match=r"minilm\.onnx could not be made"):
        tables.prepare(tmp_path, ["minilm.onnx"])


def commands(program: list[str]) -> list[list[str]]:
    """What follows a program in every command that a page's output comes from."""
    found = []
    for page in tables.PAGES:
        for block in tables.blocks(page.read_text(encoding="utf-8")):
            for line in re.split(r";|\n", block.command.replace("\\\n", " ")):
                words = [w for w in shlex.split(line) if w != ">&2"]
                if words[: len(program)] == program:
                    found.append(words[len(program) :])
    return found


BENCHMARKS = commands(["python", "-m"])


@pytest.mark.parametrize("words", commands(["slanc-onnx"]), ids=" ".join)
def test_the_command_takes_what_pages_quote(words: list[str]) -> None:
    parser = make_parser()
    check_usage(parser, parser.parse_args(words))


@pytest.mark.parametrize("module", sorted({words[0] for words in BENCHMARKS}))
def test_the_benchmarks_that_pages_quote_take_the_options_that_they_quote(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    command = importlib.import_module(module)
    with pytest.raises(SystemExit, match="0"):
        command.main()
    told = capsys.readouterr().out
    taken = told[told.rindex("\noptions:") :]  # not what its docstring says of them
    quoted = {w for words in BENCHMARKS if words[0] == module for w in words if w[:2] == "--"}
    assert quoted <= set(re.findall(r"--[\w-]+", taken))


def test_the_benchmarks_that_pages_quote_are_commands() -> None:
    for module in {words[0] for words in BENCHMARKS}:
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        last = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body[-1]
        assert isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'"
        assert "main" in ast.unparse(last.body[0])
    told = subprocess.run([sys.executable, "-m", "benchmarks.zoo", "--help"], cwd=ROOT)
    assert told.returncode == 0


def test_every_table_has_been_filled_in() -> None:
    for page in tables.PAGES:
        empty = [b.command for b in tables.blocks(page.read_text(encoding="utf-8")) if not b.output]
        assert not empty
