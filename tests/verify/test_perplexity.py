"""Perplexity against a plain loop, and token ids cut into sequences without loss."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slanc_onnx import Accelerator, Options, SlancError, protect, validate
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.model import read_model
from slanc_onnx.reasons import Failure, Reason
from slanc_onnx.tokens import Tokens, read_tokens
from slanc_onnx.verify.emulate.norms import emulate
from slanc_onnx.verify.perplexity import negative_log_likelihood, perplexity
from slanc_onnx.verify.runs import run_in_float32
from slanc_onnx.verify.versions import COMPARED_RUNS
from tests.conftest import Run
from tests.oracles.unoptimised import run as run_model
from tests.places import SAMPLES

LLAMA = SAMPLES / "llama_like.onnx"
VOCABULARY = 200


def by_hand(logits: NDArray[np.generic], ids: NDArray[np.int64]) -> float:
    """Mean loss of a sequence, from the definition, in Python's own arithmetic."""
    losses = []
    for position in range(ids.shape[1] - 1):
        row = [float(v) for v in logits[0, position]]
        top = max(row)
        normaliser = top + math.log(math.fsum(math.exp(v - top) for v in row))
        losses.append(normaliser - row[int(ids[0, position + 1])])
    return math.fsum(losses) / len(losses)


def some_ids(rows: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(8).integers(0, VOCABULARY, (rows, length))


def test_the_table_of_a_small_decoder_is_that_of_a_plain_loop() -> None:
    ids = some_ids(3, 70)  # longer than what is evaluated at a time
    device = Accelerator("pairwise")
    original, rewritten = onnx.load(LLAMA), onnx.load(LLAMA)
    protect(rewritten)
    models = {
        "fp32": original,
        "fp16": emulate(original, find_norms_in(read_graph(original)), device).model,
        "fp16_slanc": emulate(rewritten, find_norms_in(read_graph(rewritten)), device).model,
    }
    expected = {}
    for name, model in models.items():
        losses = [by_hand(run_model(model, input_ids=i[None])["logits"], i[None]) for i in ids]
        expected[name] = math.exp(math.fsum(losses) / 3)
    result = validate(original, rewritten, Options(tokens=Tokens(ids), accelerator=device))
    assert result.perplexity == pytest.approx(expected, rel=1e-9)
    assert result.perplexity is not None
    # The last norm overflows in every row: all logits are zero, and the guess is blind.
    assert result.perplexity["fp16"] == pytest.approx(VOCABULARY, rel=1e-12)
    assert result.perplexity["fp16_slanc"] == pytest.approx(result.perplexity["fp32"], rel=0.01)


def last_token_changed(model: onnx.ModelProto) -> None:
    """Another embedding row for the id 199 alone."""
    [table] = [t for t in model.graph.initializer if t.name.endswith("tokens.weight")]
    values = onnx.numpy_helper.to_array(table).copy()
    values[199] *= 1.5
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))


def test_a_difference_that_only_the_losses_of_later_runs_show_is_found() -> None:
    """Outputs are kept of the first runs alone; the id that was spoiled is in none of these."""
    ids = np.random.default_rng(8).integers(0, 199, (COMPARED_RUNS + 2, 12))
    ids[-1, 5] = 199
    original, rewritten = onnx.load(LLAMA), onnx.load(LLAMA)
    protect(rewritten)
    assert validate(original, rewritten, Options(tokens=Tokens(ids))).failures == []
    last_token_changed(rewritten)
    losses = [
        [by_hand(run_model(m, input_ids=i[None])["logits"], i[None]) for i in ids]
        for m in (original, rewritten)
    ]
    assert losses[0][:-1] == losses[1][:-1] and losses[0][-1] != losses[1][-1]
    result = validate(original, rewritten, Options(tokens=Tokens(ids)))
    assert result.fp32_max_abs_error == 0.0
    assert not result.fp32_identical
    assert Reason(Failure.FP32_DIFFERS) in result.failures
    assert validate(original, rewritten, Options(tokens=Tokens(ids[:-1]))).failures == []


def test_a_perplexity_that_moves_too_far_fails() -> None:
    """Of nothing but zero logits it is the size of the vocabulary."""
    ids = some_ids(2, 40)
    model = onnx.load(LLAMA)
    result = validate(model, model, Options(tokens=Tokens(ids)))
    assert result.perplexity is not None
    moved = VOCABULARY / result.perplexity["fp32"] - 1
    assert abs(moved) > 0.01
    assert Reason(Failure.PERPLEXITY_OFF, (1.0,)) in result.failures
    assert not [
        why for why in validate(model, model).failures if why.kind is Failure.PERPLEXITY_OFF
    ]


