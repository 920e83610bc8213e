"""Certificates: what is certified is finite at every step, on every device, for every row found.

The arithmetic is emulated by `stepwise_norm.py`, which shares no code with the certificate, and by
the library's own emulator on ONNX Runtime.
"""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from slanc_onnx.accelerator import ACCUMULATE, FORMATS, STEPS, Accelerator, Format
from slanc_onnx.apply.div import apply_scales_in
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.norms.norm import Norm, as_computed
from slanc_onnx.prove.affine import Affine
from slanc_onnx.prove.bound import Bound
from slanc_onnx.prove.certificate import Certificate, Proof, certify, certify_at
from slanc_onnx.prove.step_bounds import output_radius
from slanc_onnx.reasons import Reason, Unproved, Unread
from slanc_onnx.report.wording import reason_text
from slanc_onnx.scale.certified import certified_scale
from slanc_onnx.scale.window import ELEMENT_BITS
from slanc_onnx.targets import TARGETS
from slanc_onnx.verify.emulate.norms import emulate
from tests.oracles.adversarial import adversarial_rows
from tests.oracles.named_norm import norm_named
from tests.oracles.stepwise_norm import Double, StepwiseNorm
from tests.oracles.unoptimised import run

targets = pytest.mark.parametrize("device", TARGETS.values(), ids=list(TARGETS))
SEQUENTIAL = Accelerator()
FLUSHED = Accelerator(flush_subnormals=True)
ONE_PASS = TARGETS["fp16-one-pass"]
TREE_IN_FP32 = Accelerator("pairwise", sum_format=Format.named("float32"))
BF16_SUMS = Accelerator(sum_format=Format.named("bfloat16"))


def norm_of(kind: str, width: int = 64, epsilon: float = 1e-5, power: int = 2) -> Norm:
    norm = norm_named("norm", kind == "layer")
    return replace(norm, width=width, epsilon=epsilon, epsilon_power=power)


def on(norm: Norm, device: Accelerator) -> Norm:
    """The norm as the device computes it."""
    return as_computed([norm], device.variance == "one-pass")[0]


def bound(length: float) -> Bound:
    return Bound(length)


def bad_steps(norm: Norm, device: Accelerator, scale: float, rows: Double) -> set[str]:
    """Which steps were inf or nan first, in any row."""
    return set(StepwiseNorm(norm, device, scale)(rows).bad) - {""}


def finite_longest(norm: Norm, device: Accelerator, scale: float, rows: Double) -> float:
    """The longest output before gamma of the rows that came out finite."""
    computed = StepwiseNorm(norm, device, scale)(rows)
    fine = np.array([not step for step in computed.bad])
    lengths = np.linalg.norm(computed.normalised[fine].astype(np.float64), axis=1)
    return float(lengths.max(initial=0.0))


def random_case(seed: int) -> tuple[Norm, Accelerator, Bound, float, tuple[float, float]]:
    """A norm, device, bound, scale, and gamma with beta; the scale is often a close one."""
    rng = np.random.default_rng(seed)
    device = list(TARGETS.values())[rng.integers(len(TARGETS))]
    if rng.random() < 0.5:
        formats = [Format.named(name) for name in FORMATS if name != "float32"]
        stored = (None, None, *map(Format.named, FORMATS))
        density = rng.choice([0.0, 0.2, 0.5, 0.8])
        order = rng.choice(["sequential", "pairwise", "any"])
        accumulators = (Format.named("float32"), None, *map(Format.named, FORMATS))
        device = Accelerator(
            order,
            bool(rng.random() < 0.5),
            rng.choice(["two-pass", "one-pass"]),
            formats[rng.choice([0, 0, 0, 1, *range(len(formats))])],
            stored[int(rng.integers(len(stored)))],
            frozenset(step for step in STEPS if rng.random() < density),
            accumulators[0 if order == "any" else rng.choice([1, 1, *range(len(accumulators))])],
        )
    kind = str(rng.choice(["layer", "layer", "rms"]))
    width = int(rng.choice([1, 2, 3, 8, 33, 64]))
    epsilon = 10.0 ** rng.uniform(-12, 3) * (rng.random() < 0.9)
    norm = norm_of(kind, width, epsilon, int(rng.choice([2, 2, 1])))
    norm = on(replace(norm, unbiased=bool(rng.random() < 0.2)), device)
    length = 10.0 ** rng.uniform(-4, 6)
    exponent = round(math.log2(length / math.sqrt(device.format_of("sum").largest)))
    exponent += int(rng.choice([0, 1, 1, 2, 4])) if rng.random() < 0.8 else int(rng.integers(-9, 9))
    affine = [(1.0, 0.0), (10.0, 1.0), (1e3, 1e3), (1e4, 6e4)][rng.integers(4)]
    return norm, device, bound(length), 2.0**exponent, affine


