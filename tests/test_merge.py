"""Merging from file to file: what is written, what the report says, and a second run."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Accelerator, Options, protect, protect_file
from slanc_onnx.cli import main
from slanc_onnx.errors import SlancError
from slanc_onnx.norms import read_model
from slanc_onnx.options import Merge, To
from slanc_onnx.targets import TARGETS
from tests.models.merge_models import LAYER, RMS, model, norm
from tests.models.small_graphs import D, normal
from tests.oracles.unoptimised import run

SAMPLES = Path(__file__).parent.parent / "sample_models"
IDS = np.array([[3, 1, 4, 1, 5]])
ALL: tuple[Merge, ...] = ("all",)
GAMMA: tuple[Merge, ...] = ("gamma",)


def blocks() -> onnx.ModelProto:
    """Two pre-norm blocks and a last norm; the rows are large, so that the fold divides them."""
    text, source = "", "rows"
    weights: dict[str, Any] = {"table": normal(1, 11, D) * 300 + 90}
    for i in range(2):
        weights |= {
            f"up{i}": normal(40 + i, D, 12),
            f"ub{i}": normal(50 + i, 12),
            f"down{i}": normal(60 + i, 12, D) * 40,
            f"db{i}": normal(70 + i, D) * 30,
        }
        text += norm(LAYER, f"n{i}", source, beta=True) + (
            f"h{i} = MatMul(n{i}_y, up{i}) hb{i} = Add(h{i}, ub{i}) f{i} = Relu(hb{i})"
            f"d{i} = MatMul(f{i}, down{i}) db_{i} = Add(d{i}, db{i}) r{i} = Add(db_{i}, {source})"
        )
        source = f"r{i}"
    return model(text + norm(LAYER, "m", source) + "y = MatMul(m_y, w)", weights)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The model with its weights in a file beside it."""
    path = tmp_path / "model.onnx"
    onnx.save(blocks(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def far(before: Path, after: Path) -> float:
    """The RMS difference of the outputs, relative to their RMS, in float64."""
    one, other = (run(onnx.load(path), ids=IDS)["y"].astype(np.float64) for path in (before, after))
    return float(np.sqrt(np.mean((one - other) ** 2) / np.mean(one**2)))


@pytest.mark.parametrize("external", ["auto", "yes", "no"])
def test_weights_in_a_file_of_their_own(file: Path, external: Any) -> None:
    data = (file.parent / "model.data").read_bytes()
    output = file.parent / "out.onnx"
    options = Options(apply="fold", merge=ALL, external_data=external)
    outcome = protect_file(file, output, options)
    assert outcome.passed and 0 < far(file, output) < 1e-6
    found = outcome.report["merge"]
    assert found is not None and (found["weightless"], found["mean_free"]) == (3, 3)
    assert (file.parent / "model.data").read_bytes() == data
    norms = read_model(onnx.load(output)).norms
    assert [n.kind for n in norms] == ["rms"] * 3
    assert {n.gamma for n in norms} == {n.beta for n in norms} == {None}
    assert any(n.scaled_by not in (None, 1.0) for n in norms)  # the fold is there as well


def test_merged_weights_are_those_of_numpy_times_a_power_of_two(file: Path) -> None:
    output = file.parent / "out.onnx"
    protect_file(file, output, Options(apply="fold", merge=ALL))
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (file, output)
    )
    gamma, beta = (before[name].astype(np.float64) for name in ("gamma", "beta"))
    up = gamma[:, None] * before["up0"]
    down = before["down0"].astype(np.float64)
    down = down - down.mean(axis=1, keepdims=True)
    bias = before["ub0"].astype(np.float64) + beta @ before["up0"].astype(np.float64)
    for name, exact in (("up0", up), ("down0", down), ("ub0", bias)):
        power = np.abs(exact).max() / np.abs(after[name]).max()
        power = 2.0 ** np.round(np.log2(power))
        np.testing.assert_array_equal(after[name], (exact / power).astype(np.float32))


def test_a_second_run_changes_nothing_and_proves_the_same(file: Path) -> None:
    first, second = file.parent / "first.onnx", file.parent / "second.onnx"
    options = Options(apply="fold", merge=ALL)
    outcome = protect_file(file, first, options)
    assert outcome.passed
    again = protect_file(first, second, options)
    proofs = [
        [n.certificate is not None and n.certificate.certified for n in o.norms]
        for o in (outcome, again)
    ]
    assert proofs[0] == proofs[1] and any(proofs[0])
    assert again.passed and [n.norm.name for n in again.norms] == ["n0", "n1", "m"]
    found = again.report["merge"]
    assert found is not None
    assert found["weightless"] == found["mean_free"] == found["deferred"] == 0
    assert found["nodes"] == {}
    assert again.validation is not None and again.validation.fp32_identical
    assert {t.name for t in onnx.load(second).graph.initializer} == {
        t.name for t in onnx.load(first).graph.initializer
    }


NAMES = ["bert_like", "llama_like", "sandwich_like"]
# Each part once, which the model has or has not, and all of them in every model.
QUICK = [("gamma", "llama_like"), ("mean", "bert_like"), ("division", "llama_like")]
QUICK += [("all", name) for name in NAMES]


@pytest.mark.parametrize(
    ("merge", "name"),
    [
        pytest.param(*case, marks=() if case in QUICK else (pytest.mark.slow,))
        for case in product(get_args(Merge), NAMES)
    ],
)
def test_sample_models(name: str, merge: Merge, tmp_path: Path) -> None:
    source, output = SAMPLES / f"{name}.onnx", tmp_path / "out.onnx"
    outcome = protect_file(source, output, Options(apply="fold", merge=(merge,), certify="off"))
    found = outcome.validation
    assert found is not None and found.passed and found.overflowed_after == 0
    if outcome.merges is not None and outcome.merges.changes:
        assert found.fp32_rms_tolerance == 1e-5 and found.fp32_rms_error < 1e-5
    else:
        assert found.fp32_identical


def test_all_in_fp16(tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    options = Options(to="fp16", merge=ALL, certify="off")
    outcome = protect_file(SAMPLES / "llama_like.onnx", output, options)
    assert outcome.passed
    found = outcome.report["merge"]
    assert found is not None and found["weightless"] == 7


@pytest.mark.parametrize("to", get_args(To))
def test_the_error_that_is_told_is_that_of_the_type_that_is_written(to: To, tmp_path: Path) -> None:
    gamma, weight = normal(6, D), normal(2, D, 6)
    before = model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)", {"gamma": gamma, "w": weight})
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(before, source)
    device = TARGETS["bf16" if to == "bf16" else "fp16-sequential"]
    options = Options(to=to, merge=GAMMA, certify="off", validate=False, accelerator=device)
    entry = protect_file(source, output, options).report["merge"]
    assert entry is not None
    told = entry["largest_relative_error"]
    exact = gamma[:, None].astype(np.float64) * weight.astype(np.float64)
    [found] = [
        numpy_helper.to_array(t).astype(np.float64)
        for t in onnx.load(output).graph.initializer
        if list(t.dims) == [D, 6]
    ]
    assert told == pytest.approx(np.linalg.norm(found - exact) / np.linalg.norm(exact), rel=1e-6)


def test_a_raised_epsilon_may_move_as_much_as_in_a_fold(tmp_path: Path) -> None:
    table = normal(1, 11, D) * 3000
    table[4] = normal(9, D) * 1000
    epsilon = {"table": table, "eps": np.array(1e-5, np.float32)}
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(model(norm(RMS, "n", "rows") + "y = MatMul(n_y, w)", epsilon), source)
    device = Accelerator(flush_subnormals=True)
    options = Options(apply="fold", epsilon="representable", accelerator=device, certify="off")
    fold, merged = (protect_file(source, output, replace(options, merge=m)) for m in ((), ALL))
    assert fold.passed and merged.passed and merged.validation is not None
    assert merged.validation.fp32_rms_tolerance == 1e-4 > merged.validation.fp32_rms_error > 1e-5
    beside = merged.validation.beside_fold  # an epsilon is raised in the fold too, and is no noise
    assert beside is not None and beside.in_fp32 == 1e-5
    exact = protect_file(source, output, replace(options, merge=ALL, epsilon="exact"))
    assert exact.validation is not None and exact.validation.fp32_rms_tolerance == 1e-5


def twice_is_not_once() -> tuple[np.float32, np.float32]:
    """A gamma and a weight whose product, rounded to FP32 first, is another FP16 number."""
    for step in range(1, 10000):
        gamma = np.float32(1 + step * 2.0**-23)
        weight = np.float32((1 + 2.0**-11) / np.float64(gamma))
        exact = np.float64(gamma) * np.float64(weight)
        if np.float16(np.float32(exact)) != np.float16(exact):
            return gamma, weight
    raise AssertionError("none found")


@pytest.mark.parametrize("in_file", [False, True])
def test_merged_weights_of_16_bits_are_rounded_once(in_file: bool, tmp_path: Path) -> None:
    gamma, weight = twice_is_not_once()
    gammas, weights = np.full(D, gamma), normal(2, D, 6)
    weights[:, 0] = weight
    before = model(norm(LAYER, "n", "rows") + "y = MatMul(n_y, w)", {"w": weights, "gamma": gammas})
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(before, source, save_as_external_data=in_file, size_threshold=0)
    protect_file(source, output, Options(to="fp16", merge=GAMMA, certify="off", validate=False))
    exact = gammas[:, None].astype(np.float64) * weights.astype(np.float64)
    [found] = [
        numpy_helper.to_array(t)
        for t in onnx.load(output).graph.initializer
        if list(t.dims) == [D, 6]
    ]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, exact.astype(np.float16))
    assert (exact.astype(np.float32).astype(np.float16) != found)[:, 0].all()
    in_memory = model(
        norm(LAYER, "n", "rows") + "y = MatMul(n_y, w)", {"w": weights, "gamma": gammas}
    )
    protect(in_memory, Options(to="fp16", merge=GAMMA, certify="off"))
    assert found.tobytes() in {t.raw_data for t in in_memory.graph.initializer}


