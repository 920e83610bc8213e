"""What an attack by options broke: scales by hand, targets, open sizes, and second thoughts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from slanc_onnx import (
    Accelerator,
    Options,
    Range,
    ScaledNorm,
    compute_scales,
    protect,
    protect_file,
)
from slanc_onnx.options import ApplyRule
from slanc_onnx.prove import WITHDRAWN, Affine, Certificate, Condition, certified_again, safe_radius
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import certify
from slanc_onnx.reasons import Reason, Unproved
from slanc_onnx.targets import target
from tests.models.small_graphs import graph, normal
from tests.oracles.named_norm import norm_named
from tests.oracles.stepwise_norm import StepwiseNorm
from tests.oracles.unoptimised import run
from tests.places import SAMPLES

F = np.float32
ONES, ZEROS = np.ones(4, F), np.zeros(4, F)
TINY = "LayerNormalization<axis = -1, epsilon = 1e-30>"


@pytest.mark.parametrize("constant", ["gamma", "beta"])
def test_a_gamma_that_the_format_does_not_hold_is_inf_beside_the_shortest_row(
    constant: str,
) -> None:
    """Its product with the bound of a short row of one pass fits all the same."""
    device = target("fp16-one-pass")
    norm = replace(norm_named("n", centred=True), width=5, one_pass=True, epsilon=1e-2)
    for size, holds in ((65504.0, constant == "gamma"), (80000.0, False)):
        affine = Affine(**{constant: size})
        found = certify(norm, Bound(1e-3), 1.0, device, affine)
        numbers = affine.gamma, affine.beta
        [bad] = StepwiseNorm(norm, device, 1.0, *numbers)(np.zeros((1, 5))).bad
        assert found.certified == holds and (not found.certified or not bad)
        assert (bad == "affine") == (size > 65504)
        assert (safe_radius(norm, 5, 1.0, device, affine) is not None) == holds


@pytest.mark.parametrize("apply", ["div", "fold"])
@pytest.mark.parametrize("name", ["fp16-sequential", "fp16-in-out"])
def test_an_epsilon_that_a_scale_takes_out_of_fp32_does_not_become_zero(
    name: str, apply: ApplyRule
) -> None:
    """A row of zeros divided zero by zero, in FP32, behind a certificate."""
    rows = np.concatenate([np.zeros((1, 4)), np.ones((1, 4)), normal(0, 3, 4)]).astype(F)
    model = graph(f"x = Gather(table, ids) [n] y = {TINY}(x, g)", {"table": rows, "g": ONES})
    ids = np.arange(len(rows))[None]
    assert np.isfinite(run(model, ids=ids)["y"]).all()
    options = Options(accelerator=target(name), set_scale={"n": 2.0**30}, apply=apply)
    [norm] = protect(model, options)
    assert norm.certificate is not None and norm.certificate.certified
    assert norm.scale == 2.0**30 and np.isfinite(run(model, ids=ids)["y"]).all()


def test_an_epsilon_that_fp32_holds_is_divided_exactly() -> None:
    weights = {"table": normal(0, 3, 4), "g": ONES}
    model = graph(f"x = Gather(table, ids) [n] y = {TINY}(x, g)", weights)
    protect(model, Options(set_scale={"n": 2.0**10}))
    [epsilon] = [a.f for a in model.graph.node[-1].attribute if a.name == "epsilon"]
    assert epsilon == float(F(1e-30)) / 2.0**20


@pytest.mark.parametrize("certify", ["auto", "off"])
def test_a_decision_that_is_given_another_scale_has_no_safe_radius(certify: str) -> None:
    """Also where it has no certificate that would be dropped with it."""
    model = graph("y = InstanceNormalization(x, g, b)", {"g": ONES, "b": ZEROS}, "float[n, 4, s] x")
    layer = graph(f"[n] y = {TINY}(x, g)", {"g": ONES}, "float[n, 4] x")
    for each in (model, layer):
        [norm] = compute_scales(each, Options(certify=certify))  # type: ignore[arg-type]
        assert norm.scale != 2.0**-3
        form = norm.to_json()
        for other in (
            replace(norm, scale=2.0**-3),
            replace(norm, status="skipped", scale=None),
            ScaledNorm.from_json({**form, "scale": 2.0**-3}),
            ScaledNorm.from_json({**form, "scale": 2.0**-3, "certificate": None}),
        ):
            told = other.certificate, other.safe_radius, other.most_elements, other.certified_with
            assert told == (None, None, None, ())
        same = replace(norm, scale=norm.scale)
        assert same == norm == ScaledNorm.from_json(form)


def test_a_row_of_open_size_has_no_safe_radius() -> None:
    """What was told of rows of the size that was tried is wrong of longer ones."""
    weights = {"g": ONES, "b": ZEROS}
    nodes = "y = InstanceNormalization(x, g, b)"
    device = target("fp16-fp32")
    plain = Options(accelerator=device, set_scale={"y": 4.0})
    for more in ({}, {"dims": {"s": 64}}, {"feeds": {"x": Range(-3, 3)}}):
        options = replace(plain, **more)
        [opened] = compute_scales(graph(nodes, weights, "float[n, 4, s] x"), options)
        [fixed] = compute_scales(graph(nodes, weights, "float[n, 4, 64] x"), plain)
        assert opened.norm.width is None and opened.safe_radius is None
        assert fixed.safe_radius is not None and fixed.safe_radius > 1000
        row = np.full((1, 2**19), fixed.safe_radius / 2.0**9.5 * (1 - 2.0**-20))
        assert np.linalg.norm(row) < fixed.safe_radius
        assert StepwiseNorm(opened.norm, device, 4.0)(row).bad == ["sum"]
        assert StepwiseNorm(fixed.norm, device, 4.0)(row[:, :64]).bad == [""]


def test_a_fold_keeps_the_radius_of_the_width_that_the_proof_found() -> None:
    weights = {"g": ONES, "b": ZEROS, "w": normal(1, 4, 4, 1)}
    nodes = "h = Conv(x, w) y = InstanceNormalization(h, g, b)"
    for size, known in (("64", True), ("s", False)):
        model = graph(nodes, weights, f"float[n, 4, {size}] x")
        for apply in ("div", "fold"):
            options = Options(apply=apply, set_scale={"y": 32.0})
            [norm] = protect(onnx.ModelProto.FromString(model.SerializeToString()), options)
            assert norm.scale == 32 and (norm.safe_radius is not None) == known


READINGS = {
    "a mean square that is rounded to FP16": (
        "q = Mul(x, x) m = ReduceMean<axes = [-1]>(q) c = Cast<to = 10>(m) v = Cast<to = 1>(c)"
    ),
    "a count that is the size of another axis": (
        "q = Mul(x, x) m = ReduceSum(q, last) all = Shape(x) n = Gather(all, one) "
        "c = Cast<to = 1>(n) v = Div(m, c)"
    ),
    "a mean square": "q = Mul(x, x) v = ReduceMean<axes = [-1]>(q)",
}


@pytest.mark.parametrize("name", READINGS)
def test_a_norm_that_may_be_something_else_has_no_safe_radius(name: str) -> None:
    weights = {"e": F(1e-5), "last": np.array([-1]), "one": np.array(1), "g": ONES}
    nodes = f"{READINGS[name]} a = Add(v, e) r = Sqrt(a) d = Div(x, r) [n] y = Mul(d, g)"
    model = graph(nodes, {k: np.asarray(v) for k, v in weights.items()}, "float[n, s, 4] x")
    [norm] = compute_scales(model, Options(accelerator=target("bf16")))
    assert norm.certificate is not None and not norm.certificate.certified
    assert (norm.safe_radius is None) == (name != "a mean square")
    if "FP16" in name:  # 2^12 in each element, 2^24 in the mean, and FP16 ends at 2^16
        x = np.full((1, 1, 4), 2.0**12, F)
        assert not run(model, x=x)["y"].any() and (x / np.sqrt((x * x).mean())).all()


def withdrawn(norms: list[ScaledNorm]) -> set[str]:
    reasons = {n.norm.name: n.certificate.reason for n in norms if n.certificate is not None}
    return {name for name, why in reasons.items() if why is not None and why.kind in WITHDRAWN}


@pytest.mark.usefixtures("too_small")
@pytest.mark.parametrize("sample", ["llama_like", "bert_like", "sandwich_like"])
def test_a_fold_gives_no_withdrawn_certificate_back(sample: str) -> None:
    model = onnx.load(SAMPLES / f"{sample}.onnx")
    before = compute_scales(model, Options(estimate="probe"))
    after = protect(model, Options(estimate="probe", apply="fold"))
    moved = {a.norm.name for b, a in zip(before, after, strict=True) if a.scale != b.scale}
    assert withdrawn(after) == withdrawn(before) and moved & withdrawn(before)


def test_another_scale_gives_no_withdrawn_certificate_back() -> None:
    norm, device = replace(norm_named("n"), width=4), Accelerator()
    for kind, stays in ((Unproved.ROW_ABOVE_BOUND, True), (Unproved.SUM_OVERFLOWS, False)):
        before = Certificate(False, Reason(kind), Bound(3.0, width=4), scale=8.0)
        found = certified_again(before, norm, Affine(), 1.0, None, device)
        assert (found.certified, found.scale) == (not stays, 1.0)
        assert found.reason == (before.reason if stays else None)


@pytest.mark.usefixtures("too_small")
def test_what_leans_on_a_withdrawn_certificate_asks_for_its_rows(tmp_path: Path) -> None:
    options = Options(estimate="weights")
    first, *others = protect_file(SAMPLES / "bert_like.onnx", tmp_path / "o.onnx", options).norms
    assert withdrawn([first]) and first.safe_radius is not None
    for norm in others:  # each leans on the one before
        assert norm.certificate is not None and norm.certificate.certified
        asked = Condition(first.norm.input, "length", 0.0, first.safe_radius)
        assert asked in norm.certificate.conditions
