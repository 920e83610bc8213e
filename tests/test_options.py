"""Options of the functions in memory: what does not fit the model is refused, as for a file."""

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, SlancError, compute_scales, protect, validate
from slanc_onnx.cli import main

PIXELS = """
    <ir_version: 10, opset_import: ["": 17]>
    main (float[2, 2] x) => (float[2, 2] y) <float[2] w = {3, 5}, float[2] g = {1, 1}>
        { h = Mul(x, w) y = LayerNormalization<axis = -1>(h, g) }
"""


def ranges(**limits: tuple[float, float]) -> Options:
    """Options in the deprecated spelling."""
    with pytest.warns(DeprecationWarning):
        return Options(input_ranges=limits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ranges(z=(0, 1)), "--input-range z: is no graph input of floats"),
        (ranges(x=(1, 0)), "--input-range x: 1 to 0 is no range"),
        (ranges(x=(0, math.inf)), "--input-range x: 0 to inf is no range"),
        (Options(inputs={"z": np.ones(2)}), "--inputs lacks x; it holds z"),
        (Options(inputs={}), "--inputs lacks x; it holds nothing"),
        (Options(jobs=0), "--jobs 0: must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_memory_too(options: Options, message: str) -> None:
    model = onnx.parser.parse_model(PIXELS)
    before = model.SerializeToString(deterministic=True)
    calls: list[Callable[[], object]] = [
        lambda: compute_scales(model, options),
        lambda: protect(model, options),
        lambda: validate(model, model, options),
    ]
    for call in calls:
        with pytest.raises(SlancError, match=re.escape(message)):
            call()
    assert model.SerializeToString(deterministic=True) == before


def test_options_that_fit_are_taken_in_memory() -> None:
    model = onnx.parser.parse_model(PIXELS)
    rows = {"x": np.array([[1, 2], [3, 5]], np.float32)}
    options = replace(ranges(x=(0, 5)), inputs=rows, jobs=1)
    [found] = protect(model, options)
    assert found.status == "scaled"


def test_a_deprecated_name_says_what_to_write_instead_at_the_line_that_used_it(
    tmp_path: Path,
) -> None:
    file, table = tmp_path / "o.json", {"input_ranges": {"x": [0, 5]}}
    file.write_text(json.dumps(table))
    calls: list[Callable[[], Options]] = [
        lambda: Options(input_ranges={"x": (0, 5)}),
        lambda: Options.from_mapping(table),
        lambda: Options.from_file(file),
    ]
    for call in calls:
        with pytest.warns(DeprecationWarning, match=r"input_ranges.*feeds=.*Range") as warned:
            options = call()
        assert [each.filename for each in warned] == [__file__]
        (named,) = re.findall(r"(\w+)\.(\w+)\(low, high\)", str(warned[0].message))
        assert Options(feeds={"x": getattr(sys.modules[named[0]], named[1])(0, 5)}).feeds
        assert options.input_ranges == {"x": (0, 5)}
        (spec,) = protect(onnx.parser.parse_model(PIXELS), replace(options, estimate="weights"))
        assert spec.certificate is not None
        (condition,) = spec.certificate.conditions
        assert (condition.low, condition.high) == (0, 5)  # and nothing warns again


def test_what_is_not_deprecated_does_not_warn() -> None:
    """Warnings are errors here."""
    assert not Options().input_ranges and not Options(input_ranges={}).input_ranges
    assert not Options.from_mapping({"feeds": {"x": "range(0,5)"}}).input_ranges


def test_the_command_does_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it end where warnings are errors, as here."""
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(PIXELS), "m.onnx")
    Path("o.toml").write_text("[input_ranges]\nx = [0, 5]\n")
    for given in (["--input-range", "x=0,5"], ["--config", "o.toml"]):
        words = ["--no-validate", "--estimate", "weights", "-qq", "--report", "r.json"]
        assert main(["m.onnx", *given, *words]) == 0
        (norm,) = json.loads(Path("r.json").read_text())["norms"]
        assert norm["certificate"]["conditions"]
