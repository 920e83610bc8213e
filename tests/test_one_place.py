"""One fact in one place: five changes of kinds that come up, each an entry in one file.

A change of the package is made to a copy, which a process of its own then runs.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import slanc_onnx

ROOT = Path(__file__).resolve().parents[1]
MODEL = """
    <ir_version: 10, opset_import: ["": 21]>
    m (int64[1, s] ids) => (float[1, s, 16] y) <float eps = {1e-5}, int64[1] last = {-1}> {
        e = Gather(table, ids)
        [first] n = LayerNormalization<axis = -1>(e, ones)
        w_n = MatMul(n, w)
        a = Atan(w_n)
        w_a = MatMul(a, w)
        q = Mul(w_a, w_a)
        v = ReduceMean<keepdims = 1>(q, last)
        t = Add(v, eps)
        same = OptionalGetElement(t)
        r = Sqrt(same)
        [last] y = Div(w_a, r)
    }
"""
# (file, what stands in it, what is put behind it)
SPELLING = (
    "ops/between.py",
    '"Identity": _moving("keeps", shifts=False),',
    '\n    "OptionalGetElement": _moving("keeps", shifts=False),',
)
ACTIVATION = (
    "ops/elementwise.py",
    '"Tanh": Elementwise(np.tanh, slope=_always_one, range=_ONE),',
    '\n    "Atan": Elementwise(np.arctan, slope=_always_one, range=lambda: (-1.6, 1.6)),',
)
WIDTH = (
    "accelerator.py",
    '"fp32": ("any", FLOAT32),',
    '\n        "bf16": ("sequential", Format.named("bfloat16")),',
)
COLUMN = (
    "report/columns.py",
    "COLUMNS: tuple[Column, ...] = (",
    '\n    Column("power", lambda r: r.number * 11, Shown("power", lambda r: str(r.number * 11)),'
    ' Shown("power", lambda r: str(r.number * 11))),',
)
FOUND = "print([n.name for n in slanc_onnx.find_norms(model)])"
READ = """
norm = slanc_onnx.compute_scales(model, slanc_onnx.Options(estimate="weights"))[-1]
print([reason.kind.value for reason in norm.reasons], norm.certificate.certified)
"""
RUN = """
import sys
from slanc_onnx import cli
print("exit", cli.main(["m.onnx", "-o", "out.onnx", *sys.argv[1:]]))
"""
COUNTED = """
print("counted", open("r.json").read().count('"power": 11'), open("p.html").read().count("power"))
"""


def made() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(MODEL)
    weights = {"table": rng.standard_normal((9, 16)), "ones": np.ones(16), "w": np.eye(16)}
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return model


def done_with(changes: list[tuple[str, str, str]], code: str, folder: Path, *arguments: str) -> str:
    """What code prints that runs on a copy of the package with some changes."""
    onnx.save(made(), folder / "m.onnx")
    shutil.copytree(ROOT / "slanc_onnx", folder / "slanc_onnx")
    for file, before, more in changes:
        path = folder / "slanc_onnx" / file
        text = path.read_text(encoding="utf-8")
        assert text.count(before) >= 1
        path.write_text(text.replace(before, before + more, 1), encoding="utf-8")
    start = "import onnx, slanc_onnx\nmodel = onnx.load('m.onnx')\n"
    return subprocess.run(
        [sys.executable, "-c", start + code, *arguments],
        cwd=folder,  # where -c looks first
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def spelled(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What stands found and what stands proved with the new spelling alone."""
    return done_with(
        [SPELLING], f"{FOUND}\n{READ}", tmp_path_factory.mktemp("spelled")
    ).splitlines()


def test_a_norm_spelling_is_one_line(spelled: list[str]) -> None:
    assert [norm.name for norm in slanc_onnx.find_norms(made())] == ["first"]
    assert spelled[0] == "['first', 'last']"


def test_an_activation_is_one_record(spelled: list[str], tmp_path: Path) -> None:
    with_it = done_with([SPELLING, ACTIVATION], READ, tmp_path).strip()
    for text, expected in ((spelled[1], "['size_kept'] False"), (with_it, "[] True")):
        assert text.replace("'one_is_best'", "").replace(", ]", "]") == expected


def test_an_accumulator_is_one_line(tmp_path: Path) -> None:
    text = done_with([SPELLING, ACTIVATION, WIDTH], RUN, tmp_path, "--accumulate", "bf16")
    assert "emulated: " in text and "bf16 sums" in text and "exit 0" in text


def test_a_column_is_one_entry_for_all_three(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = ("--report", "r.json", "--html", "p.html", "--no-validate")
    text = done_with([SPELLING, ACTIVATION, COLUMN], RUN + COUNTED, tmp_path, *files)
    heading = next(line for line in text.splitlines() if line.startswith("power"))
    assert "scale" in heading and "exit 0" in text
    assert text.splitlines()[-1].startswith("counted 1 ")
    assert int(text.split()[-1]) >= 1


def test_a_front_end_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "bytes.py").write_text(
        "import onnx, slanc_onnx\n\n\ndef protect(data):\n"
        "    model = onnx.ModelProto.FromString(data)\n"
        "    return [norm.status for norm in slanc_onnx.protect(model)]\n"
    )
    spec = importlib.util.spec_from_file_location("passes.bytes", tmp_path / "bytes.py")
    assert spec is not None and spec.loader is not None
    front_end = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(front_end)
    assert front_end.protect(made().SerializeToString()) == ["scaled"]
