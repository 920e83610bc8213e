"""Pages: their commands print what they quote, links lead somewhere, the map is the packages'."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

import slanc_onnx.public
from slanc_onnx import cli
from slanc_onnx.arguments.parser import make_parser
from tests.places import ROOT

# Pages of docs/ whose commands are not run here, and why.
NOT_RUN = {
    "results.md": "hours, on real models; test_tables.py holds its commands against --help",
    "genai.md": "on onnxruntime-genai and a real model; test_genai.py runs them where it has both",
    "pipelines.md": "test_pipelines.py runs them",
    "mutation.md": "an hour, and mutmut is no dependency of the tests",
}
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*GUIDES, *sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md"]
CORE = ROOT / "slanc_onnx"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A loop, a line with a text that Python reads, or a line.
_STATEMENT = re.compile(
    r"^for .*?^done$|^[^\n]+<<'END'\n.*?^END$|^[^\n]+$", re.MULTILINE | re.DOTALL
)
# A call of the command line, and what goes on with what it prints or where it succeeds.
_CALL = re.compile(r"(?:python -m slanc_onnx|slanc-onnx) ([^|&;<>$\n]*?)(?: (\||&&) (.*))?")


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


def printed_by(script: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints: calls of the command line in this process, the rest in bash."""

    def in_bash(text: str, given: str = "") -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            input=given,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = ""
    for statement in _STATEMENT.findall(script):
        called = _CALL.fullmatch(statement)
        if called is None:
            printed += in_bash(statement)
            continue
        arguments, joined, more = called.groups()
        status = cli.main(shlex.split(arguments, comments=True))
        out, err = capsys.readouterr()
        assert status == 0, err
        printed += in_bash(more, out) if joined == "|" else out
        printed += in_bash(more) if joined == "&&" else ""
    return printed


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.stem))
def test_commands_print_what_the_page_quotes(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if page.name in NOT_RUN:
        pytest.skip(NOT_RUN[page.name])
    found = commands(page.read_text(encoding="utf-8"))
    assert found, "a page answers with a command"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "400")
    for command in found:
        printed = printed_by(command.script, folder, capsys)
        for line in command.quoted:
            assert line in printed


def test_a_command_is_read_as_bash_reads_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[tuple[str, ...]] = []

    def main(arguments: list[str]) -> int:
        called.append(tuple(arguments))
        print("one\ntwo")
        return int("bad" in arguments)

    monkeypatch.setattr(cli, "main", main)
    script = (
        "slanc-onnx a --feed 'x=normal(0,1)'  # why\n"
        "python -m slanc_onnx b | tail -n 1 | tr 'w' '|'\n"
        "slanc-onnx c && echo done\nfor i in 1 2; do\n    echo slanc-onnx $i\ndone\n"
        "cat - <<'END'\nslanc-onnx d\nEND\nfalse || echo no\n"
    )
    assert "\n".join(_STATEMENT.findall(script)) == script.rstrip()
    lines = "one,two,t|o,one,two,done,slanc-onnx 1,slanc-onnx 2,slanc-onnx d,no"
    assert printed_by(script, folder, capsys).splitlines() == lines.split(",")
    assert called == [("a", "--feed", "x=normal(0,1)"), ("b",), ("c",)]
    for bad in ("slanc-onnx bad", "slanc-onnx bad && echo", "slanc-onnx bad | cat", "false | cat"):
        with pytest.raises(AssertionError):
            printed_by(bad, folder, capsys)


