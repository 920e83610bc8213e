"""The wheel: one top-level package, with the adapters of passes/ inside it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.places import ROOT

NOT_COPIED = (".*", "build", "dist", "venv", "*.egg-info", "__pycache__", "*.onnx", "*.data")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    (copy / "README.md").touch()
    options = ["--wheel", "--no-isolation", "--outdir", str(folder)]
    command = [sys.executable, "-m", "build", *options, str(copy)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    built = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_only_slanc_onnx_is_at_the_top(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel}
    metadata = {name for name in top if name.endswith(".dist-info")}
    assert top - metadata == {"slanc_onnx"}
    assert len(metadata) == 1


@pytest.mark.parametrize(
    ("source", "target"), [("slanc_onnx", "slanc_onnx"), ("passes", "slanc_onnx/passes")]
)
def test_every_module_is_inside(wheel: list[str], source: str, target: str) -> None:
    modules = {f"{target}/{path.name}" for path in (ROOT / source).glob("*.py")}
    assert modules <= set(wheel)
    assert modules


def test_types_template_and_licence_are_inside(wheel: list[str]) -> None:
    assert {"slanc_onnx/py.typed", "slanc_onnx/report/html/page.html"} <= set(wheel)
    schemas = {f"slanc_onnx/report/{name}.schema.json" for name in ("report", "sidecar")}
    assert schemas <= set(wheel)
    assert [name for name in wheel if name.endswith("/licenses/LICENSE")]


def test_the_least_versions_are_those_that_are_tested() -> None:
    """The floors of pyproject.toml are the pins of .ci/lowest.txt, one by one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["ir"], *extras["dask"], *extras["plots"]]
    floors = dict(
        requirement.split(">=")
        for requirement in (*asked, *extras["test"])
        if not requirement.startswith("slanc-onnx[")
    )
    pinned = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^(\S+)==(\S+)$", pinned, re.M))
    assert floors.keys() == pins.keys() - {"pyparsing"}
    assert {name: _version(pins[name]) for name in floors} == {
        name: _version(least) for name, least in floors.items()
    }


def _version(text: str) -> tuple[int, ...]:
    """Without zeros at the end: `>=1.20` is 1.20.0."""
    numbers = [*map(int, text.split("."))]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
