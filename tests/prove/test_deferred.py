"""Products of a row that is not divided yet: their bounds, and what they do on a device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from slanc_onnx import Options, ScaledNorm, compute_scales, find_norms, validate
from slanc_onnx.accelerator import FLOAT16, Format
from slanc_onnx.norms.norm import Deferred
from slanc_onnx.norms.notes import SCALE_KEY
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import certify
from slanc_onnx.prove.deferred import (
    MOST_SCALE_DEFERRED,
    holds_products,
    keeps_root,
    lost_in_product,
    root_loss,
)
from slanc_onnx.prove.radius import safe_radius
from slanc_onnx.reasons import Unproved
from slanc_onnx.targets import TARGETS
from slanc_onnx.verify.emulate import emulate
from tests.models.deferred_models import ROOT, WRITTEN
from tests.models.merge_models import EVERY, IDS, model
from tests.models.small_graphs import D, normal
from tests.oracles.adversarial import random_rows
from tests.oracles.named_norm import norm_named
from tests.oracles.stepwise_norm import StepwiseNorm
from tests.oracles.unoptimised import run

SEQUENTIAL = TARGETS["fp16-sequential"]
NORM = replace(norm_named("n"), width=D, form="decomposed", deferred=(Deferred(0, "y"),))


def decided(nodes: str, **weights: NDArray[np.float32]) -> ScaledNorm:
    (found,) = compute_scales(model(nodes, weights), Options(estimate="weights"))
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_no_product_of_a_row_within_the_radius_leaves_the_format(target: str) -> None:
    """Whatever the weight: its columns as long as is said, the row along one of them."""
    device, rng = TARGETS[target], np.random.default_rng(3)
    largest = device.format.largest
    for scale in (1.0, 0.125, 64.0):
        for column in (0.5, 3e2, 1e4, 1e-3 * largest):
            radius = safe_radius(NORM, D, scale, device, Affine(product=column))
            if radius is None:
                continue
            alone = safe_radius(replace(NORM, deferred=()), D, scale, device, Affine())
            assert alone is not None and radius <= alone
            weight = rng.standard_normal((D, 40))
            weight *= column / np.linalg.norm(weight, axis=0) * (1 - 2.0**-22)
            rows = random_rows(rng, D, 1.0, 30)
            rows = np.concatenate(
                [rows / np.linalg.norm(rows, axis=1, keepdims=True), weight.T / column]
            )
            rows *= radius
            stepwise = StepwiseNorm(NORM, device, scale)
            for beyond in (1 - 2.0**-20, 1.3):
                with np.errstate(over="ignore"):
                    row = (rows * beyond / scale).astype(np.float32)
                    kept = stepwise.cast(device.format.name, row)
                    exact = kept @ weight.astype(np.float32)
                    product = stepwise.cast(device.format.name, exact)
                if beyond < 1:
                    assert np.isfinite(product).all()
                elif radius < alone * 0.99:  # then it is the product that says so
                    assert not np.isfinite(product[-40:]).all()


def test_a_product_that_may_overflow_is_not_certified() -> None:
    row = Bound(100.0, width=D)
    for column, holds in ((1.0, True), (640.0, True), (680.0, False), (1e9, False)):
        found = certify(NORM, row, 1.0, SEQUENTIAL, Affine(product=column))
        assert found.certified == holds
        if not holds:
            assert found.reason is not None and found.reason.kind is Unproved.PRODUCT_OVERFLOWS
    assert certify(replace(NORM, deferred=()), row, 1.0, SEQUENTIAL, Affine(product=1e9)).certified
    beyond = certify(NORM, Bound(1.0, width=D), MOST_SCALE_DEFERRED * 2, SEQUENTIAL, Affine())
    assert beyond.reason is not None and beyond.reason.kind is Unproved.SCALE_TOO_LARGE


@pytest.mark.parametrize("how", WRITTEN)
def test_the_certificate_reads_the_columns_of_all_its_weights(how: str) -> None:
    found = decided(WRITTEN[how])
    assert found.certificate is not None and found.certificate.certified
    both = np.concatenate([EVERY["w"], EVERY["w2"]], axis=1).astype(np.float64)
    longest = np.sqrt((both**2).sum(axis=0)).max()
    assert found.affine is not None and found.affine.product == pytest.approx(longest, rel=1e-6)
    large = decided(WRITTEN[how], w2=EVERY["w2"] * np.float32(1e5))
    assert large.certificate is not None and not large.certificate.certified
    assert large.certificate.reason is not None
    assert large.certificate.reason.kind is Unproved.PRODUCT_OVERFLOWS


@pytest.mark.parametrize("size", [1e18, 1e30, 1e35])
def test_weights_whose_squares_leave_fp32_keep_the_certificate(size: float) -> None:
    """On a device of BF16, which has room for them."""
    (how, *_) = WRITTEN
    large = {name: EVERY[name] * np.float32(size) for name in ("w", "w2")}
    (found,) = compute_scales(
        model(WRITTEN[how], large), Options(estimate="weights", accelerator=TARGETS["bf16"])
    )
    assert found.certificate is not None and found.certificate.certified
    columns = np.concatenate([*large.values()], axis=1).astype(np.float64)
    longest = np.sqrt((columns**2).sum(axis=0)).max()
    assert found.affine is not None and found.affine.product == pytest.approx(longest, rel=1e-5)


def test_a_norm_behind_it_has_a_bound_that_holds() -> None:
    """The row between them is a product over the root, rounded twice."""
    square = "p = MatMul(rows, square) [n] x2 = Div(p, root)"
    last = """
        sq2 = Mul(x2, x2)
        ms2 = ReduceMean<axes = [-1]>(sq2)
        sum2 = Add(ms2, eps)
        root2 = Sqrt(sum2)
        [last] n2 = Div(x2, root2)
        y = MatMul(n2, w)
    """
    weight = normal(9, D, D)
    first, second = compute_scales(
        model(f"{ROOT}{square}{last}", {"square": weight}), Options(estimate="weights")
    )
    assert first.certificate is not None and first.certificate.certified
    assert second.certificate is not None and second.certificate.certified
    assert second.certificate.bound.leans == ("n",)
    length = second.certificate.bound.length
    largest = np.linalg.norm(weight.astype(np.float64), 2) * np.sqrt(D)
    assert length is not None and largest <= length <= 1.1 * largest


def test_underflow_of_a_product_is_in_the_bound() -> None:
    """A product below the smallest normal number is off by a number that the division magnifies."""
    share, number = lost_in_product(NORM, D, SEQUENTIAL)
    unit = float(FLOAT16.unit_roundoff)
    assert share == pytest.approx(2 * unit, rel=0.01)
    smallest = 2.0**-25  # half of the smallest subnormal, times the largest reciprocal root
    assert number >= smallest * 2.0**12
    rng = np.random.default_rng(5)
    inverse = np.float16(2.0**12)  # of the smallest epsilon that is kept
    products = rng.uniform(-(2.0**-15), 2.0**-15, 4000)
    divided = (products.astype(np.float16) * inverse).astype(np.float64)
    assert np.abs(divided - products * 2.0**12).max() <= number + share * 2.0**-15 * 2.0**12


@pytest.mark.parametrize("target", ["fp16-sequential", "fp16-in-out", "fp16-fp32"])
def test_the_emulation_shows_a_product_that_overflows(target: str) -> None:
    """Also where the norm itself is computed in FP32: the product is stored in FP16."""
    rows = np.abs(EVERY["table"]) * np.float32(20)
    nodes = f"{ROOT} p = MatMul(rows, w) [n] y = Div(p, root)"
    for size, finite in ((1.0, True), (3e3, False)):
        weight = np.abs(EVERY["w"]) * np.float32(size)
        made = model(nodes, {"table": rows, "w": weight})
        shown = emulate(made, find_norms(made), TARGETS[target])
        y = run(shown.model, ids=IDS)["y"]
        assert np.isfinite(y).all() == finite
        held = rows[IDS].astype(np.float16).astype(np.float32)
        with np.errstate(over="ignore"):
            assert np.isfinite((held @ weight).astype(np.float16)).all() == finite
        result = validate(made, made, Options(accelerator=TARGETS[target], inputs={"ids": IDS}))
        assert result.passed == finite


def test_without_an_epsilon_nothing_is_known_of_what_underflow_takes() -> None:
    share, number = lost_in_product(replace(NORM, epsilon=0.0), D, TARGETS["fp16-in-out"])
    assert share > 0 and number == np.inf
    first, second = compute_scales(
        model(
            f"{ROOT} p = MatMul(rows, square) [n] x2 = Div(p, root)"
            " [last] y = SimplifiedLayerNormalization<axis = -1>(x2, gamma)",
            {"eps": np.array(0, np.float32), "square": normal(9, D, D)},
        ),
        Options(estimate="weights", accelerator=TARGETS["fp16-in-out"]),
    )
    assert first.certificate is not None and not first.certificate.certified
    assert second.certificate is not None and not second.certificate.certified


@pytest.mark.parametrize("emulate_all", [False, True])
@pytest.mark.parametrize("target", ["fp16-sequential", "fp16-in-out"])
def test_a_product_that_overflows_is_told_also_where_nothing_shows_it(
    target: str, emulate_all: bool
) -> None:
    """What reads it takes infinity for 1, and the norm's steps are all in range."""
    options = Options(
        accelerator=TARGETS[target],
        inputs={"ids": IDS},
        emulate="all" if emulate_all else "norms",
    )
    for size, fits in ((1.0, True), (2e4, False)):
        weight = np.abs(EVERY["w"]) * np.float32(size)
        made = model(
            f"{ROOT} p = MatMul(rows, w) [n] u = Div(p, root) t = Tanh(u) y = Abs(t)",
            {"w": weight, "table": np.abs(EVERY["table"])},
        )
        result = validate(made, made, options)
        assert result.passed == fits
        told = result.first_out
        assert (told is None) == fits
        if told is not None:
            row = np.abs(EVERY["table"])[IDS].astype(np.float64) @ weight.astype(np.float64)
            assert (told.tensor, told.op) == ("p", "MatMul")
            assert emulate_all or (told.norm, told.what) == ("n", "product")
            assert told.value == pytest.approx(row.max(), rel=1e-2)


