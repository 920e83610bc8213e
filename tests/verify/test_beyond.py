"""Masks beyond the format: as an attention in NumPy does, rounded to FP16 behind every step."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from slanc_onnx import Accelerator, Options, Outcome, find_norms, protect_file
from slanc_onnx.reasons import Failure
from slanc_onnx.report.terminal import final_line
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

LOWEST = float(np.finfo(np.float32).min)
X = normal(3, 1, 4, D)
SOME = np.array([[[0, 0, 1, 1]] * 4], np.float32)  # what each row may not look at
WHOLE = SOME.copy()
WHOLE[0, 0] = 1
FORMS = {
    "arithmetic": "a = Mul(hidden, c) s = Add(q, a)",
    "where": "b = Cast<to = 9>(hidden) a = Where(b, c, zero) s = Add(q, a)",
    "select": "b = Cast<to = 9>(hidden) s = Where(b, c, q)",
}
DEVICE = Accelerator().summing("fp32")


def half(values: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float32)


def numpy_attention(form: str, hidden: NDArray[Any], c: float) -> NDArray[Any]:
    """The rows of the softmax, with c as it is and all that is computed of it in FP16."""
    q = half(half(X) @ half(weights()["w1"])[:, :4])
    with np.errstate(invalid="ignore", over="ignore"):
        mask = half(hidden * np.float32(c)) if form == "arithmetic" else half(c * (hidden > 0))
        mask = np.where(hidden > 0, mask, 0)
        s = np.where(hidden > 0, half(np.float32(c)), q) if form == "select" else half(q + mask)
        powers = half(np.exp(half(s - s.max(-1, keepdims=True))))
        return np.asarray(powers / powers.sum(-1, keepdims=True))


def job(folder: Path, form: str, hidden: NDArray[Any], c: float, **options: Any) -> Outcome:
    nodes = f"q = MatMul(x, k) {FORMS[form]} p = Softmax(s) m = MatMul(p, x) [n] y = {RMS}(m, g1)"
    own = weights(
        k=weights()["w1"][:, :4], c=np.array(c, np.float32), zero=np.zeros((), np.float32)
    )
    inputs = f"float[1, 4, {D}] x, float[1, 4, 4] hidden"
    onnx.save(graph(nodes, own, inputs), folder / "m.onnx")
    given = {"x": X, "hidden": hidden}
    how = Options(**{"emulate": "all", "accelerator": DEVICE, "inputs": given, **options})
    return protect_file(folder / "m.onnx", folder / "new.onnx", how)


@pytest.mark.parametrize("c", [LOWEST, -1e9])
@pytest.mark.parametrize("form", FORMS)
def test_a_row_that_is_masked_whole_is_named(tmp_path: Path, form: str, c: float) -> None:
    assert np.isnan(numpy_attention(form, WHOLE, c)[0, 0]).all()
    outcome = job(tmp_path, form, WHOLE, c)
    found = outcome.validation
    assert not outcome.passed and found is not None and found.inconclusive
    [why] = found.failures
    assert (why.kind, why.op, why.tensor) == (Failure.BECOMES_INFINITE, "Softmax", "p")
    assert why.facts == ("c", float(np.float32(c)), "FP16", 1)
    line = final_line(outcome)
    assert line.startswith("INCONCLUSIVE | ")
    assert "Softmax (p): rows are lost where the constant 'c'" in line
    assert "largest number of FP16 in its place all holds" in line
    rows = numpy_attention(form, WHOLE, -65504.0)
    assert np.allclose(rows[0, 0], 0.25), "as FP32 has it"


@pytest.mark.parametrize("c", [LOWEST, -1e9, -np.inf])
@pytest.mark.parametrize("form", FORMS)
def test_a_row_that_is_masked_in_part_is_not(tmp_path: Path, form: str, c: float) -> None:
    if form == "arithmetic" and np.isinf(c):
        pytest.skip("0 times infinity is nan in FP32 too")
    assert np.isfinite(numpy_attention(form, SOME, c)).all()
    outcome = job(tmp_path, form, SOME, c)
    assert outcome.passed and outcome.validation is not None
    told = "1 constants beyond FP16, first 'c'"
    assert (told in final_line(outcome)) == np.isfinite(c)
    assert (outcome.validation.beyond is not None) == np.isfinite(c)


def test_a_mask_that_the_format_holds_is_not_beyond_it(tmp_path: Path) -> None:
    outcome = job(tmp_path, "select", WHOLE, -65504.0)
    assert outcome.passed and outcome.validation is not None
    assert outcome.validation.beyond is None and "beyond" not in final_line(outcome)


def test_masks_that_are_added_become_infinite_by_themselves(tmp_path: Path) -> None:
    nodes = f"""
        q = MatMul(x, k) a = Mul(hidden, c) b = Add(a, a) s = Add(q, b) p = Softmax(s)
        m = MatMul(p, x) [n] y = {RMS}(m, g1)
    """
    own = weights(k=weights()["w1"][:, :4], c=np.array(-65504, np.float32))
    inputs = f"float[1, 4, {D}] x, float[1, 4, 4] hidden"
    onnx.save(graph(nodes, own, inputs), tmp_path / "m.onnx")
    options = Options(emulate="all", accelerator=DEVICE, inputs={"x": X, "hidden": WHOLE})
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    line = final_line(outcome)
    assert line.startswith("FAILED | ") and "Add (b): is the first to leave FP16" in line


def test_another_format_has_other_limits(tmp_path: Path) -> None:
    from slanc_onnx.targets import target

    outcome = job(tmp_path, "where", WHOLE, -1e9, accelerator=target("bf16-fp32"))
    assert outcome.validation is not None and outcome.validation.beyond is None
    outcome = job(tmp_path, "where", WHOLE, LOWEST, accelerator=target("bf16-fp32"))
    assert [f.kind for f in outcome.validation.failures] == [Failure.BECOMES_INFINITE]  # type: ignore[union-attr]


def numpy_mixed(kept: set[str], c: float) -> NDArray[Any]:
    """The softmax of the form "where" with some of its ops in FP32, and casts between them."""
    q = half(half(X) @ half(weights()["w1"])[:, :4])
    stored: dict[str, NDArray[Any]] = {}

    def made(op: str, value: NDArray[Any], *readers: str) -> NDArray[Any]:
        stored[op] = value if op in kept else half(value)
        return stored[op] if kept.issuperset(readers) else half(stored[op])

    with np.errstate(invalid="ignore", over="ignore"):
        a = made("Where", np.where(WHOLE > 0, np.float32(c), np.float32(0)), "Add")
        s = made("Add", (q + a).astype(np.float32), "Softmax")
        powers = np.exp(s - s.max(-1, keepdims=True))
        return made("Softmax", powers / powers.sum(-1, keepdims=True))


@pytest.mark.parametrize("c", [LOWEST, -1e9])
def test_the_nodes_with_which_such_rows_stay_are_found(tmp_path: Path, c: float) -> None:
    outcome = job(tmp_path, "where", WHOLE, c, fp32_nodes=True)
    found = outcome.fp32_nodes
    assert found is not None and found.works and found.complete and outcome.passed
    assert final_line(outcome).startswith(f"PASSED with {len(found.names)} nodes in FP32 | ")
    ops = {node.name: node.op_type for node in onnx.load(outcome.output).graph.node}
    kept = {ops[name] for name in found.names}
    assert kept <= {"Where", "Add", "Softmax"}
    assert np.isfinite(numpy_mixed(kept, c)).all()
    for op in kept:
        assert not np.isfinite(numpy_mixed(kept - {op}, c)).all(), op


def test_a_list_that_heals_something_else_holds_for_infinite_masks_too(tmp_path: Path) -> None:
    nodes = f"""
        q = MatMul(x, k) b = Cast<to = 9>(hidden) a = Where(b, c, zero) s = Add(q, a)
        p = Softmax(s) m = MatMul(p, x) u = Mul(m, up) d = Mul(u, down) [n] y = {RMS}(d, g1)
    """
    own = weights(
        k=weights()["w1"][:, :4],
        c=np.array(LOWEST, np.float32),
        zero=np.zeros((), np.float32),
        up=np.full(1, 2.0**19, np.float32),
        down=np.full(1, 2.0**-19, np.float32),
    )
    inputs = f"float[1, 4, {D}] x, float[1, 4, 4] hidden"
    onnx.save(graph(nodes, own, inputs), tmp_path / "m.onnx")
    given = {"x": X, "hidden": WHOLE}
    options = Options(emulate="all", accelerator=DEVICE, inputs=given, fp32_nodes=True)
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    found = outcome.fp32_nodes
    assert found is not None and found.works
    ops = {node.name: node.op_type for node in onnx.load(outcome.output).graph.node}
    assert {"Where", "Add", "Softmax", "Mul"} == {ops[name] for name in found.names}


def test_with_the_norms_alone_masks_are_not_rounded(tmp_path: Path) -> None:
    outcome = job(tmp_path, "where", WHOLE, LOWEST, emulate="norms")
    assert outcome.passed and outcome.validation is not None and outcome.validation.beyond is None


def test_a_file_that_is_scaled_already_is_judged_alike(tmp_path: Path) -> None:
    job(tmp_path, "where", WHOLE, LOWEST)
    (tmp_path / "new.onnx").rename(tmp_path / "m.onnx")
    assert find_norms(onnx.load(tmp_path / "m.onnx"))
    given = {"x": X, "hidden": WHOLE}
    options = Options(emulate="all", accelerator=DEVICE, inputs=given)
    outcome = protect_file(tmp_path / "m.onnx", tmp_path / "new.onnx", options)
    assert final_line(outcome).startswith("INCONCLUSIVE | ")
