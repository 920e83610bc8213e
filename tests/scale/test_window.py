"""Placing a scale: properties of the window that hold for all estimates."""

import math

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from slanc_onnx.accelerator import Accelerator, Format, Step
from slanc_onnx.estimate.estimate import Estimate
from slanc_onnx.report.wording import reason_text
from slanc_onnx.scale.window import place

LARGEST, NORMAL = 65504.0, 2.0**-14
HALF = Accelerator()
SLACK = 1e-9  # of logarithms, relative

widths = st.sampled_from([32, 64, 96, 576, 640, 4096])
exponents = st.floats(-30, 60)


@st.composite
def estimates(draw: st.DrawFn, widest: float = 40.0) -> Estimate:
    """Sums of squares 2^-30 to 2^60, with up to 2^widest from the lowest to the typical row."""
    typical = draw(exponents)
    upper = typical + draw(st.floats(0, widest))
    lowest = typical - draw(st.floats(0, widest))
    return Estimate(2.0**typical, 2.0**upper, 2.0**lowest, "probe")


def limits(estimate: Estimate, width: int) -> tuple[float, float]:
    """log2 of the least s that does not overflow and of the greatest that does not underflow."""
    low = math.log2(estimate.upper / LARGEST) / 2
    high = math.log2(estimate.typical / (width * NORMAL)) / 2
    return low, high


def off_the_edge(*values: float) -> None:
    """Pass over values so near to a half or whole number that rounding alone decides."""
    for value in values:
        assume(abs(2 * value - round(2 * value)) > 1e-6)


@given(estimates(), widths, st.floats(0, 1e-3))
@example(Estimate(1.0, 1.0, 1.0, "probe"), 64, 0.0)
def test_the_scale_is_a_power_of_two(estimate: Estimate, width: int, epsilon: float) -> None:
    scale = place(estimate, width, HALF, epsilon).scale
    assert math.frexp(scale)[0] == 0.5
    assert math.isfinite(scale) and scale > 0


@given(estimates(), widths, st.floats(0, 1e-3))
def test_no_row_overflows_where_the_window_is_not_empty(
    estimate: Estimate, width: int, epsilon: float
) -> None:
    low, high = limits(estimate, width)
    assume(low <= high)
    placement = place(estimate, width, HALF, epsilon)
    assert estimate.upper / placement.scale**2 <= LARGEST * (1 + SLACK)
    assert placement.note is None


@given(estimates(), widths)
def test_the_typical_mean_square_stays_normal_where_a_power_of_two_fits(
    estimate: Estimate, width: int
) -> None:
    low, high = limits(estimate, width)
    assume(math.ceil(low) <= high)
    placement = place(estimate, width, HALF)
    assert estimate.typical / width / placement.scale**2 >= NORMAL * (1 - SLACK)


@given(exponents, st.floats(0, 40), widths)
def test_a_wide_window_without_low_rows_gets_its_geometric_middle(
    typical: float, ratio: float, width: int
) -> None:
    """s = 2^round(log2((lower limit · upper limit)^(1/4))), as the design has it.

    From 14 bits on: in a smaller one, rounding up could take room from the small elements.
    """
    estimate = Estimate(2.0**typical, 2.0 ** (typical + ratio), 2.0**typical, "probe")
    lower, upper = estimate.upper / LARGEST, estimate.typical / (width * NORMAL)
    assume(upper >= 2**14 * lower)
    off_the_edge(math.log2(lower * upper) / 4)
    assert place(estimate, width, HALF).scale == 2.0 ** round(math.log2(lower * upper) / 4)


@given(exponents, st.floats(0, 1), widths)
def test_a_narrow_window_leaves_its_room_to_small_elements(
    typical: float, share: float, width: int
) -> None:
    """With less than 6 bits in all, s is the least power of two that does not overflow."""
    most = math.log2(LARGEST / (width * NORMAL))
    ratio = most - 6 * share
    assume(ratio >= 0)
    estimate = Estimate(2.0**typical, 2.0 ** (typical + ratio), 2.0**typical, "probe")
    low, high = limits(estimate, width)
    assume(low <= high)
    off_the_edge(low)
    assert place(estimate, width, HALF).scale == 2.0 ** math.ceil(low)


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # one window in six is empty
@given(estimates(), widths)
def test_an_empty_window_keeps_typical_rows_and_says_what_is_lost(
    estimate: Estimate, width: int
) -> None:
    low, high = limits(estimate, width)
    assume(low > high)
    placement = place(estimate, width, HALF)
    mean_square = estimate.typical / width / placement.scale**2
    assert NORMAL * (1 - SLACK) <= mean_square <= 4 * NORMAL * (1 + SLACK)
    lost = LARGEST * placement.scale**2
    assert placement.note is not None
    assert reason_text(placement.note) == (
        f"no scale serves all rows: rows with a sum of squares over {lost:.3g} overflow "
        f"(predicted largest {estimate.upper:.3g}, typical {estimate.typical:.3g})"
    )
    assert estimate.upper > lost


