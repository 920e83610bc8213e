"""One exponent for several windows: brute force over all exponents, and the limits behind them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx.accelerator import Accelerator
from slanc_onnx.apply.fold.group_scale import ANY, Window, choose, choose_for_each, window
from slanc_onnx.estimate.estimate import Estimate

ACCELERATOR = Accelerator()


def test_all_norms_are_served_where_their_windows_meet() -> None:
    found = choose([Window(0, 5, 2), Window(3, 9, 6), Window(2, 4, 4)], lambda _: 0)
    assert (found.exponent, found.outside, found.nodes) == (4, (), 0)


def test_the_norms_that_are_missed_cost_their_nodes() -> None:
    found = choose([Window(0, 1, 0), Window(6, 9, 8, nodes=3), Window(6, 9, 7)], lambda _: 0)
    assert (found.exponent in (7, 8), found.outside, found.nodes) == (True, (0,), 1)


def test_entering_a_group_may_cost_more_than_its_divs() -> None:
    windows = [Window(2, 5, 3), Window(2, 5, 3)]
    assert choose(windows, lambda _: 1).exponent == 3
    assert choose(windows, lambda _: 3).exponent == 0
    assert choose(windows, lambda _: 3).outside == (0, 1)


def test_a_stream_that_overflows_is_divided_at_any_price() -> None:
    hot = Window(20, 24, 22, nodes=1, least=12)
    assert choose([hot], lambda _: 9).exponent == 22


WINDOWS = st.builds(
    lambda low, size, best, nodes, extra: Window(
        low, low + size, low + best % (size + 1), nodes, *extra
    ),
    st.integers(-9, 9),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(1, 3),
    st.tuples(*[st.sampled_from([-4, 0, 3, 5])] * 4),
)


@given(st.lists(st.one_of(st.just(ANY), WINDOWS), min_size=1, max_size=7), st.integers(0, 4))
def test_every_beginning_of_a_stream_gets_what_it_would_get_alone(
    windows: list[Window], extra: int
) -> None:
    found = choose_for_each(windows, lambda _: extra)
    for count, (exponent, nodes) in enumerate(found, start=1):
        alone = windows[:count]
        assert nodes == sum(w.nodes for w in alone if exponent not in w) + extra * bool(exponent)
        assert price(alone, exponent, nodes) == min(
            price(alone, e, sum(w.nodes for w in alone if e not in w) + extra * bool(e))
            for e in {0, *candidates(alone)}
        )


def candidates(windows: list[Window]) -> range:
    """Exponents from the least to the greatest that a window names."""
    named = [e for w in windows if w is not ANY for e in (w.low, w.high)]
    return range(min(named), max(named) + 1) if named else range(0)


def price(windows: list[Window], exponent: int, nodes: int) -> tuple[int, ...]:
    """What an exponent costs, as `choose` lists it."""
    served = [w for w in windows if exponent in w]
    return (
        max(0, *(w.least - exponent for w in windows)),
        nodes,
        max(0, *(exponent - w.most for w in windows)),
        sum(exponent > w.faint for w in served),
        sum(exponent < w.proved for w in served),
        int(exponent != 0),
        sum(abs(exponent - w.best) for w in served if w is not ANY),
        abs(exponent),
    )


def test_norms_that_ask_nothing_get_nothing() -> None:
    assert choose([ANY, ANY], lambda _: 0).exponent == 0
    assert choose([], lambda _: 0).exponent == 0
    assert choose([ANY, Window(3, 4, 4)], lambda _: 0) == choose([Window(3, 4, 4)], lambda _: 0)


@given(
    st.lists(
        st.tuples(st.integers(-9, 9), st.integers(0, 6), st.integers(1, 3)), min_size=1, max_size=6
    ),
    st.integers(0, 4),
)
def test_no_exponent_inserts_fewer_nodes(parts: list[tuple[int, int, int]], extra: int) -> None:
    windows = [Window(low, low + size, low + size // 2, nodes) for low, size, nodes in parts]

    def nodes(exponent: int) -> int:
        missed = [w for w in windows if not w.low <= exponent <= w.high]
        return sum(w.nodes for w in missed) + (extra if exponent else 0)

    found = choose(windows, lambda _: extra)
    assert found.nodes == nodes(found.exponent) == min(nodes(e) for e in range(-30, 31))


@pytest.mark.parametrize("best", [3, 6])
def test_the_window_is_where_no_row_overflows_and_no_mean_square_is_subnormal(best: int) -> None:
    estimate = Estimate(typical=4096.0, upper=65504.0 * 4.0**2, lowest=4096.0, by="probe")
    found = window(estimate, 64, best, ACCELERATOR)
    assert (found.low, found.best) == (2, best)
    assert found.high == max(best, math.floor((math.log2(4096 / 64) + 14) / 2 - 3))
    assert estimate.upper / 4.0**found.low <= ACCELERATOR.largest
    assert 4096 / 64 / 4.0**found.high >= ACCELERATOR.smallest_normal


def test_the_limits_of_the_stream_itself() -> None:
    estimate = Estimate(typical=1.0, upper=2.0**40, lowest=1.0, by="probe")
    found = window(estimate, 64, 14, ACCELERATOR)
    assert 2.0**20 / 2.0**found.least <= ACCELERATOR.largest < 2.0**20 / 2.0 ** (found.least - 1)


@pytest.mark.parametrize(("lowest", "faint"), [(2.0**-10, -1), (2.0**4, 3), (4096.0, 7)])
def test_rows_far_below_the_typical_one_keep_their_squares(lowest: float, faint: int) -> None:
    """Six bits above the smallest normal mean square, or two below overflow (2^4 above upper)."""
    estimate = Estimate(typical=4096.0, upper=65504.0 / 16, lowest=lowest, by="probe")
    found = window(estimate, 64, -3, ACCELERATOR)
    assert found.faint == faint
    least = 64 * 2.0**6 * ACCELERATOR.smallest_normal
    kept = [lowest / 4.0**k >= least for k in (faint, faint + 1)]
    assert kept == ([False, False] if faint == -1 else [True, False])
    assert estimate.upper / 4.0**-1 <= ACCELERATOR.largest / 4 < estimate.upper / 4.0**-2


def test_an_epsilon_hides_rows_that_are_fainter() -> None:
    estimate = Estimate(typical=4096.0, upper=4096.0, lowest=2.0**-30, by="probe")
    bare, beside = (window(estimate, 64, -3, ACCELERATOR, epsilon=e) for e in (0.0, 1.0))
    assert bare.faint < beside.faint


def test_faint_rows_come_after_nodes_and_before_certificates_and_weights_left_alone() -> None:
    small = Window(-5, 4, -4, faint=-3)
    assert choose([small], lambda _: 0).exponent == -4
    assert choose([small], lambda _: 2).exponent == 0, "not at the price of a node"
    assert choose([Window(-5, 4, -4, faint=-3, proved=1)], lambda _: 0).exponent == -4
    assert choose([Window(-5, 4, -4, faint=-3, proved=-3)], lambda _: 0).exponent == -3
    assert choose([Window(-5, 4, -4)], lambda _: 0).exponent == 0
