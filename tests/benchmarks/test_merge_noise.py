"""Perplexities of a fold and a merge, each rounded in several ways, and what is said of both."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import merge_noise
from slanc_onnx import Accelerator, Options, protect_file
from slanc_onnx.norms import ReadModel, read_model
from slanc_onnx.options import Merge
from slanc_onnx.tokens import read_tokens
from tests.places import SAMPLES

GIVEN = ["--sequences", "2", "--sequence-length", "16", "--ways", "2"]


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A copy of a sample and ids of its vocabulary, which is where files of the run are made."""
    model, ids = tmp_path / "model.onnx", tmp_path / "ids.npy"
    model.write_bytes((SAMPLES / "llama_like.onnx").read_bytes())
    np.save(ids, np.random.default_rng(0).integers(0, 200, 32))
    return [str(model), str(ids), *GIVEN]


def test_the_first_way_is_that_of_the_accelerator(
    given: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert merge_noise.main(given) == 0
    cells = [
        cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")
    ]
    tokens = read_tokens(tmp_path / "ids.npy", 16)
    options = Options(apply="fold", merge=["all"], certify="off", tokens=tokens)
    outcome = protect_file(tmp_path / "model.onnx", tmp_path / "out.onnx", options)
    assert outcome.validation is not None and outcome.validation.beside_fold is not None
    by_itself = outcome.validation.beside_fold.perplexity
    assert by_itself is not None
    assert cells[0] == "sequential, kept"
    assert cells[1] == f"{by_itself['fold']:.3f}"
    assert len({cells[1], cells[2], cells[4], cells[5]}) > 2, "rounded alike"


def test_a_merge_that_is_wrong_moves_it(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = merge_noise._written

    def wrong(model: Path, out: Path, device: Accelerator, parts: Sequence[Merge]) -> ReadModel:
        file = made(model, out, device, parts)
        if not parts:
            return file
        changed = onnx.load(out)
        for tensor in changed.graph.initializer:
            weight = onnx.numpy_helper.to_array(tensor)
            if weight.ndim == 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(1.05 * weight, tensor.name))
        return read_model(changed, out.parent)

    monkeypatch.setattr(merge_noise, "_written", wrong)
    assert merge_noise.main(given) == 1