def test_the_command_line_prints_the_table(run: Run) -> None:
    np.save("ids.npy", some_ids(1, 100)[0])
    cut = ("--sequence-length", "16", "--max-sequences", "2", "--bos", "1")
    status, out, _ = run(str(LLAMA), "-o", "out.onnx", "--tokens", "ids.npy", *cut)
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.startswith("perplexity: ")]
    figures = dict(part.rsplit(" ", 1) for part in line[len("perplexity: ") :].split(", "))
    assert list(figures) == ["FP32", "FP16 norms", "FP16 norms + SLaNC"]
    assert float(figures["FP16 norms"]) == VOCABULARY


def test_a_model_without_logits_fails_with_the_reason(run: Run) -> None:
    np.save("ids.npy", np.full((1, 5), 40))  # the output has 32 columns
    status, out, _ = run("model.onnx", "--tokens", "ids.npy")
    assert status == 1
    assert out.splitlines()[-1].startswith("FAILED | not validated: no output holds logits")


def test_perplexity_of_known_distributions() -> None:
    ids = np.array([[0, 1, 2, 3]])
    uniform = np.zeros((1, 4, 10))
    assert perplexity([negative_log_likelihood(uniform, ids)]) == pytest.approx(10)
    sure = np.full((1, 4, 10), -1e4)
    sure[0, range(3), ids[0, 1:]] = 0
    assert perplexity([negative_log_likelihood(sure, ids)]) == 1
    assert perplexity([math.log(2), math.log(8)]) == pytest.approx(4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.filterwarnings("error")
def test_logits_that_are_not_finite_give_nan(value: float) -> None:
    logits = np.zeros((1, 4, 10), np.float32)
    logits[0, 1, 5] = value
    assert math.isnan(perplexity([negative_log_likelihood(logits, np.zeros((1, 4), int)), 1.0]))


def test_a_loss_too_large_for_exp_gives_nan() -> None:
    assert math.isnan(perplexity([1e5]))


@given(
    count=st.integers(0, 60),
    length=st.integers(2, 12),
    most=st.none() | st.integers(1, 6),
    bos=st.none() | st.just(999),
    dtype=st.sampled_from([np.int32, np.uint16, np.int64]),
)
def test_a_text_is_cut_into_consecutive_sequences(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    length: int,
    most: int | None,
    bos: int | None,
    dtype: type,
) -> None:
    path = tmp_path_factory.getbasetemp() / "ids.npy"
    text: NDArray[np.integer[Any]] = np.arange(count, dtype=dtype)
    np.save(path, text)
    fresh = length - (bos is not None)
    expected = [list(text[i : i + fresh]) for i in range(0, count - fresh + 1, fresh)][:most]
    if not expected:
        with pytest.raises(SlancError, match="too few"):
            read_tokens(path, length, most, bos)
        return
    tokens = read_tokens(path, length, most, bos)
    assert tokens.ids.dtype == np.int64
    assert tokens.ids.shape == (len(expected), length)
    if bos is not None:
        assert (tokens.ids[:, 0] == bos).all()
    assert tokens.ids[:, length - fresh :].tolist() == expected
    assert [s.shape for s in tokens.sequences] == [(1, length)] * len(expected)


def test_sequences_of_equal_length_stay_as_they_are(tmp_path: Path) -> None:
    ids = np.arange(12).reshape(3, 4)
    np.save(tmp_path / "ids.npy", ids)
    assert read_tokens(tmp_path / "ids.npy").ids.tolist() == ids.tolist()
    assert read_tokens(tmp_path / "ids.npy", max_sequences=2).ids.tolist() == ids[:2].tolist()
    with_bos = read_tokens(tmp_path / "ids.npy", bos=7).ids
    assert with_bos[:, 0].tolist() == [7, 7, 7]
    assert with_bos[:, 1:].tolist() == ids.tolist()


def test_large_outputs_are_kept_of_the_first_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_model(onnx.load(LLAMA))
    feeds = [{"input_ids": np.full((1, 4), i)} for i in range(COMPARED_RUNS + 1)]
    assert len(run_in_float32(read, Options(), feeds).outputs) == COMPARED_RUNS
    logits = run_in_float32(read, Options(), feeds[:1]).outputs[0].values()
    size = sum(value.nbytes for value in logits)
    monkeypatch.setattr("slanc_onnx.verify.versions.MOST_KEPT", size * COMPARED_RUNS - 1)
    assert len(run_in_float32(read, Options(), feeds).outputs) == 1