def anchors(page: Path) -> set[str]:
    """What a link into a page may name: its headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        leads_to = page.parent / file if file else page
        assert leads_to.exists(), link
        assert not heading or heading in anchors(leads_to), link


def test_readme_is_short_and_leads_to_every_guide() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 12_000
    pages = {page.name for page in GUIDES} - {"index.md"}  # which is to the site what this is here
    assert all(f"(docs/{name})" in text for name in pages)


def test_readme_names_every_option_and_what_it_takes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (usage,) = [body for _, body in _BLOCK.findall(text) if body.startswith("slanc-onnx MODEL")]
    named = re.findall(r"(?<!\w)(--?[a-z0-9-]+)(?: \{([a-z0-9,]+)\})?", usage.replace("[no-]", ""))
    values = {option: listed.split(",") for option, listed in named if listed}
    options = {option for option, _ in named} | {"-h"}
    for action in make_parser()._actions:
        names = set(action.option_strings)
        if names and not str(action.help).startswith("deprecated"):
            assert names & options, names
            for option in names & options if action.choices is not None else ():
                assert values[option] == [*map(str, action.choices or ())], option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_table_has_a_bar_in_code(page: Path) -> None:
    """The site shows the backslash too that GitHub wants before it."""
    assert re.findall(r"`[^`\n]*\\\|[^`\n]*`", page.read_text(encoding="utf-8")) == []


def test_the_site_leads_to_every_guide() -> None:
    """mkdocs.yml names each page, and docs/index.md links to each but for the site's own."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    start = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in GUIDES:
        assert f": {page.name}\n" in navigation, page.name
        assert page.name == "index.md" or f"({page.name})" in start, page.name


def test_the_page_of_the_library_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: slanc_onnx\.public\.(\w+)$", text, re.MULTILINE)
    assert sorted(shown) == sorted(set(slanc_onnx.public.__all__) - {"__version__"})


def last_line(arguments: list[str], folder: Path) -> str:
    """The last line that Python prints, run with arguments in a folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return done.stdout.splitlines()[-1]


def test_readmes_first_command_ends_as_quoted(folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = re.search(r"^The first line ends with\n\n```\n(.*)\n```$", text, re.MULTILINE)
    command = re.search(r"^pip install \. && python (.*)$", text, re.MULTILINE)
    assert quoted is not None and command is not None
    assert last_line(command[1].split(), folder) == quoted[1]


def test_readmes_library_example_runs_and_passes(folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = [body for language, body in _BLOCK.findall(text) if language == "python"]
    assert last_line(["-c", example], folder) == "True"


def first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    return (text or "").partition("\n")[0]


def map_rows() -> dict[str, str]:
    """The map of CONTRIBUTING.md: package or module -> what its row says, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", text, re.MULTILINE))


def test_the_map_has_the_first_line_of_each_package_and_module() -> None:
    modules = {path.stem: path for path in CORE.glob("*.py") if path.stem != "__init__"}
    inits = CORE.glob("*/**/__init__.py")
    packages = {".".join(path.parent.relative_to(CORE).parts): path for path in inits}
    assert map_rows() == {name: first_line(path) for name, path in (modules | packages).items()}


def test_the_map_has_the_order_of_the_layers_and_parts_after_their_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    depth = {n: at for at, names in enumerate(reversed(layers)) for n in re.findall(r"\w+", names)}
    rows = list(map_rows())
    depths = [depth[row.partition(".")[0]] for row in rows]
    assert depths == sorted(depths)
    for before, row in pairwise(rows):
        package = row.rpartition(".")[0]
        assert not package or before == package or before.startswith(f"{package}."), row


def test_the_files_that_a_new_rule_goes_into_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text[text.index("## How to add a rule") : text.index("## How to change a page")]
    files = re.findall(r"`([\w/]+\.py)`", section)
    missing = [f for f in files if not (CORE / f).exists() and not (ROOT / f).exists()]
    assert files and missing == []


def test_a_quote_belongs_to_the_command_before_it() -> None:
    text = "```bash\na\n```\n\n```\nx\ny\n```\n```bash\nb\n```\n```toml\nz\n```\n"
    assert commands(text) == [Command("a\n", ["x", "y"]), Command("b\n", [])]


def test_the_lines_that_a_certificate_rests_on_are_counted() -> None:
    """Within a tenth: the table is for who wants to know how much there is to read."""
    page = (ROOT / "docs" / "certified.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z_/`., ]+) \| ([\d ]+) \|", page, re.MULTILINE)
    assert len(rows) == 8
    for cell, told in rows:
        folder, count = CORE, 0
        for name in re.findall(r"`([^`]+)`", cell):
            path = CORE / name if "/" in name or (CORE / name).exists() else folder / name
            folder = path.parent
            files = path.glob("*.py") if path.is_dir() else [path]
            count += sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert abs(count - int(told.replace(" ", ""))) <= count / 10, cell