@given(estimates(), widths, st.integers(-20, 20))
def test_sums_four_times_as_large_get_twice_the_scale(
    estimate: Estimate, width: int, power: int
) -> None:
    low, high = limits(estimate, width)
    kept = (math.log2(estimate.lowest / width / NORMAL) - 6) / 2
    off_the_edge(low, high, kept, (low + high) / 2)
    factor = 4.0**power
    larger = Estimate(
        estimate.typical * factor, estimate.upper * factor, estimate.lowest * factor, "probe"
    )
    assert place(larger, width, HALF).scale == place(estimate, width, HALF).scale * 2.0**power


@given(estimates(), widths, st.floats(0.1, 20))
def test_lower_rows_never_raise_the_scale(estimate: Estimate, width: int, bits: float) -> None:
    lower = Estimate(estimate.typical, estimate.upper, estimate.lowest / 2**bits, "probe")
    assert place(lower, width, HALF).scale <= place(estimate, width, HALF).scale


@given(exponents, st.floats(0, 20), st.floats(0, 8), widths)
def test_low_rows_are_kept_where_overflow_leaves_room(
    typical: float, ratio: float, down: float, width: int
) -> None:
    """Their squares keep 6 bits above the smallest normal number, unless 2 bits above are left."""
    estimate = Estimate(2.0**typical, 2.0 ** (typical + ratio), 2.0 ** (typical - down), "probe")
    low, high = limits(estimate, width)
    assume(low <= high)
    placement = place(estimate, width, HALF)
    lowest_bits = math.log2(estimate.lowest / width / placement.scale**2 / NORMAL)
    assert lowest_bits >= 6 - SLACK or 2 * (math.log2(placement.scale) - low) < 4 + SLACK


@given(estimates(), widths, st.floats(-40, 0))
def test_epsilon_relieves_rows_below_it(estimate: Estimate, width: int, power: float) -> None:
    """Rows that epsilon outweighs need not be kept, so it never lowers the scale."""
    with_epsilon = place(estimate, width, HALF, 2.0**power).scale
    assert with_epsilon >= place(estimate, width, HALF).scale


def test_the_limits_are_those_of_the_accelerator() -> None:
    """bfloat16-like limits put everything in the middle of a window of 2^254."""
    wide = Accelerator(format=Format("wide", 2.0**127, 2.0**-126, 2.0**-133, 2.0**-8))
    estimate = Estimate(2.0**10, 2.0**30, 2.0**10, "probe")
    # A quarter of (30 - 127) + (10 - 6 + 126).
    assert place(estimate, 64, wide).scale == 2.0**8
    large = Estimate(2.0**100, 2.0**130, 2.0**100, "probe")
    assert place(large, 64, wide).scale == 2.0**56  # 55.75
    assert place(large, 64, HALF).note


def test_a_row_of_unit_elements() -> None:
    """s² may lie between 576 / 65504 = 2^-6.8 and 2^14: the root of the middle is 2^1.8."""
    estimate = Estimate(576.0, 576.0, 576.0, "probe")
    assert place(estimate, 576, HALF).scale == 4.0


def test_a_massive_activation() -> None:
    """SmolLM2 from layer 12 on: 6.7e8 asks for s² >= 2^13.3, 1.8e4 over 576 for s² <= 2^18.97."""
    estimate = Estimate(1.8e4, 6.7e8, 1.8e4, "probe")
    assert place(estimate, 576, HALF).scale == 128.0


@given(estimates(), widths, st.floats(-60, 0))
def test_epsilon_does_not_overflow_where_the_window_is_not_empty(
    estimate: Estimate, width: int, power: float
) -> None:
    low, high = limits(estimate, width)
    assume(low <= high)
    scale = place(estimate, width, HALF, 2.0**power).scale
    assert width * 2.0**power / scale**2 <= LARGEST * (1 + SLACK)


def narrow(bits: float, seen: float) -> Estimate:
    """A window of so many bits of s, from 2^0 to 2^bits; the largest row seen allows 2^seen."""
    typical = 64 * NORMAL * 4.0**bits
    return Estimate(typical, LARGEST, typical, "probe", largest=LARGEST * 4.0**seen)


