"""The three real sample models compute what independent implementations of them compute.

They need the packages of the `samples` extra. One reference is NumPy, the other is transformers on
PyTorch with accelerate, which reads the same GGUF and safetensors files by itself. The perplexities
need token ids: SLANC_TOKENS names a folder with wikitext2-test.smollm2.npy and
wikitext2-test.gemma3.npy (WikiText-2 test, the tokenizers of the models, no BOS).
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from sample_models import real_gemma3, real_minilm, real_smollm2
from sample_models.weights import MissingPackageError
from slanc_onnx import Options, protect_file
from slanc_onnx.norms import read_model

GEMMA_BOS = 2
transformers_test = pytest.mark.filterwarnings("default")  # its imports warn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def smollm2(folder: Path) -> Path:
    pytest.importorskip("gguf")
    return _built(real_smollm2.build, folder / "smollm2.onnx")


@pytest.fixture(scope="module")
def gemma3(folder: Path) -> Path:
    pytest.importorskip("gguf")
    return _built(real_gemma3.build, folder / "gemma3.onnx")


@pytest.fixture(scope="module")
def minilm(folder: Path) -> Path:
    return _built(real_minilm.build, folder / "minilm.onnx")


@pytest.fixture(scope="module")
def gemma3_gguf() -> Iterator[Path]:
    try:
        with real_gemma3.gguf_file() as path:
            yield path
    except MissingPackageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "norms"), [("smollm2", 61), ("gemma3", 109)])
def test_decoder_has_its_norms_and_one_embedding(
    name: str, norms: int, request: pytest.FixtureRequest
) -> None:
    model = onnx.load(request.getfixturevalue(name), load_external_data=False)
    assert norms == Counter(node.op_type for node in model.graph.node)["Reciprocal"]
    head = next(node for node in model.graph.node if "logits" in node.output)
    transpose = next(node for node in model.graph.node if head.input[1] in node.output)
    assert list(transpose.input) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_a_folded_decoder_has_the_same_norms(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Streams of Gemma-3 are multiplied on the way, and five layers would close as one region."""
    source, folded = request.getfixturevalue(name), tmp_path / "folded.onnx"
    options = Options(apply="fold", validate=False, certify="off")
    outcome = protect_file(source, folded, options)
    again = read_model(onnx.load(folded, load_external_data=False), tmp_path)
    assert [norm.name for norm in again.norms] == [row.norm.name for row in outcome.norms]
    assert {norm.scaled_by for norm in again.norms} <= {row.scale for row in outcome.norms}


def test_encoder_has_its_norms(minilm: Path) -> None:
    model = onnx.load(minilm, load_external_data=False)
    assert Counter(node.op_type for node in model.graph.node)["LayerNormalization"] == 13


def test_weights_are_aligned_in_one_file(minilm: Path) -> None:
    model = onnx.load(minilm, load_external_data=False)
    entries = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert {"minilm.onnx.data"} == {entry["location"] for entry in entries}
    assert {0} == {int(entry["offset"]) % 64 for entry in entries}


@pytest.mark.parametrize("length", [32, 600])  # 600 passes the window of Gemma 3
def test_decoders_match_numpy(length: int, smollm2: Path, gemma3: Path, gemma3_gguf: Path) -> None:
    from sample_models.numpy_decoder import NumpyDecoder  # imports gguf

    for model, weights, vocabulary in (
        (smollm2, real_smollm2.gguf_path(), 49152),
        (gemma3, gemma3_gguf, 262144),
    ):
        ids = _random_ids(length, vocabulary)
        np.testing.assert_allclose(
            _logits(model, ids), NumpyDecoder(weights).logits(ids), rtol=0, atol=2e-3
        )


@transformers_test
def test_smollm2_matches_transformers(smollm2: Path) -> None:
    _compare_with_transformers(smollm2, real_smollm2.gguf_path(), 49152)


@transformers_test
def test_gemma3_matches_transformers(gemma3: Path, gemma3_gguf: Path) -> None:
    _compare_with_transformers(gemma3, gemma3_gguf, 262144)


@transformers_test
def test_minilm_matches_transformers(minilm: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModel.from_pretrained(real_minilm.model_directory()).eval()
    mask = np.ones((2, 32), np.int64)
    mask[1, 20:] = 0
    inputs = {
        "input_ids": np.stack([_random_ids(32, 30522), _random_ids(32, 30522)]),
        "attention_mask": mask,
        "token_type_ids": np.repeat([[0, 1]], 16, axis=1).repeat(2, axis=0),
    }
    with torch.no_grad():
        expected = reference(**{name: torch.tensor(value) for name, value in inputs.items()})
    actual = _session(minilm).run(None, inputs)[0]
    np.testing.assert_allclose(actual, expected.last_hidden_state.numpy(), rtol=0, atol=1e-4)


def test_perplexity_of_smollm2(smollm2: Path) -> None:
    ids = _tokens("smollm2")[: 4 * 1024].reshape(4, 1024)
    assert _perplexity(smollm2, ids) == pytest.approx(21.1930, abs=5e-4)


def test_perplexity_of_gemma3(gemma3: Path) -> None:
    text = _tokens("gemma3")[: 4 * 511].reshape(4, 511)
    ids = np.concatenate([np.full((4, 1), GEMMA_BOS), text], axis=1)
    assert _perplexity(gemma3, ids) == pytest.approx(55.0693, abs=2e-3)


def _built(build: Any, path: Path) -> Path:
    try:
        build(path)
    except MissingPackageError as error:
        pytest.skip(str(error))
    return path


def _session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def _logits(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = _session(path).run(None, {"input_ids": ids[None]})[0][0]
    return logits


def _random_ids(length: int, vocabulary: int) -> NDArray[np.int64]:
    ids = np.random.default_rng(length).integers(0, vocabulary, length)
    ids[0] = GEMMA_BOS
    return ids


def _compare_with_transformers(model: Path, weights: Path, vocabulary: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")  # transformers wants it for GGUF files
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    ).eval()
    for length in (32, 600):
        ids = _random_ids(length, vocabulary)
        with torch.no_grad():
            expected = reference(torch.tensor(ids[None])).logits[0].numpy()
        np.testing.assert_allclose(_logits(model, ids), expected, rtol=0, atol=2e-3)


def _tokens(model: str) -> NDArray[np.int64]:
    if "SLANC_TOKENS" not in os.environ:
        pytest.skip("SLANC_TOKENS names no folder with token ids")
    path = Path(os.environ["SLANC_TOKENS"], f"wikitext2-test.{model}.npy")
    ids: NDArray[np.int64] = np.load(path).astype(np.int64)
    return ids


def _perplexity(path: Path, sequences: NDArray[np.int64]) -> float:
    """Each sequence by itself; exp of the mean over all next-token predictions."""
    session = _session(path)
    losses = []
    for ids in sequences:
        logits = session.run(None, {"input_ids": ids[None]})[0][0, :-1]
        peak = logits.max(-1, keepdims=True)
        total = np.exp(logits - peak).sum(-1, dtype=np.float64)
        losses.append(np.log(total) + peak[:, 0] - logits[np.arange(len(ids) - 1), ids[1:]])
    return float(np.exp(np.concatenate(losses).mean()))
