"""Withdrawn certificates: rows that were seen count more than a proof."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import Options, compute_scales, protect_file
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import Certificate
from slanc_onnx.prove.condition import Condition
from slanc_onnx.prove.withdrawn import WITHDRAWN, held_against
from slanc_onnx.reasons import Failure, Reason, Seen, Unproved
from tests.conftest import Run
from tests.models.four_norms import four_norms
from tests.places import SAMPLES

PROVED = Certificate(True, None, Bound(3.0))


def place(row: int) -> Reason:
    return Reason(Seen.IN_VALIDATION, (row,))


def test_rows_within_the_bound_leave_a_certificate() -> None:
    for sums in ([], [0.0], [8.9, 1.0], [9.0 * (1 + 1e-5)]):
        assert held_against(PROVED, np.array(sums), place) == PROVED


@pytest.mark.parametrize(
    ("sums", "lost", "why"),
    [
        ([1.0, 16.0, 2.0], 0, Reason(Unproved.ROW_ABOVE_BOUND, (4.0, 3.0), behind=place(1))),
        ([1.0, 2.0, np.nan], 0, Reason(Unproved.ROW_NOT_FINITE, behind=place(2))),
        ([np.inf, 16.0], 1, Reason(Unproved.ROW_NOT_FINITE, behind=place(0))),
        ([1.0, 2.0], 3, Reason(Unproved.ROW_LOST, (3,))),
    ],
)
def test_a_row_that_contradicts_it_withdraws_it(sums: list[float], lost: int, why: Reason) -> None:
    found = held_against(PROVED, np.array(sums), place, lost)
    assert found == replace(PROVED, certified=False, reason=why)
    assert held_against(found, np.array([1.0]), place) == found


def test_conditions_and_missing_proofs_stay_as_they_are() -> None:
    on = replace(PROVED, conditions=(Condition("x", "range", 0.0, 1.0),))
    none = Certificate(False, Reason(Unproved.NO_EPSILON), Bound(None))
    for certificate in (on, none):
        assert held_against(certificate, np.array([np.inf]), place, 5) == certificate


def test_a_limit_on_positions_is_none_that_a_run_breaks() -> None:
    found = replace(PROVED, conditions=(Condition("", "positions", 1.0, 1e5),))
    assert not held_against(found, np.array([np.inf]), place).certified


def llama() -> onnx.ModelProto:
    return onnx.load(SAMPLES / "llama_like.onnx")


@pytest.mark.usefixtures("too_small")
def test_a_wrong_proof_fails_the_run(run: Run) -> None:
    onnx.save(four_norms(), "model.onnx")
    status, out, _ = run("model.onnx", "--estimate", "weights", "--report", "r.json")
    last = out.splitlines()[-1]
    assert status == 1 and last.startswith("FAILED | this model needs it: 64 rows")
    assert "certificates are withdrawn, first that of" in last and "above the bound" in last
    assert re.search(r"withdrawn: row \d+ of the validation has the length", last)


@pytest.mark.usefixtures("too_small")
@pytest.mark.parametrize("way", ["probe", "observe", "tokens"])
def test_the_line_says_which_row(run: Run, way: str) -> None:
    onnx.save(four_norms() if way == "probe" else llama(), "model.onnx")
    np.save("ids.npy", np.array([[4, 9, 2]]))
    more, words = {
        "probe": (["--estimate", "probe"], "a row of the probe has"),
        "observe": (
            ["--observe", "ids.npy"],
            r"the row of run 0, sequence 0, position \d, id \d has",
        ),
        "tokens": (["--certify", "tokens"], r"the row of id \d+ alone has"),
    }[way]
    given = ["model.onnx", "--estimate", "weights", "--no-validate", *more]
    status, out, _ = run(*given)
    last = out.splitlines()[-1]
    assert status == 1 and re.search(f"withdrawn: {words} the length .*, above the bound", last)


@pytest.mark.usefixtures("too_small")
def test_the_probe_and_an_audit_see_it_too(tmp_path: Path) -> None:
    model = four_norms()
    probed = compute_scales(model, Options(estimate="probe"))
    assert any(
        d.certificate and d.certificate.reason and d.certificate.reason.kind in WITHDRAWN
        for d in probed
    )
    onnx.save(model, tmp_path / "m.onnx")
    ids = {"ids": np.array([[4, 9, 2]]), "deep": np.array(True)}
    options = Options(estimate="weights", validate=False, observe=ids)
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx", options)
    assert not outcome.passed and outcome.withdrawn is not None
    assert outcome.withdrawn.kind is Failure.CERTIFICATES_WITHDRAWN


def test_a_right_proof_stays(tmp_path: Path) -> None:
    onnx.save(four_norms(), tmp_path / "m.onnx")
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert outcome.withdrawn is None
    assert any(norm.certificate and norm.certificate.certified for norm in outcome.norms)