@pytest.mark.parametrize("narrow", ["u", "v"])
def test_a_root_that_is_rounded_for_one_division_makes_rows_of_any_length(narrow: str) -> None:
    """Also for one behind the first: FP16 takes a small root for 0."""
    rounded = " r16 = Cast<to = 10>(root) r32 = Cast<to = 1>(r16) "
    first, other = ("r32", "root") if narrow == "u" else ("root", "r32")
    before, between = (rounded, "") if narrow == "u" else ("", rounded)
    last = f"[last] y = SimplifiedLayerNormalization<axis = -1>({narrow}, gamma)"
    made = model(
        f"{ROOT} p = MatMul(rows, one) q = MatMul(rows, two) {before} [n] u = Div(p, {first})"
        f"{between} v = Div(q, {other}) {last}",
        {
            "eps": np.array(1e-18, np.float32),
            "table": EVERY["table"] * np.float32(1e-9),
            "one": normal(8, D, D),
            "two": normal(9, D, D),
        },
        outputs=f"float[a, s, c] y, float[a, s, d] {narrow}",
    )
    assert not np.isfinite(run(made, ids=IDS)[narrow]).all()
    for found in compute_scales(made, Options(estimate="weights")):
        assert found.certificate is not None and not found.certificate.certified


BFLOAT16 = Format.named("bfloat16")


