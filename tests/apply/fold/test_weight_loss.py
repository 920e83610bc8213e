"""A 16-bit weight is divided at a loss only as far as that is accepted, and the loss is told."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from slanc_onnx import Options, SlancError, protect, validate
from slanc_onnx.cli import main
from slanc_onnx.reasons import Failure, Unproved
from slanc_onnx.report.wording import reason_text
from slanc_onnx.verify.tolerance import fp32_tolerance
from tests.models.fold_models import IDS_FED, LN, RMS, folded, same_bits, weights
from tests.models.small_graphs import D, graph, normal
from tests.oracles.rounded_ops import run_rounded
from tests.oracles.unoptimised import run

Halves = NDArray[np.float16]
ROWS = f"float[a, b, {D}] x"
WINDOW = {"n": (9, 9)}


def model_of(weight: NDArray[np.floating]) -> onnx.ModelProto:
    """The norm's input is a product with a weight, in the weight's type."""
    to = onnx.helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = f"h = Cast<to = {to}>(x) m = MatMul(h, w) r = Cast<to = 1>(m) [n] y = {RMS}(r, ones)"
    return graph(nodes, weights(w=weight), ROWS)


def weight_of(model: onnx.ModelProto) -> NDArray[np.floating]:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "w")


def truth(weight: Halves, exponent: int) -> tuple[Halves, int, float]:
    """What NumPy divides it to, how many elements lose a bit, and the relative loss."""
    exact = weight.astype(np.float64) / 2.0**exponent
    nearest = exact.astype(np.float16)
    error = nearest.astype(np.float64) - exact
    loss = float(np.linalg.norm(error) / np.linalg.norm(exact))
    return nearest, int(np.count_nonzero(error)), loss


HALF = normal(3, D, D, spread=0.02).astype(np.float16)
NEAREST, COUNT, LOSS = truth(HALF, 9)


def test_a_weight_is_divided_at_a_loss_that_is_accepted() -> None:
    assert COUNT > D and 0 < LOSS < 1e-3
    after, found = folded(model_of(HALF), WINDOW, weight_loss=LOSS * 1.001)
    assert (found.inserted, found.notes) == (0, [])
    assert weight_of(after).tobytes() == NEAREST.tobytes()
    (loss,) = found.lost.values()
    assert (list(found.lost), loss.elements) == (["w"], COUNT)
    assert loss.relative == pytest.approx(LOSS, rel=1e-9)


@pytest.mark.parametrize("accepted", [0.0, LOSS * 0.999])
def test_at_a_larger_loss_it_stays_and_the_note_tells_what_would_do(accepted: float) -> None:
    model = model_of(HALF)
    after, found = folded(model, WINDOW, weight_loss=accepted)
    assert (found.inserted, found.lost) == (1, {})
    assert weight_of(after).tobytes() == HALF.tobytes()
    assert same_bits(model, after, x=normal(9, 2, 3, D))
    (note,) = map(reason_text, found.notes)
    told = re.fullmatch(r".*: w \(\d+ elements\); --weight-loss (\S+) accepts that", note)
    assert told is not None and LOSS <= float(told[1]) <= LOSS * 1.11
    _, found = folded(model, WINDOW, weight_loss=float(told[1]))
    assert (found.inserted, list(found.lost)) == (0, ["w"])


def test_a_weight_of_32_bits_loses_nothing_whatever_is_accepted() -> None:
    tiny = (normal(3, D, D) * 2.0**-130).astype(np.float32)
    after, found = folded(model_of(tiny), WINDOW, weight_loss=0.9)
    assert (found.inserted, found.lost) == (1, {})
    assert weight_of(after).tobytes() == tiny.tobytes()
    assert "weight-loss" not in " ".join(map(reason_text, found.notes))


def test_a_weight_that_overflows_is_not_divided_whatever_is_accepted() -> None:
    large = (HALF * np.float16(2**12)).astype(np.float16)
    after, found = folded(model_of(large), {"n": (-9, -9)}, weight_loss=0.9)
    assert found.lost == {} and weight_of(after).tobytes() == large.tobytes()


def test_what_divides_exactly_is_exact_whatever_is_accepted() -> None:
    whole = np.round(normal(3, D, D) * 8).astype(np.float16)
    model = model_of(whole)
    after, found = folded(model, WINDOW, weight_loss=0.5)
    assert (found.inserted, found.lost, list(found.weights.values())) == (0, {}, [9])
    assert same_bits(model, after, x=normal(9, 2, 3, D))


def test_folding_again_changes_nothing() -> None:
    once, _ = folded(model_of(HALF), WINDOW, weight_loss=1e-2)
    twice, found = folded(once, WINDOW, weight_loss=1e-2)
    assert once.SerializeToString() == twice.SerializeToString()
    assert (found.lost, found.weights) == ({}, {})


def stream(second: Halves) -> onnx.ModelProto:
    """An FP16 file with its norms in FP32; `second` is the product that leaves FP16."""
    nodes = "r0 = Gather(table, ids)"
    for i in (1, 2, 3):
        nodes += f"""
            t{i} = Cast<to = 1>(r{i - 1}) [n{i}] z{i} = {LN}(t{i}, g{i}, b{i})
            x{i} = Cast<to = 10>(z{i}) p{i} = Tanh(x{i}) m{i} = MatMul(p{i}, w{i})
            r{i} = Add(r{i - 1}, m{i})
        """
    halves = {n: a.astype(np.float16) for n, a in weights().items() if n[0] in "wt"}
    made = weights(**{**halves, "w2": second})
    return graph(nodes + f" t4 = Cast<to = 1>(r3) [last] y = {LN}(t4, g7, b7)", made)


LARGE = (normal(2, D, D) * 2.0**14).astype(np.float16)


def outcome_of(model: onnx.ModelProto, folder: Path, *options: str) -> dict[str, Any]:
    """The report of the command."""
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "inputs.npz", ids=IDS_FED)
    more = ["--inputs", str(folder / "inputs.npz"), "--report", str(folder / "report.json")]
    main([str(folder / "m.onnx"), "-o", str(folder / "o.onnx"), *more, *options])
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


FOLD = ("--apply", "fold", "--emulate", "all")


def test_the_stream_of_an_fp16_file_is_healed_by_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = stream(LARGE)
    assert not np.isfinite(run_rounded(model, ids=IDS_FED)["y"]).all()
    report = outcome_of(model, tmp_path, *FOLD, "--weight-loss", "1e-3")
    printed = capsys.readouterr().out
    after = onnx.load(tmp_path / "o.onnx")
    exact, now = run(model, ids=IDS_FED)["y"], run(after, ids=IDS_FED)["y"]
    rounded = run_rounded(after, ids=IDS_FED)["y"]
    scale = np.abs(exact).max()
    assert np.abs(rounded - exact).max() / scale < 0.05  # a device with nothing but FP16
    assert np.abs(now - exact).max() / scale < 1e-2  # and the weights alone
    told = report["fold"]
    assert told["lossy_weights"] >= 1 and told["rewritten_weights"] >= 2
    assert 0 < told["largest_relative_loss"] <= 1e-3
    was = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    lost: int = 0
    for tensor in after.graph.initializer:
        value = was.get(tensor.name)
        if value is not None and value.dtype == np.float16:
            divided = numpy_helper.to_array(tensor).astype(np.float64)
            ratio = np.median(np.abs(value[divided != 0] / divided[divided != 0]))
            lost += int(np.count_nonzero(divided * 2.0 ** np.round(np.log2(ratio)) != value))
    assert told["lost_elements"] == lost > 0
    assert f"weights lost {lost} elements, the largest relative loss" in printed
    assert printed.splitlines()[-1].startswith("PASSED | ")


def test_the_verdict_is_measured_not_assumed() -> None:
    """One row holds nearly all of the Frobenius norm, and these inputs read the others."""
    weight = (normal(2, D, D) * 2.0**-15).astype(np.float16)
    weight[0] = 60000
    model = model_of(weight)
    rows = normal(9, 2, 3, D)
    rows[..., 0] = 0
    after, found = folded(model, WINDOW, weight_loss=1e-3)
    assert found.lost["w"].elements > D
    told = Options(inputs={"x": rows}, weight_loss=1e-3)
    judged = validate(model, after, told)
    exact, now = run(model, x=rows)["y"], run(after, x=rows)["y"]
    assert np.abs(now - exact).max() > 0.1 * np.abs(exact).max()
    assert Failure.FP32_BEYOND_TOLERANCE in {reason.kind for reason in judged.failures}
    rows[..., 0] = 1
    assert validate(model, after, told).fp32_max_relative_error < 1e-4


def test_a_loss_takes_the_certificates(tmp_path: Path) -> None:
    report = outcome_of(stream(LARGE), tmp_path, *FOLD)
    norms = report["norms"]
    assert any(n["certificate"]["certified"] for n in norms)
    report = outcome_of(stream(LARGE), tmp_path, *FOLD, "--weight-loss", "1e-3")
    norms = report["norms"]
    assert not any(n["certificate"]["certified"] for n in norms)
    assert any("--weight-loss" in (n["certificate"]["reason"] or "") for n in norms)
    assert Unproved.WEIGHTS_ROUNDED.value == "weights_rounded"


def test_in_memory_as_for_a_file(tmp_path: Path) -> None:
    model = stream(LARGE)
    outcome_of(model, tmp_path, *FOLD, "--weight-loss", "1e-3")
    options = Options(apply="fold", weight_loss=1e-3, inputs={"ids": IDS_FED})
    protect(model, options)
    assert model.SerializeToString() == onnx.load(tmp_path / "o.onnx").SerializeToString()


@pytest.mark.parametrize("loss", ["-0.1", "1", "nan", "inf"])
def test_what_is_no_fraction_is_refused(
    loss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model_of(HALF), tmp_path / "m.onnx")
    output = tmp_path / "o.onnx"
    assert main([str(tmp_path / "m.onnx"), "-o", str(output), f"--weight-loss={loss}"]) == 2
    assert "must be at least 0, for no loss, and below 1" in capsys.readouterr().err
    assert not output.exists()
    with pytest.raises(SlancError, match="--weight-loss"):
        protect(model_of(HALF), Options(weight_loss=float(loss)))


def test_the_tolerance_of_fp32_outputs_grows_with_the_loss_up_to_that_of_fp16() -> None:
    assert fp32_tolerance(0.0, 100) == 1e-4
    assert fp32_tolerance(1e-3, 100) == pytest.approx(0.02)
    assert fp32_tolerance(0.5, 100) == 0.1
