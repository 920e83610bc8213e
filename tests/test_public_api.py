"""The public surface: `__all__` is complete and documented, and the core imports no adapter."""

import ast
import inspect
from pathlib import Path

import pytest

import slanc_onnx
from slanc_onnx import public
from tests.places import ROOT

CORE = sorted((ROOT / "slanc_onnx").rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Every module, or name in a module, that a file imports; relative ones made absolute."""
    package = ["slanc_onnx", *path.relative_to(ROOT / "slanc_onnx").parts[:-1]]
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            modules.add(source)
            modules.update(f"{source}.{alias.name}" for alias in node.names)
    return modules


def test_all_lists_exactly_the_public_names() -> None:
    names = {
        name
        for name, value in vars(public).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(slanc_onnx.__all__) - {"__version__"} == names
    assert len(set(slanc_onnx.__all__)) == len(slanc_onnx.__all__)


@pytest.mark.parametrize("name", sorted(set(slanc_onnx.__all__) - {"__version__"}))
def test_public_name_has_a_docstring(name: str) -> None:
    value = getattr(slanc_onnx, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        pytest.skip("a constant or a type alias")
    text = value.__doc__ or ""
    assert text.strip()
    assert not text.startswith(f"{name}("), "this is the signature that dataclass made up"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_no_adapter(path: Path) -> None:
    for module in imported_modules(path):
        assert module.split(".")[0] != "passes", "adapters are leaves"
        assert not module.startswith("slanc_onnx.passes"), "adapters are leaves"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'slanc_onnx' has no attribute 'nobody'"):
        slanc_onnx.nobody  # noqa: B018
    assert set(slanc_onnx.__all__) <= set(dir(slanc_onnx))