@pytest.mark.parametrize("form", [FLOAT16, BFLOAT16], ids=str)
def test_what_16_bits_take_of_a_root(form: Format) -> None:
    for epsilon in (1e-3, 1e-5, 4e-9, 3.7e-9, 1e-10, 1e-12, 1e-14):
        norm = replace(NORM, epsilon=epsilon)
        for scale in (1.0, 16.0):
            least = np.sqrt(epsilon) / scale
            roots = np.float32(least) * np.geomspace(1, 64, 4001).astype(np.float32)
            lost = np.abs(form.rounded(roots.astype(np.float64)) / roots.astype(np.float64) - 1)
            told = root_loss(norm, scale, form, flush=False)
            assert lost.max() <= told * (1 + 1e-6)
            assert told == 1 or told < 2.1 * lost.max()
            subnormal = least < form.smallest_normal
            assert root_loss(norm, scale, form, flush=True) == (1.0 if subnormal else told)
            assert keeps_root(norm, scale, form, SEQUENTIAL) == (told <= 2.0**-7)
    assert root_loss(replace(NORM, epsilon=0.0), 1.0, form, flush=False) == 1
    assert root_loss(replace(NORM, epsilon_power=1), 1.0, form, flush=False) == 1


def test_products_fit_the_file_and_the_device() -> None:
    half = replace(NORM, output_type=TensorProto.FLOAT16)
    assert holds_products(half, TARGETS["bf16"]) == FLOAT16
    assert holds_products(NORM, TARGETS["bf16"]) == BFLOAT16
    row = Bound(100.0, width=D)
    for norm, holds in ((NORM, True), (half, False)):
        found = certify(norm, row, 1.0, TARGETS["bf16"], Affine(product=1e4))
        assert found.certified == holds
    (share, _), (more, _) = (
        lost_in_product(n, D, TARGETS["fp16-in-out"], 1.0) for n in (NORM, half)
    )
    assert more == pytest.approx(share + 2.0**-11, rel=1e-2)


