"""Every target's norms have the bits of the same steps in NumPy, rounded by ml_dtypes."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from slanc_onnx.accelerator import FLOAT16, STEPS, Accelerator, Format, Step, SumOrder
from slanc_onnx.graph.scope import read_graph
from slanc_onnx.norms.find import find_norms_in
from slanc_onnx.targets import TARGETS
from slanc_onnx.verify.emulate.norms import emulate
from tests.oracles.device_norm import DeviceNorm, cast
from tests.oracles.unoptimised import run
from tests.verify.emulate.test_norms import EPSILON, NORMS, affine, model_of, rows, same

E4M3, BF16 = Format.named("float8_e4m3fn"), Format.named("bfloat16")
ORDERS: tuple[SumOrder, ...] = ("sequential", "pairwise")
# An FP32 sum that is never rounded may be taken in any order, but for one running sum.
DEVICES = (
    [
        replace(profile, sum_order="sequential") if "sum" in profile.fp32_steps else profile
        for profile in TARGETS.values()
    ]
    + [
        replace(TARGETS["fp8-e4m3"], fp32_steps=frozenset([step]), name=f"FP32 {step}")
        for step in STEPS
    ]
    + [
        Accelerator(order, flush, sum_format=Format.named(form), name=f"{order} {form} {flush}")
        for order, flush in product(ORDERS, (False, True))
        for form in ("float32", "bfloat16", "float8_e5m2")
    ]
    + [
        Accelerator("pairwise", format=BF16, sum_format=FLOAT16, name="FP16 in BF16"),
        Accelerator(sum_format=E4M3, fp32_steps=frozenset(["sum"]), name="E4M3 kept in FP32"),
        Accelerator(format=E4M3, name="E4M3 sums"),
        Accelerator("pairwise", True, "one-pass", format=E4M3, name="E4M3, flushed, one pass"),
        Accelerator(format=Format.named("float32"), name="FP32 alone"),
    ]
)


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
@pytest.mark.parametrize("opset", [17, 11])
def test_every_step_is_rounded_where_the_target_says(device: Accelerator, opset: int) -> None:
    width = 9
    x, constants = rows(width), affine(width)
    for title in ("layer by ops", "rms"):
        kind, _, nodes = NORMS[title]
        model = model_of(nodes, width)
        model.opset_import[0].version = opset
        norms = find_norms_in(read_graph(model))
        emulated = emulate(model, norms, device)
        outputs = run(emulated.model, x=x)
        beta = constants["b"] if norms[0].beta else None
        loop = DeviceNorm(device, kind, EPSILON)
        loop.epsilon = np.float32(
            EPSILON if "variance" in device.fp32_steps else device.held_epsilon(EPSILON)
        )
        expected = [loop.row(row, constants["g"], beta) for row in x.reshape(-1, width)]
        (mean_square,) = emulated.mean_squares.values()
        assert same(outputs[mean_square], [square for _, square in expected]), title
        assert same(outputs["y"], [y for y, _ in expected]), title


def test_an_epsilon_outside_the_root_is_exact_where_that_step_is() -> None:
    model = model_of(NORMS["rms, epsilon outside"][2], 4)
    norms = find_norms_in(read_graph(model))
    x = np.zeros((2, 1, 4), np.float32)
    x[..., 0] = 0.125  # a root mean square of 2^-4
    squares: frozenset[Step] = frozenset(("square", "sum", "mean_square"))
    last: frozenset[Step] = frozenset(("deviation", "inverse", "normalised", "affine"))
    gamma = affine(4)["g"][0]
    rounded = Accelerator(flush_subnormals=True, format=E4M3, fp32_steps=squares)
    y = run(emulate(model, norms, rounded).model, x=x)["y"][0, 0, 0]
    # E4M3 holds epsilon as 2^-6; 1 / (2^-4 + 2^-6) = 12.8 is 13 in it.
    held = np.float32(13 * 0.125) * cast(gamma, "float8_e4m3fn", flush=True)
    assert y == cast(held, "float8_e4m3fn", flush=True)
    exact = replace(rounded, fp32_steps=squares | last)
    y = run(emulate(model, norms, exact).model, x=x)["y"][0, 0, 0]
    one = np.float32(1)
    assert y == np.float32(0.125) * (one / (np.float32(2.0**-4) + np.float32(EPSILON))) * gamma


@pytest.mark.parametrize(
    ("form", "epsilon", "flush", "held"),
    [
        ("bfloat16", 1 + 2.0**-8, False, 1.0),
        ("bfloat16", 1 + 3 * 2.0**-8, False, 1 + 2.0**-6),
        ("bfloat16", 1e-39, True, 2.0**-126),
        ("float8_e5m2", 1e-12, False, 2.0**-16),
        ("float8_e4m3fn", 1e-5, False, 2.0**-9),
        ("float8_e4m3fn", 1e-5, True, 2.0**-6),
        ("float8_e4m3fn", 1e5, True, 448.0),
    ],
)
def test_epsilon_is_held_in_the_targets_format(
    form: str, epsilon: float, flush: bool, held: float
) -> None:
    device = Accelerator(flush_subnormals=flush, format=Format.named(form))
    assert device.held_epsilon(epsilon) == held


def test_a_row_beyond_fp8_overflows_though_fp16_holds_it() -> None:
    _, _, nodes = NORMS["rms"]
    model = model_of(nodes, 4)
    norms = find_norms_in(read_graph(model))
    x = np.zeros((2, 1, 4), np.float32)
    x[0, 0, 0], x[1, 0, 0] = 100.0, 500.0  # 448 is E4M3's largest
    finite = []
    for device in (
        Accelerator(input_format=E4M3, fp32_steps=frozenset(("square", "sum"))).summing("fp32"),
        Accelerator(fp32_steps=frozenset(("square", "sum"))).summing("fp32"),
    ):
        emulated = emulate(model, norms, device)
        (mean_square,) = emulated.mean_squares.values()
        finite.append(np.isfinite(run(emulated.model, x=x)[mean_square]).ravel().tolist())
    assert finite == [[True, False], [True, True]]