@pytest.mark.parametrize(
    ("bits", "seen", "scale"),
    [
        (4.25, -9.0, 2.0),  # wide enough: 1.25 above the lower end, rounded
        (2.875, -9.0, 1.0),  # 3 bits below the upper end is -0.125: the next is 0
        (1.75, -9.0, 0.5),  # likewise -1.25, and -1
        (1.75, -0.5, 1.0),  # but not below what the largest row seen allows
        (1.75, 0.0, 1.0),
    ],
)
def test_what_upper_allows_for_gives_way_to_underflow_in_a_narrow_window(
    bits: float, seen: float, scale: float
) -> None:
    assert place(narrow(bits, seen), 64, HALF).scale == scale


def test_a_window_of_less_than_three_bits_is_narrow() -> None:
    """From 2^0.3 to 2^2.8: three bits below the upper end is -0.2, and the next power is 2^0."""
    typical = 64 * NORMAL * 4.0**2.8
    largest = LARGEST * 4.0**0.3
    found = place(Estimate(typical, largest, typical, "probe", largest=LARGEST / 4), 64, HALF)
    assert found.scale == 1.0


def test_a_narrow_window_is_narrow_wherever_it_lies() -> None:
    """All of it moved up by 2^10 and down by 2^-10."""
    for shift in (10, -10):
        moved = narrow(1.75, -9.0)
        factor = 4.0**shift
        moved = Estimate(
            moved.typical * factor,
            moved.upper * factor,
            moved.lowest * factor,
            "probe",
            largest=moved.seen * factor,
        )
        assert place(moved, 64, HALF).scale == 0.5 * 2.0**shift


def test_epsilon_bounds_the_scale_of_a_tiny_input() -> None:
    """Rows of 1e-22 alone would ask for s = 1e-11, which makes 5e16 of an epsilon of 1e-5."""
    tiny = Estimate(64e-22, 64e-22, 64e-22, "probe")
    placement = place(tiny, 64, HALF, 1e-5)
    assert 64 * 1e-5 / placement.scale**2 <= LARGEST
    assert placement.note is None
    assert place(tiny, 64, HALF).scale < 1e-9


NARROW = Accelerator(input_format=Format("narrow", 8.0, 1.0, 0.125, 0.0625))
FP32_SUMS: frozenset[Step] = frozenset(("square", "sum"))


@given(estimates(widest=4.0), widths)
def test_elements_fit_the_inputs_format(estimate: Estimate, width: int) -> None:
    """A format of numbers from 1 to 8 leaves room where rows hardly differ, or the note says so."""
    placement = place(estimate, width, NARROW)
    largest_element = math.sqrt(estimate.upper) / placement.scale
    typical_element = math.sqrt(estimate.typical / width) / placement.scale
    assert largest_element <= 8 * (1 + SLACK) or placement.note
    assert typical_element >= 1 - SLACK or not placement.note


def test_the_inputs_format_narrows_the_window_from_both_sides() -> None:
    """One element per row: s² may lie between 2^20 / 8² = 2^14 and 2^20 / 1."""
    estimate = Estimate(2.0**20, 2.0**20, 2.0**20, "probe")
    assert place(estimate, 1, NARROW).scale == 2.0**7  # its lowest: elements want 3 bits below 1
    assert place(estimate, 1, HALF).scale == 2.0**10  # the middle of 2^4 and 2^34


def test_fp8_e4m3_moves_the_upper_limit_by_two_bits_and_e5m2_by_none() -> None:
    """The smallest mean square is 2^-12 for E4M3, whose normal numbers end at 2^-6."""
    massive = Estimate(2.0**14, 2.0**24, 2.0**14, "probe")  # s² from 2^8 to 2^18 or 2^16
    e4m3, e5m2 = (Format.named(f"float8_{name}") for name in ("e4m3fn", "e5m2"))
    assert (
        place(massive, 1024, HALF).scale
        == place(massive, 1024, Accelerator(input_format=e5m2)).scale
        == 2.0**6
    )
    assert place(massive, 1024, Accelerator(input_format=e4m3)).scale == 2.0**5


def test_sums_in_fp32_are_limited_by_what_is_rounded_after_them() -> None:
    """A mean square of FP16 lets the sum be `width` times as large."""
    massive = Estimate(2.0**30, 2.0**40, 2.0**30, "probe")
    steps = Accelerator(fp32_steps=FP32_SUMS).summing("fp32")
    assert place(massive, 1024, steps).scale < place(massive, 1024, HALF).scale
    least = math.log2(massive.upper / 1024 / LARGEST) / 2
    assert math.log2(place(massive, 1024, steps).scale) >= least


@given(estimates(), widths)
def test_an_input_in_the_format_of_the_sums_changes_nothing(estimate: Estimate, width: int) -> None:
    same = Accelerator(input_format=Format.named("float16"))
    assert place(estimate, width, same) == place(estimate, width, HALF)
