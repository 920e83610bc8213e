"""The commands of docs/*.md run and print what the next block quotes; links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    script: str
    quoted: list[str]


def commands(text: str) -> list[Command]:
    """Every bash block, with the lines of the block without a language that follows it."""
    blocks = _BLOCK.findall(text)
    following = [*blocks[1:], ("", "")]
    return [
        Command(body, after.splitlines() if kind == "" else [])
        for (language, body), (kind, after) in zip(blocks, following, strict=True)
        if language == "bash"
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_commands_print_what_the_page_quotes(page: Path, folder: Path) -> None:
    found = commands(page.read_text(encoding="utf-8"))
    assert found, "a page answers with a command"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    for command in found:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        for line in command.quoted:
            assert line in done.stdout


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.stem))
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_readmes_first_command_ends_as_quoted(folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.search(r"^The first line ends with\n\n```\n(.*)\n```$", text, re.MULTILINE)
    command = re.search(r"^pip install \. && python (.*)$", text, re.MULTILINE)
    assert quoted is not None and command is not None
    done = subprocess.run(
        [sys.executable, *command[1].split()],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.splitlines()[-1] == quoted[1]


def test_a_quote_belongs_to_the_command_before_it() -> None:
    text = "```bash\na\n```\n\n```\nx\ny\n```\n```bash\nb\n```\n```toml\nz\n```\n"
    assert commands(text) == [Command("a\n", ["x", "y"]), Command("b\n", [])]
