"""The norms of a rewritten file are those of the original, though their nodes have no names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, protect, protect_file
from slanc_onnx.feed import Range
from slanc_onnx.norms import called_as, read_model
from tests.models.small_graphs import graph, normal

WIDTH, ROWS = 16, "float[2, 3, 16]"
X = normal(1, 2, 3, WIDTH)
WEIGHTS = {
    "w": normal(1, WIDTH, WIDTH, spread=20.0),
    "eps": np.array(1e-5, np.float32),
    "gamma": np.ones(WIDTH, np.float32),
}


def rms(name: str = "", gamma: bool = True) -> onnx.ModelProto:
    """A product and its RMSNorm, which is an output of the model."""
    called = f"[{name}] " if name else ""
    text = f"""
        h = MatMul(x, w)
        q = Mul(h, h)
        m = ReduceMean<axes = [-1]>(q)
        v = Add(m, eps)
        s = Sqrt(v)
        {called}{"n" if gamma else "y"} = Div(h, s)
        {"y = Mul(n, gamma)" if gamma else ""}
    """
    weights = {n: w for n, w in WEIGHTS.items() if gamma or n != "gamma"}
    return graph(text, weights, f"{ROWS} x", f"{ROWS} y")


WAYS: dict[str, dict[str, Any]] = {
    "div": {},
    "fold": {"apply": "fold"},
    "to fp16": {"to": "fp16"},
    "to fp16, inputs and outputs too": {"to": "fp16", "keep_io_types": False},
    "to fp16, merged": {"to": "fp16", "merge": ("all",)},
    "nodes in FP32": {"fp32_nodes": True},
    "to fp16, nodes in FP32": {"to": "fp16", "fp32_nodes": True},
}


@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("name", ["", "norm"])
@pytest.mark.parametrize("way", WAYS)
def test_rows_are_seen_however_the_file_is_written(
    way: str, name: str, gamma: bool, tmp_path: Path
) -> None:
    """Rows whose sum of squares FP16 does not hold, counted in NumPy."""
    squares = (X.astype(np.float64) @ WEIGHTS["w"]) ** 2
    lost = int(np.count_nonzero(squares.sum(-1) > 65504))
    assert 0 < lost < 6
    onnx.save(rms(name, gamma), tmp_path / "model.onnx")
    options = Options(inputs={"x": X}, certify="off", **WAYS[way])
    outcome = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert outcome.validation is not None and outcome.validation.passed
    [(seen_of, seen)] = outcome.validation.observed.items()
    assert seen_of == (name or "y")
    assert (seen.overflowed_before, seen.overflowed) == (lost, 0)


def test_certificates_do_not_hang_on_names() -> None:
    options = Options(to="fp16", feeds={"x": Range(-1.0, 1.0)})
    found = [protect(rms(name), options) for name in ("", "norm")]
    certificates = [norm.certificate for [norm] in found]
    assert all(one is not None and one.certified for one in certificates)


def test_names_that_are_there_stay() -> None:
    read = read_model(rms("norm"))
    assert called_as(read, read.norms) is read


def test_a_norm_that_is_another_keeps_its_own_name() -> None:
    read, other = read_model(rms("norm")), read_model(rms())
    [norm] = other.norms
    moved = [replace(norm, normalised="elsewhere", output="there")]
    assert [one.name for one in called_as(read, moved).norms] == ["norm"]
