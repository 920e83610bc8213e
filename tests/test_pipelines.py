"""The blocks of docs/pipelines.md run against the tools that they are for, and print what it shows.

What a section needs beyond the tests' own packages stands above its blocks. CONTRIBUTING.md has the
commands that install it.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import ROOT

PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
NOT_RUN = "# not run here"
_BLOCK = re.compile(
    r"(?:^<!-- (needs|file): (.*?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of a section, with what the one without a language behind it quotes."""

    title: str
    language: str
    text: str
    needs: tuple[str, ...]
    files: dict[str, str]  # that stand before it in its section
    quoted: list[str]


def blocks(page: str) -> list[Block]:
    """The blocks to run, in order."""
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        title, _, text = section.partition("\n")
        files: dict[str, str] = {}
        parts = _BLOCK.findall(text)
        following = [*parts, ("", "", "", "")][1:]
        for (kind, told, language, body), after in zip(parts, following, strict=True):
            if kind == "file":
                files[told] = body
            elif language in ("python", "sh") and not body.startswith(NOT_RUN):
                quoted = after[3].splitlines() if after[2] == "" else []
                needs = tuple(told.split()) if kind else ()
                found.append(Block(title, language, body, needs, dict(files), quoted))
    return found


def is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's first block made the files of its examples."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "sample_models").symlink_to(ROOT / "sample_models")
    [(first, quoted)] = re.findall(
        r"^```bash\n(.*?)^```$\n\n^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    printed = run(["bash", "-euo", "pipefail", "-c", first], folder).splitlines()
    assert quoted and [line for line in quoted.splitlines() if line not in printed] == []
    return folder


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("block", blocks(PAGE), ids=lambda block: f"{block.title}-{block.language}")
def test_a_block_prints_what_the_page_shows(block: Block, folder: Path) -> None:
    missing = [package for package in block.needs if not is_there(package)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; CONTRIBUTING.md says how")
    # In the wheel passes/ is slanc_onnx.passes; see setup.py.
    texts = {
        name: text.replace("slanc_onnx.passes", "passes") for name, text in block.files.items()
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    code = block.text.replace("slanc_onnx.passes", "passes")
    start = ["bash", "-euo", "pipefail"] if block.language == "sh" else [sys.executable]
    printed = run([*start, "-c", code], folder).splitlines()
    assert block.quoted
    assert [line for line in block.quoted if line not in printed] == []


def test_what_is_not_run_says_so_and_has_a_heading_that_says_so_too() -> None:
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE):
        if NOT_RUN in section.replace("`" + NOT_RUN, ""):
            assert "Not run " in section, section


def test_a_block_is_read_with_its_needs_files_and_quotes() -> None:
    page = (
        "# Page\n```bash\na\n```\n## One\n<!-- file: f.json -->\n```json\n{}\n```\n"
        "<!-- needs: x y -->\n```sh\nb\n```\n\n```\nq\n```\n```sh\n# not run here\n```\n"
        "## Two\n```python\nc\n```\n"
    )
    assert blocks(page) == [
        Block("One", "sh", "b\n", ("x", "y"), {"f.json": "{}\n"}, ["q"]),
        Block("Two", "python", "c\n", (), {}, []),
    ]
