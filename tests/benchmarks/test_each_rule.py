"""Rules on random nodes: they hold, and one that is broken on purpose is found."""

from collections import Counter
from unittest.mock import patch

from benchmarks.random_graphs.each_rule import tries
from benchmarks.random_graphs.fitted import FITS
from slanc_onnx.prove.trusted import values
from tests.versions import needs_onnx_runtime

COUNT = 1200


def test_what_onnx_runtime_makes_is_in_the_sets_that_follow() -> None:
    needs_onnx_runtime(1, 24, for_what="Pad, of which 1.23 gives memory that nothing wrote")
    found = list(tries(0, COUNT))
    assert [what for _, what in found if what] == []
    assert len(found) >= 500 and len(Counter(op for op, _ in found)) >= 60


def test_ops_whose_inputs_have_to_fit_are_reached() -> None:
    needs_onnx_runtime(1, 27, for_what="GroupQueryAttention whose cache may be left out")
    ops = {op for _, op in FITS}
    found = list(tries(1, 60 * len(ops), sorted(ops)))
    assert [what for _, what in found if what] == []
    assert {op for op, _ in found} == ops


def test_ends_that_are_flushed_to_zero_both_are_found() -> None:
    """So they were: an interval of numbers that only subnormals hold was nothing but zero."""

    def flushed(low: float, high: float, _: int) -> tuple[float, float]:
        return tuple(0.0 if abs(end) < 2.0**-14 else end for end in (low, high))  # type: ignore[return-value]

    with patch.object(values, "nearest_ends", flushed):
        assert any(what for _, what in tries(0, COUNT, ["Mul", "Sub", "Add"]))
    assert not any(what for _, what in tries(0, COUNT, ["Mul", "Sub", "Add"]))