@settings(max_examples=600, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_what_is_certified_is_finite_at_every_step(seed: int) -> None:
    norm, device, within, scale, affine = random_case(seed)
    assert within.length is not None and norm.width is not None
    rng = np.random.default_rng(seed)
    centred = within.length * rng.choice([1.0, 0.5, 0.1, 1e-3]) if norm.centred else None
    rows = adversarial_rows(rng, norm.width, within.length, centred)
    assert (np.linalg.norm(rows, axis=1) <= within.length).all()
    computed = StepwiseNorm(norm, device, scale, *affine)(rows)
    if certify(norm, within, scale, device, Affine(*affine)).certified:
        assert not any(computed.bad)
    radius = output_radius(norm, norm.width, device) * (1 + 1e-7)
    assert finite_longest(norm, device, scale, rows) <= radius


def smallest_scale(norm: Norm, within: Bound, device: Accelerator) -> float:
    """The smallest power of two that is certified."""
    scales = [2.0**e for e in range(-10, 60)]
    return next(s for s in scales if certify(norm, within, s, device).certified)


@targets
@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("width", [64, 768])
def test_a_scale_a_few_bits_below_the_certified_one_loses_a_row(
    device: Accelerator, kind: str, width: int
) -> None:
    """Rounding to a power of two costs a factor of 2 at most, the error of the sums another.

    A running sum of 768 FP16 numbers may be 37 % off, though no row is known that does it.
    """
    norm = on(norm_of(kind, width, 1e-2), device)
    within = bound(1000.0)
    if norm.one_pass:
        norm = replace(norm, epsilon=1e3)  # or cancellation is what decides
    scale = smallest_scale(norm, within, device)
    centred = 999.0 if norm.centred else None
    rows = adversarial_rows(np.random.default_rng(0), width, 1000.0, centred)
    spike = np.eye(width)[:1] * 999.0
    if norm.centred:
        spike -= spike.mean()
    rows = np.concatenate([rows, spike])
    assert not bad_steps(norm, device, scale, rows)
    if device.format.name == "float16" and "sum" not in device.fp32_steps:
        assert bad_steps(norm, device, scale / 4, rows)


@pytest.mark.parametrize(
    "device",
    [*(Accelerator().summing(name) for name in ACCUMULATE), TREE_IN_FP32, BF16_SUMS],
    ids=str,
)
@pytest.mark.parametrize("width", [16, 256])
def test_how_far_the_certificate_is_from_the_first_row_that_overflows(
    device: Accelerator, width: int
) -> None:
    """At most sqrt(1 + error of the sum) and half a percent in the length of a row."""
    norm, low, high = norm_of("rms", width), 1.0, 1000.0
    for _ in range(50):
        middle = (low + high) / 2
        certified = certify(norm, bound(middle), 1.0, device).certified
        low, high = (middle, high) if certified else (low, middle)
    adds = width if device.sum_order == "sequential" else math.log2(width)
    room = 2**-11 + adds * device.accumulator.unit_roundoff
    limit = low * math.sqrt(1 + room) * 1.005
    rng = np.random.default_rng(0)
    assert not bad_steps(norm, device, 1.0, adversarial_rows(rng, width, low, None))
    assert bad_steps(norm, device, 1.0, adversarial_rows(rng, width, limit, None))


def test_squares_that_round_up_each_time_are_counted() -> None:
    """Rows whose exact sum of squares fits, and that of the rounded squares does not."""
    device = Accelerator().summing("fp32")
    values = np.arange(2**10, 2**11) / 64.0  # all FP16 numbers from 16 to 32
    rounded = (values**2).astype(np.float16).astype(np.float64)
    tried = 0
    for width in range(65, 256):
        exact, sums = width * values**2, width * rounded
        for value in values[(exact <= 65504) & (sums >= 65520)]:
            rows = np.full((1, width), value)
            norm, length = norm_of("rms", width), float(np.linalg.norm(rows))
            assert bad_steps(norm, device, 1.0, rows) == {"sum"}
            assert not certify(norm, bound(length), 1.0, device).certified
            assert certify(norm, bound(length), 2.0, device).certified
            assert not bad_steps(norm, device, 2.0, rows)
            tried += 1
    assert tried == 3


@pytest.mark.parametrize("device", [SEQUENTIAL, FLUSHED, Accelerator("pairwise", True)], ids=str)
def test_rows_near_underflow_stay_within_the_output_radius(device: Accelerator) -> None:
    for kind, power in (("rms", 2), ("layer", 2), ("rms", 1)):
        norm = norm_of(kind, 64, 1e-3, power)
        radius = output_radius(norm, 64, device)
        for exponent in np.arange(-26, -3, 0.75):
            length = 8 * 2.0**exponent
            rows = adversarial_rows(np.random.default_rng(1), 64, length, length * 0.99)
            assert finite_longest(norm, device, 1.0, rows) <= radius


def test_wide_squares_are_rounded_once_more_than_they_are_added() -> None:
    """Adding the first to zero rounds it, where the accumulator is narrower."""
    rest = frozenset(step for step in STEPS if step != "sum")
    device = Accelerator(format=Format.named("bfloat16"), fp32_steps=rest)
    for width in (1, 2, 3):
        norm = norm_of("rms", width)
        rows = np.random.default_rng(0).uniform(1, 2, (4000, width))
        longest = finite_longest(norm, device, 1.0, rows)
        assert 1.0005 * math.sqrt(width) < longest <= output_radius(norm, width, device)


@targets
def test_the_output_radius_is_about_the_root_of_the_width(device: Accelerator) -> None:
    for kind in ("rms", "layer"):
        norm = on(norm_of(kind), device)
        radius = output_radius(norm, 64, device)
        if norm.one_pass:
            assert radius == math.inf
            continue
        # A BF16 running sum of 64 may be a quarter off. Where squares and their mean are flushed,
        # an epsilon at the smallest normal number makes up for half of that.
        assert 8.0 < radius < 8.0 * (1.5 if device.flush_subnormals else 1.2)


def large_mean_rows(width: int) -> Double:
    """Equal elements and almost equal ones: their variance is what rounding leaves of it."""
    values = np.linspace(1.0, 16.0, 4001)
    return np.repeat(values[:, None], width, axis=1)


def test_a_variance_in_one_pass_that_comes_out_negative_is_foreseen() -> None:
    rows = large_mean_rows(33)
    longest = float(np.linalg.norm(rows, axis=1).max())
    for norm in (norm_of("layer", 33), norm_of("layer", 33, 1e-3, power=1)):
        one = on(norm, ONE_PASS)
        assert bad_steps(one, ONE_PASS, 1.0, rows) == {"deviation"}  # the root of it is nan
        certificate = certify(one, bound(longest), 1.0, ONE_PASS)
        assert not certificate.certified
        assert certificate.reason is not None
        assert "E[x^2] - mean^2 may come out as -" in reason_text(certificate.reason)
        assert "nan" in reason_text(certificate.reason)
        assert certificate.overflow_bits is not None and certificate.overflow_bits > 0
    two_passes = norm_of("layer", 33)
    assert not bad_steps(two_passes, SEQUENTIAL, 1.0, rows)
    assert certify(two_passes, bound(longest), 1.0, SEQUENTIAL).certified


def test_an_epsilon_that_outweighs_cancellation_is_certified_in_one_pass() -> None:
    norm = on(norm_of("layer", 33, 100.0), ONE_PASS)
    rows = large_mean_rows(33)
    longest = float(np.linalg.norm(rows, axis=1).max())
    assert certify(norm, bound(longest), 1.0, ONE_PASS).certified
    assert not bad_steps(norm, ONE_PASS, 1.0, rows)


def refusal(
    norm: Norm,
    within: Bound,
    device: Accelerator,
    scale: float = 1.0,
    affine: tuple[float, float] = (1.0, 0.0),
) -> str:
    certificate = certify(norm, within, scale, device, Affine(*affine))
    assert not certificate.certified
    assert certificate.reason is not None
    return reason_text(certificate.reason)


@targets
@pytest.mark.parametrize("epsilon", [0.0, -1e-5])
def test_without_an_epsilon_a_row_of_zeros_is_nan(device: Accelerator, epsilon: float) -> None:
    norm = norm_of("rms", 64, epsilon)
    assert "no epsilon" in refusal(norm, bound(1.0), device)
    assert bad_steps(norm, device, 1.0, np.zeros((1, 64)))


def test_an_epsilon_outside_the_root_has_to_be_worth_inverting() -> None:
    """1e-5 is 2^-16.6: its inverse is over 65504, which a row of zeros shows."""
    zeros = np.zeros((1, 64))
    small, large = norm_of("rms", 64, 1e-5, 1), norm_of("rms", 64, 1e-4, 1)
    assert "reciprocal root" in refusal(small, bound(10.0), SEQUENTIAL)
    assert bad_steps(small, SEQUENTIAL, 1.0, zeros) == {"inverse"}
    assert not bad_steps(large, SEQUENTIAL, 1.0, zeros)
    # A small row may come out long: its root mean square is lost, and epsilon alone divides it.
    assert certify(large, bound(10.0), 1.0, SEQUENTIAL).certified
    assert "reciprocal root" in refusal(large, bound(10.0), SEQUENTIAL, scale=16.0)
    assert bad_steps(large, SEQUENTIAL, 16.0, zeros) == {"inverse"}


def test_a_scale_so_small_that_epsilon_overflows_is_refused() -> None:
    norm, scale = norm_of("rms", 2, 100.0), 2.0**-18
    row = np.full((1, 2), 200 * scale)
    within = bound(float(np.linalg.norm(row)) / 1.5)
    assert "variance with epsilon" in refusal(norm, within, SEQUENTIAL, scale)
    assert bad_steps(norm, SEQUENTIAL, scale, row / 1.5) == {"variance"}


def test_gamma_and_beta_have_to_fit() -> None:
    norm = norm_of("rms")
    row = np.eye(64)[:1]  # comes out as (8, 0, 0, ...)
    for affine in ((8300.0, 0.0), (100.0, 65000.0), (70000.0, 0.0), (math.nan, 0.0)):
        assert "gamma and beta" in refusal(norm, bound(1.0), SEQUENTIAL, affine=affine)
        assert set(StepwiseNorm(norm, SEQUENTIAL, 1.0, *affine)(row).bad) == {"affine"}
    assert certify(norm, bound(1.0), 1.0, SEQUENTIAL, Affine(5000.0, 1000.0)).certified


def test_one_element_without_its_degree_of_freedom_is_refused() -> None:
    norm = replace(norm_of("layer", 1), unbiased=True)
    assert "by zero" in refusal(norm, bound(1.0), SEQUENTIAL)
    assert bad_steps(norm, SEQUENTIAL, 1.0, np.ones((1, 1)))


@pytest.mark.parametrize(("name", "largest"), [("float8_e4m3fn", 448.0), ("float8_e5m2", 57344.0)])
def test_elements_of_an_fp8_input_have_to_fit(name: str, largest: float) -> None:
    steps = frozenset(step for step in STEPS if step not in ("input", "normalised", "affine"))
    device = replace(SEQUENTIAL, input_format=Format.named(name), fp32_steps=steps)
    norm = norm_of("rms")
    spike = np.eye(64)[:1]
    assert certify(norm, bound(largest * 0.999), 1.0, device).certified
    assert not bad_steps(norm, device, 1.0, spike * largest * 0.999)
    assert "an element may overflow" in refusal(norm, bound(largest * 1.15), device)
    assert bad_steps(norm, device, 1.0, spike * largest * 1.15) == {"input"}


def test_a_wide_input_has_to_fit_what_it_is_read_as() -> None:
    """BF16 holds 65536, and rounds 65504 to it; FP16 does not."""
    steps = frozenset(step for step in STEPS if step not in ("input", "normalised", "affine"))
    device = replace(SEQUENTIAL, input_format=Format.named("bfloat16"), fp32_steps=steps)
    norm, spike = norm_of("rms"), np.eye(64)[:1]
    assert bad_steps(norm, device, 1.0, spike * 65500) == {"input"}
    assert "an element may overflow" in refusal(norm, bound(65500.0), device)
    assert certify(norm, bound(65000.0), 1.0, device).certified


def test_without_a_bound_there_is_no_certificate() -> None:
    none = Bound(None, reason=Reason(Unread.NOT_REACHED))
    certificate = certify(norm_of("rms"), none, 1.0, SEQUENTIAL)
    assert certificate == Certificate(False, none.reason, none)
    proof = Proof(norm_of("rms"), bound(1.0), None)
    assert certify_at(proof, 1.0, 1.0, SEQUENTIAL).reason == Reason(Unproved.AFFINE_NOT_CONSTANT)


def seen(typical: float, lowest: float | None = None) -> Estimate:
    return Estimate(typical, typical, lowest or typical, "probe")


def test_the_scale_moves_up_to_the_first_that_is_certified() -> None:
    proof = Proof(norm_of("rms"), bound(1000.0), Affine())
    assert not certify_at(proof, 2.0, 1e5, SEQUENTIAL).certified
    assert certify_at(proof, 4.0, 1e5, SEQUENTIAL).certified  # 250^2 = 62500
    scale, certificate = certified_scale(proof, 1.0, seen(1e5), SEQUENTIAL)
    assert (scale, certificate.certified) == (4.0, True)
    assert certificate.overflow_bits is not None and 0 <= certificate.overflow_bits < 0.1
    expected = math.log2(1e5 / 16 / 64 / 2**-14)
    assert certificate.underflow_bits == pytest.approx(expected)
    assert certified_scale(proof, 8.0, seen(1e5), SEQUENTIAL)[0] == 8.0


def test_a_bound_so_far_up_that_the_smallest_rows_vanish_moves_nothing() -> None:
    proof = Proof(norm_of("rms"), bound(1000.0), Affine())  # 4 would certify it
    lowest = 64 * 2.0**-14 * 4.0 * 2**ELEMENT_BITS
    scale, certificate = certified_scale(proof, 1.0, seen(1e5, lowest), SEQUENTIAL)
    assert (scale, certificate.certified) == (1.0, False)
    assert certificate.reason is not None
    assert "may overflow" in reason_text(certificate.reason)


MODEL = """
    <ir_version: 8, opset_import: ["": 17]>
    main (float[rows, 64] x) => (float[rows, 64] y, float[rows, 64] z)
    {{ y = LayerNormalization<epsilon = {epsilon}>(x, g)
       z = SimplifiedLayerNormalization<axis = -1, epsilon = {epsilon}>(x, g) }}"""


@targets
def test_the_emulator_keeps_every_row_that_is_certified(device: Accelerator) -> None:
    """Both norms at the smallest scale that is certified, on ONNX Runtime, rows at the bound."""
    epsilon = 1e4 if device.variance == "one-pass" else 0.5
    model = onnx.parser.parse_model(MODEL.format(epsilon=epsilon))
    model.graph.initializer.append(numpy_helper.from_array(np.full(64, 3, np.float32), "g"))
    norms, within = find_norms_in(read_graph(model)), bound(1000.0)
    scales = {norm.name: smallest_scale(on(norm, device), within, device) for norm in norms}
    rows = adversarial_rows(np.random.default_rng(2), 64, 1000.0, 990.0).astype(np.float32)
    naive = emulate(model, norms, device)
    apply_scales_in(model, norms, scales)
    scaled = emulate(model, find_norms_in(read_graph(model)), device)
    outputs = run(scaled.model, x=rows)
    assert len(scaled.mean_squares) == 2
    for name in ("y", "z", *scaled.mean_squares.values()):
        assert np.isfinite(outputs[name]).all()
    if device.format.name == "float16" and "square" not in device.fp32_steps:
        lost = run(naive.model, x=rows)
        shown = [lost[name] for name in naive.mean_squares.values()]
        assert not all(np.isfinite(squares).all() for squares in shown)
