"""What tells right from wrong: ids where there are no floats, and nothing where all is zero."""

import numpy as np
import pytest

from slanc_onnx import Options, Validation, protect, validate
from slanc_onnx.reasons import Failure
from slanc_onnx.report.terminal import verdict
from slanc_onnx.verify.compare import Runs, compare
from tests.models.fold_models import RMS, weights
from tests.models.small_graphs import D, graph, normal

ROWS = f"float[a, b, {D}] x"
X = normal(9, 1, 64, D, spread=100.0)
OUTPUTS = "int64[a, b, c] y"
SAID = "the outputs hold no finite number but 0 on these inputs, so that only rows were judged"


def checked(nodes: str, outputs: str, scaled: bool = True) -> Validation:
    before, after = (graph(nodes, weights(), ROWS, outputs) for _ in range(2))
    if scaled:
        protect(after, Options(inputs={"x": X}))
    return validate(before, after, Options(inputs={"x": X}))


def test_ids_are_compared_where_no_output_is_a_float() -> None:
    nodes = f"[n] h = {RMS}(x, g1) l = MatMul(h, w1) y = ArgMax<axis = -1>(l)"
    assert ((X.astype(np.float64) ** 2).sum(-1) > 65504).any()
    lost = checked(nodes, OUTPUTS, scaled=False)
    rows = X.astype(np.float64)
    exact = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-5)
    right = (exact * weights()["g1"] @ weights()["w1"]).argmax(-1)
    share = np.mean((right != 0) & ((rows**2).sum(-1) > 65504))  # rows of zeros give id 0
    assert lost.rounded_rms_error == pytest.approx(share, abs=0.02) and share > 0.1
    assert any(f.kind is Failure.OUTPUTS_OFF for f in lost.failures)
    assert checked(nodes, OUTPUTS).passed


def test_ids_beside_floats_are_passed_over_and_another_shape_is_told() -> None:
    floats, ids = np.ones(4, np.float32), np.arange(4)
    both = Runs([{"f": floats, "i": ids}], {}, [])
    moved = Runs([{"f": floats, "i": ids + 1}], {}, [])
    assert compare(both, moved, [], floats_only=True).rms == 0
    assert compare(both, moved, []).rms == np.inf
    one, other = Runs([{"i": ids}], {}, []), Runs([{"i": ids[:3]}], {}, [])
    reshaped = compare(one, other, [], floats_only=True).reshaped
    assert reshaped is not None and reshaped.facts == ("i", "[4]", "[3]")
    last = Runs([{"i": np.array([0, 1, 2, 9])}], {}, [])
    assert compare(one, last, [], floats_only=True).rms == 0.25


@pytest.mark.parametrize(("behind", "zero"), [("Relu(m)", True), ("Neg(m)", False)])
def test_outputs_of_zeros_are_said_to_tell_nothing(behind: str, zero: bool) -> None:
    nodes = f"[n] h = {RMS}(x, g1) a = Abs(h) m = Neg(a) y = {behind}"
    result = checked(nodes, "float[a, b, c] y")
    assert result.passed and result.all_zero == zero
    assert (SAID in verdict(result)) == zero


def test_outputs_of_nan_are_not_said_to_be_zero() -> None:
    nodes = f"[n] h = {RMS}(x, g1) a = Sub(h, h) y = Div(a, a)"
    result = checked(nodes, "float[a, b, c] y")
    assert result.all_zero and SAID in verdict(result)
