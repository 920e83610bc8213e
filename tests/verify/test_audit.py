"""The audit counts rows against the window in NumPy, and names the tokens of the largest ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx import Accelerator, Options, compute_scales, protect_file
from slanc_onnx.report.audit import audit_lines
from slanc_onnx.report.terminal import final_parts
from slanc_onnx.scale import ScaledNorm
from slanc_onnx.verify.audit import WORST, audit, largest_rows
from tests.conftest import Run
from tests.places import SAMPLES

LLAMA = SAMPLES / "llama_like.onnx"
IDS = np.random.default_rng(5).integers(0, 200, (2, 30))


@pytest.fixture(scope="module")
def first() -> ScaledNorm:
    """The first norm of a decoder: its rows are embedding rows."""
    return compute_scales(onnx.load(LLAMA), Options(estimate="weights", certify="off"))[0]


def embedded(ids: np.ndarray) -> np.ndarray:
    [table] = [t for t in onnx.load(LLAMA).graph.initializer if t.name.endswith("tokens.weight")]
    rows = onnx.numpy_helper.to_array(table).astype(np.float64)[ids]
    return np.asarray(np.square(rows).sum(axis=-1))


def test_rows_outside_either_limit_are_counted(first: ScaledNorm) -> None:
    norm, width = replace(first, scale=4.0), 96
    low, high = width * 2.0**-14 * 16, 65504.0 * 16
    sums = np.array([0.0, low / 2, low, 1.0, high, high * 2, np.inf, np.nan])
    found = audit(norm, sums, width, Accelerator(), ())
    assert (found.rows, found.above, found.below) == (8, 3, 1)
    assert found.coverage == 0.5
    unscaled = audit(replace(norm, status="skipped", scale=None), sums, width, Accelerator(), ())
    assert unscaled.above == 4  # divided by nothing, the row at 16 times the limit is out too


def test_the_ratios_are_predicted_over_observed(first: ScaledNorm) -> None:
    assert first.estimate is not None
    sums = np.geomspace(1, 1000, 101)
    found = audit(first, sums, 96, Accelerator(), ())
    assert found.typical_ratio == pytest.approx(first.estimate.typical / sums[5])
    assert found.upper_ratio == pytest.approx(first.estimate.upper / 1000)


@given(st.permutations(range(12)), st.sampled_from([(3, 4, 1), (12, 1)]))
def test_a_row_has_the_place_of_its_token(order: list[int], shape: tuple[int, ...]) -> None:
    sums = np.array(order, dtype=np.float32)
    ids = np.arange(100, 112).reshape(3, 4)
    rows = largest_rows(sums.reshape(shape), 7, ids)
    assert [row.sum_of_squares for row in rows] == [11, 10, 9][:WORST]
    for row in rows:
        at = order.index(int(row.sum_of_squares))
        assert (row.run, row.sequence, row.position) == (7, at // 4, at % 4)
        assert row.token == 100 + at


@pytest.mark.parametrize("shape", [(1, 5, 2, 1), (1, 2, 5, 1)])
def test_heads_lie_before_or_after_the_positions(shape: tuple[int, ...]) -> None:
    sums = np.ones(shape, np.float32)
    sums[(0, 3, 1, 0) if shape[1] == 5 else (0, 1, 3, 0)] = 9
    assert largest_rows(sums, 0, np.arange(5)[None])[0].position == 3


def test_rows_that_belong_to_no_token_have_no_place() -> None:
    rows = largest_rows(np.array([[2.0], [5.0]]), 0, np.zeros((1, 7), np.int64))
    assert (rows[0].sum_of_squares, rows[0].position) == (5.0, None)
    assert str(largest_rows(np.array([[np.nan]]), 1, None)[0]) == "inf at run 1"


def test_the_command_line_names_the_largest_embedding_row(run: Run) -> None:
    np.save("ids.npy", IDS)
    status, out, _ = run(str(LLAMA), "-o", "out.onnx", "--observe", "ids.npy", "--report", "r.json")
    assert status == 0
    sums = embedded(IDS)
    found = json.loads(Path("r.json").read_text())["audit"][0]
    at = np.unravel_index(int(sums.argmax()), sums.shape)
    [worst, *_] = found["worst"]
    assert worst["sum_of_squares"] == pytest.approx(sums.max(), rel=1e-6)
    assert (worst["run"], worst["position"], worst["token"]) == (at[0], at[1], IDS[at])
    assert found["coverage"] == 1.0
    assert "100 % of 420 rows inside the windows, 0 above, 0 below" in out


def test_inputs_by_name_are_audited_too(run: Run) -> None:
    np.savez("in.npz", input_ids=IDS)
    assert run(str(LLAMA), "-o", "out.onnx", "--observe", "in.npz", "-q")[0] == 0
    status, _, err = run(str(LLAMA), "-o", "out.onnx", "--observe", "none.npz")
    assert (status, err) == (
        2,
        "ERROR: --observe none.npz: no such file. Give the path of an .npz file.\n",
    )
    status, _, err = run(str(LLAMA), "-o", "out.onnx", "--observe", "none.npy")
    assert (status, err) == (
        2,
        "ERROR: --observe none.npy: no such file. Give the path of an .npy file.\n",
    )
    np.save("large.npy", IDS + 1000)
    status, _, err = run(str(LLAMA), "-o", "new.onnx", "--observe", "large.npy")
    assert status == 2 and err.startswith("ERROR: --observe: id ") and "outside the model's" in err
    np.savez("other.npz", foo=IDS)
    status, _, err = run(str(LLAMA), "-o", "new.onnx", "--observe", "other.npz")
    assert (status, err) == (2, "ERROR: --observe lacks input_ids; it holds foo.\n")
    assert not Path("new.onnx").exists()


def test_without_data_there_is_no_audit(run: Run) -> None:
    assert "observed:" not in run("model.onnx", "--report", "r.json")[1]
    assert json.loads(Path("r.json").read_text())["audit"] == []


def test_a_row_that_fp32_does_not_hold_is_larger_than_any_prediction(first: ScaledNorm) -> None:
    worst = largest_rows(np.array([[1.0], [np.inf]]), 0, None)
    inside = audit(first, np.array([1e-3]), 96, Accelerator(), worst[1:])
    assert inside.upper_ratio is not None and inside.upper_ratio > 1
    found = audit(replace(first, scale=1.0), np.array([1.0, np.inf]), 96, Accelerator(), worst)
    told = list(audit_lines([inside, found]))
    assert "1 above" in told[0] and "1 of 2 norms had a row larger than predicted" in told[0]
    assert told[1].endswith(f"{first.norm.name!r}, inf of it, inf at run 0")
    nothing = list(audit_lines([replace(inside, upper_ratio=None)]))
    assert len(nothing) == 1 and "0 of 1 norms" in nothing[0]


def test_rows_of_the_users_data_outside_a_window_fail_with_the_row(tmp_path: Path) -> None:
    ids = np.array([[3, 1, 4, 1, 5]])
    sums = embedded(ids)[0]
    model = onnx.load(LLAMA)
    [table] = [t for t in model.graph.initializer if t.name.endswith("tokens.weight")]
    for size, place in ((1.0, ""), (float(np.sqrt(1e9 / sums[2])), "position 2, id 4")):
        scaled = onnx.numpy_helper.to_array(table).copy()
        scaled[4] *= np.float32(size)
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        [held] = [t for t in changed.graph.initializer if t.name == table.name]
        held.CopyFrom(onnx.numpy_helper.from_array(scaled, table.name))
        onnx.save(changed, tmp_path / "m.onnx")
        seen = {"input_ids": ids}
        shown = {"input_ids": np.where(ids == 4, 1, ids)}
        options = Options(observe=seen, inputs=shown, scale="calibrated", certify="off")
        outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
        assert outcome.validated and outcome.passed == (not place)
        [*_, last] = final_parts(outcome)[1:2]
        assert (place in last) and ("rows of --observe overflow" in last) == bool(place)


def test_rows_that_epsilon_outweighs_are_inside(first: ScaledNorm) -> None:
    epsilon = first.norm.joined_epsilon
    assert epsilon > 0
    norm, width = replace(first, scale=2.0**10), 96
    sums = np.array([0.5, 2.0]) * width * epsilon
    assert (sums / 2.0**20 < width * 2.0**-14).all()  # both vanish
    assert audit(norm, sums, width, Accelerator(), ()).below == 1
