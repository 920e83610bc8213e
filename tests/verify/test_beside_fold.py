"""What is merged may make rounded outputs worse by no more than another rounding of the fold."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from slanc_onnx import Accelerator, Options, Validation, protect_file
from slanc_onnx.accelerator import ACCUMULATE
from slanc_onnx.apply.merge import held, write
from slanc_onnx.graph import Array, all_tensors
from slanc_onnx.norms import read_model
from slanc_onnx.options import Merge
from slanc_onnx.reasons import Failure
from slanc_onnx.report.as_json import validation_entry
from slanc_onnx.run import CannotRun, session_of
from slanc_onnx.tokens import Tokens
from slanc_onnx.verify import BesideFold, runs, versions
from slanc_onnx.verify.emulate import emulate
from slanc_onnx.verify.tolerance import Exactness
from slanc_onnx.verify.validate import validate_pair
from tests.models.small_graphs import graph, normal
from tests.places import SAMPLES

LLAMA = SAMPLES / "llama_like.onnx"
ALL: tuple[Merge, ...] = ("all",)
MERGED = Options(apply="fold", merge=ALL, certify="off")
WIDTH = 48


def judged(options: Options, folder: Path, source: Path = LLAMA) -> Validation:
    outcome = protect_file(source, folder / "out.onnx", options)
    assert outcome.validation is not None
    return outcome.validation


# Flushing, which all sums end in alike, with one order of them; the slow tests have it with each.
@pytest.mark.parametrize(
    ("accumulate", "flush"),
    [
        *((accumulate, False) for accumulate in ACCUMULATE),
        ("sequential", True),
        pytest.param("pairwise", True, marks=pytest.mark.slow),
        pytest.param("fp32", True, marks=pytest.mark.slow),
    ],
)
def test_the_fold_alone_is_that_of_a_run_without_merging(
    accumulate: str, flush: bool, tmp_path: Path
) -> None:
    device = Accelerator(flush_subnormals=flush).summing(accumulate)
    found = judged(replace(MERGED, accelerator=device), tmp_path)
    alone = judged(Options(apply="fold", certify="off", accelerator=device), tmp_path)
    beside = found.beside_fold
    assert found.passed and beside is not None and beside.within
    assert beside.error == alone.rounded_rms_error
    assert beside.merged_error == found.rounded_rms_error
    assert beside.in_fp32 == found.fp32_rms_error < 1e-5
    assert 0 < beside.difference <= beside.error + beside.merged_error
    assert 2**-11 < beside.noise < 0.02  # also with sums in FP32, whose order nobody sees
    assert alone.beside_fold is None


def test_noise_takes_no_mask_out_of_the_format(tmp_path: Path) -> None:
    """Its constant, the largest number of FP16 or infinity, is a limit that noise would pass."""
    everything = replace(MERGED, emulate="all")
    for lowest in (np.finfo(np.float32).min, -np.inf):
        model = onnx.load(LLAMA)
        floats = (t for t in all_tensors(model) if t.data_type == onnx.TensorProto.FLOAT)
        [mask] = (t for t in floats if (numpy_helper.to_array(t) < -1e30).any())
        there = numpy_helper.to_array(mask)
        changed = np.where(there < -1e30, np.float32(lowest), there)
        mask.CopyFrom(numpy_helper.from_array(changed, mask.name))
        onnx.save(model, tmp_path / "masked.onnx")
        beside = judged(everything, tmp_path, tmp_path / "masked.onnx").beside_fold
        assert beside is not None and 2**-11 < beside.noise < 0.02


@pytest.mark.parametrize("options", [MERGED, replace(MERGED, to="fp16")])
def test_it_costs_two_runs_and_leaves_no_file(options: Options, tmp_path: Path) -> None:
    told = set[str]()
    output = tmp_path / "out.onnx"
    protect_file(LLAMA, output, options, progress=lambda what, share: told.add(what))
    ran = {what for what in told if what.startswith("validating")}
    assert len(ran) == 6 and sum("the fold alone" in what for what in ran) == 2
    assert list(tmp_path.iterdir()) == [output]


def test_without_merging_it_costs_nothing(tmp_path: Path) -> None:
    told, options = set[str](), replace(MERGED, merge=())
    protect_file(LLAMA, tmp_path / "o", options, progress=lambda what, share: told.add(what))
    assert len([what for what in told if what.startswith("validating")]) == 4


def test_a_process_of_its_own_says_the_same(tmp_path: Path) -> None:
    one, other = (judged(replace(MERGED, isolate=apart), tmp_path) for apart in (False, True))
    assert one.beside_fold == other.beside_fold is not None


def test_a_second_run_merges_nothing_and_has_nothing_to_hold(tmp_path: Path) -> None:
    judged(MERGED, tmp_path)
    (tmp_path / "again").mkdir()
    assert judged(MERGED, tmp_path / "again", tmp_path / "out.onnx").beside_fold is None


def test_the_perplexity_of_the_fold_alone(tmp_path: Path) -> None:
    ids = np.random.default_rng(3).integers(0, 200, (2, 16))
    tokens = Tokens(ids)
    found = judged(replace(MERGED, tokens=tokens), tmp_path)
    alone = judged(Options(apply="fold", certify="off", tokens=tokens), tmp_path)
    assert found.beside_fold is not None and found.beside_fold.perplexity is not None
    assert alone.perplexity is not None
    assert found.beside_fold.perplexity["fold"] == alone.perplexity["fp16_slanc"]
    assert found.beside_fold.perplexity["fold_otherwise"] != alone.perplexity["fp16_slanc"]


def one_norm(scale: float) -> onnx.ModelProto:
    """An RMSNorm of rows divided by a power of two, epsilon to match; FP32 gives the same bits."""
    text = """
        x_s = Mul(x, scale)
        [n] y = SimplifiedLayerNormalization<axis = -1, epsilon = 0.0>(x_s, gamma)
        z = MatMul(y, w)
    """
    weights = {
        "scale": np.array(scale, np.float32),
        "gamma": np.ones(WIDTH, np.float32),
        "w": normal(1, WIDTH, 8),
    }
    return graph(text, weights, f"float[4, {WIDTH}] x", "float[4, 8] z")


def against(scale: float, alone: float | None) -> Validation:
    before, after = (read_model(one_norm(s)) for s in (1.0, scale))
    fold = None if alone is None else read_model(one_norm(alone))
    x = np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)
    [found] = validate_pair(
        before, after, Options(), [[{"x": x}]], Exactness(bits=False, merged=0.0, alone=fold)
    )
    assert not isinstance(found, CannotRun)
    return found


# 2^-11: mean squares of 2^-22, which have three bits in FP16, as subnormals.
FAINT = 2.0**-11


def test_a_fault_that_only_rounding_shows_fails() -> None:
    found = against(FAINT, alone=1.0)
    assert found.fp32_identical and 0.005 < found.rounded_rms_error < found.rounded_tolerance
    assert [reason.kind for reason in found.failures] == [Failure.MERGED_OFF]
    assert found.beside_fold is not None
    beside = found.beside_fold
    facts = beside.merged_error, beside.error, beside.moves, 8, max(beside.ways)
    assert found.failures[0].facts == facts and facts[0] > facts[1] + facts[2]
    # Most draws are like the one that was tried first, as there are 32 numbers.
    assert facts[0] > 3 * facts[4] and len(beside.ways) == len(set(beside.ways)) == 8


def test_the_general_tolerance_lets_it_pass() -> None:
    assert against(FAINT, alone=None).passed


def test_a_merge_that_makes_it_better_passes_however_far_it_is() -> None:
    found = against(1.0, alone=FAINT)
    assert found.passed and found.beside_fold is not None
    assert (
        found.beside_fold.merged_error < found.beside_fold.error < found.beside_fold.difference * 2
    )


def test_what_a_scale_rounds_the_fold_rounds_too() -> None:
    assert against(FAINT, alone=FAINT).passed


def without_noise(model: onnx.ModelProto, *given: object, **named: object) -> object:
    """A session, but for a model that noise moves."""
    if any(node.op_type == "Sin" for node in flat(model.graph)):
        raise CannotRun("no Sin")
    return session_of(model, *given, **named)  # type: ignore[arg-type]


def test_noise_that_cannot_be_run_is_one_roundoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "session_of", without_noise)
    beside = against(1.0, alone=1.0).beside_fold
    assert beside is not None and math.isnan(beside.noise) and beside.moves == 2**-11


def test_its_flag_says_which_version_may_be_refused_and_not_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_the_fold, expected = runs._of_the_fold, against(1.0, alone=FAINT).beside_fold
    monkeypatch.setattr(runs, "_of_the_fold", lambda *given: of_the_fold(*given)[::-1])
    assert expected is not None
    assert against(1.0, alone=FAINT).beside_fold == expected
    monkeypatch.setattr(versions, "session_of", without_noise)
    refused = against(1.0, alone=FAINT).beside_fold
    assert refused is not None and math.isnan(refused.noise)
    assert replace(refused, noise=expected.noise) == expected


def flat(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for one in inner for node in flat(one))]


def test_the_report_has_each_figure_under_its_key() -> None:
    given = BesideFold(13.0, math.nan, 14.0, 15.0, 0.0, 0.5, (), {"fold": math.nan})
    entry = validation_entry(replace(against(1.0, alone=1.0), beside_fold=given), None)
    assert entry is not None and entry["fp16"]["beside_fold"] == {
        "rms_difference": 13.0,
        "rms_noise": None,
        "rms_moves": 0.5,
        "rms_relative_error_of_fold": 14.0,
        "rms_relative_errors_otherwise": [],
        "within": False,
        "perplexity": {"fold": None},
    }


def test_the_least_noise_and_that_of_weights() -> None:
    none = BesideFold(0.0, 0.0, 0.001, 0.0, in_fp32=0.0, roundoff=2**-11)
    assert none.moves == 2**-11
    assert replace(none, noise=math.inf).moves == 2**-11
    assert replace(none, noise=0.003, in_fp32=0.004).moves == pytest.approx(0.005)
    assert replace(none, merged_error=0.001 + 2**-11).within
    assert not replace(none, merged_error=0.0015).within
    assert not replace(none, merged_error=math.inf).within
    ways = replace(none, merged_error=0.002, ways=(0.001, 0.0019))
    assert not ways.within and replace(ways, ways=(0.002, 0.001)).within
    for lost in (math.inf, math.nan):
        assert not replace(ways, ways=(lost, 0.001)).within
        assert replace(ways, ways=(lost, 0.002)).within
    assert replace(ways, in_fp32=0.0008).furthest == math.hypot(0.0019, 0.0008)


def one_number(folder: Path, seed: int) -> tuple[Path, Options]:
    """A model with one output: all that rounding does to it points one way."""
    rng = np.random.default_rng(seed)
    weights = {
        "gamma": rng.uniform(0.5, 2, WIDTH).astype(np.float32),
        "w": rng.standard_normal((WIDTH, 1)).astype(np.float32),
    }
    text = """
        [n] y = SimplifiedLayerNormalization<axis = -1, epsilon = 0.0>(x, gamma)
        z = MatMul(y, w)
    """
    onnx.save(graph(text, weights, f"float[1, {WIDTH}] x", "float[1, 1] z"), folder / "one.onnx")
    x = (rng.standard_normal((1, WIDTH)) * 8).astype(np.float32)
    return folder / "one.onnx", replace(MERGED, inputs={"x": x})


@pytest.mark.parametrize("seed", [5, 24, 28, 35])
def test_a_small_draw_of_noise_fails_no_merge(seed: int, tmp_path: Path) -> None:
    """Of 60 such models in four the first draw is a fraction of what the others are."""
    source, options = one_number(tmp_path, seed)
    found = judged(options, tmp_path, source)
    beside = found.beside_fold
    assert found.passed and beside is not None and len(beside.ways) == 8
    assert beside.error + beside.moves < beside.merged_error <= max(beside.ways)


def test_where_the_first_draw_tells_no_other_is_made(tmp_path: Path) -> None:
    source, options = one_number(tmp_path, 0)
    beside = judged(options, tmp_path, source).beside_fold
    assert beside is not None and beside.within and beside.ways == ()


@pytest.mark.parametrize("seed", [5, 24, 28, 35])
def test_gamma_merged_twice_fails_there_too(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = held.changed

    def twice(values: Array, steps: held.Steps, odd: bool = False) -> Array:
        return plain(values, (*steps, *steps), odd)

    monkeypatch.setattr(write, "changed", twice)
    source, options = one_number(tmp_path, seed)
    for given in (options, replace(options, to="fp16")):
        assert not judged(given, tmp_path, source).passed


def test_other_rounding_moves_each_result_by_a_roundoff_at_most() -> None:
    read = read_model(one_norm(1.0))
    x = np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)
    plain, noisy = (
        session_of(emulate(read.model, read.norms, Accelerator(), dither=d).model, None).run(
            {"x": x}
        )
        for d in (0, 1)
    )
    off = np.abs(noisy["z"] - plain["z"]).max() / np.abs(plain["z"]).max()
    assert 2**-14 < off < 20 * 2**-11


def test_a_wrong_weight_of_16_bits_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where all weights are rounded FP32 outputs may be off by 0.1, which lets 0.7 % pass.
    plain = held.changed

    def wrong(values: Array, steps: held.Steps, odd: bool = False) -> Array:
        made = plain(values, steps, odd)
        made[: len(made) // 2] *= made.dtype.type(1.007)
        return made

    monkeypatch.setattr(write, "changed", wrong)
    found = judged(replace(MERGED, to="fp16"), tmp_path)
    assert found.fp32_max_relative_error < found.fp32_tolerance
    assert found.rounded_rms_error < found.rounded_tolerance
    kinds = {reason.kind for trial in found.trials for reason in trial.failures}
    assert kinds == {Failure.MERGED_OFF} and not found.passed
    monkeypatch.undo()
    assert judged(replace(MERGED, to="fp16"), tmp_path).passed
