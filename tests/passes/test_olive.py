"""The Olive pass works from file to file, and hands on what Olive's next pass reads.

docs/pipelines.md has a whole workflow, which tests/test_pipelines.py runs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from slanc_onnx import SlancError
from tests.models.every_edit import IDS, every_edit
from tests.oracles.unoptimised import different, run
from tests.places import SAMPLES

pytest.importorskip("olive", reason="olive-ai is not installed; CONTRIBUTING.md says how")
pytestmark = pytest.mark.filterwarnings("ignore")  # Olive's own

from olive.model import ONNXModelHandler  # noqa: E402
from olive.package_config import OlivePackageConfig  # noqa: E402
from olive.passes.olive_pass import create_pass_from_dict  # noqa: E402

from passes.olive import ENTRY, Slanc, package_config  # noqa: E402


def done(source: Path, output: Path, **given: Any) -> ONNXModelHandler:
    slanc = create_pass_from_dict(Slanc, given, disable_search=True)
    return slanc.run(ONNXModelHandler(str(source)), str(output))


@pytest.mark.parametrize("apply", ["div", "fold"])
def test_the_model_is_the_same_and_its_report_goes_with_it(tmp_path: Path, apply: str) -> None:
    source = SAMPLES / "bert_like.onnx"
    made = done(source, tmp_path / "out", apply=apply, target="fp16-pairwise", certify="off")
    before = onnx.load(source)
    feeds = {i.name: np.ones((2, 6), np.int64) for i in before.graph.input}
    assert different(run(before, **feeds), run(made.load_model(), **feeds)) == []
    report = json.loads(Path(made.model_attributes["additional_files"][0]).read_text())
    assert {norm["status"] for norm in report["norms"]} == {"scaled"}
    assert report["validation"]["passed"]
    again = done(Path(made.model_path), tmp_path / "again", apply=apply, target="fp16-pairwise")
    assert Path(again.model_path).read_bytes() == Path(made.model_path).read_bytes()


def test_external_data_goes_with_the_model(tmp_path: Path) -> None:
    model = every_edit()
    given: Any = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 100}
    onnx.save(every_edit(), tmp_path / "model.onnx", **given)
    made = done(tmp_path / "model.onnx", tmp_path / "out", estimate="weights", certify="off")
    assert Path(made.model_path) == tmp_path / "out" / "model.onnx"
    assert (tmp_path / "out" / "w.bin").exists()
    feeds = {"ids": IDS, "deep": np.array(True)}
    assert different(run(model, **feeds), run(made.load_model(), **feeds)) == []


def test_16_bits_can_be_had_here(tmp_path: Path) -> None:
    made = done(SAMPLES / "bert_like.onnx", tmp_path / "out", to="fp16")
    kinds = {t.data_type for t in made.load_model().graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds


def test_a_model_without_norms_is_handed_back(tmp_path: Path) -> None:
    text = "agraph (float[2] x) => (float[2] y) { y = Relu(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    onnx.save(model, tmp_path / "model.onnx")
    made = done(tmp_path / "model.onnx", tmp_path / "out")
    assert Path(made.model_path) == tmp_path / "model.onnx"


def test_a_run_ends_where_the_result_does_not_pass(tmp_path: Path) -> None:
    """Its streams leave FP16, which no Div before a norm mends."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        main (float[1, 4] x) => (float[1, 4] y) <float[4] g = {1, 1, 1, 1}, float k = {1000000}>
        { h = Mul(x, k) u = Exp(h) [n] y = LayerNormalization<axis = -1>(u, g) }""")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(SlancError, match="FAILED"):
        done(tmp_path / "model.onnx", tmp_path / "out")
    assert done(tmp_path / "model.onnx", tmp_path / "on", must_pass=False).load_model()


def test_bad_options_are_told(tmp_path: Path) -> None:
    with pytest.raises(SlancError, match="none"):
        done(SAMPLES / "bert_like.onnx", tmp_path / "out", target="none")


def test_olive_finds_the_pass_beside_its_own() -> None:
    config = OlivePackageConfig.parse_file_or_obj(package_config())
    assert config.import_pass_module("Slanc") is Slanc
    assert config.get_pass_module_config("OnnxFloatToFloat16")
    assert ENTRY["module_path"] == "passes.olive.Slanc"
