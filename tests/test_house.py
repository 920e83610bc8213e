"""Rules of the house that no linter holds: sizes, and what packages show each other."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.places import ROOT

FOLDERS = ("slanc_onnx", "passes", "tests", "benchmarks", "sample_models")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
CORE = ROOT / "slanc_onnx"
PACKAGES = [path.parent for path in sorted(CORE.rglob("__init__.py")) if path.parent != CORE]

MOST_LINES, MOST_IN_A_FUNCTION, MOST_AT_THE_ROOT = 400, 60, 16

each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda path: dotted(path))


class Import(NamedTuple):
    """`from source import name` of the library, and the file that says it."""

    file: Path
    source: str
    name: str


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parts)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@cache
def imports() -> list[Import]:
    """Of all files of the library and the adapters."""
    found = []
    for path in (p for p in FILES if p.parts[len(ROOT.parts)] in ("slanc_onnx", "passes")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path} imports relatively"
                found += [Import(path, node.module or "", alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                found += [Import(path, alias.name, "") for alias in node.names]
    return [each for each in found if each.source.split(".")[0] == "slanc_onnx"]


@cache
def package_of(source: str) -> Path | None:
    """The innermost package that a dotted name lies in, itself included; None at the root."""
    parts = source.split(".")
    paths = (ROOT.joinpath(*parts[:depth]) for depth in range(len(parts), 1, -1))
    return next((path for path in paths if path in PACKAGES), None)


def exported(package: Path) -> set[str]:
    for node in parsed(package / "__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_each_of_its_functions_fit_on_few_screens(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    for function in functions(parsed(path)):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= MOST_IN_A_FUNCTION, f"{function.name} has {lines} lines"


def test_few_modules_lie_at_the_root() -> None:
    assert len(list(CORE.glob("*.py"))) <= MOST_AT_THE_ROOT


def test_imports_across_packages_name_the_package_and_those_inside_one_the_module() -> None:
    faults = []
    for file, source, name in imports():
        package = package_of(source)
        whole = (ROOT.joinpath(*source.split(".")) / f"{name}.py").is_file()  # of a module
        if package is None:
            if package_of(f"{source}.{name}") is not None:
                faults.append(f"{dotted(file)}: imports the whole of {source}.{name}")
        elif (source == dotted(package) and not whole) == file.is_relative_to(package):
            faults.append(f"{dotted(file)}: from {source} import {name}")
    assert faults == []


@each_package
def test_a_package_exports_exactly_what_others_import(package: Path) -> None:
    imported = {
        each.name
        for each in imports()
        if package_of(each.source) == package and not each.file.is_relative_to(package)
    }
    assert exported(package) == imported


@each_package
def test_a_package_says_in_a_title_and_three_sentences_what_goes_in_and_out(package: Path) -> None:
    title, blank, *text = (ast.get_docstring(parsed(package / "__init__.py")) or "").splitlines()
    assert title.endswith((".", "?")) and blank == ""
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text).strip())
    assert len(sentences) == 3, sentences


@each_package
def test_no_exported_name_hides_a_module(package: Path) -> None:
    modules = {path.stem for path in package.iterdir() if not path.name.startswith("_")}
    assert exported(package) & modules == set()


def test_what_reads_and_proves_catches_its_own_exceptions_alone() -> None:
    caught = {
        ast.unparse(handler.type) if handler.type else "everything"
        for folder in ("trace", "prove")
        for path in (CORE / folder).rglob("*.py")
        for handler in ast.walk(parsed(path))
        if isinstance(handler, ast.ExceptHandler)
    }
    # ONNX's evaluator and ONNX Runtime raise anything: what they cannot compute is unknown.
    assert caught == {"CannotFollow", "NoBound", "StepFails", "np.linalg.LinAlgError", "Exception"}
