"""What is claimed in four digits or one decimal is never more than what was proved."""

from hypothesis import given
from hypothesis import strategies as st

from slanc_onnx.prove import Condition
from slanc_onnx.report.digits import above, below, bits_below
from slanc_onnx.report.wording import condition_text

sizes = st.floats(1e-30, 1e30)


@given(sizes)
def test_a_radius_is_not_longer_and_a_bound_not_shorter_in_words(value: float) -> None:
    assert value * (1 - 2e-3) <= float(below(value)) <= value
    assert value <= float(above(value)) <= value * (1 + 2e-3)


@given(st.floats(-200, 200))
def test_bits_are_not_more_in_words(value: float) -> None:
    assert value - 0.11 <= float(f"{bits_below(value):.1f}") <= value + 1e-12


def test_a_condition_holds_as_it_is_said() -> None:
    """1016.66 were 1017 in words: a row of 1016.9 kept to them, and not to the radius."""
    text = condition_text(Condition("h", "length", 0.0, 1016.66))
    assert text == "no row of h is longer than 1016"
    assert below(None) == ""