IN_HALF = """
    wide = Cast<to = 1>(rows) sq = Mul(wide, wide) ms = ReduceMean<axes = [-1]>(sq)
    sum = Add(ms, eps) root32 = Sqrt(sum) root = Cast<to = 10>(root32)
    p = MatMul(rows, h) [n] x = Div(p, root) y = Cast<to = 1>(x)
"""


@pytest.mark.parametrize(
    ("epsilon", "noted", "certified"),
    [(1e-5, True, True), (1e-5, False, False), (1e-12, True, False)],
)
def test_a_root_of_16_bits_is_certified_where_none_is_lost(
    epsilon: float, noted: bool, certified: bool
) -> None:
    """Not of a norm that may still be scaled, which would make its epsilon smaller."""
    weights = {"table": EVERY["table"].astype(np.float16), "h": EVERY["w"].astype(np.float16)}
    made = model(IN_HALF, {**weights, "eps": np.array(epsilon, np.float32)})
    if noted:
        (node,) = (node for node in made.graph.node if node.name == "n")
        node.metadata_props.add(key=SCALE_KEY, value="1.0")
    (found,) = compute_scales(made, Options(estimate="weights"))
    assert found.certificate is not None and found.certificate.certified == certified
    if not certified:
        assert found.certificate.reason is not None
        assert found.certificate.reason.kind is Unproved.NO_RULE_FOR_TYPE


def test_a_scale_of_an_earlier_run_counts() -> None:
    """So that a second run certifies no more than the first."""
    row = Bound(1.0, width=D)
    for before, holds in ((None, True), (2.0**16, True), (2.0**18, False)):
        norm = replace(NORM, scaled_by=before, epsilon=1e-5)
        assert certify(norm, row, 1.0, SEQUENTIAL, Affine(product=1.0)).certified == holds