def test_the_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report = file.parent / "out.onnx", file.parent / "report.json"
    arguments = [str(file), "-o", str(output), "--apply", "fold", "--report", str(report)]
    assert main([*arguments, "--merge", "gamma", "--merge", "mean", "-q"]) == 0
    said = capsys.readouterr().out
    assert "gamma of 3 norms: 3 weightless, 0 left" in said
    assert "mean of 3 norms: 3 mean-free, 0 left" in said
    assert "fewer elementwise" in said
    last = said.strip().splitlines()[-1]
    assert "as a merge rounds otherwise (tolerance 1e-05)" in last and "PASSED" in last
    assert json.loads(report.read_text())["merge"]["elementwise_removed"] == 8


def test_a_dry_run_decides_the_same(file: Path) -> None:
    output = file.parent / "out.onnx"
    outcome = protect_file(file, output, Options(apply="fold", merge=ALL, dry_run=True))
    found = outcome.report["merge"]
    assert found is not None and (found["weightless"], found["mean_free"]) == (3, 3)
    assert not output.exists()


def test_merging_needs_a_fold(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = file.parent / "out.onnx"
    with pytest.raises(SystemExit) as stopped:
        main([str(file), "-o", str(output), "--merge", "gamma"])
    assert stopped.value.code == 2 and "--merge" in capsys.readouterr().err
    with pytest.raises(SlancError, match="--merge gamma: only goes with --apply fold"):
        protect_file(file, output, Options(merge=GAMMA))
    assert not output.exists()
