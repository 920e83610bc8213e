"""Over the graphs of real exporters: every norm is found, and scaling changes no bit.

The graphs lie beside the checkout, each with the inputs to feed it and what its framework says of
its norms; without them these tests are skipped.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from slanc_onnx.graph import read_graph
from slanc_onnx.load import load_model
from slanc_onnx.norms import Norm, find_norms_in
from slanc_onnx.rewrite import apply_scales_in
from slanc_onnx.save import save_model
from tests.unoptimised import Values, different

ZOO = Path(__file__).parents[2] / "shared" / "zoo"
MODELS = sorted(path.parent.name for path in ZOO.glob("*/truth.json"))
KINDS = ("layernorm", "rmsnorm", "rmsnorm_gated")

# ONNX Runtime's CPU provider does not run these files as they came.
CANNOT_RUN = {
    "bert__dynamo23bf16": "no bfloat16 Add",
    "qwen2__genai_bf16_cuda": "no bfloat16 MatMul",
    "unet_groupnorm__ts17_opt_unet": "no NhwcConv",
    "cohere__ts17": "it broadcasts 4 to 8, at every optimisation level",
}
# FP16 files, in which x / 16 can be subnormal. ONNX Runtime's CPU provider places its casts to FP32
# differently once a norm has a Div before it.
HALF = {
    "bert__ts14_opt_bert_fp16": "its norms run in FP16",
    "llama__dynamo23fp16": "its norms run in FP16",
    "llama__genai_fp16_cuda": "its norms run in FP16",
    "llama__mobius_cuda_f16": "its norms run in FP16",
    "llama__genai_int4_webgpu": "ONNX Runtime 1.31 loses the output of an FP16 MatMulNBits that an "
    "elementwise op reads; Neg(Neg(.)) shows it too",
}

pytestmark = pytest.mark.skipif(not MODELS, reason="no ../shared/zoo beside the checkout")


def norms_by_file(name: str) -> dict[Path, list[Norm]]:
    return {
        path: find_norms_in(read_graph(load_model(path), path.parent))
        for path in sorted((ZOO / name).glob("*.onnx"))
    }


def sites(truth: dict[str, Any]) -> int:
    """How many places of the graph hold a LayerNorm or RMSNorm."""
    others = [norm for norm in truth["norms"] if norm["kind"] not in KINDS and norm["in_graph"]]
    return int(truth["norm_sites_in_graph"]) - len(others)


@pytest.mark.parametrize("name", MODELS)
def test_every_norm_is_found(name: str) -> None:
    truth = json.loads((ZOO / name / "truth.json").read_text())
    found = [norm for norms in norms_by_file(name).values() for norm in norms]
    assert len(found) == sites(truth)
    assert len({norm.name for norm in found}) == len(found)
    dims = {norm["dim"] for norm in truth["norms"] if norm["in_graph"]}
    assert {norm.width for norm in found if norm.width is not None} <= dims


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def outputs(path: Path, feeds: dict[str, NDArray[np.generic]]) -> Values:
    """The outputs, but for `present.*`, which hold memory that nothing wrote."""
    running = session(path)
    names = [o.name for o in running.get_outputs() if not o.name.startswith("present")]
    taken = {i.name: feeds[i.name] for i in running.get_inputs() if i.name in feeds}
    return dict(zip(names, map(np.asarray, running.run(names, taken)), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_scaling_changes_no_bit_of_an_fp32_output(name: str, tmp_path: Path) -> None:
    if name in HALF:
        pytest.skip(HALF[name])
    with np.load(ZOO / name / "io.npz") as stored:
        feeds = {key[4:]: stored[key] for key in stored if key.startswith("in__")}
    for path, norms in norms_by_file(name).items():
        if name in CANNOT_RUN:
            with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|broadcast"):
                outputs(path, feeds)
            pytest.skip(CANNOT_RUN[name])
        model = load_model(path)
        apply_scales_in(model, norms, {norm.name: 16.0 for norm in norms if not norm.skip_reason})
        save_model(model, path, tmp_path / path.name)
        assert different(outputs(path, feeds), outputs(tmp_path / path.name, feeds)) == []
